"""The model for tests of decoders in several passes: once shipped, and trained, so that its values are realistic."""

from pathlib import Path

ATTENTION_MODEL = str(Path(__file__).parent / "models" / "hiif-attention")
"""A bundle with two attention blocks."""
