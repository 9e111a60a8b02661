"""TensorRT: the library, its engines as sessions, and a bundle that runs on them.

May import: `backends.cuda`, `decoding` and what stands below them.
"""
