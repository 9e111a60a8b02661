"""`build` and everything around it as a user runs it, on the recording double of TensorRT."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fake_device import FakeDevice
from hiif_deploy.backends.cuda import open as device_layers
from hiif_deploy.backends.cuda.device import DeviceFacts
from hiif_deploy.backends.tensorrt.graphs import shared_graphs
from hiif_deploy.cli import app as cli
from hiif_deploy.images.io import read_image
from hiif_deploy.rendering import open_engine
from hiif_deploy.support.install import install_command
from tensorrt_double.install import installed

SAMPLE = Path(cli.__file__).parents[1] / "samples" / "coffee.png"
SIZES = ("--max-input", "64x48", "--queries", "4096")
GRAPHS = ("decoder", "encoder", "maps", "statistics_0", "statistics_1")
SHARED = tuple(name.replace("-", "_") for name in shared_graphs())
ENGINES = len(GRAPHS) + len(SHARED)
"""Engines of a bundle in one precision."""

FAKE = DeviceFacts("Fake GPU", "8.9", "13.0", 8 << 30)


@dataclass
class Machine:
    """A machine with the double and a fake GPU, and a store of its own."""

    trt: Any
    store: Path
    facts: DeviceFacts = FAKE
    devices: list[FakeDevice] = field(default_factory=list)

    def open(self) -> FakeDevice:
        self.devices.append(FakeDevice(facts=self.facts))
        self.trt.testing.device = self.devices[-1]
        return self.devices[-1]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    monkeypatch.setenv("HIIF_DEPLOY_STORE", str(tmp_path / "store"))
    with installed() as trt:
        machine = Machine(trt, tmp_path / "store")
        monkeypatch.setitem(device_layers.LAYERS, "cuda-python", machine.open)
        yield machine
        for opened in machine.devices:
            assert +opened.live == {}


Run = Callable[..., int]


@pytest.fixture
def run() -> Run:
    def call(*words: object) -> int:
        with pytest.raises(SystemExit) as stop:
            cli.main([str(word) for word in words])
        return int(stop.value.code or 0)

    return call


def engine_files(machine: Machine) -> list[Path]:
    return sorted((machine.store / "engines").glob("*.engine"))


def test_without_tensorrt_build_explains_what_to_install_and_exits_2(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        import tensorrt  # noqa: F401
    except ModuleNotFoundError:
        assert run("build", "hiif-compact") == 2
        assert f"tensorrt is not installed; add it with: {install_command('tensorrt')}" in capsys.readouterr().err
    else:
        pytest.skip("TensorRT is installed here")


def test_build_stores_verified_fp16_engines_and_upscale_runs_them(
    machine: Machine, run: Run, half_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("build", half_bundle, *SIZES) == 0
    said = capsys.readouterr()
    assert "verified" in said.err
    assert "14x12 → 28x24: largest deviation" in said.out
    assert [path.name.rsplit("-", 1)[0] for path in engine_files(machine)] == [
        f"half-{name}-fp16" for name in sorted((*GRAPHS, *SHARED))
    ]
    reports = [json.loads(path.read_text())["report"] for path in (machine.store / "engines").glob("*.json")]
    assert all(report["verified"] is True and report["psnr_db"] >= 60 for report in reports)

    builds = len(machine.trt.testing.names("Builder"))
    words = ("upscale", SAMPLE, "-b", half_bundle, "--scale", "1.5", "--json", "-q")
    assert run(*words, "--engine", "tensorrt", "-o", tmp_path / "gpu.png") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["engine"].startswith("tensorrt 11.4.0.106, fp16, Fake GPU")
    assert (report["precision"], report["fallback_blocks"]) == ("fp16", 0)
    assert len(machine.trt.testing.names("Builder")) == builds
    assert run(*words, "-o", tmp_path / "cpu.png") == 0
    gpu, cpu = (read_image(tmp_path / f"{name}.png").pixels.astype(float) for name in ("gpu", "cpu"))
    assert 10 * np.log10(255**2 / np.mean((gpu - cpu) ** 2)) > 48


def test_a_second_build_builds_nothing_and_another_profile_is_built_beside_it(
    machine: Machine, run: Run, half_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("build", half_bundle, *SIZES) == 0
    builds = len(machine.trt.testing.names("Builder"))
    capsys.readouterr()
    assert run("build", half_bundle, *SIZES) == 0
    assert capsys.readouterr().err.count("built in") == ENGINES
    assert len(machine.trt.testing.names("Builder")) == builds
    assert run("build", half_bundle, "--max-input", "65x48", "--queries", "4096") == 0
    assert len(engine_files(machine)) == 2 * ENGINES


@pytest.mark.usefixtures("machine")
def test_engines_that_are_missing_are_built_when_they_are_requested_and_verified(
    run: Run, half_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("upscale", SAMPLE, "-b", half_bundle, "--scale", "1", "--engine", "tensorrt", "-o", tmp_path / "o.png")
    assert run(*words) == 0
    said = capsys.readouterr().err
    assert "no fp16 engine for encoder, maps, statistics_0, statistics_1, decoder, prepare-uint8" in said
    assert "engines of half: verified" in said


def test_a_damaged_engine_is_named_and_built_again(
    machine: Machine, run: Run, half_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("build", half_bundle) == 0
    victim = next(path for path in engine_files(machine) if "maps" in path.name)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    words = ("upscale", SAMPLE, "-b", half_bundle, "--scale", "1", "--engine", "tensorrt", "-o", tmp_path / "o.png")
    capsys.readouterr()
    assert run(*words) == 0
    said = capsys.readouterr().err
    assert f"{victim.name}: sha256 is" in said
    assert "no fp16 engine for maps of half" in said
    assert victim.read_bytes() != bytes(data)


def test_an_engine_that_the_library_does_not_take_is_named_and_built_again(
    machine: Machine, run: Run, half_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("build", half_bundle) == 0
    machine.trt.testing.fail_deserialize("kernels of another driver")
    words = ("upscale", SAMPLE, "-b", half_bundle, "--scale", "1", "--engine", "tensorrt", "-o", tmp_path / "o.png")
    capsys.readouterr()
    assert run(*words) == 0
    said = capsys.readouterr().err
    assert "graph encoder.fp16: tensorrt 11.4.0.106 does not load this engine (" in said
    assert "kernels of another driver" in said
    assert "no fp16 engine for encoder of half" in said
    assert len(engine_files(machine)) == ENGINES


def test_engines_of_another_gpu_and_version_are_named_and_not_used(
    machine: Machine, run: Run, half_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("build", half_bundle) == 0
    machine.facts = DeviceFacts("Other GPU", "9.0", "13.0", 8 << 30)
    capsys.readouterr()
    words = ("upscale", SAMPLE, "-b", half_bundle, "--scale", "1", "--engine", "tensorrt", "-o", tmp_path / "o.png")
    assert run(*words) == 0
    said = capsys.readouterr().err
    assert "built by TensorRT 11.4.0.106 for Fake GPU (8.9)" in said
    assert "here is TensorRT 11.4.0.106 for Other GPU (9.0)" in said
    assert len(engine_files(machine)) == 2 * ENGINES


def test_engines_of_another_version_are_named_and_built_again(
    machine: Machine, run: Run, half_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.trt.__version__ = "10.13.3.9"
    assert run("build", half_bundle) == 0
    machine.trt.__version__ = "11.4.0.106"
    words = ("upscale", SAMPLE, "-b", half_bundle, "--scale", "1", "--engine", "tensorrt", "-o", tmp_path / "o.png")
    capsys.readouterr()
    assert run(*words) == 0
    assert "built by TensorRT 10.13.3.9" in capsys.readouterr().err
    assert len(engine_files(machine)) == 2 * ENGINES


def test_engines_out_of_tolerance_are_removed_unless_they_are_forced(
    machine: Machine, run: Run, half_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.trt.testing.poison("colour", call=None, value=0.9)
    assert run("build", half_bundle) == 1
    assert "the colours differ from PyTorch" in capsys.readouterr().err
    assert engine_files(machine) == []
    assert run("build", half_bundle, "--force") == 0
    assert len(engine_files(machine)) == ENGINES
    words = ("upscale", SAMPLE, "-b", half_bundle, "--scale", "1", "--engine", "tensorrt", "-o", tmp_path / "o.png")
    capsys.readouterr()
    assert run(*words) == 0
    assert "these engines are out of tolerance and were kept by --force" in capsys.readouterr().err


def test_blocks_that_are_no_numbers_are_healed_and_reported(
    machine: Machine, run: Run, half_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("build", half_bundle) == 0
    machine.trt.testing.poison("colour", call=machine.trt.testing.runs["colour"])
    words = ("upscale", SAMPLE, "-b", half_bundle, "--scale", "1", "--engine", "tensorrt", "-o", tmp_path / "o.png")
    capsys.readouterr()
    assert run(*words) == 0
    assert "1 blocks overflowed in fp16 and were recomputed in fp32" in capsys.readouterr().err


def test_a_build_that_fails_reports_the_librarys_reason_and_leaves_nothing(
    machine: Machine, run: Run, half_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.trt.testing.fail_build("no kernel for node_linear_2")
    assert run("build", half_bundle) == 1
    said = capsys.readouterr().err
    assert "graph encoder.fp16: tensorrt 11.4.0.106 built no engine: " in said
    assert "no kernel for node_linear_2" in said
    assert [path for path in machine.store.rglob("*") if path.suffix in (".engine", ".json", ".tmp")] == []


def test_auto_falls_back_loudly_where_there_is_no_gpu(
    run: Run, half_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HIIF_DEPLOY_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(open_engine, "has_driver", lambda: True)
    assert run("upscale", SAMPLE, "-b", half_bundle, "--scale", "1", "--engine", "auto", "-o", tmp_path / "o.png") == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "engine auto:" in line]
    assert line.startswith("hiif-deploy: engine auto: ONNX Runtime, cpu, fp32; not tensorrt (")
    assert "; not cuda (CUDAExecutionProvider is not in this ONNX Runtime" in line


@pytest.mark.usefixtures("machine")
def test_verify_runs_on_tensorrt(run: Run, half_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("verify", half_bundle, "--engine", "tensorrt") == 0
    said = capsys.readouterr()
    assert "(tensorrt 11.4.0.106, fp16, Fake GPU" in said.err
    assert "largest deviation" in said.out


@pytest.mark.parametrize("kind", ["trtexec", "polygraphy"])
def test_equivalent_commands_are_printed_without_tensorrt(
    run: Run, half_bundle: Path, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("build", half_bundle, "--emit", kind) == 0
    text = capsys.readouterr().out
    assert run("build", half_bundle, "--emit", kind, "-o", tmp_path / "commands.sh") == 0
    assert f"{tmp_path / 'commands.sh'}: the commands of {kind}" in capsys.readouterr().err
    assert text.count("decoder.fp16.onnx") >= 1
    assert text.startswith("#!/bin/sh")


@pytest.mark.usefixtures("machine")
def test_a_servers_folder_holds_the_engines(
    run: Run, half_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "repository"
    assert run("build", half_bundle, *SIZES, "--emit", "triton", "-o", folder) == 0
    assert "its README.md says how to start it" in capsys.readouterr().err
    plans = {path.parent.parent.name for path in folder.rglob("model.plan")}
    assert plans == {f"hiif_{name}" for name in ("encoder", "maps", "statistics_0", "statistics_1", "decoder")}
    assert (folder / "hiif" / "1" / "model.py").is_file()


def test_a_servers_folder_without_engines_is_requested_by_name(
    run: Run, half_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "repository"
    words = ("build", half_bundle, "--emit", "triton", "--backend", "onnxruntime", "--precision", "fp32")
    assert run(*words) == 2
    assert "--emit triton needs --output" in capsys.readouterr().err
    assert run(*words, "-o", folder) == 0
    assert list(folder.rglob("model.onnx"))


def test_without_tensorrt_a_server_gets_the_graphs_and_that_is_reported(
    run: Run, half_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if importlib.util.find_spec("tensorrt") is not None:
        pytest.skip("TensorRT is installed here")
    folder = tmp_path / "repository"
    assert run("build", half_bundle, "--emit", "triton", "-o", folder) == 0
    assert "the server uses the ONNX Runtime backend: tensorrt is not installed" in capsys.readouterr().err
    assert list(folder.rglob("model.onnx"))
    assert run("build", half_bundle, "--emit", "triton", "--backend", "tensorrt", "-o", tmp_path / "other") == 2
    assert not (tmp_path / "other").exists()


def test_a_servers_backend_without_a_server_is_refused(
    run: Run, half_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("build", half_bundle, "--backend", "onnxruntime") == 2
    assert "--backend onnxruntime goes with --emit triton" in capsys.readouterr().err


def test_a_fused_graph_is_written_and_its_deviation_printed(
    run: Run, half_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "fused.onnx"
    assert run("build", half_bundle, "--emit", "vs-mlrt", "--scale", "2.5", "-o", path) == 2
    assert run("build", half_bundle, "--emit", "vs-mlrt", "--scale", "2", "-o", path) == 0
    said = capsys.readouterr()
    assert "dB from the exact output" in said.out
    assert f"{path}: one ONNX file of" in said.err
    assert path.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-o", "x"), "--output: for --emit"),
        (("--overwrite",), "--overwrite: for --emit"),
        (("--emit", "vs-mlrt", "--force"), "--force: for engines that are built"),
        (("--preset", "8k"), "--preset '8k'"),
        (("--level", "9"), "optimisation level is 9"),
        (("--precision", "int8"), "int8"),
        (("--library", "tensorrt-rtx", "--target", "9.9"), "--target 9.9: tensorrt-rtx builds for"),
    ],
)
def test_wrong_usage_exits_2(
    run: Run, half_bundle: Path, words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if "tensorrt-rtx" in words:
        pytest.importorskip("tensorrt_rtx_bindings")
    monkeypatch.setenv("HIIF_DEPLOY_STORE", str(tmp_path / "store"))
    assert run("build", half_bundle, *words) == 2
    assert message in capsys.readouterr().err


def test_the_real_builder_builds_for_a_gpu_that_is_not_here(
    run: Run, half_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    monkeypatch.setenv("HIIF_DEPLOY_STORE", str(tmp_path / "store"))
    words = ("build", half_bundle, "--library", "tensorrt-rtx", "--target", "8.9", "--preset", "720p")
    assert run(*words) == 0
    assert "built for 8.9, not run and so not verified" in capsys.readouterr().err
    assert run("engines", "list", "--json") == 0
    engines = json.loads(capsys.readouterr().out)["engines"]
    assert len(engines) == ENGINES
    assert {engine["state"] for engine in engines} == {"ok"}
