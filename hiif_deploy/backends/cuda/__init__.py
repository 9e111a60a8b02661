"""The GPU by way of cuda-python or pycuda: memory, streams, and the protocol that both fulfil.

May import: `errors` and `support`.
"""
