"""A checkpoint becomes a bundle: ONNX graphs, a contract, reference answers, verified.

May import: `hiif_training` and `hiif_deploy`.
"""
