"""Compares exported graphs and whole bundles with the PyTorch model.

May import: `graphs`, `hiif_training` and `hiif_deploy`.
"""
