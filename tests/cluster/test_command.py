"""`upscale --ray`, run as a user runs it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hiif_deploy.cli import app as cli


def upscale(*words: object) -> int:
    with pytest.raises(SystemExit) as end:
        cli.main(["upscale", "-b", "hiif-video", "--scale", "1.5", *map(str, words)])
    return int(end.value.code or 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for n in range(3):
        Image.fromarray(np.full((8, 9 + n, 3), 50 * n, np.uint8)).save(tmp_path / "in" / f"{n}.png")
    return tmp_path / "in"


@pytest.mark.usefixtures("cluster")
def test_a_folder_is_spread_over_the_cluster(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert upscale(folder, "-o", tmp_path / "many", "--ray", "auto", "--threads", "1") == 0
    said = capsys.readouterr().err
    assert "ray auto: 2 workers of 1 processors" in said
    assert "3 done" in said
    assert upscale(folder, "-o", tmp_path / "one", "--threads", "1") == 0
    for n in range(3):
        assert (tmp_path / "many" / f"{n}.png").read_bytes() == (tmp_path / "one" / f"{n}.png").read_bytes()


def test_an_address_where_nobody_listens_is_refused_at_once(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray", reason="needs Ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    assert upscale(folder, "-o", tmp_path / "out", "--ray", "127.0.0.1:1") == 1
    assert "--ray 127.0.0.1:1: no cluster can be reached there" in capsys.readouterr().err


def test_workers_need_a_cluster(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert upscale(folder, "--workers", "2") == 2
    assert "--workers 2: needs a cluster" in capsys.readouterr().err
