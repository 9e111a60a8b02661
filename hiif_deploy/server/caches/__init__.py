"""Caches that are bounded by bytes, and work that many want and that is done once.

May import: what stands below `server`.
"""
