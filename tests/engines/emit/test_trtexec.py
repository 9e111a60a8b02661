"""The trtexec script builds every engine with the shapes of its profile, and nothing else decides the precision."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from attention_model import ATTENTION_MODEL
from hiif_deploy.bundle.contract import GraphContract, TensorContract
from hiif_deploy.bundle.loader import Bundle, open_bundle
from hiif_deploy.errors import OptionError
from hiif_engines.emit.trtexec import BuildRecipe, trtexec_command, trtexec_script
from hiif_engines.tensorrt.build import BuildFlags
from hiif_engines.tensorrt.profiles import PRESETS, Profile, ShapeRange, make_profiles

SIZES = {"min": 8, "opt": 12, "max": 40}


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return open_bundle(ATTENTION_MODEL)


def small_profile(graph: GraphContract) -> Profile:
    """Any size from 8 to 40 on every dynamic axis."""

    def shape(tensor: TensorContract, size: int) -> tuple[int, ...]:
        return tuple(wanted if isinstance(wanted, int) else size for wanted in tensor.shape)

    return {t.name: ShapeRange(*(shape(t, size) for size in SIZES.values())) for t in graph.inputs}


def profiles(bundle: Bundle) -> dict[str, Profile]:
    return {graph.name: small_profile(graph) for graph in bundle.contract.graphs}


def commands(script: str) -> list[dict[str, str]]:
    """Options of every trtexec command, as a shell would hand them over."""
    joined = script.replace("\\\n", " ")
    lines = [shlex.split(line) for line in joined.splitlines() if line.startswith("trtexec")]
    return [{option: value for option, _, value in (word.partition("=") for word in line[1:])} for line in lines]


def test_every_graph_but_the_folds_has_one_command(bundle: Bundle) -> None:
    recipe = BuildRecipe("sample", bundle.folder, Path("engines"))
    found = commands(trtexec_script(recipe, bundle.contract.graphs, profiles(bundle)))
    wanted = [g for g in bundle.contract.graphs if not g.name.startswith("fold")]
    assert [options["--onnx"] for options in found] == [str(bundle.folder / graph.file) for graph in wanted]
    assert [options["--saveEngine"] for options in found] == [f"engines/{graph.key}.plan" for graph in wanted]


def test_shapes_are_those_of_the_profile_and_static_inputs_have_none(bundle: Bundle) -> None:
    graph = bundle.contract.graph("decoder")
    script = trtexec_script(BuildRecipe("sample", bundle.folder, Path("engines")), [graph], profiles(bundle))
    (options,) = commands(script)
    dynamic = {t.name for t in graph.inputs if any(isinstance(size, str) for size in t.shape)}
    assert "cell" not in dynamic
    for end, size in SIZES.items():
        shapes = dict(part.split(":") for part in options[f"--{end}Shapes"].split(","))
        assert shapes.keys() == dynamic
        assert shapes["row_tap"] == f"2x{size}x1"
        assert shapes["map_0"].startswith(f"{size}x")


def test_precision_comes_from_the_file_and_nothing_is_run(bundle: Bundle) -> None:
    script = trtexec_script(
        BuildRecipe("sample", bundle.folder, Path("engines")), bundle.contract.graphs, profiles(bundle)
    )
    for options in commands(script):
        assert {"--stronglyTyped", "--skipInference", "--noTF32"} <= options.keys()
        assert not {"--fp16", "--bf16", "--int8", "--best", "--workspace"} & options.keys()


def test_options_of_the_recipe_are_passed_on(bundle: Bundle) -> None:
    graph = bundle.contract.graph("maps")
    recipe = BuildRecipe("m", Path("m"), Path("e"), BuildFlags(optimization_level=5))
    assert "--builderOptimizationLevel=5" in trtexec_command(recipe, graph, small_profile(graph))


def test_the_script_can_be_pasted_into_a_shell_whatever_the_paths(bundle: Bundle, tmp_path: Path) -> None:
    import os
    import subprocess

    (tmp_path / "bin").mkdir()
    tool = tmp_path / "bin" / "trtexec"
    tool.write_text('#!/bin/sh\nfor word; do printf "%s\\n" "$word"; done\n')
    tool.chmod(0o755)
    folder = tmp_path / "it's my engines; $HOME"
    graph = bundle.contract.graph("encoder")
    script = trtexec_script(BuildRecipe("sample", bundle.folder, folder), [graph], profiles(bundle))
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(["sh"], input=script, env=environment, capture_output=True, text=True, check=True)
    assert f"--saveEngine={folder / 'encoder.plan'}" in done.stdout.splitlines()
    assert "--minShapes=image:1x3x8x8" in done.stdout.splitlines()
    assert folder.is_dir()


def test_a_graph_of_half_precision_has_its_own_file_and_engine() -> None:
    half = GraphContract(
        "maps", "maps.fp16.onnx", "0" * 64, (TensorContract("features", "float16", (1, 4, "h", "w")),), (), "fp16"
    )
    words = trtexec_command(BuildRecipe("m", Path("models"), Path("e")), half, small_profile(half))
    assert "--onnx=models/maps.fp16.onnx" in words
    assert "--saveEngine=e/maps.fp16.plan" in words


def test_the_profiles_of_every_preset_are_taken(bundle: Bundle) -> None:
    for sizes in PRESETS.values():
        recipe = BuildRecipe("sample", bundle.folder, Path("engines"))
        made = make_profiles(bundle.contract, "fp32", sizes)
        found = commands(trtexec_script(recipe, bundle.contract.chain().values(), made))
        height, width = sizes.max_input
        assert found[0]["--maxShapes"] == f"image:1x3x{height}x{width}"
        assert len(found) == len(made)


def test_a_target_of_tensorrt_rtx_is_refused() -> None:
    with pytest.raises(OptionError, match=r"target 8\.9: TensorRT's tools build for the GPU at hand"):
        BuildRecipe("m", Path("m"), Path("e"), flags=BuildFlags(target="8.9"))
