"""The engine `torch`: a bundle on PyTorch, on a GPU.

May import: `fused`, `torch_graph` and `hiif_deploy`.
"""
