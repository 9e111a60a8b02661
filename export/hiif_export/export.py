"""Exports a model as a bundle: writes every graph, verifies them against PyTorch, then moves the folder into place."""

import datetime
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray

import hiif_deploy
from hiif_deploy.backends.options import EngineOptions
from hiif_deploy.bundle.contract import FORMAT, VERSION, Contract, GraphContract, Precision, to_json
from hiif_deploy.bundle.loader import CONTRACT_FILE, Bundle, open_bundle
from hiif_deploy.errors import OptionError
from hiif_deploy.rendering.verify import TOLERANCES
from hiif_deploy.support.files import atomic_directory
from hiif_deploy.support.progress import Progress
from hiif_deploy.upscaler import Upscaler
from hiif_export.graphs.exporter import DecoderExporter, make_exporter
from hiif_export.graphs.graph import Graph
from hiif_export.graphs.onnx_file import OPSET, tensor_contracts, to_onnx
from hiif_export.parity.graph_parity import check_graphs, compare_graphs
from hiif_export.parity.parity import Case, Deviation, cases, check, compare, torch_colours, torch_features
from hiif_training.models.implicit import ImplicitModel
from hiif_training.pictures.degradations import Degradations

logger = logging.getLogger(__name__)
REFERENCE_FILE = "reference.npz"


def export_bundle(
    model: ImplicitModel,
    spec: Mapping[str, Any],
    folder: Path,
    *,
    name: str,
    provenance: Mapping[str, Any],
    training_scales: tuple[float, float] = (1.0, 4.0),
    precisions: Sequence[Precision] = ("fp32",),
    suite: list[Case] | None = None,
    overwrite: bool = False,
    threads: int = 0,
    show_progress: bool = False,
) -> list[Deviation]:
    """Write a bundle to `folder` and return the deviations that its fp32 verification measured.

    `precisions` lists the precisions of the graphs; fp32 is always one of them. `threads` is for the verification (0:
    all). Each finished stage is logged, and `show_progress` shows a bar during it. Raises ParityError where the graphs
    deviate from `model` by more than the tolerance; then, as after any other failure, nothing is left behind and an
    existing folder is unchanged.
    """
    if folder.exists() and not overwrite:
        raise OptionError(f"{folder} exists already; choose another folder or add --overwrite")
    if folder.exists() and not (folder / CONTRACT_FILE).is_file():
        raise OptionError(f"{folder} is not a bundle, so it is not overwritten; choose another folder")
    model = model.eval()
    exporter = make_exporter(model, spec)
    all_graphs = [
        *(graph for precision in precisions for graph in exporter.graphs(precision)),
        *exporter.stage_graphs(),
    ]
    with atomic_directory(folder) as aside:
        graphs = _write_graphs(all_graphs, aside, show_progress)
        contract = _contract(exporter, spec, name, training_scales, graphs, provenance)
        _write_contract(contract, aside)
        bundle = open_bundle(aside)
        compared = suite if suite is not None else cases()
        found = {p: _verify(model, bundle, p, compared, threads, show_progress) for p in precisions}
        reference = _write_reference(model, bundle, aside)
        parity: dict[str, Any] = {p: figures for p, (_, figures) in found.items()}
        parity = {**parity.pop("fp32"), **parity}
        _write_contract(replace(contract, reference=reference, parity=parity), aside)
        open_bundle(aside)
    return found["fp32"][0]


def _verify(
    model: ImplicitModel, bundle: Bundle, precision: Precision, suite: list[Case], threads: int, show_progress: bool
) -> tuple[list[Deviation], dict[str, Any]]:
    """Return the deviations from PyTorch of whole pictures, and the figures that the contract stores of them."""
    graphs = compare_graphs(model, bundle, precision)
    check_graphs(graphs, precision)
    progress = Progress(f"verifying {precision}", len(suite), unit="cases", enabled=show_progress)
    engine = EngineOptions(engine="onnxruntime", precision=precision, threads=threads)
    with Upscaler(bundle, engine=engine) as upscaler, progress:
        found = compare(model, upscaler, suite, progress.advance)
    check(found, TOLERANCES[precision])
    largest, worst = max(case.colours for case in found), min(case.psnr for case in found)
    logger.info("verified %s: %d cases within %.1e of PyTorch, at worst %.0f dB", precision, len(found), largest, worst)
    return found, {
        "max_error": largest,
        "min_psnr_db": worst,
        "cases": [asdict(deviation) for deviation in found],
        "graphs": [asdict(deviation) for deviation in graphs],
    }


