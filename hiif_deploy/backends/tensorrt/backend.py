"""A bundle on a GPU through TensorRT: encoder engine, then batched decoder engines on the coordinate tables."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.backends.cuda.device import Device
from hiif_deploy.backends.cuda.streams import Gpu
from hiif_deploy.backends.fp32_fallback import Rescue
from hiif_deploy.backends.options import EngineOptions
from hiif_deploy.backends.sessions.open import open_session
from hiif_deploy.backends.tensorrt.decode import TrtDecoder
from hiif_deploy.backends.tensorrt.encode import TrtEncoder
from hiif_deploy.backends.tensorrt.features import DeviceFeatures
from hiif_deploy.backends.tensorrt.library import Library
from hiif_deploy.backends.tensorrt.session import TrtSession
from hiif_deploy.bundle.contract import Precision, is_fold
from hiif_deploy.bundle.loader import Bundle
from hiif_deploy.decoding.job import Job, Statistics, Window
from hiif_deploy.decoding.plan import Plan
from hiif_deploy.geometry.sizes import Size

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger(__name__)
Array = NDArray[np.float32]
Advance = Callable[[int], None]


class TrtBackend:
    """Engines, buffers and streams on one GPU. Methods may be called from several threads; they take turns."""

    def __init__(
        self, bundle: Bundle, precision: Precision, engines: Mapping[str, bytes], library: Library, device: Device,
        options: EngineOptions, *, host_code: bool = False,
    ) -> None:  # fmt: skip
        """`engines` holds a serialised engine for every graph but the folds. The backend closes the device."""
        self.contract = bundle.contract
        self.precision: Precision = precision
        self._device = device
        facts = device.facts()
        self.description = f"{library.name} {library.version}, {precision}, {facts.gpu}, {device.layer}"
        if not device.has_graphs:
            logger.warning(
                "%s has no CUDA graphs: each block is launched by itself, slower; cuda-python has them", device.layer
            )
        self._gpu = gpu = Gpu(device)
        chain = self.contract.chain(precision)
        self._sessions = {
            name: TrtSession(library, chain[name], data, device, gpu.scratch, host_code=host_code)
            for name, data in engines.items()
        }
        folds = {
            name: open_session(g, bundle.graphs[g.key], EngineOptions(), threads=1, keep_memory=True)
            for name, g in chain.items()
            if is_fold(name)
        }
        self._rescue = Rescue(bundle, options.thread_count)
        self._encoder = TrtEncoder(gpu, self.contract, self._sessions["encoder"])
        maps_bytes = options.gpu_memory or facts.memory // 4
        self._decoder = TrtDecoder(gpu, self.contract, self._sessions, folds, self._rescue, maps_bytes)

    @property
    def rescued(self) -> int:
        """Blocks that were decoded again in fp32 on the processor."""
        return self._rescue.count

    @property
    def memory_bytes(self) -> int:
        """GPU memory held beside the engines' weights."""
        return self._gpu.pool.allocated_bytes + self._gpu.scratch.size + self._gpu.slots.allocated_bytes

    def encode(self, image: Array, plan: Plan, advance: Advance) -> DeviceFeatures:
        """Unit picture [h, w, 3] → features on the GPU. The plan is for the processor; here the profile decides."""
        del plan
        return self._encoder.encode(image, advance)

    def statistics(self, job: Job, window: Window, advance: Advance) -> Statistics:
        """All statistics passes over the queries of `window`."""
        return self._decoder.statistics(job, window, advance)

    def colours(
        self, job: Job, window: Window, statistics: Statistics, advance: Advance
    ) -> Iterator[tuple[slice, slice, Array]]:
        """Yields (rows, columns) within `window` and unclamped colours [r, c, 3], 1 being white."""
        return self._decoder.colours(job, window, statistics, advance)

    def steps(self, plan: Plan, source: Size, target: Size, windows: list[Window]) -> int:
        """One per encoder tile, and one per decoder tile and pass."""
        del plan
        passes = self.contract.decoder.statistics_passes + 1
        tiles = sum(self._decoder.tile_count(source, target, window) for window in windows)
        return len(self._encoder.tiles(source)) + passes * tiles

    def close(self) -> None:
        """Free everything on the GPU."""
        self._gpu.synchronize()
        self._rescue.close()
        self._decoder.close()
        for session in self._sessions.values():
            session.close()
        self._gpu.close()
        self._device.close()
