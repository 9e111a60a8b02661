"""One protocol (`base`) and each engine behind it: the host, ONNX Runtime on a GPU, TensorRT; others come by entry
points.

May import: `decoding` and what stands below it.
"""
