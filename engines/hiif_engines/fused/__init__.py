"""Fused Triton kernels of the HIIF decoder, and their tuning.

May import: `torch_graph` and `hiif_deploy`.
"""
