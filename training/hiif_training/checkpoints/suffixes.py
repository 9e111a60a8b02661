"""Suffixes of checkpoint files; importing this needs no PyTorch."""

from __future__ import annotations

SUFFIXES = (".pth", ".pt", ".safetensors")
"""Suffixes of checkpoints that are read and written;"""
NCNN = ".param"
"""and of a model of ncnn, which is only read."""
READABLE = (*SUFFIXES, NCNN)
