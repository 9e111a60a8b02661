"""Query positions of the published decoders: the reference for the runtime's axis tables.

May import: `hiif_deploy`.
"""
