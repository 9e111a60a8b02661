"""Suffixes of checkpoint files; importing this needs no PyTorch."""

from __future__ import annotations

SUFFIXES = (".pth", ".pt", ".safetensors")
"""Files with these suffixes are checkpoints."""
