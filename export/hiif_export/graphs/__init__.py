"""Shared parts of all exported graphs: wrapper modules, ONNX files, half precision.

May import: `hiif_training` and `hiif_deploy`.
"""
