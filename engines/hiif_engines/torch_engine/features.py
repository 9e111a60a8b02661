"""Picture → features on a PyTorch device, and the crops that the maps graph asks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from hiif_deploy.bundle.contract import Contract
from hiif_deploy.decoding.conversion import prepare_vectors
from hiif_deploy.decoding.encode import padded_frame, widen, within
from hiif_deploy.decoding.plan import Plan
from hiif_deploy.geometry.tiling import Tile, steps
from hiif_deploy.pixels import Frame
from hiif_engines.torch_graph.interpreter import TorchGraph

Array = NDArray[np.float32]


@dataclass(frozen=True)
class TorchFeatures:
    """Features of an encoded picture."""

    tensor: Tensor
    """[C, h, w], on the device or on the host as the plan says."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, height and width."""
        return tuple(self.tensor.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """A copy on the host."""
        del copy
        return np.array(self.tensor.cpu().numpy(), dtype=dtype)

    def crop(self, tile: Tile, halo: int, device: torch.device) -> Tensor:
        """[1, C, b + 2·halo, w + 2·halo] on the device; zero outside the picture, as the convolution pads."""
        _, height, width = self.tensor.shape
        top, bottom = tile.source_rows.start - halo, tile.source_rows.stop + halo
        left, right = tile.source_columns.start - halo, tile.source_columns.stop + halo
        inside = self.tensor[:, max(top, 0) : bottom, max(left, 0) : right].to(device)
        margins = [max(-left, 0), max(right - width, 0), max(-top, 0), max(bottom - height, 0)]
        return pad(inside, margins)[None]


def encode(
    graph: TorchGraph, shared: Callable[[str], TorchGraph], contract: Contract, frame: Frame, plan: Plan,
    device: torch.device, advance: Callable[[int], None],
) -> TorchFeatures:  # fmt: skip
    """Frame [h, w, 1 or 3] → features, whole or in tiles that give the same; `advance` is called with 1 per tile."""
    height, width = frame.shape[:2]
    home = device if plan.keeps_features else torch.device("cpu")
    features: Tensor | None = None
    frame = as_device_type(frame)
    prepare = shared(f"prepare-{frame.dtype}")
    for rows in steps(height, plan.encoder_tile[0]):
        for columns in steps(width, plan.encoder_tile[1]):
            seen_rows, seen_columns = widen(rows, plan.overlap, height), widen(columns, plan.overlap, width)
            found = _run(graph, prepare, contract, frame[seen_rows, seen_columns], device)
            if features is None:
                features = torch.empty((found.shape[0], height, width), dtype=found.dtype, device=home)
            features[:, rows, columns] = found[:, within(rows, seen_rows), within(columns, seen_columns)]
            advance(1)
    assert features is not None  # pictures hold pixels
    return TorchFeatures(features)


def as_device_type(frame: Frame) -> Frame:
    """uint16 as int32: PyTorch has few operations on 16 bits without a sign."""
    return frame.astype(np.int32) if frame.dtype == np.uint16 else frame


def _run(graph: TorchGraph, prepare: TorchGraph, contract: Contract, frame: Frame, device: torch.device) -> Tensor:
    feeds = {"frame": padded_frame(contract, frame), **prepare_vectors(contract)}
    image = prepare({name: torch.tensor(value).to(device) for name, value in feeds.items()})["image"]
    return graph({"image": image})["features"][0, :, : frame.shape[0], : frame.shape[1]]
