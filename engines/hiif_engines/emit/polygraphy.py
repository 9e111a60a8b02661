"""`--emit polygraphy`: commands that build the engines with Polygraphy and compare each with ONNX Runtime."""

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from hiif_deploy.bundle.contract import GraphContract, Precision, TensorContract, is_fold
from hiif_deploy.errors import OptionError
from hiif_engines.emit.trtexec import BuildRecipe, is_dynamic, profile_shapes, shell_command
from hiif_engines.tensorrt.profiles import Profile, Shape

HEADER = """\
#!/bin/sh
# Builds the TensorRT engines of {name}, then gives each and its ONNX file the same random inputs and compares.
# Needs: pip install polygraphy onnx onnxruntime, and TensorRT. The precision is in the ONNX files.
set -e
"""
PSNR: Mapping[Precision, int] = {"fp32": 80, "fp16": 50}
"""Minimum PSNR in dB of an engine's outputs. Random inputs cause larger rounding errors than pictures do."""
BIT = (0, 1)
RANGES: Mapping[str, tuple[float, float]] = {
    "image": (-1, 1),
    "features": (-1, 1),
    "row_bits": BIT,
    "column_bits": BIT,
    "row_distance": (0, 1),
    "column_distance": (0, 1),
    "row_local": (0, 1),
    "column_local": (0, 1),
    "cell": (0.5, 1),
    "moments": (0.5, 1),
}
"""Input name → range of its values; taps depend on the size of the maps."""
OTHER = (-0.5, 0.5)
"""Range of any other input: maps and folded attention."""
COMPARED = {"pixels": 4096}
"""Dynamic axis → largest size of the random inputs, which are stored in a file; COMPARED_SIDE for any other axis."""
COMPARED_SIDE = 64


def polygraphy_script(recipe: BuildRecipe, graphs: Iterable[GraphContract], profiles: Mapping[str, Profile]) -> str:
    """Return a shell script with three Polygraphy commands per graph: build, run ONNX Runtime, compare.

    `profiles` is by graph name; fold graphs are left out. OptionError where a profile does not fit its graph.
    """
    lines = [HEADER.format(name=recipe.name), f"mkdir -p {shlex.quote(str(recipe.engines))}\n"]
    for graph in graphs:
        if not is_fold(graph.name):
            profile = profiles[graph.name]
            commands = (
                convert_command(recipe, graph, profile),
                reference_command(recipe, graph, profile),
                compare_command(recipe, graph),
            )
            lines += map(shell_command, commands)
    return "\n".join(lines)


def convert_command(recipe: BuildRecipe, graph: GraphContract, profile: Profile) -> list[str]:
    """Return the words of the command that builds one graph's engine."""
    words = ["polygraphy", "convert", str(recipe.models / graph.file), "--convert-to", "trt"]
    words += ["-o", str(recipe.engine(graph)), "--strongly-typed"]
    for end in ("min", "opt", "max"):
        words += _option(f"--trt-{end}-shapes", _shapes(graph, profile, end))
    return [*words, "--builder-optimization-level", str(recipe.flags.optimization_level)]


def reference_command(recipe: BuildRecipe, graph: GraphContract, profile: Profile) -> list[str]:
    """Return the words of the command that makes random inputs and stores ONNX Runtime's outputs for them."""
    inputs, outputs = _kept(recipe, graph)
    words = ["polygraphy", "run", str(recipe.models / graph.file), "--onnxrt", "--seed", "0"]
    shapes = compared_shapes(graph, profile)
    listed = [f"{tensor.name}:{_listed(shapes[tensor.name])}" for tensor in graph.inputs if is_dynamic(tensor)]
    words += _option("--input-shapes", listed)
    ranges = [f"{tensor.name}:{_listed(value_range(graph, shapes, tensor))}" for tensor in graph.inputs]
    return [*words, *_option("--val-range", ranges), "--save-inputs", str(inputs), "--save-outputs", str(outputs)]


def compare_command(recipe: BuildRecipe, graph: GraphContract) -> list[str]:
    """Return the words of the command that runs the engine on those inputs; it fails where an output deviates too
    far."""
    inputs, outputs = _kept(recipe, graph)
    words = ["polygraphy", "run", str(recipe.engine(graph)), "--model-type", "engine", "--trt"]
    words += ["--load-inputs", str(inputs), "--load-outputs", str(outputs), "--validate"]
    return [*words, "--compare", "psnr", "--psnr-threshold", str(PSNR[graph.precision])]


def compared_shapes(graph: GraphContract, profile: Profile) -> dict[str, Shape]:
    """Return the shapes of the random inputs: within the profile, and small enough to be stored."""

    def size(axis: int | str, low: int, opt: int) -> int:
        if isinstance(axis, int):
            return axis
        # Multiples of the smallest size, because a window transformer takes nothing else.
        return max(1, min(opt, COMPARED.get(axis, COMPARED_SIDE)) // low) * low

    return {
        tensor.name: tuple(map(size, tensor.shape, profile[tensor.name].min, profile[tensor.name].opt))
        for tensor in graph.inputs
    }


def value_range(graph: GraphContract, shapes: Mapping[str, Shape], tensor: TensorContract) -> tuple[float, float]:
    """Return the lowest and highest value of an input that the graph accepts; both ends occur."""
    if tensor.name not in ("row_tap", "column_tap"):
        return RANGES.get(tensor.name, OTHER)
    pixels = [shapes[t.name][0] for t in graph.inputs if t.shape[0] == "pixels"]
    if not pixels:
        raise OptionError(f"graph {graph.name}: it gathers by {tensor.name}, but no input has an axis named pixels")
    # The graph gathers by the sum of a row tap and a column tap.
    return 0, max(0, (min(pixels) - 1) // 2)


def _shapes(graph: GraphContract, profile: Profile, end: Literal["min", "opt", "max"]) -> list[str]:
    return [f"{name}:{_listed(shape)}" for name, shape in profile_shapes(graph, profile, end).items()]


def _listed(values: Shape | tuple[float, ...]) -> str:
    return "[" + ",".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values) + "]"


def _option(name: str, values: list[str]) -> list[str]:
    return [name, *values] if values else []


def _kept(recipe: BuildRecipe, graph: GraphContract) -> tuple[Path, Path]:
    """Return the files of the inputs and of ONNX Runtime's outputs, beside the engine."""
    return recipe.engines / f"{graph.key}.inputs.json", recipe.engines / f"{graph.key}.outputs.json"
