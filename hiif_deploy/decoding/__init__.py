"""The algorithm: how a picture is cut (`plan`), encoded, queried, summed up and decoded, whatever runs the graphs.

May import: `bundle`, `geometry` and what stands below them; never an engine.
"""
