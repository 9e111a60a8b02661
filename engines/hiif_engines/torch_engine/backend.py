"""A bundle in PyTorch, on a GPU or (for tests) on the processor: tensors stay on the device between the graphs."""

from __future__ import annotations

import functools
import logging

import torch

from hiif_deploy.backends.base import DecoderBackend
from hiif_deploy.backends.engines import ENGINES
from hiif_deploy.backends.fp32_fallback import Fp32Fallback
from hiif_deploy.backends.options import EngineOptions
from hiif_deploy.backends.sessions.open import open_folds
from hiif_deploy.bundle.contract import is_fold
from hiif_deploy.bundle.loader import Bundle
from hiif_deploy.decoding.decoder import Decoder
from hiif_deploy.decoding.job import Advance
from hiif_deploy.decoding.plan import Plan, PlanLimits
from hiif_deploy.decoding.shared_graphs import contracts, model
from hiif_deploy.errors import HiifError
from hiif_deploy.geometry.sizes import Size
from hiif_deploy.pixels import Frame
from hiif_engines.fused.select import fused_kernels
from hiif_engines.torch_engine.cuda_graphs import CudaRecorder, Recorder
from hiif_engines.torch_engine.executor import TorchExecutor
from hiif_engines.torch_engine.features import TorchFeatures, encode
from hiif_engines.torch_engine.launcher import Launcher
from hiif_engines.torch_engine.map_store import MapStore
from hiif_engines.torch_engine.plan import make_torch_plan, map_pixels
from hiif_engines.torch_graph.device import describe, memory_of, open_device
from hiif_engines.torch_graph.interpreter import Compute, TorchGraph

logger = logging.getLogger(__name__)


class TorchBackend(DecoderBackend):
    """Graphs on one device. Methods may be called from several threads; they take turns."""

    def __init__(
        self, bundle: Bundle, options: EngineOptions, *, fused: bool | None = None,
        recorder: Recorder | bool | None = None,
    ) -> None:  # fmt: skip
        """`fused` kernels, or the graphs operation by operation; None: fused on a GPU where the decoder has the form.
        `recorder` of CUDA graphs, or whether there is one; None: on a GPU.

        EngineError where there is no such device, or a graph holds an operation that is not known.
        """
        self.engine = ENGINES["torch"]
        self.contract = bundle.contract
        self.precision = options.graphs
        self._device = device = open_device(options.device)
        chain = self.contract.chain(self.precision)
        self._graphs = {
            name: TorchGraph(graph, bundle.graphs[graph.key], device)
            for name, graph in chain.items()
            if not is_fold(name)
        }
        kernels = self._fuse(bundle, fused)
        how = "fused kernels" if kernels else "operation by operation"
        self.description = f"PyTorch {torch.__version__}, {self.precision}, {describe(device)}, {how}"
        folds = open_folds(bundle, chain)
        self._allowed = options.gpu_memory or memory_of(device) // 4
        self._fallback = Fp32Fallback(bundle, options.thread_count)
        if recorder is True or (recorder is None and device.type == "cuda"):
            recorder = CudaRecorder(device)
        self._launcher = Launcher(device, recorder or None)
        # A cache of the instance: one of the class would hold every backend until the process ends.
        self._shared = functools.cache(functools.partial(_open_shared, device))
        pixels = map_pixels(self.contract, self.precision, self._allowed)
        self._maps = MapStore(self._graphs["maps"], self.contract.decoder.halo, self._launcher, pixels)
        self._fused = bool(kernels)
        self._executor = TorchExecutor(
            self.contract, self._graphs, kernels, folds, self._shared, self._launcher, self._maps
        )
        self.decoder = Decoder(self.contract, self._executor, self.description, self._fallback)

    @property
    def fallback_blocks(self) -> int:
        """See `Backend`."""
        return self._fallback.count

    @property
    def memory_bytes(self) -> int:
        """GPU memory that PyTorch holds in this process, weights included."""
        return torch.cuda.memory_reserved(self._device) if self._device.type == "cuda" else 0

    def plan(self, source: Size, limits: PlanLimits) -> Plan:
        """See `Backend`; the limits are the host's, and nothing of a picture is held there."""
        del limits
        return make_torch_plan(
            self.contract, source, self.precision, self._allowed, records=self._launcher.records, fused=self._fused
        )

    def encode(self, frame: Frame, plan: Plan, advance: Advance) -> TorchFeatures:
        """See `Backend`."""
        self._launcher.expect((frame.shape, frame.dtype))
        return encode(self._graphs["encoder"], self._shared, self.contract, frame, plan, self._launcher, advance)

    def close(self) -> None:
        """Let go of everything on the device."""
        self._fallback.close()
        self._maps.close()
        self._launcher.close()
        self._graphs.clear()

    def _fuse(self, bundle: Bundle, fused: bool | None) -> dict[str, Compute]:
        """Fused kernels by the names of their graphs; none where they are not wanted or do not fit."""
        if not (self._device.type == "cuda" if fused is None else fused):
            return {}
        try:
            return fused_kernels(bundle, self.precision, self._device)
        except HiifError as error:
            if fused:
                raise
            logger.warning("no fused kernels (%s): the graphs run operation by operation (slower)", error)
            return {}


def _open_shared(device: torch.device, name: str) -> TorchGraph:
    return TorchGraph(contracts()[name], model(name), device)


def open_torch(bundle: Bundle, options: EngineOptions) -> TorchBackend:
    """The entry point of `hiif_deploy.backends`."""
    return TorchBackend(bundle, options)
