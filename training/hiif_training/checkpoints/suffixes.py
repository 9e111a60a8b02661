"""Which files are checkpoints, by their names; importing this needs no PyTorch."""

from __future__ import annotations

SUFFIXES = (".pth", ".pt", ".safetensors")
"""File names that end so are checkpoints."""
