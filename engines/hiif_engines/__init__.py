"""Engines beside ONNX Runtime, and what is built ahead for them: TensorRT, PyTorch, native code, deployment files.

May import: `hiif_deploy`.
"""
