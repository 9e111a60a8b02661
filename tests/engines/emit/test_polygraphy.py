"""The Polygraphy script is one that Polygraphy accepts, builds with, and whose inputs every graph survives."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from attention_model import ATTENTION_MODEL
from hiif_deploy.bundle.contract import GraphContract, TensorContract
from hiif_deploy.bundle.loader import Bundle, open_bundle
from hiif_deploy.errors import OptionError
from hiif_engines.emit.polygraphy import compared_shapes, polygraphy_script, value_range
from hiif_engines.emit.trtexec import BuildRecipe
from hiif_engines.tensorrt.build import BuildFlags
from hiif_engines.tensorrt.profiles import PRESETS, Profile, ShapeRange, make_profiles

pytest.importorskip("polygraphy")


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return open_bundle(ATTENTION_MODEL)


def profile(graph: GraphContract) -> Profile:
    """Blocks of up to 8 × 12 queries over 40 source pixels."""

    def shape(tensor: TensorContract, share: int) -> tuple[int, ...]:
        sizes = {"rows": 8, "columns": 12, "pixels": 40}
        return tuple(n if isinstance(n, int) else sizes.get(n, 16) * share for n in tensor.shape)

    return {t.name: ShapeRange(shape(t, 1), shape(t, 2), shape(t, 3)) for t in graph.inputs}


def script_for(bundle: Bundle, folder: Path) -> str:
    recipe = BuildRecipe("sample", bundle.folder, folder, BuildFlags(optimization_level=2))
    contract = bundle.contract
    graphs = [*contract.chain("fp32").values(), *contract.chain("fp16").values()]
    return polygraphy_script(recipe, graphs, {graph.name: profile(graph) for graph in graphs})


def commands(script: str) -> list[list[str]]:
    joined = script.replace("\\\n", " ")
    return [shlex.split(line)[1:] for line in joined.splitlines() if line.startswith("polygraphy")]


def run_polygraphy(words: list[str], shim: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ)
    if shim is not None:
        environment |= {"POLYGRAPHY_USE_TENSORRT_RTX": "1", "PYTHONPATH": str(shim)}
    code = "import sys; from polygraphy.tools import main; sys.argv[0] = 'polygraphy'; sys.exit(main())"
    return subprocess.run([sys.executable, "-c", code, *words], env=environment, capture_output=True, text=True)


def test_every_graph_is_built_run_and_compared(bundle: Bundle, tmp_path: Path) -> None:
    found = commands(script_for(bundle, tmp_path))
    kept = ("fold", *bundle.contract.stages)
    wanted = [graph for graph in bundle.contract.graphs if not graph.name.startswith(kept)]
    assert len(found) == 3 * len(wanted)
    for graph, (convert, answer, compare) in zip(wanted, zip(*[iter(found)] * 3, strict=True), strict=True):
        assert convert[:2] == ["convert", str(bundle.folder / graph.file)]
        assert "--strongly-typed" in convert
        assert "--fp16" not in convert
        assert answer[:2] == ["run", str(bundle.folder / graph.file)]
        assert compare[:2] == ["run", convert[convert.index("-o") + 1]]
        assert compare[compare.index("--load-inputs") + 1] == answer[answer.index("--save-inputs") + 1]
        assert compare[compare.index("--load-outputs") + 1] == answer[answer.index("--save-outputs") + 1]


def test_polygraphys_own_parser_reads_the_shapes_and_ranges(bundle: Bundle, tmp_path: Path) -> None:
    from polygraphy.tools.args.util import parse_arglist_to_dict, parse_meta

    found = commands(script_for(bundle, tmp_path))
    answer = next(words for words in found if words[0] == "run" and words[1].endswith("decoder.onnx"))
    decoder = bundle.contract.graph("decoder")
    shapes = parse_meta(_values(answer, "--input-shapes"), includes_dtype=False)
    for tensor in decoder.inputs:
        if any(isinstance(size, str) for size in tensor.shape):
            assert tuple(shapes[tensor.name].shape) == profile(decoder)[tensor.name].opt
    ranges = parse_arglist_to_dict(_values(answer, "--val-range"))
    assert list(ranges) == [tensor.name for tensor in decoder.inputs]
    assert ranges["row_bits"] == [0, 1]
    # The maps have 80 pixels at that shape, so two taps may each be 39: together the last but one pixel.
    assert ranges["row_tap"] == ranges["column_tap"] == [0, 39]


def test_half_precision_is_allowed_more_error() -> None:
    features = TensorContract("features", "float16", (1, 4, "h", "w"))
    half = GraphContract("maps", "maps.fp16.onnx", "0" * 64, (features,), (), "fp16")
    full = GraphContract("maps", "maps.onnx", "0" * 64, (features,), ())
    recipe = BuildRecipe("m", Path("m"), Path("e"))
    script = polygraphy_script(recipe, [full, half], {"maps": profile(full)})
    found = commands(script)
    assert [float(words[-1]) for words in found[2::3]] == [80, 50]
    assert found[3][found[3].index("-o") + 1] == "e/maps.fp16.plan"


def test_a_graph_that_gathers_without_maps_is_refused() -> None:
    tap = TensorContract("row_tap", "int32", (2, "rows", 1))
    graph = GraphContract("decoder", "decoder.onnx", "0" * 64, (tap,), ())
    with pytest.raises(OptionError, match="decoder: it gathers by row_tap, but no input has an axis named pixels"):
        value_range(graph, {"row_tap": (2, 8, 1)}, tap)


def test_inputs_stay_small_whatever_the_engine_is_built_for(bundle: Bundle) -> None:
    for graph in bundle.contract.chain().values():
        if graph.name.startswith("fold"):
            continue
        profile = make_profiles(bundle.contract, "fp32", PRESETS["4k"])[graph.name]
        shapes = compared_shapes(graph, profile)
        assert all(np.prod(shape) <= 1 << 20 for shape in shapes.values())
        for name, shape in shapes.items():
            assert all(
                low <= n <= high for low, n, high in zip(profile[name].min, shape, profile[name].max, strict=True)
            )


def test_a_window_transformer_gets_multiples_of_its_window() -> None:
    image = TensorContract("image", "float32", (1, 3, "height", "width"))
    graph = GraphContract("encoder", "encoder.onnx", "0" * 64, (image,), ())
    shapes = compared_shapes(graph, {"image": ShapeRange((1, 3, 24, 24), (1, 3, 720, 48), (1, 3, 1080, 1920))})
    assert shapes == {"image": (1, 3, 48, 48)}


@pytest.mark.early
def test_the_commands_work_as_far_as_they_need_no_gpu(bundle: Bundle, tmp_path: Path) -> None:
    """Built by TensorRT-RTX, answered by ONNX Runtime; only running the engine needs a GPU."""
    pytest.importorskip("tensorrt_rtx_bindings")
    from polygraphy.comparator import RunResults

    names = "from tensorrt_rtx_bindings import *\nfrom tensorrt_rtx_bindings import __version__\n"
    (tmp_path / "tensorrt_rtx.py").write_text(names)
    # Every graph's commands have the same form; these two are the smallest and the largest.
    tried = [words for words in commands(script_for(bundle, tmp_path)) if {"maps", "decoder.fp16"} & _graphs(words)]
    assert {words[0] for words in tried} == {"convert", "run"}
    for words in tried:
        if words[0] == "convert":
            done = run_polygraphy(words, tmp_path)
            assert done.returncode == 0, done.stdout + done.stderr
            assert "STRONGLY_TYPED" in done.stdout
            assert Path(words[words.index("-o") + 1]).stat().st_size > 0
        elif "--onnxrt" in words:
            done = run_polygraphy(words)
            assert done.returncode == 0, done.stdout + done.stderr
            results = RunResults.load(words[words.index("--save-outputs") + 1])
            outputs = results[0][1][0]
            assert outputs
            assert all(np.isfinite(values).all() and np.ptp(values) > 0 for values in outputs.values())
        else:
            done = run_polygraphy(words, tmp_path)
            assert done.returncode == 0 or "Could not deserialize engine" in done.stdout + done.stderr


def _graphs(words: list[str]) -> set[str]:
    """Graphs whose files a command names."""
    return {Path(word).name.rpartition(".")[0] for word in words if word.endswith((".onnx", ".engine", ".json"))}


def _values(words: list[str], option: str) -> list[str]:
    """What follows an option, up to the next."""
    rest = words[words.index(option) + 1 :]
    ends = [n for n, word in enumerate(rest) if word.startswith("-")]
    return rest[: ends[0]] if ends else rest
