"""Runs ONNX graphs as PyTorch operations.

May import: `hiif_deploy`.
"""
