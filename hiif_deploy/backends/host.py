"""What turns pictures into features and features into colours: the processor's way, or a GPU's (`trt_backend.py`)."""

from __future__ import annotations

from collections.abc import Mapping

from hiif_deploy.backends.base import Advance, Array, Encoded
from hiif_deploy.backends.options import EngineOptions
from hiif_deploy.backends.sessions.open import open_session
from hiif_deploy.bundle.contract import FIRST_STAGE, GraphContract, is_fold, joined
from hiif_deploy.bundle.loader import Bundle
from hiif_deploy.decoding.cascade import CascadedDecoder
from hiif_deploy.decoding.decoder import Decoder
from hiif_deploy.decoding.encode import encode, encoder_calls
from hiif_deploy.decoding.job import Window
from hiif_deploy.decoding.plan import Plan
from hiif_deploy.decoding.queries import query_axes
from hiif_deploy.decoding.session import LOW, Arithmetic, Session
from hiif_deploy.decoding.staged import LAST_PASS, StagedDecoder
from hiif_deploy.errors import EngineError
from hiif_deploy.geometry.sizes import Size
from hiif_deploy.geometry.tiling import decoder_tiles

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
