"""What turns pictures into features and features into colours: the processor's way, or a GPU's (`trt_backend.py`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.bundle import Bundle
from hiif_deploy.cascade import CascadedDecoder
from hiif_deploy.contract import FIRST_STAGE, GraphContract, is_fold, joined
from hiif_deploy.decode import Decoder, Job, Statistics, Window, query_axes
from hiif_deploy.encode import encode, encoder_calls
from hiif_deploy.errors import EngineError
from hiif_deploy.pixels import Frame, FrameFormat
from hiif_deploy.plan import Plan, decoder_tiles
from hiif_deploy.session import LOW, Arithmetic, EngineOptions, Session, open_session
from hiif_deploy.sizes import Size
from hiif_deploy.staged import LAST_PASS, StagedDecoder

Array = NDArray[np.float32]
Advance = Callable[[int], None]


class FeaturesElsewhere(Protocol):
    """Features that an engine keeps where it computes."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, h, w)."""
        ...

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """A copy on the host."""
        ...


Encoded = NDArray[Any] | FeaturesElsewhere
"""Features [C, h, w], on the host or on a GPU; `numpy.asarray` brings both to the host."""


class Backend(Protocol):
    """An opened bundle on one engine. Methods may be called from several threads."""

    description: str
    """Engine, precision and device, for people."""

    @property
    def precision(self) -> Arithmetic:
        """What is computed in."""
        ...

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


@runtime_checkable
class FrameMaker(Protocol):
    """A backend that can make a frame's values itself, where the colours are."""

    def frames(
        self, job: Job, window: Window, statistics: Statistics, advance: Advance, like: FrameFormat
    ) -> Iterator[tuple[slice, slice, Frame]]:
        """What `Backend.colours` yields, clamped and rounded as `pixels.from_unit` does."""
        ...


EXACT = ("maps", FIRST_STAGE, "sums_")
"""Graphs that stay in fp32 in every arithmetic (moments, corner weights, sums), and on ONNX Runtime's processor where
the engine is OpenVINO, which gathers at half its speed (design/decoding.md §5)."""


class HostBackend:
    """An engine whose tensors are numpy arrays: ONNX Runtime, OpenVINO."""

    rescued = 0
    """Never needed: the values that overflow half precision fit every arithmetic of these engines."""
    memory_bytes = 0
    """None of a GPU's."""

    def __init__(self, bundle: Bundle, options: EngineOptions) -> None:
        self._bundle, self._options = bundle, options
        self.contract = bundle.contract
        self._threads = options.thread_count
        self._call_threads = min(options.call_threads or 1, self._threads)
        self.precision: Arithmetic = options.precision or "fp32"
        stages = self._stages()
        if self.precision in LOW and not stages:
            raise EngineError(
                f"precision {self.precision} needs a decoder in stages, and bundle {self.contract.name} has none: "
                "export it again, or leave --precision out"
            )
        chain = self.contract.chain(options.graphs)
        if stages:
            chain = {name: graph for name, graph in chain.items() if name in ("encoder", "maps") or is_fold(name)}
        sessions = {name: self._open(graph) for name, graph in chain.items()} | self._open_stages(stages)
        self.description = f"{self._engine}, {self.precision}"
        self.encoder = sessions["encoder"]
        calls = max(1, self._threads // self._call_threads)
        self.decoder = self._decoder(sessions, calls)
        self.statistics = self.decoder.statistics
        self.colours = self.decoder.colours
        self.close = self.decoder.close

    def _stages(self) -> dict[str, GraphContract]:
        """Graphs of the decoder in stages; empty where it is run whole."""
        return self.contract.stages if self._options.graphs == "fp32" else {}

    def _open_stages(self, stages: Mapping[str, GraphContract]) -> dict[str, Session]:
        sessions = {name: self._open(graph) for name, graph in stages.items()}
        parts = self.contract.last_pass if stages else ()
        if self._options.engine == "openvino" and len(parts) > 1:
            # As one graph: states between them are neither converted to float32 nor copied.
            sessions[LAST_PASS] = self._open(joined(LAST_PASS, parts), *parts)
        return sessions

    def _decoder(self, sessions: dict[str, Session], calls: int) -> Decoder:
        if FIRST_STAGE in sessions:
            return StagedDecoder(self.contract, sessions, calls)
        return (CascadedDecoder if self.contract.decoder.cascade > 1 else Decoder)(self.contract, sessions, calls)

    @property
    def _engine(self) -> str:
        if self._options.engine == "openvino":
            return "OpenVINO, cpu"
        return f"ONNX Runtime, {self._options.provider}"

    def _open(self, graph: GraphContract, *parts: GraphContract) -> Session:
        # Folding is tiny and float64: on the processor. The decoder's calls are small and many: few threads each.
        is_exact = graph.name.startswith(EXACT)
        on_host = is_fold(graph.name) or (is_exact and self._options.engine == "openvino")
        engine = EngineOptions() if on_host else self._options
        is_encoder = graph.name == "encoder"
        model, *following = (self._bundle.graphs[part.key] for part in parts or (graph,))
        return open_session(
            graph,
            model,
            engine,
            threads=self._threads if is_encoder else self._call_threads,
            keep_memory=not is_encoder,
            arithmetic="fp32" if is_exact else self.precision,
            following=following,
        )

    def encode(self, image: Array, plan: Plan, advance: Advance) -> Encoded:
        """See `encode.encode`."""
        return encode(self.encoder, self.contract, image, plan, advance)

    def steps(self, plan: Plan, source: Size, target: Size, windows: list[Window]) -> int:
        """One per encoder tile, and one per decoder tile and pass."""
        axes = (query_axes(self.contract, source, target, window) for window in windows)
        tiles = sum(len(decoder_tiles(rows, columns, plan.decoder_tile, plan.tile_queries)) for rows, columns in axes)
        return encoder_calls(source, plan) + (self.contract.decoder.statistics_passes + 1) * tiles
