"""Checkpoints of the shipped models, from which training can go on."""

from importlib.resources import as_file, files
from pathlib import Path


def shipped_checkpoints() -> dict[str, Path]:
    """Return model name → checkpoint, in the LIIF family's format."""
    with as_file(files("hiif_training") / "weights") as folder:
        return {path.stem: path for path in sorted(folder.glob("*.pth"))}


def find_checkpoint(name: str) -> str:
    """Return the path of a shipped model's checkpoint; any other name, which may be a path, as it is."""
    shipped = shipped_checkpoints().get(name)
    return name if shipped is None or Path(name).is_file() else str(shipped)
