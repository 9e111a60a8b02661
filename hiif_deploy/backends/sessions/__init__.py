"""One loaded graph on ONNX Runtime or OpenVINO.

May import: `decoding` and what stands below it, and `backends.options`.
"""