def _write_graphs(graphs: Sequence[Graph], folder: Path, show_progress: bool) -> list[GraphContract]:
    written = []
    with Progress("exporting", len(graphs), unit="graphs", enabled=show_progress) as progress:
        for graph in graphs:
            written.append(_write_graph(graph, folder))
            progress.advance()
    size = sum((folder / graph.file).stat().st_size for graph in written)
    logger.info("exported %d graphs, %.1f MB", len(written), size / 1e6)
    return written


def _write_graph(graph: Graph, folder: Path) -> GraphContract:
    data = to_onnx(graph).SerializeToString()
    inputs, outputs = tensor_contracts(graph)
    contract = GraphContract(graph.name, "", hashlib.sha256(data).hexdigest(), inputs, outputs, graph.precision)
    contract = replace(contract, file=f"{contract.key}.onnx")
    (folder / contract.file).write_bytes(data)
    return contract


def _contract(
    exporter: DecoderExporter,
    spec: Mapping[str, Any],
    name: str,
    scales: tuple[float, float],
    graphs: list[GraphContract],
    provenance: Mapping[str, Any],
) -> Contract:
    versions = {
        "exported": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "hiif_deploy": hiif_deploy.__version__, "torch": torch.__version__, "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__, "opset": OPSET,
    }  # fmt: skip
    return Contract(
        format=FORMAT, version=VERSION, name=name, model=spec,
        parameters=sum(parameter.numel() for parameter in exporter.model.parameters()),
        training_scales=scales, normalisation=exporter.normalisation(),
        encoder=exporter.encoder_contract(), decoder=exporter.contract(), graphs=tuple(graphs), reference={},
        provenance={**versions, **provenance}, parity={},
    )  # fmt: skip


def _write_reference(model: ImplicitModel, bundle: Bundle, folder: Path) -> dict[str, str]:
    """Store a few of PyTorch's own outputs, so that a bundle can be verified later without PyTorch."""
    arrays: dict[str, NDArray[Any]] = {}
    for n, case in enumerate(cases(sizes=((12, 14),), scales=(2.0, 3.3, (1.5, 2.75)))):
        features = torch_features(model, bundle.contract, case.image)
        arrays[f"image_{n}"] = case.image
        arrays[f"colours_{n}"] = torch_colours(model, bundle.contract, case.image, features, case.target)
    path = folder / REFERENCE_FILE
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
    return {"file": REFERENCE_FILE, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def _write_contract(contract: Contract, folder: Path) -> None:
    text = json.dumps(to_json(contract), indent=1, ensure_ascii=False)
    (folder / CONTRACT_FILE).write_text(text + "\n", encoding="utf-8")


def file_provenance(checkpoint: Path, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the checkpoint's file name, its hash, the numbers and texts of its metadata, and `trained_for`."""
    described = {key: value for key, value in metadata.items() if isinstance(value, (str, int, float))}
    if trained_for := _trained_for(metadata):
        described["trained_for"] = trained_for
    return {"checkpoint": checkpoint.name, "sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(), **described}


def _trained_for(metadata: Mapping[str, Any]) -> Any:
    """Return the degradations that a training run saw, recorded in its model or in the recipe of its state."""
    recipe = metadata.get("recipe")
    if "trained_for" in metadata or not isinstance(recipe, dict):
        return metadata.get("trained_for")
    try:
        return Degradations(**recipe.get("degrade", {})).trained_for()
    except (TypeError, ValueError, OptionError) as error:
        raise OptionError(f"the checkpoint's recipe has a damaged table [degrade] ({error})") from error
