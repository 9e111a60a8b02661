"""Clips in the server: planned when they arrive, upscaled one after the other, and resumed after a restart.

May import: `video`, and the modules of `server` except `app`.
"""
