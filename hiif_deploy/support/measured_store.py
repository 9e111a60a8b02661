"""What was measured on this machine, kept for later runs: a JSON file below the store's root for each set of facts."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from hiif_deploy.errors import EngineError
from hiif_deploy.support import cache_dir as store_root
from hiif_deploy.support.files import write_aside


def measured_path(folder: str, facts: object) -> Path | None:
    """Where it lies, by all that it depends on; None where this user has no folder for caches."""
    root = store_root.wanted_root()
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    return root / folder / f"{key[:32]}.json" if root else None


def keep_measured(path: Path | None, content: object) -> Path:
    """Write it, whole or not at all; EngineError where there is no place for it."""
    if path is None:
        raise EngineError(f"this user has no folder for caches; name one with {store_root.VARIABLE}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_aside(path, lambda file: file.write(json.dumps(content, indent=1).encode()))
    except OSError as error:
        raise EngineError(f"{path}: cannot be written ({error.strerror}); see {store_root.VARIABLE}") from error
    return path
