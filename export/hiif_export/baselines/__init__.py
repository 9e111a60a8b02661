"""What the bench compares with: plain PyTorch, one naive ONNX graph, float64.

May import: `export`, `parity`, `graphs`, `hiif_training` and `hiif_deploy`.
"""
