"""Exports a checkpoint as a bundle: ONNX graphs, a contract and reference outputs, verified against PyTorch.

May import: `hiif_training` and `hiif_deploy`.
"""
