"""Models, checkpoints, training and evaluation in PyTorch.

May import: `hiif_deploy`.
"""
