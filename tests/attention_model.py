"""The model for tests of decoders in several passes."""

ATTENTION_MODEL = "hiif-compact"
"""A shipped model with two attention blocks."""
