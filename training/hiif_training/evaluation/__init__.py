"""Quality of models on test sets, in the way of the papers.

May import: `checkpoints`, `models`, `pictures` and what stands below them.
"""
