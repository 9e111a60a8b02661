"""ONNX Runtime on a GPU: features, maps and folded matrices stay there, sums and colours come to the host."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import cast

from hiif_deploy.backends.base import Advance, Array, Encoded
from hiif_deploy.backends.host import HostBackend
from hiif_deploy.backends.options import EngineOptions
from hiif_deploy.backends.sessions.onnxruntime_device import Crop, DeviceSession, HeldFeatures, device_of
from hiif_deploy.bundle.contract import Contract, GraphContract, is_fold
from hiif_deploy.bundle.loader import Bundle
from hiif_deploy.decoding.decoder import Decoder
from hiif_deploy.decoding.encode import encode, prepared
from hiif_deploy.decoding.job import Job, Statistics, Sums, Window
from hiif_deploy.decoding.plan import Plan
from hiif_deploy.decoding.session import Session, Tensors
from hiif_deploy.errors import EngineError
from hiif_deploy.geometry.tiling import Tile


class DeviceBackend(HostBackend):
    """`HostBackend` whose graphs hand each other tensors on the device; the decoder is not cut into stages.

    Bundles whose decoders answer in turn (`cascade`) read features on the host and are not for it.
    """

    def _stages(self) -> dict[str, GraphContract]:
        # States of queries would have to be carried on the device; whole graphs are what a GPU likes.
        return {}

    def _open(self, graph: GraphContract, *parts: GraphContract) -> Session:
        if is_fold(graph.name):
            return super()._open(graph, *parts)
        model, is_encoder = self._bundle.graphs[graph.key], graph.name == "encoder"
        threads = self._threads if is_encoder else self._call_threads
        return DeviceSession(graph, model, self._options.provider, threads, keep_memory=not is_encoder)

    def _decoder(self, sessions: dict[str, Session], calls: int) -> Decoder:
        self._held = {name: session for name, session in sessions.items() if isinstance(session, DeviceSession)}
        crop = Crop(self._held["maps"].dtype_of("features"), self._options.provider, self._call_threads)
        return DeviceDecoder(self.contract, sessions, calls, self._held, crop)

    @property
    def _engine(self) -> str:
        return f"{super()._engine} with I/O binding"

    def encode(self, image: Array, plan: Plan, advance: Advance) -> Encoded:
        """Unit picture [h, w, 3] → features on the device. Those of a picture in tiles are put together on the host."""
        height, width = image.shape[:2]
        maps, encoder = self._held["maps"], self._held["encoder"]
        if plan.encoder_tile[0] >= height and plan.encoder_tile[1] >= width:
            held = encoder.hold({"image": prepared(self.contract, image)})["features"]
            advance(1)
        else:
            held = maps.upload("features", encode(encoder, self.contract, image, plan, advance)[None])
        return HeldFeatures(held, (height, width))


class DeviceDecoder(Decoder):
    """`Decoder` whose maps and folded matrices are on the device."""

    def __init__(
        self, contract: Contract, sessions: dict[str, Session], threads: int, held: dict[str, DeviceSession], crop: Crop
    ) -> None:
        super().__init__(contract, sessions, threads)
        self._held, self._crop = held, crop

    def sums(self, job: Job, window: Window, folded: Tensors, n: int, advance: Advance) -> Sums:
        """See `Decoder`; what was folded is uploaded once for all blocks."""
        return super().sums(job, window, self._held[f"statistics_{n}"].place(folded), n, advance)

    def colours(
        self, job: Job, window: Window, statistics: Statistics, advance: Advance
    ) -> Iterator[tuple[slice, slice, Array]]:
        """See `Decoder`; what was folded is uploaded once for all blocks."""
        placed = Statistics(self._held["decoder"].place(statistics.folded))
        yield from super().colours(job, window, placed, advance)

    def _maps(self, job: Job, tile: Tile) -> Callable[[], Tensors]:
        features = job.features
        if not isinstance(features, HeldFeatures):
            raise EngineError("these features were encoded by another engine; encode the picture with this upscaler")

        def make() -> Tensors:
            crop = self._crop(features, tile, self.contract.decoder.halo)
            # To the decoder's graphs a tensor on the device is as good as an array.
            return cast(Tensors, self._held["maps"].hold({"features": crop}))

        return functools.cache(lambda: job.kept_maps(tile, make))


def keeps_tensors(bundle: Bundle, options: EngineOptions) -> bool:
    """Whether `DeviceBackend` is the way for this bundle and provider."""
    is_gpu = options.engine == "onnxruntime" and device_of(options.provider) == "cuda"
    return is_gpu and bundle.contract.decoder.cascade == 1
