"""Splits pictures into parts that a set of engines accepts, for runtimes that run engines through plain sessions."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.bundle.contract import Contract, GraphContract
from hiif_deploy.decoding.plan import BLEND_OVERLAP, Plan
from hiif_deploy.decoding.session import Session, Tensors
from hiif_deploy.errors import OptionError
from hiif_deploy.geometry.sizes import Size
from hiif_deploy.geometry.tiling import rectangles
from hiif_engines.tensorrt.profiles import Profile

Limits = Mapping[str, int]
"""Name of a dynamic axis in the contract (`height`, `tile_width`, `pixels`, `rows`, …) → its largest size."""


def axis_limits(graphs: Mapping[str, GraphContract], profiles: Mapping[str, Profile]) -> dict[str, int]:
    """Return the largest size of every dynamic axis that all engines accept; both mappings are by graph name."""
    limits: dict[str, int] = {}
    for name, graph in graphs.items():
        for tensor in graph.inputs:
            for axis, size in zip(tensor.shape, profiles[name][tensor.name].max, strict=True):
                if isinstance(axis, str):
                    limits[axis] = min(size, limits.get(axis, size))
    return limits


def fit_plan(plan: Plan, contract: Contract, source: Size, limits: Limits) -> Plan:
    """Return the plan with tiles that the encoder's and the maps' engines accept. OptionError where none fits."""
    field, multiple = contract.encoder.receptive_field, contract.encoder.size_multiple
    overlap = BLEND_OVERLAP if field is None else field
    most = [limits[axis] // multiple * multiple for axis in ("height", "width")]
    encoder_tile = tuple(
        tile if min(length, tile + 2 * overlap) <= largest else largest - 2 * overlap
        for length, tile, largest in zip(source, plan.encoder_tile, most, strict=True)
    )
    twice = 2 * contract.decoder.halo
    rows, columns = limits["tile_height"] - twice, limits["tile_width"] - twice
    # A tile of n source pixels per axis needs the maps of n + 1.
    columns = plan.decoder_tile[1] if source[1] <= columns else min(plan.decoder_tile[1], columns - 1)
    rows = min(plan.decoder_tile[0], rows - 1, limits["pixels"] // (columns + 1) - 1)
    if min(*encoder_tile, rows, columns) < 1:
        raise OptionError(
            f"picture of {source[1]}x{source[0]}: the engines take at most {most[1]}x{most[0]}, too little for tiles "
            f"with {overlap} pixels of overlap; build them with a larger --max-input"
        )
    whole = all(tile >= length for tile, length in zip(encoder_tile, source, strict=True))
    return replace(
        plan,
        encoder_tile=(encoder_tile[0], encoder_tile[1]),
        overlap=0 if whole else overlap,
        blended=field is None and not whole,
        decoder_tile=(rows, columns),
    )


class ChunkedSession:
    """Runs a statistics or decoder graph in chunks of limited rows and columns of queries."""

    def __init__(self, session: Session, graph: GraphContract, limits: Limits) -> None:
        self._session = session
        self._most = limits["rows"], limits["columns"]
        self._per_query = {tensor.name for tensor in graph.outputs if "queries" in tensor.shape}

    def run(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        """Run all chunks: outputs per query [N, …] are concatenated, sums over queries are added in float64."""
        size = feeds["row_tap"].shape[1], feeds["column_tap"].shape[2]
        if size[0] <= self._most[0] and size[1] <= self._most[1]:
            return self._session.run(feeds)
        found: dict[str, NDArray[Any]] = {}
        for rows, columns in rectangles(*size, self._most):
            for name, value in self._session.run({**feeds, **_part(feeds, rows, columns)}).items():
                if name in self._per_query:
                    whole = found.setdefault(name, np.empty((*size, value.shape[1]), value.dtype))
                    whole[rows, columns] = value.reshape(whole[rows, columns].shape)
                else:
                    found[name] = found.get(name, np.zeros(value.shape)) + value
        return {
            name: value.reshape(-1, value.shape[2]) if name in self._per_query else value
            for name, value in found.items()
        }


def _part(feeds: Tensors, rows: slice, columns: slice) -> Tensors:
    """Return the geometry of some rows [·, R, 1] and columns [·, 1, W]."""
    row_part = {name: value[:, rows] for name, value in feeds.items() if name.startswith("row_")}
    return {**row_part, **{n: value[:, :, columns] for n, value in feeds.items() if n.startswith("column_")}}
