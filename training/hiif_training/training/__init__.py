"""Recipes, data, and the loop that trains.

May import: `checkpoints`, `models`, `pictures` and what stands below them.
"""
