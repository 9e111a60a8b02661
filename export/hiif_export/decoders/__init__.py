"""One exporter per decoder, and the modules that its graphs are made of.

May import: `graphs`, `hiif_training` and `hiif_deploy`.
"""
