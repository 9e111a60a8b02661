"""`--emit triton DIR`: writes a model repository for NVIDIA's Triton Inference Server.

It has one model per graph, and one Python model for clients, which does what `Upscaler` does and calls the others.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

import hiif_deploy
from hiif_deploy.bundle.contract import GraphContract, Precision, TensorContract, is_fold
from hiif_deploy.bundle.loader import CONTRACT_FILE, Bundle
from hiif_deploy.decoding.plan import TILE_ROWS
from hiif_deploy.errors import EngineError, OptionError
from hiif_deploy.support.files import atomic_directory
from hiif_deploy.upscaler import RenderOptions
from hiif_engines.emit.portions import Limits, axis_limits
from hiif_engines.tensorrt.profiles import Profile

TYPES = {"float16": "TYPE_FP16", "float32": "TYPE_FP32", "int32": "TYPE_INT32", "uint8": "TYPE_UINT8"}
"""Element type of the contract → Triton's name for it."""
ENGINE_MEMORY = 4 << 30
"""Bytes of the server's own memory for one picture's maps, where engines run the graphs."""
NAME = "hiif"
"""Name of the model for clients; those of the graphs begin with it."""
DYNAMIC = -1
"""Triton's number for a dynamic size."""


def write_triton(
    bundle: Bundle,
    folder: Path,
    *,
    precision: Precision = "fp32",
    engines: Mapping[str, bytes] | None = None,
    profiles: Mapping[str, Profile] | None = None,
    options: RenderOptions | None = None,
    overwrite: bool = False,
) -> None:
    """Write a model repository to `folder`; its models are hiif, and hiif_encoder, hiif_maps, …

    `engines` are serialised TensorRT engines by graph name, and `profiles` those that they were built with; without
    them ONNX Runtime serves the graphs. `options` say how the work is split; the default suits the engines. OptionError
    where the folder is not empty, or an engine or profile is missing; EngineError where it cannot be written. Then the
    folder is unchanged.
    """
    graphs = {key: graph for key, graph in bundle.contract.chain(precision).items() if not is_fold(key)}
    missing = [key for key in graphs if engines is not None and (key not in engines or key not in (profiles or {}))]
    if missing:
        raise OptionError(
            f"no engine, or no profile of it, for graph {missing[0]}; all of {', '.join(graphs)} need one"
        )
    limits = axis_limits(graphs, profiles or {}) if engines is not None else {}
    if options is None and limits:
        # Calls as large as the engines accept.
        options = RenderOptions(query_block=limits["rows"] * limits["columns"], memory=ENGINE_MEMORY)
    check_folder(folder, overwrite)
    with _explained(folder), atomic_directory(folder) as aside:
        for key, graph in graphs.items():
            model = aside / f"{NAME}_{key}"
            (model / "1").mkdir(parents=True)
            platform = "onnxruntime_onnx" if engines is None else "tensorrt_plan"
            (model / "config.pbtxt").write_text(graph_config(model.name, graph, platform), encoding="utf-8")
            file, data = ("model.onnx", bundle.graphs[graph.key]) if engines is None else ("model.plan", engines[key])
            (model / "1" / file).write_bytes(data)
        # The Python model for clients, with the bundle that it reads.
        front = aside / NAME
        (front / "1" / "bundle").mkdir(parents=True)
        for file in [CONTRACT_FILE, *(graph.file for graph in bundle.contract.graphs)]:
            shutil.copyfile(bundle.folder / file, front / "1" / "bundle" / file)
        config = front_config(NAME, precision, options or RenderOptions(), limits)
        (front / "config.pbtxt").write_text(config, encoding="utf-8")
        write_template("model.py", front / "1" / "model.py", {})
        write_template("client.py", aside / "client.py", {"MODEL": NAME})
        served = "ONNX Runtime" if engines is None else "TensorRT"
        metadata = {"MODEL": NAME, "BUNDLE": bundle.contract.name, "PRECISION": precision, "SERVED": served}
        write_template("README.md", aside / "README.md", {**metadata, "VERSION": hiif_deploy.__version__})


def graph_config(name: str, graph: GraphContract, platform: str) -> str:
    """Return config.pbtxt of one graph; every axis is written out, because no axis is a batch."""
    return (
        f"name: {json.dumps(name)}\nplatform: {json.dumps(platform)}\nmax_batch_size: 0\n"
        + "".join(_tensor("input", tensor.name, _kind(graph, tensor), _sizes(tensor)) for tensor in graph.inputs)
        + "".join(_tensor("output", tensor.name, _kind(graph, tensor), _sizes(tensor)) for tensor in graph.outputs)
    )


def front_config(name: str, precision: Precision, options: RenderOptions, limits: Limits) -> str:
    """Return config.pbtxt of the Python model."""
    settings = {
        "precision": precision,
        "memory": str(options.memory),
        "query_block": str(options.query_block),
        "tile_rows": str(options.tile_rows or TILE_ROWS),
        "max_output_pixels": str(options.max_output_pixels),
        "limits": json.dumps(limits),
    }
    return (
        f'name: {json.dumps(name)}\nbackend: "python"\nmax_batch_size: 0\n'
        + _tensor("input", "image", TYPES["uint8"], [DYNAMIC, DYNAMIC, 3])
        + _tensor("input", "scale", TYPES["float32"], [1], "optional: true ")
        + _tensor("input", "size", TYPES["int32"], [2], "optional: true ")
        + _tensor("output", "frame", TYPES["uint8"], [DYNAMIC, DYNAMIC, 3])
        + "instance_group { count: 1 kind: KIND_CPU }\n"
        + "".join(
            f"parameters {{ key: {json.dumps(key)} value {{ string_value: {json.dumps(value)} }} }}\n"
            for key, value in settings.items()
        )
    )


def write_template(file: str, target: Path, values: Mapping[str, str]) -> None:
    """Copy a file of `triton_template`, replacing every @NAME@ of `values`."""
    text = (files("hiif_engines") / "triton_template" / file).read_text(encoding="utf-8")
    for key, value in values.items():
        text = text.replace(f"@{key}@", value)
    target.write_text(text, encoding="utf-8")


def check_folder(folder: Path, overwrite: bool) -> None:
    """Raise OptionError where writing a repository would destroy something else."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not overwrite:
        raise OptionError(f"{folder} exists already and is not empty; choose another folder or add --overwrite")
    if not (folder / NAME / "config.pbtxt").is_file():
        raise OptionError(
            f"{folder} is not a model repository with a model {NAME!r}, so it is not overwritten; choose another folder"
        )


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EngineError(f"{folder}: the model repository cannot be written ({error})") from error


def _tensor(role: str, name: str, kind: str, sizes: list[int], more: str = "") -> str:
    listed = ", ".join(map(str, sizes))
    return f"{role} {{ name: {json.dumps(name)} data_type: {kind} dims: [ {listed} ] {more}}}\n"


def _kind(graph: GraphContract, tensor: TensorContract) -> str:
    if tensor.dtype not in TYPES:
        raise OptionError(f"graph {graph.name}: tensor {tensor.name} is {tensor.dtype}; expected {', '.join(TYPES)}")
    return TYPES[tensor.dtype]


def _sizes(tensor: TensorContract) -> list[int]:
    return [size if isinstance(size, int) else DYNAMIC for size in tensor.shape]
