"""Where the published decoders place their queries: the reference that the runtime's axis tables are held to.

May import: `hiif_deploy`.
"""
