"""Building TensorRT engines: network, optimization profiles, a whole bundle.

May import: `torch_graph` and `hiif_deploy`.
"""
