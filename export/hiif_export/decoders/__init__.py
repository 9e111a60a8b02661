"""One export form per decoder.

May import: `graphs`, `hiif_training` and `hiif_deploy`.
"""
