"""Models, training and evaluation in PyTorch."""
