"""Which files are videos, by their names."""

from __future__ import annotations

SUFFIXES = (
    ".mkv", ".mp4", ".mov", ".webm", ".m4v", ".avi", ".ts", ".m2ts", ".mts", ".mpg", ".mpeg", ".wmv", ".flv", ".mxf",
    ".ogv", ".y4m", ".nut", ".3gp",
)  # fmt: skip
"""File names that end so are videos."""
