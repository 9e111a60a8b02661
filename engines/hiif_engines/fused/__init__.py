"""Fused Triton kernels of the HIIF decoder, and how they are tuned.

May import: `torch_graph` and `hiif_deploy`.
"""
