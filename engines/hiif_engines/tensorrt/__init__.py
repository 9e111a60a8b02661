"""Builds TensorRT engines: changes to a graph (`rewrite`), its network, optimisation profiles, a whole bundle.

May import: `torch_graph` and `hiif_deploy`.
"""
