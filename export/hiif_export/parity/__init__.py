"""Exported graphs against the PyTorch model.

May import: `graphs`, `hiif_training` and `hiif_deploy`.
"""
