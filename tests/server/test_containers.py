"""Containers start the command with options that it has, and install what pyproject.toml allows."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from hiif_deploy.cli import main
from hiif_deploy.support.extras import EXTRAS
from structure import ROOT

FOLDER = ROOT / ".github" / "docker"
FILES = sorted(FOLDER.glob("*.Dockerfile"))


def words(path: Path, instruction: str) -> list[str]:
    """The words of an instruction of a Dockerfile."""
    found = re.search(rf"^ *{instruction} (\[.+\])$", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    return [str(word) for word in json.loads(found[1])]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_container_refuses_to_start_without_the_secret(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for package in EXTRAS["serve"]:
        pytest.importorskip(package, reason="needs the extra serve")
    command, *rest = words(path, "ENTRYPOINT")
    assert command == "hiif-deploy"
    with pytest.raises(SystemExit) as done:
        main(rest)
    assert (done.value.code, "--token-file /run/secrets/token: cannot be read" in capsys.readouterr().err) == (2, True)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_container_is_bound(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert re.findall(r"^USER (.+)$", text, re.MULTILINE) == ["10001"]
    assert "/health/live" in words(path, "CMD")[2]
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {"python:3.13.7-slim-bookworm"}


def test_versions_of_containers_are_those_that_are_tested() -> None:
    lines = (FOLDER / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert {"numpy", "onnxruntime", "starlette", "uvicorn"} <= pinned.keys()
    assert pinned["opencv-python"] == pinned["opencv-python-headless"]
