"""What comes before a kernel's first layer: rows gathered from maps, one module for each kind of decoder.

May import: `hiif_engines.native.layer` and what that imports.
"""
