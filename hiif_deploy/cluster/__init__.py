"""Upscales pictures and clips on a Ray cluster.

May import: `video`, `pictures` and what stands below them.
"""
