"""Install commands for missing packages, as they work for this installation."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from urllib.parse import unquote, urlparse

NAME = "hiif-deploy"
TORCH = "torch==2.13.0"
"""Version that the tests run with. An open range may install several gigabytes of CUDA, or an untested version."""
WITH_TORCH = ("export", "train", "cuda-torch")
"""Extras that need PyTorch to be installed first."""


def install_command(extra: str) -> str:
    """Return the shell command that installs an extra: from the clone where this package was installed from one."""
    source = _source()
    command = f"pip install {'-e ' if source.is_editable else ''}'{source.location}[{extra}]'"
    return f"pip install {TORCH} && {command}" if extra in WITH_TORCH else command


@dataclass(frozen=True)
class _Source:
    """Origin of this package's installation."""

    location: str
    """Folder of the clone, or the distribution's name."""
    is_editable: bool = False
    """Whether the clone itself is imported, and not a copy of it."""


@cache
def _source() -> _Source:
    try:
        text = distribution(NAME).read_text("direct_url.json")
        metadata = json.loads(text) if text else {}
        url = urlparse(metadata.get("url", ""))
    except (PackageNotFoundError, ValueError):
        return _Source(NAME)
    if url.scheme != "file":
        return _Source(NAME)
    return _Source(unquote(url.path), metadata.get("dir_info", {}).get("editable", False))
