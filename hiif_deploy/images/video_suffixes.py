"""File name suffixes of video files."""

from __future__ import annotations

SUFFIXES = (
    ".mkv", ".mp4", ".mov", ".webm", ".m4v", ".avi", ".ts", ".m2ts", ".mts", ".mpg", ".mpeg", ".wmv", ".flv", ".mxf",
    ".ogv", ".y4m", ".nut", ".3gp",
)  # fmt: skip
"""Files with these suffixes are videos."""
