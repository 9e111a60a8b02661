"""How a cluster is shared, and what is refused before any work."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hiif_deploy.backends.options import EngineOptions
from hiif_deploy.bundle.loader import open_bundle
from hiif_deploy.cluster import pool as pool_module
from hiif_deploy.cluster.pool import ClusterOptions, Pool, Share, share_of
from hiif_deploy.cluster.worker import FileMark, Worker, is_marked
from hiif_deploy.errors import ClusterError, OptionError
from hiif_deploy.upscaler import RenderOptions


def node(cpu: float = 0, gpu: float = 0, alive: bool = True) -> dict[str, Any]:
    return {"Alive": alive, "Resources": {"CPU": cpu, "GPU": gpu, "memory": 1e9}}


@pytest.mark.parametrize(
    ("nodes", "engine", "most", "expected"),
    [
        ([node(8), node(6)], EngineOptions(engine="onnxruntime", threads=4), 0, Share(3, 4, 0)),
        ([node(64), node(32), node(0)], EngineOptions(engine="onnxruntime"), 0, Share(3, 32, 0)),
        ([node(8), node(8, alive=False)], EngineOptions(engine="onnxruntime", threads=2), 0, Share(4, 2, 0)),
        ([node(8), node(8)], EngineOptions(engine="onnxruntime", threads=2), 3, Share(3, 2, 0)),
        ([node(32, 8), node(32, 8), node(16)], EngineOptions(engine="tensorrt"), 0, Share(16, 1, 1)),
        ([node(32, 2)], EngineOptions(engine="onnxruntime", provider="cuda"), 0, Share(2, 1, 1)),
        ([node(32, 2)], EngineOptions(engine="torch"), 0, Share(2, 1, 1)),
        ([node(32, 2)], EngineOptions(engine="torch", device="cpu", threads=16), 0, Share(2, 16, 0)),
        (
            [node(8, 4)],
            EngineOptions(engine="onnxruntime", provider="CPUExecutionProvider", threads=4),
            0,
            Share(2, 4, 0),
        ),
        ([node(8, 4)], EngineOptions(engine="native", threads=4), 0, Share(2, 4, 0)),
    ],
)
def test_each_worker_gets_a_gpu_or_its_share_of_processors(
    nodes: list[dict[str, Any]], engine: EngineOptions, most: int, expected: Share
) -> None:
    assert share_of(nodes, engine, most) == expected


def test_a_cluster_without_what_the_engine_needs_is_refused() -> None:
    with pytest.raises(ClusterError, match="no node of the cluster has a GPU"):
        share_of([node(8)], EngineOptions(engine="tensorrt"), 0)
    with pytest.raises(ClusterError, match="has 16 processors"):
        share_of([node(8)], EngineOptions(engine="onnxruntime", threads=16), 0)


def test_an_engine_that_each_node_would_choose_for_itself_is_refused() -> None:
    with pytest.raises(OptionError, match="name the engine"):
        share_of([node(8)], EngineOptions(engine="auto"), 0)


def test_a_numbered_gpu_is_refused_for_ray_gives_each_worker_its_own() -> None:
    with pytest.raises(OptionError, match="--device cuda:1: Ray gives each worker a GPU of its own"):
        share_of([node(8, 2)], EngineOptions(engine="torch", device="cuda:1"), 0)


OPEN_LOCAL = """
import os, ray, signal
from hiif_deploy.bundle.loader import open_bundle
from hiif_deploy.cluster import pool as pool_module
from hiif_deploy.cluster.pool import ClusterOptions, Pool
from hiif_deploy.backends.options import EngineOptions
from hiif_deploy.support.signals import sigterm_as_ctrl_c
from hiif_deploy.upscaler import RenderOptions
with sigterm_as_ctrl_c():
    engine = EngineOptions(engine="onnxruntime", threads=1)
    pool = Pool(open_bundle("hiif-video"), ClusterOptions("local"), engine, RenderOptions())
    print(ray.get_runtime_context().gcs_address)
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except KeyboardInterrupt:
        print("as Ctrl-C")
    pool._leave()
