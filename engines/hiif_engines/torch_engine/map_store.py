"""Maps of a tile's source pixels, made once for all passes over it, in memory that the next tile of its size reuses."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hiif_deploy.decoding.job import Job
from hiif_deploy.geometry.tiling import Tile, length, shift, steps
from hiif_engines.torch_engine.features import TorchFeatures, features_of
from hiif_engines.torch_engine.launcher import Launcher
from hiif_engines.torch_graph.device import computing_on
from hiif_engines.torch_graph.interpreter import Feeds, TorchGraph


@dataclass(frozen=True)
class _Kept:
    features: weakref.ref[TorchFeatures]
    key: tuple[int, int, int, int]
    room: dict[str, Tensor]
    """Name → memory for at least the tile's pixels."""


class MapStore:
    """The maps that were used last. Thread-safe: maps that somebody reads are nobody else's."""

    def __init__(self, graph: TorchGraph, halo: int, launcher: Launcher, pixels: int) -> None:
        """`pixels` of a call at most: what it holds beside its outputs is as large as they are."""
        self._graph, self._halo, self._launcher, self._pixels = graph, halo, launcher, pixels
        self._lock = threading.Lock()
        self._kept: _Kept | None = None

    @contextmanager
    def lease(self, job: Job, tile: Tile) -> Iterator[dict[str, Tensor]]:
        """Name → [pixels, channels], row by row. EngineError for features of another engine."""
        features = features_of(job)
        with self._lock:
            kept, self._kept = self._kept, None
            if kept is None or kept.features() is not features or kept.key != tile.key:
                room, kept = {} if kept is None else kept.room, None
                kept = _Kept(weakref.ref(features), tile.key, self._fill(features, tile, room))
        try:
            pixels = length(tile.source_rows) * length(tile.source_columns)
            yield {name: value[:pixels] for name, value in kept.room.items()}
        finally:
            self._kept = kept

    def close(self) -> None:
        """Forget the maps that are kept."""
        self._kept = None

    def _fill(self, features: TorchFeatures, tile: Tile, room: dict[str, Tensor]) -> dict[str, Tensor]:
        """Maps of the tile, in `room` where that is large enough: recorded work knows it by its address."""
        height, width = length(tile.source_rows), length(tile.source_columns)
        if not room or any(len(value) < height * width for value in room.values()):
            room.clear()  # before the new one is made: both would not fit
            room = self._room(height * width)
        for rows in steps(height, max(1, self._pixels // width)):
            part = replace(tile, source_rows=shift(tile.source_rows, rows))
            with computing_on(self._launcher.device):
                given = {"features": features.crop(part, self._halo, self._launcher.device)}
            pixels = slice(rows.start * width, rows.stop * width)
            self._launcher.run("maps", self._write, {name: value[pixels] for name, value in room.items()}, given)
        return room

    def _room(self, pixels: int) -> dict[str, Tensor]:
        outputs, device = self._graph.contract.outputs, self._launcher.device
        with computing_on(device):
            return {
                tensor.name: torch.empty(
                    (pixels, *map(int, tensor.shape[1:])), dtype=getattr(torch, tensor.dtype), device=device
                )
                for tensor in outputs
            }

    def _write(self, feeds: Feeds) -> dict[str, Tensor]:
        """Run the graph and write its outputs where `feeds` holds their places."""
        for name, value in self._graph(feeds).items():
            feeds[name].copy_(value)
        return {}
