"""Maps of a tile's source pixels, made once for all passes over it, in memory that the next tile of its size reuses."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hiif_deploy.decoding.job import Job
from hiif_deploy.errors import EngineError
from hiif_deploy.geometry.tiling import Tile, length, shift, steps
from hiif_engines.torch_engine.features import TorchFeatures
from hiif_engines.torch_graph.device import exact_products
from hiif_engines.torch_graph.interpreter import TorchGraph

MAP_ROWS = 128
"""Source rows per call: what a call holds beside its answer stays small."""


@dataclass(frozen=True)
class _Kept:
    features: TorchFeatures
    key: tuple[int, int, int, int]
    maps: dict[str, Tensor]


class MapStore:
    """The maps that were used last. Thread-safe: maps that somebody reads are nobody else's."""

    def __init__(self, graph: TorchGraph, halo: int, device: torch.device, lock: threading.Lock) -> None:
        """`lock` is held while work is queued."""
        self._graph, self._halo, self._device, self._lock = graph, halo, device, lock
        self._kept: _Kept | None = None

    @contextmanager
    def lease(self, job: Job, tile: Tile) -> Iterator[dict[str, Tensor]]:
        """Name → [pixels, channels], row by row. EngineError for features of another engine."""
        features = job.features
        if not isinstance(features, TorchFeatures):
            raise EngineError("these features were encoded by another engine; encode the picture with this upscaler")
        with self._lock, exact_products(), torch.inference_mode():
            kept, self._kept = self._kept, None
            if kept is None or kept.features is not features or kept.key != tile.key:
                room, kept = {} if kept is None else kept.maps, None
                kept = _Kept(features, tile.key, self._fill(features, tile, room))
        try:
            yield kept.maps
        finally:
            self._kept = kept

    def close(self) -> None:
        """Forget the maps that are kept."""
        self._kept = None

    def _fill(self, features: TorchFeatures, tile: Tile, room: dict[str, Tensor]) -> dict[str, Tensor]:
        """Maps of the tile, in `room` where that is as large: recorded work knows it by its address."""
        height, width = length(tile.source_rows), length(tile.source_columns)
        if any(len(value) != height * width for value in room.values()):
            room.clear()
        for rows in steps(height, MAP_ROWS):
            part = replace(tile, source_rows=shift(tile.source_rows, rows))
            found = self._graph({"features": features.crop(part, self._halo, self._device)})
            if not room:
                room = {name: value.new_empty((height * width, *value.shape[1:])) for name, value in found.items()}
            for name, value in found.items():
                room[name][rows.start * width : rows.stop * width] = value
        return room