"""


def test_local_starts_a_cluster_of_its_own_beside_another_and_leaves_sigterm_to_the_command(cluster: Any) -> None:
    other = cluster.get_runtime_context().gcs_address
    child = subprocess.run(
        [sys.executable, "-c", OPEN_LOCAL], env={**os.environ, "RAY_ADDRESS": other}, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    address, ending = child.stdout.split("\n", 1)
    assert address not in ("", other)
    assert ending == "as Ctrl-C\n"


@pytest.mark.parametrize("is_auto", [True, False])
def test_an_address_where_no_cluster_responds_is_given_up(monkeypatch: pytest.MonkeyPatch, is_auto: bool) -> None:
    """Something listens there, but it is not Ray: for example another program at the port of a cluster that ended."""
    ray = pytest.importorskip("ray", reason="needs Ray")
    monkeypatch.setattr(pool_module, "JOIN_TIMEOUT", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(ClusterError, match=r"did not respond within 2.00 s\); start one with: ray start --head"):
            pool_module._join(ray, "auto" if is_auto else address)


@pytest.mark.parametrize("values", [{"address": " "}, {"workers": -1}, {"attempts": 0}])
def test_options_that_make_no_sense_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="expected"):
        ClusterOptions(**values)


def test_an_address_of_ray_client_is_refused_in_words() -> None:
    with pytest.raises(
        OptionError, match=r"--ray ray://head:10001: addresses of Ray Client are not supported; expected"
    ):
        ClusterOptions("ray://head:10001")


@pytest.mark.usefixtures("cluster")
def test_a_worker_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hiif_deploy.cluster.pool.versions", lambda: {"hiif-deploy": "0.0.1"})
    pool = Pool(
        open_bundle("hiif-video"),
        ClusterOptions("auto"),
        EngineOptions(engine="onnxruntime", threads=1),
        RenderOptions(),
    )
    with pytest.raises(ClusterError, match=r"has hiif-deploy .*, here 0\.0\.1: results would differ"), pool:
        pool.wait_for(1)


@pytest.mark.usefixtures("cluster")
def test_a_model_that_does_not_open_is_reported_as_on_one_machine() -> None:
    bundle = replace(open_bundle("hiif-video"), graphs={})
    pool = Pool(
        bundle, ClusterOptions("auto", attempts=1), EngineOptions(engine="onnxruntime", threads=1), RenderOptions()
    )
    with pytest.raises(KeyError, match="encoder"), pool:
        pool.wait_for(1)


def test_a_file_is_recognised_by_its_length_and_ends(tmp_path: Path) -> None:
    clip, other = tmp_path / "clip", tmp_path / "other"
    clip.write_bytes(bytes(200_000))
    mark = FileMark.of(clip)
    assert is_marked(clip, mark)
    assert not is_marked(other, mark)
    other.write_bytes(bytes(199_999) + b"1")
    assert not is_marked(other, mark)
    other.write_bytes(bytes(199_999))
    assert not is_marked(other, mark)


@pytest.mark.usefixtures("cluster")
def test_a_killed_worker_leaves_no_folder() -> None:
    options = ClusterOptions("auto", workers=1)
    with Pool(
        open_bundle("hiif-video"), options, EngineOptions(engine="onnxruntime", threads=1), RenderOptions()
    ) as pool:
        pool.wait_for(1)
        (info,) = pool.worker_infos
        folder = Path(info.folder)
        assert folder.is_dir()
        os.kill(info.process, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while folder.exists():
            assert time.monotonic() < deadline, f"{folder} is still there"
            time.sleep(0.05)


def test_a_closed_worker_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    worker = Worker()
    worker.open(open_bundle("hiif-video"), EngineOptions(engine="onnxruntime", threads=1), RenderOptions())
    assert len(list(tmp_path.iterdir())) == 1
    worker.close()
    assert list(tmp_path.iterdir()) == []
