"""Reading and writing checkpoints, the formats of published code included.

May import: `models` and what stands below it.
"""
