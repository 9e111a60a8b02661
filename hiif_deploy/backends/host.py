"""The engines whose tensors are numpy arrays: ONNX Runtime and OpenVINO on the processor."""

from collections.abc import Callable, Mapping
from functools import partial

from hiif_deploy.backends.base import DecoderBackend, Encoded
from hiif_deploy.backends.engines import ENGINES
from hiif_deploy.backends.options import ON_HOST, EngineOptions, IsaName
from hiif_deploy.backends.sessions.open import open_session, open_shared
from hiif_deploy.bundle.contract import FIRST_STAGE, GraphContract, is_fold, joined
from hiif_deploy.bundle.loader import Bundle
from hiif_deploy.decoding.cascade import CascadedExecutor
from hiif_deploy.decoding.conversion import FrameConverter
from hiif_deploy.decoding.decoder import Decoder
from hiif_deploy.decoding.encode import encode, encode_whole
from hiif_deploy.decoding.job import Advance
from hiif_deploy.decoding.plan import QUERY_BLOCK, TILE_ROWS, Plan, PlanLimits, make_plan
from hiif_deploy.decoding.session import REDUCED_PRECISIONS, ComputePrecision, Session
from hiif_deploy.decoding.session_executor import SessionExecutor
from hiif_deploy.decoding.staged import LAST_PASS, StagedExecutor
from hiif_deploy.errors import EngineError
from hiif_deploy.geometry.sizes import Size
from hiif_deploy.pixels import Frame

FP32_GRAPHS = ("maps", FIRST_STAGE, "sums_")
"""Graphs that stay in fp32 in every precision (moments, corner weights, sums), and on ONNX Runtime's processor where
the engine is OpenVINO, which gathers at half its speed (design/decoding.md §5)."""


class HostBackend(DecoderBackend):
    """An engine whose tensors are numpy arrays: ONNX Runtime, OpenVINO."""

    fallback_blocks = 0
    """Always 0: what overflows in fp16 is an error here (NotAPictureError), because these engines run fp32 as well."""
    memory_bytes = 0
    """None of a GPU's."""
    isa: IsaName | None = None
    """Instruction set of native code; None: a library chooses."""

    def __init__(self, bundle: Bundle, options: EngineOptions, *, precision: ComputePrecision | None = None) -> None:
        """`precision` of graphs that a subclass runs itself, which the engine of `options` may lack."""
        self._bundle, self._options = bundle, options
        self.engine = ENGINES[options.engine]
        self.contract = bundle.contract
        self._threads = options.thread_count
        self._call_threads = min(options.call_threads or 1, self._threads)
        self.precision: ComputePrecision = precision or options.precision or "fp32"
        stages = self._stages()
        if self.precision in REDUCED_PRECISIONS and not stages:
            raise EngineError(
                f"precision {self.precision} needs a decoder in stages, as exports of HIIF have, and bundle "
                f"{self.contract.name} has none: leave --precision out, or export a checkpoint of HIIF again"
            )
        chain = self.contract.chain(options.graphs)
        if stages:
            chain = {name: graph for name, graph in chain.items() if name in ("encoder", "maps") or is_fold(name)}
        sessions = {name: self._open(graph) for name, graph in chain.items()} | self._open_stages(stages)
        self.description = f"{self._title}, {self.precision}"
        self.sessions = sessions
        """By graph name."""
        self._shared = self._shared_opener()
        self._converter = FrameConverter(self.contract, self._shared)
        self._executor = self._make_executor(max(1, self._threads // self._call_threads))
        self.decoder = Decoder(self.contract, self._executor, self.description)

    def plan(self, source: Size, limits: PlanLimits) -> Plan:
        """See `Backend`."""
        return make_plan(
            self.contract, source, budget=limits.memory, threads=self._threads,
            query_block=limits.query_block or self._usual_block(limits),
            tile_rows=limits.tile_rows or self._usual_rows(source),
        )  # fmt: skip

    def encode(self, frame: Frame, plan: Plan, advance: Advance) -> Encoded:
        """See `Backend`."""
        run = partial(encode_whole, self.sessions["encoder"], self.contract, self._converter)
        return encode(run, self.contract, frame, plan, advance)

    def close(self) -> None:
        """See `Backend`."""
        self._executor.close()

    def wrap_sessions(self, wrap: Callable[[str, Session], Session]) -> None:
        """Put `wrap(name, session)` in the place of every session, shared graphs included: for measurements."""
        self.sessions.update({name: wrap(name, session) for name, session in self.sessions.items()})
        self._converter.wrap(wrap)

    def _usual_block(self, limits: PlanLimits) -> int:
        """Queries per decoder call where nobody says how many."""
        del limits
        return QUERY_BLOCK

    def _usual_rows(self, source: Size) -> int:
        """Source rows per decoder tile where nobody says how many."""
        del source
        return TILE_ROWS

    def _stages(self) -> dict[str, GraphContract]:
        """Graphs of the decoder in stages; empty where it is run whole."""
        return self.contract.stages if self._options.graphs == "fp32" else {}

    def _open_stages(self, stages: Mapping[str, GraphContract]) -> dict[str, Session]:
        sessions = {name: self._open(graph) for name, graph in stages.items()}
        parts = self.contract.last_pass if stages else ()
        if self.engine.joins_stages and len(parts) > 1:
            sessions[LAST_PASS] = self._open(joined(LAST_PASS, parts), *parts)
        return sessions

    def _make_executor(self, calls: int) -> SessionExecutor:
        kind = CascadedExecutor if self.contract.decoder.cascade > 1 else SessionExecutor
        if FIRST_STAGE in self.sessions:
            kind = StagedExecutor
        return kind(self.contract, self.sessions, self._converter, calls)

    @property
    def _title(self) -> str:
        """Engine and device, for people."""
        return f"{self.engine.title}, {self._options.provider if self.engine.gpu == 'provider' else 'cpu'}"

    def _open(self, graph: GraphContract, *parts: GraphContract) -> Session:
        # Folding is tiny and float64: on the processor. The decoder's calls are small and many: few threads each.
        is_exact = graph.name.startswith(FP32_GRAPHS)
        on_host = is_fold(graph.name) or (is_exact and self.engine.gathers_slowly)
        engine = ON_HOST if on_host else self._options
        is_encoder = graph.name == "encoder"
        model, *following = (self._bundle.graphs[part.key] for part in parts or (graph,))
        return open_session(
            graph,
            model,
            engine,
            threads=self._threads if is_encoder else self._call_threads,
            keep_memory=not is_encoder,
            precision="fp32" if is_exact or self.precision not in self.engine.precisions else self.precision,
            following=following,
        )

    def _shared_opener(self) -> Callable[[str], Session]:
        """Loads a shared graph by its name. It does not refer to the backend, whose memory would wait for a garbage
        collection."""
        # In the calling thread: a pool of its own would go on spinning beside the encoder's and take its cores, which
        # made encoding half again as long.
        return open_shared
