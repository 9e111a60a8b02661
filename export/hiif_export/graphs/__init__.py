"""What all exported graphs share: wrapper modules, ONNX files, half precision.

May import: `hiif_training` and `hiif_deploy`.
"""
