"""The commands that add what is missing, as they work for this installation."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from urllib.parse import unquote, urlparse

NAME = "hiif-deploy"
TORCH = "torch==2.13.0"
"""The version that the tests run with. An open range may bring several gigabytes of CUDA, or a version never tried."""
WITH_TORCH = ("export", "train", "cuda-torch")
"""Extras that need PyTorch."""


def install_command(extra: str) -> str:
    """The shell command that adds an extra: from the clone where this package was installed from one."""
    source = _source()
    command = f"pip install {'-e ' if source.is_editable else ''}'{source.location}[{extra}]'"
    return f"pip install {TORCH} && {command}" if extra in WITH_TORCH else command


@dataclass(frozen=True)
class _Source:
    """What pip installed this package from."""

    location: str
    """A clone's folder, or the distribution's name."""
    is_editable: bool = False
    """Whether the clone itself runs, and not a copy of it."""


@cache
def _source() -> _Source:
    try:
        text = distribution(NAME).read_text("direct_url.json")
        facts = json.loads(text) if text else {}
        url = urlparse(facts.get("url", ""))
    except (PackageNotFoundError, ValueError):
        return _Source(NAME)
    if url.scheme != "file":
        return _Source(NAME)
    return _Source(unquote(url.path), facts.get("dir_info", {}).get("editable", False))
