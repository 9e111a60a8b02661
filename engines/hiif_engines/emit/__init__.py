"""Writes files for other runtimes: Triton Inference Server, vs-mlrt, trtexec, Polygraphy.

May import: `tensorrt` and `hiif_deploy`.
"""
