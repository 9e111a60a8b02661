"""Reads the tables that Linux keeps about the processor, the memory and this process."""

from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")
"""Table of the processor's cores."""


def table_value(file: Path, name: str) -> str | None:
    """Return the first value under `name`; None where there is no such table or line."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    found = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in found if key.strip() == name), None)


def table_bytes(file: Path, name: str) -> int | None:
    """Return the amount of memory under `name` in bytes; None as `table_value`."""
    value = table_value(file, name)
    return None if value is None else int(value.split()[0]) * 1024
