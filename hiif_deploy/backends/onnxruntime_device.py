"""ONNX Runtime on a GPU: features, maps, folded matrices and colours stay there; frames and sums cross the bus."""

import functools
from collections.abc import Callable, Iterable
from typing import cast

from hiif_deploy.backends.base import Encoded
from hiif_deploy.backends.host import HostBackend
from hiif_deploy.backends.options import EngineOptions
from hiif_deploy.backends.sessions.onnxruntime_device import Crop, DeviceSession, HeldFeatures, device_of
from hiif_deploy.bundle.contract import Contract, GraphContract, is_fold
from hiif_deploy.bundle.loader import Bundle
from hiif_deploy.decoding.conversion import FrameConverter, colour_range, finish_feeds, finish_name, prepare_vectors
from hiif_deploy.decoding.encode import padded_frame
from hiif_deploy.decoding.executor import DecodedBlock
from hiif_deploy.decoding.job import Advance, Job, TileQueries
from hiif_deploy.decoding.plan import Plan, PlanLimits, large_query_block
from hiif_deploy.decoding.session import Session, Tensors
from hiif_deploy.decoding.session_executor import SessionExecutor, query_parts
from hiif_deploy.decoding.shared_graphs import contracts, model
from hiif_deploy.errors import EngineError
from hiif_deploy.geometry.tiling import Tile
from hiif_deploy.pixels import Frame

QUERY_BLOCK = 1 << 16
"""Queries per decoder call at most: a GPU wants large calls."""


class DeviceBackend(HostBackend):
    """`HostBackend` whose graphs hand each other tensors on the device; the decoder is not cut into stages.

    Bundles whose decoders form a cascade read features on the host and are not for it.
    """

    _shared: Callable[[str], DeviceSession]

    def encode(self, frame: Frame, plan: Plan, advance: Advance) -> Encoded:
        """See `Backend`; features stay on the device. Those of a picture in tiles are put together on the host."""
        size = frame.shape[0], frame.shape[1]
        maps, encoder = self._held("maps"), self._held("encoder")
        if plan.encoder_tile[0] < size[0] or plan.encoder_tile[1] < size[1]:
            features = super().encode(frame, plan, advance)
            return HeldFeatures(maps.upload("features", features[None]), size)  # type: ignore[index]
        prepare = self._shared(f"prepare-{frame.dtype}")
        padded = padded_frame(self.contract, frame)
        image = prepare.hold({"frame": padded, **prepare_vectors(self.contract)})["image"]
        held = HeldFeatures(encoder.hold({"image": image})["features"], size)
        advance(1)
        return held

    def wrap_sessions(self, wrap: Callable[[str, Session], Session]) -> None:
        """Does nothing: a session that runs on a GPU is not over when it returns, so there is nothing to measure."""

    def _stages(self) -> dict[str, GraphContract]:
        # Hidden states would have to be cached on the device; whole graphs are what a GPU likes.
        return {}

    def _open(self, graph: GraphContract, *parts: GraphContract) -> Session:
        if is_fold(graph.name):
            return super()._open(graph, *parts)
        model, is_encoder = self._bundle.graphs[graph.key], graph.name == "encoder"
        threads = self._threads if is_encoder else self._call_threads
        return DeviceSession(graph, model, self._options.provider, threads, keep_memory=not is_encoder)

    def _shared_opener(self) -> Callable[[str], DeviceSession]:
        # A cache of the instance: one of the class would hold every backend until the process ends.
        return functools.cache(functools.partial(_open_shared, self._options.provider, self._call_threads))

    def _make_executor(self, calls: int) -> SessionExecutor:
        return DeviceExecutor(self.contract, self.sessions, self._converter, calls, self._shared)

    def _usual_block(self, limits: PlanLimits) -> int:
        return large_query_block(self.contract, limits.memory, self._threads, QUERY_BLOCK)

    @property
    def _title(self) -> str:
        return f"{super()._title} with I/O binding"

    def _held(self, name: str) -> DeviceSession:
        return cast(DeviceSession, self.sessions[name])


def _open_shared(provider: str, threads: int, name: str) -> DeviceSession:
    return DeviceSession(contracts()[name], model(name), provider, threads)


def open_host(bundle: Bundle, options: EngineOptions) -> HostBackend:
    """On the processor, or on a CUDA provider, where tensors stay on the GPU."""
    return (DeviceBackend if keeps_tensors(bundle, options) else HostBackend)(bundle, options)


def keeps_tensors(bundle: Bundle, options: EngineOptions) -> bool:
    """Whether `DeviceBackend` is the way for this bundle and provider."""
    is_gpu = options.engine == "onnxruntime" and device_of(options.provider) == "cuda"
    return is_gpu and bundle.contract.decoder.cascade == 1


class DeviceExecutor(SessionExecutor):
    """`SessionExecutor` whose maps, folded matrices and colours are on the device."""

    def __init__(
        self, contract: Contract, sessions: dict[str, Session], converter: FrameConverter, threads: int,
        shared: Callable[[str], DeviceSession],
    ) -> None:  # fmt: skip
        """`shared` gives the session of a shared graph."""
        super().__init__(contract, sessions, converter, threads)
        self._shared = shared
        self._crop = Crop(shared(f"crop-{self._held('maps').dtype_of('features')}"))

    def place(self, folded: Tensors, graph: str) -> Tensors:
        """See `Executor`; uploaded once for all blocks."""
        return self._held(graph).place(folded)

    def blocks(self, job: Job, queries: TileQueries, folded: Tensors) -> Iterable[DecodedBlock]:
        """See `Executor`; a block at a time, finished on the device."""
        decoder, finish = self._held("decoder"), self._shared(finish_name(job))
        for row, column, block in query_parts(job, queries, self._maps(job, queries.tile)):
            geometry = self.geometry("decoder", job, block)
            colour = decoder.hold({**block.maps(), **folded, **geometry})["colour"]
            feeds = finish_feeds(self.contract, job.frame, block.rows, block.columns)
            found = finish.run({**feeds, "colour": colour})
            yield DecodedBlock(queries.part(row, column), found["values"], colour_range(found))

    def _maps(self, job: Job, tile: Tile) -> Callable[[], Tensors]:
        features = job.features
        if not isinstance(features, HeldFeatures):
            raise EngineError("these features were encoded by another engine; encode the picture with this upscaler")

        def make() -> Tensors:
            crop = self._crop(features, tile, self.contract.decoder.halo)
            # To the decoder's graphs a tensor on the device is as good as an array.
            return cast(Tensors, self._held("maps").hold({"features": crop}))

        return functools.cache(lambda: job.kept_maps(tile, make))

    def _held(self, graph: str) -> DeviceSession:
        return cast(DeviceSession, self.sessions[graph])
