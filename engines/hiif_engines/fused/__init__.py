"""Fused Triton kernels of the HIIF decoder: the kernels (`kernels`), their arguments (`decoder`), the table of their
configurations (`configs`), the choice for a bundle and a GPU (`select`), and its measurement (`tune`).

May import: `torch_graph` and `hiif_deploy`.
"""
