"""The real builder makes engines of every graph for every preset; what it refuses is explained."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import onnx
import pytest

from hiif_deploy.backends.tensorrt.graphs import shared_graphs
from hiif_deploy.backends.tensorrt.library import Library
from hiif_deploy.bundle.contract import Precision
from hiif_deploy.bundle.loader import Bundle
from hiif_deploy.errors import EngineError, OptionError
from hiif_deploy.support.progress import Progress
from hiif_engines.tensorrt.build import BuildFlags, build_engine, make_monitor
from hiif_engines.tensorrt.profiles import PRESETS, BuildSizes, ShapeRange, make_profiles, make_shared_profiles

ADA = BuildFlags(target="8.9")
SMALL = BuildSizes((40, 48), (20, 24), queries=1024)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("preset", PRESETS)
def test_every_graph_of_every_encoder_is_built_for_every_preset(
    rtx: Library, encoder_bundle: Bundle, preset: str, precision: Precision
) -> None:
    profiles = make_profiles(encoder_bundle.contract, precision, PRESETS[preset])
    if encoder_bundle.contract.name != "edsr-baseline":
        profiles = {"encoder": profiles["encoder"]}  # the decoder's graphs are the same around each
    for name, profile in profiles.items():
        graph = encoder_bundle.contract.graph(name, precision)
        built = build_engine(rtx, graph, encoder_bundle.graphs[graph.key], profile, ADA)
        assert len(built) > 10_000


@pytest.mark.parametrize("target", ["8.0", "8.6", "12.0"])
def test_engines_are_built_for_other_gpus_without_one(rtx: Library, half: Bundle, target: str) -> None:
    graph = half.contract.graph("maps", "fp16")
    profile = make_profiles(half.contract, "fp16", SMALL)["maps"]
    assert build_engine(rtx, graph, half.graphs[graph.key], profile, BuildFlags(target=target))


def test_an_unknown_target_is_answered_with_the_known_ones(rtx: Library, half: Bundle) -> None:
    graph = half.contract.graph("maps", "fp16")
    profile = make_profiles(half.contract, "fp16", SMALL)["maps"]
    with pytest.raises(OptionError, match=r"--target 9.0: tensorrt-rtx builds for 7.5, 8.0, .*12.0"):
        build_engine(rtx, graph, half.graphs[graph.key], profile, BuildFlags(target="9.0"))


def test_the_graphs_that_convert_frames_are_built_for_every_preset(rtx: Library, half: Bundle) -> None:
    for sizes in PRESETS.values():
        for name, profile in make_shared_profiles(half.contract, sizes).items():
            assert build_engine(rtx, *shared_graphs()[name], profile, ADA)


def test_the_builders_own_reason_is_told(rtx: Library, half: Bundle) -> None:
    graph = half.contract.graph("maps")
    # A range that the builder alone can refuse, because it takes any without a word.
    profile = {"features": ShapeRange((1, 16, 9, 9), (1, 16, 9, 9), (1, 17, 9, 9))}
    with pytest.raises(EngineError, match=r"graph maps: tensorrt-rtx .* built no engine: .*\w{4}"):
        build_engine(rtx, graph, half.graphs[graph.key], profile, ADA)


def test_a_graph_whose_weights_lie_elsewhere_finds_none(rtx: Library, half: Bundle, tmp_path: Path) -> None:
    graph = half.contract.graph("maps")
    model = onnx.load_from_string(half.graphs[graph.key])
    onnx.save_model(model, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    profile = make_profiles(half.contract, "fp32", SMALL)["maps"]
    with pytest.raises(EngineError, match=r"cannot parse its model: .*Failed to import initializer"):
        build_engine(rtx, graph, (tmp_path / "m.onnx").read_bytes(), profile, ADA)


@pytest.mark.parametrize("flags", [{"optimization_level": 6}, {"optimization_level": -1}])
def test_flags_out_of_range_are_a_usage_error(flags: dict[str, object]) -> None:
    with pytest.raises(OptionError, match="expected"):
        BuildFlags(**flags)  # type: ignore[arg-type]


def test_the_builder_tells_its_progress_and_stops_when_told(rtx: Library) -> None:
    stop = threading.Event()
    with Progress("building", 1, enabled=False) as progress:
        monitor = make_monitor(rtx, progress, stop)
        monitor.phase_start("outer", None, 4)
        monitor.phase_start("inner", "outer", 9)
        assert monitor.step_complete("inner", 0)
        assert monitor.step_complete("outer", 0)
        monitor.phase_finish("inner")
        assert (progress.total, progress.done) == (4, 1)
        stop.set()
        assert not monitor.step_complete("outer", 1)


INTERRUPTED = """
import os, signal, sys, threading
from hiif_deploy.bundle import open_bundle
from hiif_deploy.backends.tensorrt.library import load_library
from hiif_engines.tensorrt import build
from hiif_engines.tensorrt.profiles import PRESETS, make_profiles
bundle, library = open_bundle(sys.argv[1]), load_library("tensorrt-rtx")
graph = bundle.contract.graph("decoder", "fp16")
profile = make_profiles(bundle.contract, "fp16", PRESETS["1080p"])["decoder"]
real = build.parse_network
def parse(*arguments):
    os.kill(os.getpid(), signal.SIGINT)
    return real(*arguments)
build.parse_network = parse
try:
    build.build_engine(library, graph, bundle.graphs[graph.key], profile, build.BuildFlags(target="8.9"))
except KeyboardInterrupt:
    print("interrupted", sum("hiif-build" in thread.name for thread in threading.enumerate()))
"""


def test_ctrl_c_ends_a_build(rtx: Library, half: Bundle, tmp_path: Path) -> None:
    del rtx
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(half.folder)], env=environment, capture_output=True, text=True,
        check=False, timeout=120,
    )  # fmt: skip
    assert done.stdout == "interrupted 0\n", done.stderr
    assert list(tmp_path.iterdir()) == []
