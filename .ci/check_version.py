"""Exits with an error unless a release's tag, pyproject.toml and hiif_deploy/support/version.py name one version.

    python .ci/check_version.py [v0.1.0]

Without a tag only the two files are compared.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def versions(tag: str | None) -> dict[str, str]:
    """Where a version is stated → the version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module = (ROOT / "hiif_deploy" / "support" / "version.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "(.+)"$', module, re.MULTILINE)
    stated = {"pyproject.toml": project["version"], "hiif_deploy/support/version.py": found[1] if found else "none"}
    return stated if tag is None else {"the tag": tag.removeprefix("v"), **stated}


if __name__ == "__main__":
    stated = versions(sys.argv[1] if len(sys.argv) > 1 else None)
    if len(set(stated.values())) > 1:
        sys.exit("versions differ: " + ", ".join(f"{where} has {version}" for where, version in stated.items()))
    print(f"version {stated['pyproject.toml']}")
