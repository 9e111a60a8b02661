"""Picture → features on a PyTorch device, and the crops that the maps graph reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from hiif_deploy.bundle.contract import Contract
from hiif_deploy.decoding.conversion import prepare_vectors
from hiif_deploy.decoding.encode import padded_frame, widen
from hiif_deploy.decoding.job import Job
from hiif_deploy.decoding.plan import Plan
from hiif_deploy.decoding.shared_graphs import without_uint16
from hiif_deploy.errors import EngineError
from hiif_deploy.geometry.tiling import Tile, steps, within
from hiif_deploy.pixels import Frame
from hiif_engines.torch_engine.launcher import Launcher, upload
from hiif_engines.torch_graph.device import computing_on
from hiif_engines.torch_graph.interpreter import Compute, TorchGraph


@dataclass(frozen=True)
class TorchFeatures:
    """Features of an encoded picture."""

    tensor: Tensor
    """[C, h, w], on the device or on the host as the plan says."""
    source: Frame
    """[h, w, 1 or 3], the frame that was encoded."""
    frame: Tensor | None
    """The same on the device, uint16 as int32, where the features are there too."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, height and width."""
        return tuple(self.tensor.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """A copy on the host."""
        del copy
        return np.array(self.tensor.cpu().numpy(), dtype=dtype)

    def frame_on_device(self, frame: Frame) -> Tensor | None:
        """The device's copy of `frame`, where that is the frame that was encoded."""
        return self.frame if frame is self.source else None

    def crop(self, tile: Tile, halo: int, device: torch.device) -> Tensor:
        """[1, C, b + 2·halo, w + 2·halo] on the device; zero outside the picture, as the convolution pads."""
        _, height, width = self.tensor.shape
        top, bottom = tile.source_rows.start - halo, tile.source_rows.stop + halo
        left, right = tile.source_columns.start - halo, tile.source_columns.stop + halo
        inside = self.tensor[:, max(top, 0) : bottom, max(left, 0) : right].to(device)
        margins = [max(-left, 0), max(right - width, 0), max(-top, 0), max(bottom - height, 0)]
        return pad(inside[None], margins)


def features_of(job: Job) -> TorchFeatures:
    """The job's features; EngineError for those of another engine."""
    if not isinstance(job.features, TorchFeatures):
        raise EngineError("these features were encoded by another engine; encode the picture with this upscaler")
    return job.features


def encode(
    graph: TorchGraph, shared: Callable[[str], TorchGraph], contract: Contract, frame: Frame, plan: Plan,
    launcher: Launcher, advance: Callable[[int], None],
) -> TorchFeatures:  # fmt: skip
    """Frame [h, w, 1 or 3] → features, whole or in tiles that give the same; `advance` is called with 1 per tile."""
    height, width = frame.shape[:2]
    on_device = upload(frame, launcher.device) if plan.keeps_features else None
    compute = _encoder(graph, shared(f"prepare-{without_uint16(frame.dtype)}"))
    vectors = launcher.tables("normalisation", lambda: prepare_vectors(contract))
    features: Tensor | None = None
    for rows in steps(height, plan.encoder_tile[0]):
        for columns in steps(width, plan.encoder_tile[1]):
            seen = widen(rows, plan.overlap, height), widen(columns, plan.overlap, width)
            found = _encode_part(compute, contract, frame, on_device, seen, vectors, launcher)
            if found.shape[1:] == (height, width) and on_device is not None:
                features = found
            else:
                if features is None:
                    home = launcher.device if plan.keeps_features else torch.device("cpu")
                    features = torch.empty((found.shape[0], height, width), dtype=found.dtype, device=home)
                with computing_on(launcher.device):
                    features[:, rows, columns] = found[:, within(rows, seen[0]), within(columns, seen[1])]
            advance(1)
    assert features is not None  # pictures hold pixels
    return TorchFeatures(features, frame, on_device)


def _encoder(graph: TorchGraph, prepare: TorchGraph) -> Compute:
    return lambda feeds: {"features": graph(prepare(feeds))["features"]}


def _encode_part(
    compute: Compute, contract: Contract, frame: Frame, on_device: Tensor | None, part: tuple[slice, slice],
    vectors: Mapping[str, Tensor], launcher: Launcher,
) -> Tensor:  # fmt: skip
    """Features [C, h, w] of a part of the frame, which is uploaded again only where the encoder needs it padded."""
    host = frame[part]
    padded = padded_frame(contract, host)
    pixels = on_device[part] if on_device is not None and padded is host else upload(padded, launcher.device)
    found = launcher.run(f"encoder {frame.dtype}", compute, {}, {"frame": pixels, **vectors})["features"]
    return found[0, :, : host.shape[0], : host.shape[1]]
