"""A bundle in PyTorch, on a GPU or (for tests) on the processor: tensors stay on the device between the graphs."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hiif_deploy.backends.fp32_fallback import Rescue
from hiif_deploy.backends.options import EngineOptions
from hiif_deploy.backends.sessions.open import open_session
from hiif_deploy.bundle.contract import is_fold
from hiif_deploy.bundle.loader import Bundle
from hiif_deploy.decoding.decoder import accumulate, fold  # fmt: skip
from hiif_deploy.decoding.job import Job, Statistics, Sums, Window  # fmt: skip
from hiif_deploy.decoding.plan import Plan
from hiif_deploy.decoding.queries import geometry_inputs, query_axes  # fmt: skip
from hiif_deploy.decoding.session import Tensors
from hiif_deploy.errors import HiifError
from hiif_deploy.geometry.grid import Axis
from hiif_deploy.geometry.sizes import Size
from hiif_deploy.geometry.tiling import Tile, decoder_tiles, query_blocks, shift, steps
from hiif_deploy.pixels import Frame, FrameFormat
from hiif_engines.fused.select import fused_kernels
from hiif_engines.torch_engine.cuda_graphs import CudaRecorder, Recorder, Replays
from hiif_engines.torch_engine.features import TorchFeatures, encode
from hiif_engines.torch_engine.finish import Download, Finish, Last
from hiif_engines.torch_engine.map_cache import MapStore
from hiif_engines.torch_engine.plan import TorchPlan, make_torch_plan
from hiif_engines.torch_engine.sampled import query_list, sampled_queries
from hiif_engines.torch_graph.device import describe, exact_products, memory_of, open_device
from hiif_engines.torch_graph.interpreter import TorchGraph

logger = logging.getLogger(__name__)
Array = NDArray[np.float32]
Advance = Callable[[int], None]
Answers = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
UNBOUNDED = 1 << 62
"""Queries of a tile: here its blocks are what is bounded."""
AHEAD = 2
"""Blocks of colours in flight: one computes while the other is copied to the host and read there."""


class TorchBackend:
    """Graphs on one device. Methods may be called from several threads; they take turns."""

    def __init__(
        self, bundle: Bundle, options: EngineOptions, *, fused: bool | None = None,
        recorder: Recorder | bool | None = None,
    ) -> None:  # fmt: skip
        """`fused` kernels, or the graphs operation by operation; None: fused on a GPU where the decoder has the form.
        `recorder` of CUDA graphs over blocks, or whether there is one; None: on a GPU.

        EngineError where there is no such device, or a graph holds an operation that is not known.
        """
        self.contract = bundle.contract
        self.precision = options.graphs
        self._device = open_device(options.device)
        chain = self.contract.chain(self.precision)
        self._graphs = {
            name: TorchGraph(graph, bundle.graphs[graph.key], self._device)
            for name, graph in chain.items()
            if not is_fold(name)
        }
        self._kernels = self._fuse(bundle, fused)
        how = "fused kernels" if self._kernels else "operation by operation"
        self.description = f"PyTorch {torch.__version__}, {self.precision}, {describe(self._device)}, {how}"
        self._folds = {
            name: open_session(graph, bundle.graphs[graph.key], EngineOptions(), threads=1, keep_memory=True)
            for name, graph in chain.items()
            if is_fold(name)
        }
        self._allowed = options.gpu_memory or memory_of(self._device) // 4
        self._rescue = Rescue(bundle, options.thread_count)
        self._lock = threading.Lock()
        self._maps = MapStore(self._graphs["maps"], self.contract.decoder.halo, self._device, self._lock)
        if recorder is True or (recorder is None and self._device.type == "cuda"):
            recorder = CudaRecorder(self._device)
        self._replays = Replays(recorder) if recorder else None

    @property
    def rescued(self) -> int:
        """Blocks that were decoded again in fp32 on the processor."""
        return self._rescue.count

    @property
    def memory_bytes(self) -> int:
        """GPU memory that PyTorch holds in this process, weights included."""
        return torch.cuda.memory_reserved(self._device) if self._device.type == "cuda" else 0

    def plan(self, source: Size) -> TorchPlan:
        """How a picture is cut here."""
        return make_torch_plan(self.contract, source, self.precision, self._allowed, records=self._replays is not None)

    def encode(self, image: Array, plan: Plan, advance: Advance) -> TorchFeatures:
        """Unit picture [h, w, 3] → features. The plan is for the processor; here `plan` of this class decides."""
        del plan
        own = self.plan((image.shape[0], image.shape[1]))
        with self._lock, exact_products():
            return encode(self._graphs["encoder"], self.contract, image, own, self._device, advance)

    def statistics(self, job: Job, window: Window, advance: Advance) -> Statistics:
        """All statistics passes over the queries of `window`, or over those that the job's sampling takes."""
        folded: dict[str, NDArray[Any]] = {}
        for n in range(self.contract.decoder.statistics_passes):
            sums: Sums = {}
            for tile, rows, columns in self._tiles(job, window):
                if job.sampling is None:
                    self._add_sums(sums, job, window, tile, rows, columns, folded, n)
                else:
                    self._add_sampled_sums(sums, job, window, tile, rows, columns, folded, n)
                advance(1)
            folded.update(fold(self._folds[f"fold_{n}"], sums, job.count(window)))
        return Statistics(folded)

    def colours(
        self, job: Job, window: Window, statistics: Statistics, advance: Advance
    ) -> Iterator[tuple[slice, slice, Array]]:
        """Yields (rows, columns) within `window` and unclamped colours [r, c, 3], 1 being white."""
        yield from self._finished(job, window, statistics, advance, Last(None))

    def frames(
        self, job: Job, window: Window, statistics: Statistics, advance: Advance, like: FrameFormat
    ) -> Iterator[tuple[slice, slice, Frame]]:
        """The same as `colours`, clamped and rounded on the device: parts of a frame of format `like`."""
        yield from self._finished(job, window, statistics, advance, Last(like))

    def steps(self, plan: Plan, source: Size, target: Size, windows: list[Window]) -> int:
        """One per encoder tile, and one per decoder tile and pass."""
        del plan
        own = self.plan(source)
        calls = len(steps(source[0], own.encoder_tile[0])) * len(steps(source[1], own.encoder_tile[1]))
        axes = (query_axes(self.contract, source, target, window) for window in windows)
        tiles = sum(len(decoder_tiles(rows, columns, own.cell, UNBOUNDED)) for rows, columns in axes)
        return calls + (self.contract.decoder.statistics_passes + 1) * tiles

    def close(self) -> None:
        """Let go of everything on the device."""
        self._rescue.close()
        self._maps.close()
        if self._replays is not None:
            self._replays.clear()
        self._graphs.clear()

    def _fuse(self, bundle: Bundle, fused: bool | None) -> dict[str, Answers]:
        """Fused twins of the decoder and statistics graphs by name; none where they are not wanted or cannot be."""
        if not (self._device.type == "cuda" if fused is None else fused):
            return {}
        try:
            return fused_kernels(bundle, self.precision, self._device)
        except HiifError as error:
            if fused:
                raise
            logger.warning("no fused kernels (%s): the graphs run operation by operation, slower", error)
            return {}

    def _tiles(self, job: Job, window: Window) -> Iterator[tuple[Tile, Axis, Axis]]:
        rows, columns = query_axes(self.contract, job.source, job.size, window)
        for tile in decoder_tiles(rows, columns, self.plan(job.source).cell, UNBOUNDED):
            yield tile, rows[tile.rows], columns[tile.columns]

    def _finished(
        self, job: Job, window: Window, statistics: Statistics, advance: Advance, last: Last
    ) -> Iterator[tuple[slice, slice, Frame]]:
        for tile, rows, columns in self._tiles(job, window):
            for part, download in self._downloads(job, tile, rows, columns, statistics, last):
                values, finite = download.wait()
                if finite:
                    yield *part, last.arrived(values)
                else:
                    yield *part, last.on_host(self._rescue.colours(job, _within(window, *part), statistics))
            advance(1)

    def _downloads(
        self, job: Job, tile: Tile, rows: Axis, columns: Axis, statistics: Statistics, last: Last
    ) -> Iterator[tuple[tuple[slice, slice], Download]]:
        """Yields (rows, columns) within the window and finished values with whether all are numbers, one block late."""
        finish = Finish(self.contract, job.image, rows, columns, self._device)
        queued: deque[tuple[tuple[slice, slice], Download]] = deque()
        for row, column, found in self._answers("decoder", job, tile, rows, columns, statistics.folded):
            with self._lock, torch.inference_mode():
                colours = finish(found["colour"], row, column)
                download = Download(last.on_device(colours), colours.isfinite().all())
            queued.append(((shift(tile.rows, row), shift(tile.columns, column)), download))
            if len(queued) == AHEAD:
                yield queued.popleft()
        yield from queued

    def _add_sums(
        self, sums: Sums, job: Job, window: Window, tile: Tile, rows: Axis, columns: Axis, folded: Tensors, n: int
    ) -> None:
        """Add pass `n` over one tile; float64 from block to block, one download for all of them."""
        parts, found = [], []
        for row, column, answer in self._answers(f"statistics_{n}", job, tile, rows, columns, folded):
            parts.append((shift(tile.rows, row), shift(tile.columns, column)))
            found.append(answer)
        every = {name: torch.stack([part[name] for part in found]).cpu().numpy() for name in found[0]}
        finite = np.logical_and.reduce([np.isfinite(part).reshape(len(parts), -1).all(1) for part in every.values()])
        accumulate(sums, {name: part[finite].sum(0, dtype=np.float64) for name, part in every.items()})
        for index in np.flatnonzero(~finite):
            accumulate(sums, self._rescue.sums(job, _within(window, *parts[index]), folded, n))

    def _add_sampled_sums(
        self, sums: Sums, job: Job, window: Window, tile: Tile, rows: Axis, columns: Axis, folded: Tensors, n: int
    ) -> None:
        """The same for the sampled queries of the tile: few, so they run operation by operation, fused or not."""
        asked, graph = sampled_queries(job, window, tile), self._graphs[f"statistics_{n}"]
        part: Sums = {}
        for block in steps(len(asked[0]), self.plan(job.source).block_queries):
            feeds = query_list(graph.contract.geometry, rows[asked[0][block]], columns[asked[1][block]], tile, job.cell)
            with self._maps.lease(job, tile) as maps, self._lock, exact_products():
                found = graph(self._upload(graph, feeds, folded) | maps)
            accumulate(part, {name: value.cpu().numpy() for name, value in found.items()})
        if not all(np.isfinite(value).all() for value in part.values()):
            part = self._rescue.sums(job, _within(window, tile.rows, tile.columns), folded, n)
        accumulate(sums, part)

    def _upload(self, graph: TorchGraph, geometry: Tensors, folded: Tensors) -> dict[str, Tensor]:
        """A graph's inputs besides the maps, in its types on the device."""
        types = {tensor.name: np.dtype(tensor.dtype) for tensor in graph.contract.inputs}
        host = {**geometry, **{key: value.astype(types[key]) for key, value in folded.items() if key in types}}
        return {key: torch.tensor(value).to(self._device) for key, value in host.items()}

    def _answers(
        self, name: str, job: Job, tile: Tile, rows: Axis, columns: Axis, folded: Tensors
    ) -> Iterator[tuple[slice, slice, dict[str, Tensor]]]:
        """Yields (rows, columns) within the tile and what the graph answers to each block of its queries."""
        graph = self._graphs[name]
        answers = self._kernels.get(name, graph)
        geometry = geometry_inputs(graph.contract.geometry, rows, columns, tile, job.cell)
        most = self.plan(job.source).block_queries
        with self._maps.lease(job, tile) as maps:
            with self._lock:
                feeds = self._upload(graph, geometry, folded)
            for row, column in query_blocks(rows.count, columns.count, most):
                given = {key: _part(key, value, row, column) for key, value in feeds.items()}
                with self._lock, exact_products():
                    if self._replays is None:
                        answer = answers({**maps, **given})
                    else:
                        answer = self._replays.run(name, answers, maps, given)
                yield row, column, answer


def open_torch(bundle: Bundle, options: EngineOptions) -> TorchBackend:
    """The entry point of `hiif_deploy.backends`."""
    return TorchBackend(bundle, options)


def _part(name: str, value: Tensor, rows: slice, columns: slice) -> Tensor:
    """A block's part of a tile's input, by what its name says of its axes."""
    if name.startswith("row_"):
        return value[:, rows]
    return value[:, :, columns] if name.startswith("column_") else value


def _within(window: Window, rows: slice, columns: slice) -> Window:
    """A part of a window, in the whole picture."""
    top, left = window.rows[0], window.columns[0]
    return Window((top + rows.start, top + rows.stop), (left + columns.start, left + columns.stop))
