"""`--emit trtexec`: writes the commands that build the same engines with NVIDIA's own tool."""

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hiif_deploy.bundle.contract import GraphContract, TensorContract, is_fold
from hiif_deploy.errors import OptionError
from hiif_engines.tensorrt.build import BuildFlags
from hiif_engines.tensorrt.profiles import Profile, Shape

HEADER = """\
#!/bin/sh
# Builds the TensorRT engines of {name}, for the GPU of the machine that runs this.
# TensorRT 10 needs --stronglyTyped; 11, which types every network so, accepts it without effect. Nothing else sets the
# precision: it is in the ONNX files. --noTF32 keeps what is fp32 there fp32. --skipInference, because trtexec makes up
# indices that point anywhere.
set -e
"""


@dataclass(frozen=True)
class BuildRecipe:
    """Folders and build settings of an emitted script, for trtexec and Polygraphy."""

    name: str
    """Name of the model in comments."""
    models: Path
    """Folder of the bundle's ONNX files."""
    engines: Path
    """Folder for the built engines."""
    flags: BuildFlags = field(default_factory=BuildFlags)
    """Build settings, as for an engine that is built here."""

    def __post_init__(self) -> None:
        if self.flags.target is not None:
            raise OptionError(f"target {self.flags.target}: TensorRT's tools build for the GPU at hand; leave it out")

    def engine(self, graph: GraphContract) -> Path:
        """Return the path of a graph's engine."""
        return self.engines / f"{graph.key}.plan"


def trtexec_script(recipe: BuildRecipe, graphs: Iterable[GraphContract], profiles: Mapping[str, Profile]) -> str:
    """Return a shell script with one trtexec command per graph; fold graphs, which run on the CPU, are left out.

    `profiles` is by graph name. OptionError where a profile does not fit its graph.
    """
    lines = [HEADER.format(name=recipe.name), f"mkdir -p {shlex.quote(str(recipe.engines))}\n"]
    lines += [
        shell_command(trtexec_command(recipe, graph, profiles[graph.name]))
        for graph in graphs
        if not is_fold(graph.name)
    ]
    return "\n".join(lines)


def trtexec_command(recipe: BuildRecipe, graph: GraphContract, profile: Profile) -> list[str]:
    """Return the words of the command that builds one graph's engine."""
    words = ["trtexec", f"--onnx={recipe.models / graph.file}", f"--saveEngine={recipe.engine(graph)}"]
    words += ["--stronglyTyped", "--noTF32", "--skipInference"]
    for end in ("min", "opt", "max"):
        shapes = profile_shapes(graph, profile, end)
        if shapes:
            listed = ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())
            words.append(f"--{end}Shapes={listed}")
    return [*words, f"--builderOptimizationLevel={recipe.flags.optimization_level}", "--profilingVerbosity=detailed"]


def profile_shapes(graph: GraphContract, profile: Profile, end: Literal["min", "opt", "max"]) -> dict[str, Shape]:
    """Return the min, opt or max shape of every input with a dynamic axis; the others have a fixed shape."""
    return {tensor.name: getattr(profile[tensor.name], end) for tensor in graph.inputs if is_dynamic(tensor)}


def is_dynamic(tensor: TensorContract) -> bool:
    """Return whether a tensor has a dynamic axis."""
    return any(isinstance(size, str) for size in tensor.shape)


def shell_command(words: list[str]) -> str:
    """Return the words quoted for a POSIX shell, one option with its values per line."""
    lines: list[list[str]] = [[]]
    for word in words:
        if word.startswith("-"):
            lines.append([])
        lines[-1].append(shlex.quote(word))
    return " \\\n  ".join(" ".join(line) for line in lines) + "\n"
