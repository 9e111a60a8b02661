"""Decoders, one file each, the encoders below them, and the registry that lists both.

May import: `queries` and `hiif_deploy`.
"""
