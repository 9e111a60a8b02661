"""Models of ncnn: convolutions by their published names, in both precisions; damaged and hostile files are refused."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from hiif_deploy.errors import CheckpointError
from hiif_training.checkpoints.checkpoint import load_checkpoint
from hiif_training.checkpoints.ncnn_format import FULL, HALF, MAGIC, read_ncnn
from hiif_training.models.encoders.edsr import DIV2K_MEAN
from hiif_training.models.encoders.span import SpanConfig
from hiif_training.models.fixed_scale import FixedScaleModel

SIZES = {"conv_1": (4, 3, 3), **{f"block_{n}.c{k}_r": (4, 4, 3) for n in (1, 2) for k in (1, 2, 3)}}
SIZES |= {"conv_2": (4, 4, 3), "conv_cat": (4, 16, 1), "upsampler.upsampler.0": (12, 4, 3)}
"""Convolution of a SPAN for ×2 with two blocks of four channels → outputs, inputs, side."""


def span() -> dict[str, tuple[Tensor, Tensor]]:
    """Weights and biases with few bits, so that float16 holds them."""
    generator = torch.Generator().manual_seed(7)

    def values(*shape: int) -> Tensor:
        return torch.randint(-16, 17, shape, generator=generator) / 64

    return {name: (values(o, i, side, side), values(o)) for name, (o, i, side) in SIZES.items()}


def written(folder: Path, convolutions: dict[str, tuple[Tensor, Tensor]], mark: int = HALF) -> Path:
    """Write the files as ncnn's converter does, with a constant in front."""
    lines = ["MemoryData mean 0 1 mean 0=1 1=1 2=3", "Swish act 1 1 a b"]
    data = np.float32(DIV2K_MEAN).tobytes()
    for name, (weight, bias) in convolutions.items():
        eval_name = name if name in ("conv_cat", "upsampler.upsampler.0") else f"{name}.eval_conv"
        o, _, side, _ = weight.shape
        options = f"0={o} 1={side} 4={side // 2} 5=1 6={weight.numel()} 2=-1.0e0"
        lines.append(f"Convolution /{eval_name.replace('.', '/', 1)}/Conv 1 1 x y {options}")
        values = weight.numpy().astype(np.float16 if mark == HALF else np.float32).tobytes()
        data += struct.pack("<I", mark) + values + bytes(-len(values) % 4) + bias.numpy().tobytes()
    path = folder / "span.param"
    path.write_text("\n".join([MAGIC, f"{len(lines)} 9", *lines, ""]))
    path.with_suffix(".bin").write_bytes(data)
    return path


@pytest.mark.parametrize("mark", [HALF, FULL])
def test_weights_of_both_precisions_have_the_published_names(mark: int, tmp_path: Path) -> None:
    given = {"conv_1": span()["conv_1"], "conv_cat": (torch.ones(1, 3, 1, 1), torch.zeros(1))}
    tensors = read_ncnn(written(tmp_path, given, mark))
    assert list(tensors) == [f"{n}.{kind}" for n in ("conv_1.eval_conv", "conv_cat") for kind in ("weight", "bias")]
    assert tensors["conv_1.eval_conv.weight"].equal(given["conv_1"][0])
    assert tensors["conv_1.eval_conv.bias"].equal(given["conv_1"][1])


def test_a_span_of_ncnn_is_a_network_of_one_scale(tmp_path: Path) -> None:
    given = span()
    model = load_checkpoint(written(tmp_path, given)).model
    assert isinstance(model, FixedScaleModel)
    assert model.encoder.config == SpanConfig(blocks=2, features=4)
    assert (model.config.scale, model.config.direct) == (2, True)
    mean, picture = torch.tensor(DIV2K_MEAN)[:, None, None], torch.rand(1, 3, 6, 5)
    weight, bias = given["upsampler.upsampler.0"]
    with torch.no_grad():
        features = model.encode((picture - mean) * 255)
        published = torch.pixel_shuffle(torch.conv2d(features, weight, bias, padding=1), 2)
        network = model.upsampler(features) / 255 + mean
    torch.testing.assert_close(network, published, rtol=1e-5, atol=1e-5)


def damaged(path: Path, kind: str) -> None:
    weights = path.with_suffix(".bin")
    text, data = path.read_text(), weights.read_bytes()
    changes = {
        "no magic": (text.replace(MAGIC, "7767518"), data),
        "short": (text, data[:-1]),
        "long": (text, data + b"1234"),
        "mark": (text, data.replace(struct.pack("<I", HALF), struct.pack("<I", 0x000D4B38))),
        "huge": (text.replace("6=108", "6=99999999999"), data),
        "negative": (text.replace("6=108", "6=-108"), data),
        "shape": (text.replace("1=3 4=1 5=1 6=108", "1=5 4=2 5=1 6=108"), data),
        "words": (text.replace("/Conv 1 1", "/Conv one 1"), data),
        "no layers": (MAGIC + "\n0 0\n", b""),
    }
    path.write_text(changes[kind][0])
    weights.write_bytes(changes[kind][1])


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no magic", "not a model of ncnn"),
        ("short", "are left"),
        ("long", "4 bytes of span.bin belong to no layer"),
        ("mark", "expected float32 or float16"),
        ("huge", "bytes are wanted"),
        ("negative", "negative option"),
        ("shape", "its layers are not those of span.bin"),
        ("words", "damaged"),
        ("no layers", "belong to no layer"),
    ],
)
def test_a_damaged_file_is_named(kind: str, message: str, tmp_path: Path) -> None:
    path = written(tmp_path, span())
    damaged(path, kind)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)


def test_a_model_without_its_weights_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, span())
    path.with_suffix(".bin").unlink()
    with pytest.raises(CheckpointError, match=r"span\.bin beside it"):
        load_checkpoint(path)
