"""Products of rows with matrices: precisions, one panel's sums, inputs that are left out.

May import: `hiif_engines.native.emit`, `hiif_engines.native.functions`, `hiif_engines.native.target`.
"""
