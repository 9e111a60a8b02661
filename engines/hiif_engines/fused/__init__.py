"""Fused Triton kernels of the HIIF decoder: the kernels (`kernels`), their arguments (`decoder`), the table of their
configurations (`configs`), and the choice for a bundle and a GPU (`select`).

May import: `torch_graph` and `hiif_deploy`.
"""
