"""Baselines of the benchmark: eager PyTorch, one naive ONNX graph, and PyTorch in float64.

May import: `export`, `parity`, `graphs`, `hiif_training` and `hiif_deploy`.
"""
