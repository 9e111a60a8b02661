"""Builds TensorRT engines: network, optimisation profiles, a whole bundle.

May import: `torch_graph` and `hiif_deploy`.
"""
