"""Encoders and decoders, one file each, and the registry that lists them.

May import: `queries` and `hiif_deploy`.
"""
