"""Measures models on test sets by the protocols of the papers.

May import: `checkpoints`, `models`, `pictures` and what stands below them.
"""
