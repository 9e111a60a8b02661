"""The CPU backend with native code for the decoder and for encoders of convolutions; a library runs the rest."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from importlib.util import find_spec

from hiif_deploy.backends.choice import library_engine
from hiif_deploy.backends.engines import ENGINES, Engine
from hiif_deploy.backends.host import HostBackend
from hiif_deploy.backends.options import EngineOptions
from hiif_deploy.backends.sessions.open import open_shared
from hiif_deploy.bundle.contract import GraphContract, joined
from hiif_deploy.bundle.loader import Bundle
from hiif_deploy.decoding.plan import PlanLimits, large_query_block
from hiif_deploy.decoding.session import REDUCED_PRECISIONS, Session
from hiif_deploy.decoding.session_executor import SessionExecutor
from hiif_deploy.decoding.staged import joined_stages
from hiif_deploy.errors import EngineError
from hiif_deploy.geometry.sizes import Size
from hiif_engines.native.check import COARSE, EXACT, check_kernels
from hiif_engines.native.compile import Compiled, choose_target, has_amx
from hiif_engines.native.compose import composed
from hiif_engines.native.crew import Crew
from hiif_engines.native.decoder_graph import read_decoder
from hiif_engines.native.encoder import NativeEncoder
from hiif_engines.native.encoder_graph import read_encoder
from hiif_engines.native.executor import NativeExecutor, WholeExecutor
from hiif_engines.native.finish import finish_session
from hiif_engines.native.kernel import BLOCK, Kernel, emit_kernels
from hiif_engines.native.layer import ScratchLayout
from hiif_engines.native.maps import ConvolutionMaps, NativeMaps, read_convolution_maps, read_maps
from hiif_engines.native.products.precision import FP32, PRECISIONS
from hiif_engines.native.session import NativeSession, ThreadMemory
from hiif_engines.native.stage import Stage, join_stages, read_stage
from hiif_engines.native.target import Target
from hiif_engines.native.winograd import OUT

QUERY_BLOCK = 1 << 14
"""Queries per decoder call at most: kernels divide them themselves, and that of a small model computes 2,048 of them
faster than Python calls it."""
TILE_ROWS = 4 * OUT - 1, 3 * OUT - 1, 2 * OUT - 1
"""Source rows per decoder tile: the most of them that leave every thread enough tiles."""
TILES_PER_THREAD = 4


class NativeBackend(HostBackend):
    """Runs one kernel per pass; a library runs encoders of other operations.

    Encoders in native code compute in fp32 in every precision: by Winograd's filtering that takes no longer than a
    library does in bf16 (design/decoding.md §3i), unless the processor has AMX.
    """

    def __init__(self, bundle: Bundle, options: EngineOptions) -> None:
        """EngineError where the decoder has another architecture, or this processor lacks instructions."""
        self._target = choose_target(options.precision or "fp32", options.isa)
        self._vectors = self._target.in_float32
        self.isa, self._left = self._target.name, ""
        self._crew = Crew()
        self._closing = contextlib.ExitStack()
        self._whole = None if bundle.contract.stages else _whole_decoder(bundle, self._target)
        self._encoder = None if _has_faster_encoders(options) else read_encoder(_graph_of(bundle, "encoder"))
        library: Engine = "onnxruntime"
        if self._encoder is None and find_spec("openvino"):
            library = library_engine(options.precision)
        known = options.precision if options.precision in ENGINES[library].precisions else None
        others = replace(options, engine=library, precision=known, call_threads=1, isa=None)
        super().__init__(bundle, others, precision=options.precision)
        self.engine = ENGINES["native"]

    def close(self) -> None:
        """See `Backend`."""
        super().close()
        self._closing.close()

    @property
    def _allowed(self) -> float:
        """Largest deviation of a decoder's kernels."""
        return EXACT if self.precision == "fp32" else COARSE

    @property
    def _title(self) -> str:
        library, device = super()._title.split(", ")
        return f"native code ({self._target.name}) and {library}{self._left}, {device}"

    def _open(self, graph: GraphContract, *parts: GraphContract) -> Session:
        session = self._native(graph)
        if session is None:
            self._left = " (encoder)" if graph.name == "encoder" else self._left
            return super()._open(graph, *parts)
        allowed = self._allowed if graph.key == "maps" else EXACT
        check_kernels(self._bundle, {graph.name: graph}, {graph.name: session}, allowed)
        return session

    def _native(self, graph: GraphContract) -> Session | None:
        """Open an encoder, maps or a whole decoder in native code; None for what it does not have."""
        model = self._bundle.graphs[graph.key]
        if self._whole is not None and graph.key == "decoder":
            return self._kernel_sessions({graph.name: graph}, {graph.name: self._whole})[graph.name]
        if graph.key == "encoder" and self._encoder is not None:
            encoder = NativeEncoder(graph, self._encoder, self._threads, self._vectors, self._crew)
            self._closing.callback(encoder.close)
            return encoder
        if graph.key != "maps":
            return None
        if weights := read_maps(graph, model, self._target):
            return NativeMaps(graph, weights, self._target, PRECISIONS[self.precision], self._crew)
        convolutions = read_convolution_maps(graph, model)
        return None if convolutions is None else ConvolutionMaps(graph, convolutions, self._vectors, self._crew)

    def _shared_opener(self) -> Callable[[str], Session]:
        target = self._vectors
        return lambda name: finish_session(name, target) or open_shared(name)

    def _usual_block(self, limits: PlanLimits) -> int:
        # Many threads have small calls rather than too little memory.
        return large_query_block(self.contract, limits.memory, self._threads, QUERY_BLOCK, BLOCK)

    def _usual_rows(self, source: Size) -> int:
        # Between the centres of n rows lie n − 1: their maps are computed in whole tiles of the convolution.
        busy = (rows for rows in TILE_ROWS if -(-source[0] // rows) >= TILES_PER_THREAD * self._threads)
        return next(busy, TILE_ROWS[-1])

    def _make_executor(self, calls: int) -> SessionExecutor:
        kind = NativeExecutor if self._whole is None else WholeExecutor
        return kind(self.contract, self.sessions, self._converter, calls, self._crew)

    def _open_stages(self, stages: Mapping[str, GraphContract]) -> dict[str, Session]:
        graphs = dict(stages)
        models = {name: self._bundle.graphs[graph.key] for name, graph in stages.items()}
        read = {name: read_stage(graph, models[name], self._target) for name, graph in stages.items()}
        for name, parts in (joined_stages(self.contract) if stages else {}).items():
            graphs[name] = joined(name, parts)
            read[name] = join_stages([read[part.name] for part in parts])
        for stage in read.values():
            self._kernel(stage)  # refuses layers of contradicting sizes, which cannot be composed
        read = {name: replace(stage, layers=composed(stage.layers, self._target)) for name, stage in read.items()}
        sessions = self._kernel_sessions(graphs, read) if stages else {}
        check_kernels(self._bundle, stages, sessions, self._allowed)
        return sessions

    def _kernel_sessions(self, graphs: Mapping[str, GraphContract], read: Mapping[str, Stage]) -> dict[str, Session]:
        kernels = {name: self._kernel(stage) for name, stage in read.items()}
        sessions: dict[str, Session] = {}
        for target in {kernel.target for kernel in kernels.values()}:
            own = {name: kernel for name, kernel in kernels.items() if kernel.target is target}
            scratch = ScratchLayout(target, max(width for kernel in own.values() for width in kernel.widths))
            code = Compiled(partial(emit_kernels, own, scratch), target, (own, scratch))
            memory = ThreadMemory(scratch)
            sessions |= {
                name: NativeSession(graphs[name], read[name], kernel, code.function(name), memory, self._crew)
                for name, kernel in own.items()
            }
        return sessions

    def _kernel(self, stage: Stage) -> Kernel:
        """Return the stage's kernel. Statistics sums always use fp32."""
        if stage.sums is not None:
            return stage.kernel(FP32, self._vectors)
        return stage.kernel(PRECISIONS[self.precision], self._target)


def _has_faster_encoders(options: EngineOptions) -> bool:
    """Return whether a library computes encoders in this precision in tiles of the processor (AMX)."""
    return options.precision in REDUCED_PRECISIONS and has_amx() and find_spec("openvino") is not None


def _graph_of(bundle: Bundle, name: str) -> bytes:
    return bundle.graphs[bundle.contract.chain("fp32")[name].key]


def _whole_decoder(bundle: Bundle, target: Target) -> Stage:
    """Read a decoder of one graph; EngineError where it is none of those that native code has."""
    graph = bundle.contract.chain("fp32").get("decoder")
    found = read_decoder(graph, bundle.graphs[graph.key], target) if graph else None
    if found is None:
        raise EngineError(
            f"native code needs a decoder of HIIF or SRNO in stages, or of LIIF, LTE or MetaSR of widths that "
            f"{target.lanes} divides; bundle {bundle.contract.name} has another: use --engine onnxruntime"
        )
    return found


def open_native(bundle: Bundle, options: EngineOptions) -> NativeBackend:
    """Open the backend; entry point of `hiif_deploy.backends`."""
    return NativeBackend(bundle, options)
