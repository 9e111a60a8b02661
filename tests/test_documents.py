"""Documents name files and link to pages that exist, and one version is stated everywhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from structure import ROOT

PAGES = sorted([ROOT / "README.md", *(ROOT / ".github").rglob("*.md")])
LINK = re.compile(r"\]\((?!https?://)([^)#]+)")
FILE = re.compile(r"`([\w./-]+/[\w.-]+\.(?:py|toml|csv|json))`")
FOLDERS = ("", "hiif_deploy", "engines/hiif_engines")
"""Where a path in a document may start."""


def missing_files(text: str) -> list[str]:
    """Paths in backquotes that no folder of `FOLDERS` has. Names in capitals stand for any name."""
    found = [path for path in FILE.findall(text) if not re.search(r"\b[A-Z]{3,}", path)]
    return [path for path in found if not any((ROOT / folder / path).is_file() for folder in FOLDERS)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_links_to_what_exists_and_names_files_that_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert [link for link in LINK.findall(text) if not (page.parent / link).exists()] == []
    assert missing_files(text) == []


def test_a_file_that_does_not_exist_is_found_out() -> None:
    text = "`tests/absent.py`, `decoding/plan.py`, `tests/test_documents.py`, `tests/published/NAME.json`"
    assert missing_files(text) == ["tests/absent.py"]


def test_the_readme_fits_a_short_reading() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 900


@pytest.mark.parametrize(("tag", "code"), [("v0.0.0", 1), (None, 0)])
def test_a_release_needs_a_tag_of_the_stated_version(tag: str | None, code: int) -> None:
    words = [sys.executable, str(ROOT / ".ci" / "check_version.py"), *([tag] if tag else [])]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
