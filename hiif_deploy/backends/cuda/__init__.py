"""The GPU by way of cuda-python or pycuda: memory, streams, and the class that both layers extend.

May import: `errors` and `support`.
"""
