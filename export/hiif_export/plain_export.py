"""Exports a fixed-scale model as one plain ONNX file, which any program that runs ONNX can use.

input    [batch, 3, height, width]                float32, RGB in [0, 1], any size
output   [batch, 3, scale·height, scale·width]    likewise
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from hiif_deploy.errors import OptionError
from hiif_deploy.pixels import to_unit
from hiif_deploy.rendering.verify import TOLERANCES, Difference, check_stored, measure
from hiif_deploy.support.files import write_file
from hiif_export.graphs.graph import Graph
from hiif_export.graphs.onnx_file import to_onnx
from hiif_export.parity.parity import cases
from hiif_training.evaluation.options import group_rows
from hiif_training.models.fixed_scale import FixedScaleModel
from hiif_training.models.reference import upscale


class PlainNetwork(nn.Module):
    """A fixed-scale model with its normalisation, and with the padding of its published evaluation."""

    def __init__(self, model: FixedScaleModel) -> None:
        super().__init__()
        self.encoder, self.upsampler = model.encoder, model.upsampler
        self.scale, self.multiple = model.config.scale, model.encoder.size_multiple
        self.mean, self.std = (
            torch.tensor(values).view(1, 3, 1, 1) for values in (model.traits.mean, model.traits.std)
        )

    def forward(self, image: Tensor) -> Tensor:
        """Picture [B, 3, H, W] in [0, 1] → [B, 3, scale·H, scale·W], clamped to [0, 1]."""
        height, width = image.shape[2:]
        padded = image
        if self.multiple > 1:
            padded = _mirrored(_mirrored(image, 2, self.multiple), 3, self.multiple)
        output = self.upsampler(self.encoder((padded - self.mean) / self.std)) * self.std + self.mean
        cropped: Tensor = output[:, :, : self.scale * height, : self.scale * width].clamp(0, 1)
        return cropped


def _mirrored(image: Tensor, axis: int, multiple: int) -> Tensor:
    """Continue an axis by its mirror image to the next larger multiple, as `published_size` says."""
    size = image.shape[axis]
    places = torch.arange((size // multiple + 1) * multiple, device=image.device)
    # As a tensor, because the exporter knows no remainder of a size.
    places = places % torch.full_like(places, 2 * size)
    return image.index_select(axis, torch.minimum(places, 2 * size - 1 - places))


def export_plain(
    model: FixedScaleModel, path: Path, metadata: Mapping[str, Any], *, overwrite: bool = False, threads: int = 0
) -> dict[str, Difference]:
    """Write the model to `path` and return how far its outputs are from PyTorch's, by case.

    `metadata` is stored in the file as texts. ParityError where an output is beyond tolerance; then nothing is written.
    """
    if path.exists() and not overwrite:
        raise OptionError(f"{path} exists already; choose another name or add --overwrite")
    network = to_onnx(_graph(model.eval()))
    for key, value in {"scale": model.config.scale, **metadata}.items():
        network.metadata_props.append(onnx.StringStringEntryProto(key=key, value=str(value)))
    data = network.SerializeToString()
    found = compare_plain(model, data, threads)
    check_stored(found, TOLERANCES["fp32"])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, data)
    return found


def compare_plain(model: FixedScaleModel, data: bytes, threads: int = 0) -> dict[str, Difference]:
    """Compare a graph on ONNX Runtime with the model as `evaluate` runs it, two pictures in each call."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    scale = model.config.scale
    rows = group_rows(None, model.encoder.size_multiple, scale)
    found = {}
    for case in cases(scales=(float(scale),)):
        pair = (case.image, np.ascontiguousarray(case.image[::-1, ::-1]))
        (output,) = session.run(None, {"input": np.stack([to_unit(image).transpose(2, 0, 1) for image in pair])})
        expected = np.stack([upscale(model, image, case.target, group_rows=rows).transpose(2, 0, 1) for image in pair])
        height, width = case.image.shape[:2]
        found[f"{width}x{height}"] = measure(output, expected)
    return found


def _graph(model: FixedScaleModel) -> Graph:
    side = 3 * max(model.encoder.size_multiple, 4)
    inputs = {"input": (torch.zeros(2, 3, side, side + 2), ("batch", 3, "height", "width"))}
    scale = model.config.scale
    output = ("batch", 3, f"{scale}*height", f"{scale}*width")
    return Graph("plain", PlainNetwork(model), inputs, {"output": output}, {})
