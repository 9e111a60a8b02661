"""Checkpoint → bundle: write every graph, prove them against PyTorch, then move the folder into place."""

from __future__ import annotations

import datetime
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray

import hiif_deploy
from hiif_deploy.bundle import CONTRACT_FILE, open_bundle
from hiif_deploy.contract import (
    FORMAT,
    VERSION,
    Contract,
    DecoderContract,
    EncoderContract,
    GraphContract,
    Normalisation,
    to_json,
)
from hiif_deploy.errors import OptionError
from hiif_deploy.progress import Progress
from hiif_deploy.upscaler import Upscaler
from hiif_export.graph import Graph
from hiif_export.graph_parity import GraphDeviation, check_graphs, compare_graphs
from hiif_export.hiif_graphs import hiif_graphs
from hiif_export.onnx_file import OPSET, tensor_contracts, to_onnx
from hiif_export.parity import Case, Deviation, cases, check, compare, torch_colours, torch_features
from hiif_training.models.hiif import Hiif

REFERENCE_FILE = "reference.npz"
Say = Callable[[str], None]


def export_bundle(
    model: Hiif,
    spec: Mapping[str, Any],
    folder: Path,
    *,
    name: str,
    provenance: Mapping[str, Any],
    training_scales: tuple[float, float] = (1.0, 4.0),
    suite: list[Case] | None = None,
    overwrite: bool = False,
    say: Say = lambda _: None,
    show_progress: bool = False,
) -> list[Deviation]:
    """Write a bundle to `folder` and return what its verification measured.

    `say` is told of each stage, and `show_progress` shows how far the verification is. ParityError where the graphs
    deviate from `model` by more than the tolerance; then, as after any other failure, nothing is left behind and an
    existing folder is as it was.
    """
    if folder.exists() and not overwrite:
        raise OptionError(f"{folder} exists already; choose another folder or add --overwrite")
    if folder.exists() and not (folder / CONTRACT_FILE).is_file():
        raise OptionError(f"{folder} is not a bundle, so it is not overwritten; choose another folder")
    model = model.eval()
    with _aside(folder) as aside:
        graphs = [_write_graph(graph, aside, say) for graph in hiif_graphs(model)]
        contract = _contract(model, spec, name, training_scales, graphs, provenance)
        _write_contract(contract, aside)
        say("verifying against PyTorch")
        with Upscaler(aside) as upscaler:
            graph_deviations = compare_graphs(model, upscaler.bundle)
            check_graphs(graph_deviations)
            asked = suite if suite is not None else cases()
            with Progress("verifying", len(asked), unit="cases", enabled=show_progress) as progress:
                found = compare(model, upscaler, asked, progress.advance)
            check(found)
            reference = _write_reference(model, upscaler, aside)
        _write_contract(replace(contract, reference=reference, parity=_parity(found, graph_deviations)), aside)
        open_bundle(aside)
    return found


def _write_graph(graph: Graph, folder: Path, say: Say) -> GraphContract:
    say(f"exporting {graph.name}")
    data = to_onnx(graph).SerializeToString()
    file = f"{graph.name}.onnx"
    (folder / file).write_bytes(data)
    inputs, outputs = tensor_contracts(graph)
    return GraphContract(graph.name, file, hashlib.sha256(data).hexdigest(), inputs, outputs)


def _contract(
    model: Hiif,
    spec: Mapping[str, Any],
    name: str,
    scales: tuple[float, float],
    graphs: list[GraphContract],
    provenance: Mapping[str, Any],
) -> Contract:
    config = model.config
    encoder = EncoderContract(
        channels=model.encoder.out_channels,
        receptive_field=model.encoder.receptive_field,
        size_multiple=model.encoder.size_multiple,
        memory_channels=model.encoder.memory_channels,
    )
    decoder = DecoderContract(
        halo=1,
        statistics_passes=config.attention_blocks,
        map_channels=4 * config.mlp_dim + 2 + 2 * config.hidden_dim,
        query_channels=8 * max(config.mlp_dim, config.hidden_dim),
        levels=config.levels,
        bits=config.bits,
        skip="bilinear",
    )
    return Contract(
        format=FORMAT, version=VERSION, name=name, model=spec,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        training_scales=scales, normalisation=Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        encoder=encoder, decoder=decoder, graphs=tuple(graphs), reference={},
        provenance={**_versions(), **provenance}, parity={},
    )  # fmt: skip


def _versions() -> dict[str, Any]:
    return {
        "exported": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "hiif_deploy": hiif_deploy.__version__,
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
        "opset": OPSET,
        "precision": "fp32",
    }


def _write_reference(model: Hiif, upscaler: Upscaler, folder: Path) -> dict[str, str]:
    """A few of PyTorch's own answers, so that a bundle can be verified later without PyTorch."""
    arrays: dict[str, NDArray[Any]] = {}
    for n, case in enumerate(cases(sizes=((12, 14),), scales=(2.0, 3.3, (1.5, 2.75)))):
        features = torch_features(model, upscaler, case.image)
        arrays[f"image_{n}"] = case.image
        arrays[f"colours_{n}"] = torch_colours(model, upscaler, case.image, features, case.target)
    path = folder / REFERENCE_FILE
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
    return {"file": REFERENCE_FILE, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def _parity(found: list[Deviation], graphs: list[GraphDeviation]) -> dict[str, Any]:
    return {
        "max_error": max(deviation.colours for deviation in found),
        "min_psnr_db": min(deviation.psnr for deviation in found),
        "cases": [asdict(deviation) for deviation in found],
        "graphs": [asdict(deviation) for deviation in graphs],
    }


def _write_contract(contract: Contract, folder: Path) -> None:
    text = json.dumps(to_json(contract), indent=1, ensure_ascii=False)
    (folder / CONTRACT_FILE).write_text(text + "\n", encoding="utf-8")


@contextmanager
def _aside(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder` that takes its place if all goes well, and is removed otherwise."""
    folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.absolute().parent))
    old = aside.with_name(aside.name + "-old")
    try:
        yield aside
        aside.chmod(0o755)
        if folder.exists():
            folder.replace(old)
        aside.replace(folder)
    except BaseException:
        if old.exists() and not folder.exists():
            old.rename(folder)
        shutil.rmtree(aside, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)


def file_provenance(checkpoint: Path, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Where the weights came from: the file's name and hash, and plain facts that it carries."""
    facts = {key: value for key, value in metadata.items() if isinstance(value, (str, int, float))}
    return {"checkpoint": checkpoint.name, "sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(), **facts}
