"""Functions of vectors: GELU, the logistic function, sine and cosine.

May import: `hiif_engines.native.emit`.
"""
