"""Install commands for missing packages, as they work for this installation."""

import json
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
    location, is_editable = _source()
    command = f"pip install {'-e ' if is_editable else ''}'{location}[{extra}]'"
    return f"pip install {TORCH} && {command}" if extra in WITH_TORCH else command


@cache
def _source() -> tuple[str, bool]:
    """Return the clone's folder, or the distribution's name, and whether the clone itself is imported, not a copy."""
    try:
        text = distribution(NAME).read_text("direct_url.json")
        metadata = json.loads(text) if text else {}
        url = urlparse(metadata.get("url", ""))
    except (PackageNotFoundError, ValueError):
        return NAME, False
    if url.scheme != "file":
        return NAME, False
    return unquote(url.path), metadata.get("dir_info", {}).get("editable", False)
