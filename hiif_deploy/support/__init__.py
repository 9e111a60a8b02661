"""General helpers: atomic files, the cache folder, progress, messages, signals, extras.

May import: `errors` only.
"""
