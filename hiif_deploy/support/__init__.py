"""Plumbing that is about nothing of ours: atomic files, the cache folder, progress, messages, signals, extras.

May import: `errors` only.
"""
