"""A bundle on a GPU through TensorRT: encoder engine, then batched decoder engines on the coordinate tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hiif_deploy.backends.base import DecoderBackend
from hiif_deploy.backends.cuda.device import Device
from hiif_deploy.backends.cuda.streams import Gpu
from hiif_deploy.backends.engines import ENGINES
from hiif_deploy.backends.fp32_fallback import Fp32Fallback
from hiif_deploy.backends.options import EngineOptions
from hiif_deploy.backends.sessions.open import open_folds
from hiif_deploy.backends.tensorrt.encode import TrtEncoder
from hiif_deploy.backends.tensorrt.executor import TrtExecutor
from hiif_deploy.backends.tensorrt.features import TrtFeatures
from hiif_deploy.backends.tensorrt.graphs import trt_graphs
from hiif_deploy.backends.tensorrt.library import Library
from hiif_deploy.backends.tensorrt.plan import make_trt_plan
from hiif_deploy.backends.tensorrt.session import TrtSession
from hiif_deploy.bundle.contract import Precision
from hiif_deploy.bundle.loader import Bundle
from hiif_deploy.decoding.decoder import Decoder
from hiif_deploy.decoding.job import Advance
from hiif_deploy.decoding.plan import Plan, PlanLimits
from hiif_deploy.geometry.sizes import Size
from hiif_deploy.pixels import Frame

if TYPE_CHECKING:
    from collections.abc import Mapping


class TrtBackend(DecoderBackend):
    """Engines, buffers and streams on one GPU. Methods may be called from several threads; they take turns."""

    def __init__(
        self, bundle: Bundle, precision: Precision, engines: Mapping[str, bytes], library: Library, device: Device,
        options: EngineOptions,
    ) -> None:  # fmt: skip
        """`engines` holds a serialised engine for each of `trt_graphs`. The backend closes the device."""
        self.engine = ENGINES["tensorrt"]
        self.contract = bundle.contract
        self.precision: Precision = precision
        self._device = device
        facts = device.facts()
        self.description = f"{library.name} {library.version}, {precision}, {facts.gpu}, {device.layer}"
        self._gpu = gpu = Gpu(device)
        graphs = trt_graphs(bundle, precision)
        with gpu.turn():
            self._sessions = {
                name: TrtSession(library, graph, engines[name], gpu) for name, (graph, _) in graphs.items()
            }
            self._encoder = TrtEncoder(gpu, self.contract, self._sessions)
        self._fallback = Fp32Fallback(bundle, options.thread_count)
        self._memory = options.gpu_memory or facts.memory // 4
        folds = open_folds(bundle, self.contract.chain(precision))
        self._executor = TrtExecutor(gpu, self.contract, self._sessions, folds)
        self.decoder = Decoder(self.contract, self._executor, self.description, self._fallback)

    @property
    def fallback_blocks(self) -> int:
        """See `Backend`."""
        return self._fallback.count

    @property
    def memory_bytes(self) -> int:
        """GPU memory held beside the engines' weights."""
        return self._gpu.pool.allocated_bytes

    def plan(self, source: Size, limits: PlanLimits) -> Plan:
        """See `Backend`; the limits are the host's, and nothing of a picture is held there."""
        del limits
        return make_trt_plan(self.contract, self._sessions, source, self._memory)

    def encode(self, frame: Frame, plan: Plan, advance: Advance) -> TrtFeatures:
        """See `Backend`."""
        return self._encoder.encode(frame, plan, advance)

    def close(self) -> None:
        """Free everything on the GPU."""
        self._fallback.close()
        with self._gpu.turn():
            self._gpu.synchronize()
            # Engines end here, where their GPU is current.
            self._sessions.clear()
        self._device.close()
