"""A folder of pictures over two workers gives the files that one machine gives."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hiif_deploy import Upscaler
from hiif_deploy.backends.options import EngineOptions
from hiif_deploy.bundle.loader import open_bundle
from hiif_deploy.cluster.pictures import run_batch_on
from hiif_deploy.cluster.pool import ClusterOptions, Pool
from hiif_deploy.errors import ClusterError
from hiif_deploy.geometry.target import Target
from hiif_deploy.pictures.batch import WriteOptions, run_batch
from hiif_deploy.pictures.items import Item, list_items
from hiif_deploy.upscaler import RenderOptions

TARGET = Target(scale=1.7)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "in"
    (root / "inner").mkdir(parents=True)
    random = np.random.default_rng(0)
    for n in range(6):
        pixels = random.integers(0, 256, (12 + n, 16, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(root / ("inner" if n % 2 else "") / f"p{n}.png")
    return root


def open_pool(attempts: int = 3) -> Pool:
    options = ClusterOptions(address="auto", attempts=attempts)
    return Pool(open_bundle("hiif-video"), options, EngineOptions(engine="onnxruntime", threads=1), RenderOptions())


@pytest.mark.usefixtures("cluster")
def test_the_files_are_one_machines_though_a_worker_is_killed(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "broken.png").write_bytes(b"no picture")
    items = list_items([folder], tmp_path / "many", "x")
    outcomes = []
    with open_pool() as pool:
        for outcome in run_batch_on(pool, items, TARGET, WriteOptions()):
            if not outcomes:
                assert pool.share.workers == 2
                os.kill(pool.worker_infos[0].process, signal.SIGKILL)
            outcomes.append(outcome)
    with Upscaler("hiif-video", engine=EngineOptions(engine="onnxruntime", threads=1)) as upscaler:
        plain = list(run_batch(upscaler, list_items([folder], tmp_path / "one", "x"), TARGET, WriteOptions()))
    made = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.png"))
    assert len(made) == 6
    assert [(tmp_path / "many" / p).read_bytes() for p in made] == [(tmp_path / "one" / p).read_bytes() for p in made]
    (failed,) = (outcome for outcome in outcomes if outcome.status == "failed")
    assert failed.error == next(outcome.error for outcome in plain if outcome.status == "failed")
    (line,) = caplog.messages
    assert "was lost (The actor died unexpectedly before finishing this task); it is repeated on another worker" in line
    assert sorted(path.name for path in tmp_path.rglob(".*")) == []


def test_what_exists_is_skipped_without_a_worker(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "there.png").write_bytes(b"old")
    items = [Item(folder / "p0.png", tmp_path / "there.png"), Item(tmp_path / "absent.png", tmp_path / "o.png")]

    class NoWorkers:
        def run(self, jobs: Any) -> Any:
            assert not jobs
            return iter(())

    found = list(run_batch_on(NoWorkers(), items, TARGET, WriteOptions()))  # type: ignore[arg-type]
    assert [outcome.status for outcome in found] == ["skipped", "failed"]
    assert "no such file" in (found[1].error or "")


@pytest.mark.usefixtures("cluster")
def test_a_picture_that_no_worker_survives_is_given_up_with_the_reason(folder: Path, tmp_path: Path) -> None:
    for n in range(4):  # so large that workers are still at them when they are killed
        Image.fromarray(np.zeros((500, 400, 3), np.uint8)).save(folder / f"q{n}.png")

    def kill_all() -> None:
        with open_pool(attempts=1) as pool:
            for _ in run_batch_on(pool, list_items([folder], tmp_path / "out", "x"), TARGET, WriteOptions()):
                for info in pool.worker_infos:
                    with contextlib.suppress(ProcessLookupError):  # killed before, and not yet missed
                        os.kill(info.process, signal.SIGKILL)

    with pytest.raises(ClusterError, match=r"png: given up after 1 attempts, the last on worker \d+ on .*actor died"):
        kill_all()
