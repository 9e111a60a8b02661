"""Versions of dependencies that are known to be dangerous are not installed."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

PROJECT = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REQUIREMENTS = [
    Requirement(line)
    for lines in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    for line in lines
]


@pytest.mark.parametrize(
    ("package", "refused", "taken"),
    [
        # Releases with stolen credentials, which carried malware.
        ("lightning", ["2.6.2", "2.6.3"], "2.6.1"),
        # CVE-2026-24747: weights_only=True could be got around.
        ("torch", ["2.9.1"], "2.10.0"),
        # CVE-2025-68146 and CVE-2026-22701: a link in place of a lock file.
        ("filelock", ["3.20.0", "3.20.2"], "3.20.3"),
    ],
)
def test_dangerous_versions_are_refused_wherever_a_package_is_named(
    package: str, refused: list[str], taken: str
) -> None:
    named = [requirement.specifier for requirement in REQUIREMENTS if requirement.name == package]
    assert named
    for specifier in named:
        assert specifier.contains(taken)
        assert not [version for version in refused if specifier.contains(version)]
