"""What turns pictures into features and features into colours: the processor's way, or a GPU's (`trt_backend.py`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.bundle import Bundle
from hiif_deploy.contract import GraphContract, Precision, is_fold
from hiif_deploy.decode import Decoder, Job, Statistics, Window, query_axes
from hiif_deploy.device_features import DeviceFeatures
from hiif_deploy.encode import encode, encoder_calls
from hiif_deploy.plan import Plan, decoder_tiles
from hiif_deploy.session import EngineOptions, Session, open_session
from hiif_deploy.sizes import Size

Array = NDArray[np.float32]
Advance = Callable[[int], None]


Encoded = NDArray[Any] | DeviceFeatures
"""Features [C, h, w], on the host or on a GPU; `numpy.asarray` brings both to the host."""


class Backend(Protocol):
    """An opened bundle on one engine. Methods may be called from several threads."""

    description: str
    """Engine, precision and device, for people."""
    precision: Precision
    """Of the graphs that run."""

    @property
    def rescued(self) -> int:
        """Blocks of queries whose answer was no number and which were decoded again in fp32 on the processor."""
        ...

    @property
    def memory_bytes(self) -> int:
        """GPU memory held; 0 where there is none."""
        ...

    def encode(self, image: Array, plan: Plan, advance: Advance) -> Encoded:
        """Unit picture [h, w, 3] → features."""
        ...

    def statistics(self, job: Job, window: Window, advance: Advance) -> Statistics:
        """All statistics passes over the queries of `window`."""
        ...

    def colours(
        self, job: Job, window: Window, statistics: Statistics, advance: Advance
    ) -> Iterator[tuple[slice, slice, Array]]:
        """Yields (rows, columns) within `window` and unclamped colours [r, c, 3], 1 being white."""
        ...

    def steps(self, plan: Plan, source: Size, target: Size, windows: list[Window]) -> int:
        """How many steps `encode` and then all passes over these windows tell `advance` of."""
        ...

    def close(self) -> None:
        """End threads, free memory."""
        ...


class HostBackend:
    """ONNX Runtime; features are numpy arrays."""

    rescued = 0
    """Never needed: float32 has the range."""
    memory_bytes = 0
    """None of a GPU's."""

    def __init__(self, bundle: Bundle, options: EngineOptions) -> None:
        self._bundle, self._options = bundle, options
        self.contract = bundle.contract
        self._threads = options.thread_count
        self.precision: Precision = options.precision or "fp32"
        self.description = f"ONNX Runtime, {options.provider}, {self.precision}"
        chain = self.contract.chain(self.precision)
        sessions = {name: self._open(graph) for name, graph in chain.items()}
        self.encoder = sessions["encoder"]
        self.decoder = Decoder(self.contract, sessions, self._threads)
        self.statistics = self.decoder.statistics
        self.colours = self.decoder.colours
        self.close = self.decoder.close

    def _open(self, graph: GraphContract) -> Session:
        # Folding is tiny and float64: always on the processor. The decoder's calls are small and many, one thread each.
        engine = EngineOptions() if is_fold(graph.name) else self._options
        is_encoder = graph.name == "encoder"
        return open_session(
            graph,
            self._bundle.graphs[graph.key],
            engine,
            threads=self._threads if is_encoder else 1,
            keep_memory=not is_encoder,
        )

    def encode(self, image: Array, plan: Plan, advance: Advance) -> Array:
        """See `encode.encode`."""
        return encode(self.encoder, self.contract, image, plan, advance)

    def steps(self, plan: Plan, source: Size, target: Size, windows: list[Window]) -> int:
        """One per encoder tile, and one per decoder tile and pass."""
        axes = (query_axes(self.contract, source, target, window) for window in windows)
        tiles = sum(len(decoder_tiles(rows, columns, plan.decoder_tile, plan.tile_queries)) for rows, columns in axes)
        return encoder_calls(source, plan) + (self.contract.decoder.statistics_passes + 1) * tiles
