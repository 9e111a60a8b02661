"""`to_onnx` that traces each graph once for all tests, runs and processes: tracing is most of what the tests cost.

Graphs are equal where their modules, settings, weights and inputs are, and the exporter's sources and libraries. Were
two graphs taken for one, the comparison with PyTorch that ends every export would find it out.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import torch

import hiif_export.baselines.bench_naive
import hiif_export.export
from hiif_export.export import export_bundle
from hiif_export.graphs.graph import Graph
from hiif_export.graphs.onnx_file import to_onnx
from shared_cache import BUNDLE_SOURCES, GRAPH_SOURCES, shared, sources_key

FILE = "graph.onnx"


def weights_key(model: torch.nn.Module) -> str:
    """Of a model's weights."""
    found = hashlib.sha256()
    for name, value in model.state_dict().items():
        found.update(name.encode() + value.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def shared_bundle(model: Any, spec: dict[str, Any], name: str, **options: Any) -> Path:
    """As `export_bundle`, to a folder that all tests share; `options` are its further arguments."""
    from hiif_export.parity.parity import cases

    options = {"provenance": {"weights": "random"}, "suite": cases(sizes=((6, 9),), scales=(2.0, 3.3)), **options}
    suite = [(case.picture, case.image.tobytes(), case.target) for case in options["suite"]]
    key = f"{sources_key(BUNDLE_SOURCES)} {weights_key(model)} {spec} {suite} {options | {'suite': None}}"
    return shared(name, key, lambda folder: export_bundle(model, spec, folder, name=name, **options))


def use_cached_exports() -> None:
    """Let every export of this process take its graphs from the cache."""
    for module in (hiif_export.export, hiif_export.baselines.bench_naive):
        module.to_onnx = cached_to_onnx  # type: ignore[attr-defined]
    _keep_registry()


def cached_to_onnx(graph: Graph) -> onnx.ModelProto:
    """As `to_onnx`."""

    def make(folder: Path) -> None:
        folder.mkdir()
        (folder / FILE).write_bytes(to_onnx(graph).SerializeToString())

    return onnx.load(shared("graph", sources_key(GRAPH_SOURCES) + fingerprint(graph), make) / FILE)


def fingerprint(graph: Graph) -> str:
    """Of the modules, their settings and weights, and of what goes in and out."""
    found = hashlib.sha256()
    for part in _description(graph):
        found.update(part)
    return found.hexdigest()


def _description(graph: Graph) -> Iterator[bytes]:
    outputs = list(graph.outputs.items())
    yield f"{graph.name} {graph.precision} {graph.module} {outputs}".encode()
    for name, (tensor, shape) in graph.inputs.items():
        yield f"{name} {tensor.dtype} {tuple(tensor.shape)} {shape}".encode()
    for path, module in graph.module.named_modules():
        yield f"{path} {type(module).__module__}.{type(module).__qualname__}".encode()
        tensors = {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}
        for name, value in sorted(vars(module).items()):
            if isinstance(value, torch.Tensor):
                tensors[name] = value
            elif not name.startswith("_"):
                yield f"{name}={_plain(value)}".encode()
        for name, value in tensors.items():
            yield f"{name} {value.dtype}".encode() + value.detach().contiguous().view(torch.uint8).numpy().tobytes()


def _plain(value: Any) -> str:
    """A setting as text; what is neither data nor a function counts by its type alone."""
    if value is None or isinstance(value, (bool, int, float, str, torch.dtype, torch.device)):
        return repr(value)
    if isinstance(value, (list, tuple, set, frozenset)):
        return f"[{', '.join(map(_plain, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_plain(entry)}' for key, entry in value.items())}}}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return f"{type(value).__name__}{_plain({f.name: getattr(value, f.name) for f in dataclasses.fields(value)})}"
    return getattr(value, "__qualname__", type(value).__qualname__)


def _keep_registry() -> None:
    """Every export makes the tables of ONNX functions and of decompositions anew, half of its time: once is enough."""
    try:
        from torch.onnx._internal.exporter import _decomp, _registration

        make_registry = _registration.ONNXRegistry.from_torchlib
        make_table = _decomp.create_onnx_friendly_decomposition_table
    except (ImportError, AttributeError):  # another version of PyTorch: it only takes longer
        return
    kept = functools.cache(lambda operators: make_table(set(operators)))
    _registration.ONNXRegistry.from_torchlib = staticmethod(functools.cache(make_registry))  # type: ignore[method-assign, assignment]
    _decomp.create_onnx_friendly_decomposition_table = lambda operators: dict(kept(frozenset(operators)))
