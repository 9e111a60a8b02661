"""One loaded graph on ONNX Runtime or OpenVINO; `open` chooses the loader of an engine and calls it.

May import: `decoding` and what stands below it, and `engines`, `options` and `providers` of `backends`.
"""
