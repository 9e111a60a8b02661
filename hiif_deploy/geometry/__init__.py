"""Query positions: axis tables for each decoder, output sizes, regions, tiles of an output.

May import: `errors`, `pixels` and `support`.
"""
