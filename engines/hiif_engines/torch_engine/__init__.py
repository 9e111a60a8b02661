"""The engine `torch`: a bundle on PyTorch, on a GPU. All that is queued there passes through `launcher`.

May import: `fused`, `torch_graph` and `hiif_deploy`.
"""
