"""Published files of fixed-scale networks: recognised by their tensors, and computed as their authors' code does."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hiif_deploy.errors import CheckpointError
from hiif_deploy.pixels import to_unit
from hiif_training.checkpoints.checkpoint import load_checkpoint
from hiif_training.checkpoints.detect import detect_spec
from hiif_training.checkpoints.fixed_scale_format import family_names
from hiif_training.evaluation.options import WHOLE
from hiif_training.models.encoders.swinir import Swinir, SwinirConfig
from hiif_training.models.fixed_scale import FixedScaleModel
from hiif_training.models.reference import upscale
from hiif_training.models.registry import make_model
from published_format import expanded, shapes

UPSAMPLERS: dict[tuple[str, int], dict[str, list[int]]] = {
    ("edsr-baseline", 2): {"tail.0.0": [256, 64], "tail.1": [3, 64]},
    ("edsr-baseline", 3): {"tail.0.0": [576, 64], "tail.1": [3, 64]},
    ("edsr-baseline", 4): {"tail.0.{0,2}": [256, 64], "tail.1": [3, 64]},
    ("rdn", 2): {"UPNet.0": [256, 64], "UPNet.2": [3, 64]},
    ("rdn", 3): {"UPNet.0": [576, 64], "UPNet.2": [3, 64]},
    ("rdn", 4): {"UPNet.{0,2}": [256, 64], "UPNet.4": [3, 64]},
    ("swinir", 2): {"upsample.0": [256, 64], "conv_last": [3, 64]},
    ("swinir", 3): {"upsample.0": [576, 64], "conv_last": [3, 64]},
    ("swinir", 4): {"upsample.{0,2}": [256, 64], "conv_last": [3, 64]},
}
"""Network and scale → the up-sampler's 3×3 convolutions in the published file, with outputs and inputs."""
PARAMETERS = {
    ("edsr-baseline", 2): 1_369_859, ("edsr-baseline", 3): 1_554_499, ("edsr-baseline", 4): 1_517_571,
    ("rdn", 2): 22_123_395, ("rdn", 3): 22_308_035, ("rdn", 4): 22_271_107,
    ("swinir", 2): 11_752_487, ("swinir", 3): 11_937_127, ("swinir", 4): 11_900_199,
}  # fmt: skip
"""Trained values, as the papers' comparisons round them: 1.37 M for EDSR-baseline ×2, 22.1 M for RDN ×2."""
MEAN = torch.tensor([0.4488, 0.4371, 0.4040])
RANGES = {"edsr-baseline": (255.0, True), "rdn": (255.0, False), "swinir": (1.0, True)}
COMPUTED = ("attn_mask", "relative_position_index")


def published(network: str, scale: int) -> dict[str, Tensor]:
    """Return the tensors of a published file, each full of a value of its own; EDSR's mean shift is the real one."""
    sizes = {key.removeprefix("encoder."): shape for key, shape in shapes(f"encoder-{network}").items()}
    for names, (outputs, inputs) in UPSAMPLERS[network, scale].items():
        for name in expanded(names):
            sizes |= {f"{name}.weight": (outputs, inputs, 3, 3), f"{name}.bias": (outputs,)}
    found = {key: torch.tensor((n + 1) / 1024).expand(shape) for n, (key, shape) in enumerate(sizes.items())}
    if network == "edsr-baseline":
        found |= {"sub_mean.bias": -255 * MEAN, "add_mean.bias": 255 * MEAN}
    return found


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize(("network", "scale"), UPSAMPLERS)
def test_a_published_file_tells_its_network_scale_and_value_range(network: str, scale: int) -> None:
    named = family_names(published(network, scale))
    spec = detect_spec(named)
    white, is_shifted = RANGES[network]
    args = dict(spec["args"])
    assert args.pop("encoder_spec")["name"] == network
    assert spec["name"] == "pixelshuffle"
    assert args == {"scale": scale, "rgb_range": white, "shift_mean": is_shifted}
    with torch.device("meta"):
        model = make_model(spec)
    assert model.traits.fixed_scale == scale
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == PARAMETERS[network, scale]
    given, held = (
        {key: tuple(value.shape) for key, value in state.items() if not key.endswith(COMPUTED)}
        for state in (named, model.state_dict())
    )
    assert held == given


def test_a_published_file_loads_with_every_tensor_in_its_place(tmp_path: Path) -> None:
    sd = published("edsr-baseline", 4)
    loaded = load_checkpoint(saved(tmp_path / "m.pt", sd))
    assert isinstance(loaded.model, FixedScaleModel)
    state = loaded.model.state_dict()
    for own, name in (("0", "tail.0.0"), ("2", "tail.0.2"), ("4", "tail.1")):
        assert state[f"upsampler.{own}.weight"].equal(sd[f"{name}.weight"])
    assert all(state[f"encoder.{key}"].equal(value) for key, value in sd.items() if not key.startswith("tail."))


def random_tensors(sizes: dict[str, tuple[int, ...]], gain: float = 1.0) -> dict[str, Tensor]:
    """Return weights that keep the size of values about the same from layer to layer."""
    torch.manual_seed(3)
    return {key: torch.randn(shape) * gain / math.sqrt(math.prod(shape[1:]) or 1) for key, shape in sizes.items()}


def convolutions(**layers: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """Return the tensors of 3×3 convolutions, by name (`__` for a dot) with outputs and inputs."""
    sizes: dict[str, tuple[int, ...]] = {}
    for name, (outputs, inputs) in layers.items():
        key = name.replace("__", ".")
        sizes |= {f"{key}.weight": (outputs, inputs, 3, 3), f"{key}.bias": (outputs,)}
    return sizes


def conv(x: Tensor, sd: dict[str, Tensor], name: str) -> Tensor:
    weight = sd[f"{name}.weight"]
    return nn.functional.conv2d(x, weight, sd[f"{name}.bias"], padding=weight.shape[-1] // 2)


def tiny_edsr() -> dict[str, Tensor]:
    sd = random_tensors(convolutions(
        head__0=(64, 3), body__0__body__0=(64, 64), body__0__body__2=(64, 64), body__1=(64, 64),
        tail__0__0=(256, 64), tail__0__2=(256, 64), tail__1=(3, 64),
    ))  # fmt: skip
    eye = torch.eye(3)[..., None, None]
    shifts = {"sub_mean.bias": -255 * MEAN, "add_mean.bias": 255 * MEAN}
    return {**sd, **shifts, "sub_mean.weight": eye, "add_mean.weight": eye.clone()}


def edsr(sd: dict[str, Tensor], image: Tensor) -> Tensor:
    """×4, as EDSR-PyTorch runs it on values up to 255."""
    x = first = conv(conv(image * 255, sd, "sub_mean"), sd, "head.0")
    x = x + conv(conv(x, sd, "body.0.body.0").relu(), sd, "body.0.body.2")
    x = conv(x, sd, "body.1") + first
    for name in ("tail.0.0", "tail.0.2"):
        x = nn.functional.pixel_shuffle(conv(x, sd, name), 2)
    return conv(conv(x, sd, "tail.1"), sd, "add_mean") / 255


def tiny_rdn() -> dict[str, Tensor]:
    sizes = convolutions(
        SFENet1=(6, 3), SFENet2=(6, 6), RDBs__0__convs__0__conv__0=(4, 6), RDBs__0__convs__1__conv__0=(4, 10),
        GFF__1=(6, 6), UPNet__0=(36, 6), UPNet__2=(3, 4),
    )  # fmt: skip
    for name, inputs in (("RDBs.0.LFF", 14), ("GFF.0", 6)):
        sizes |= {f"{name}.weight": (6, inputs, 1, 1), f"{name}.bias": (6,)}
    sd = random_tensors(sizes)
    return {**sd, "UPNet.2.bias": sd["UPNet.2.bias"] + 120}


def rdn(sd: dict[str, Tensor], image: Tensor) -> Tensor:
    """×3, as EDSR-PyTorch runs it on values up to 255, without a mean shift; growth 4 inside the up-sampler."""
    first = conv(image * 255, sd, "SFENet1")
    x = conv(first, sd, "SFENet2")
    dense = x
    for name in ("RDBs.0.convs.0.conv.0", "RDBs.0.convs.1.conv.0"):
        dense = torch.cat([dense, conv(dense, sd, name).relu()], dim=1)
    x = conv(dense, sd, "RDBs.0.LFF") + x
    x = conv(conv(x, sd, "GFF.0"), sd, "GFF.1") + first
    return conv(nn.functional.pixel_shuffle(conv(x, sd, "UPNet.0"), 3), sd, "UPNet.2") / 255


SWINIR = SwinirConfig(window=4, embed=8, depths=(2,), heads=(2,), features=5, image_size=16)


def tiny_swinir() -> dict[str, Tensor]:
    torch.manual_seed(3)
    sd = {
        key: value + torch.randn_like(value) / 9
        for key, value in Swinir(SWINIR).state_dict().items()
        if "." in key and value.is_floating_point()
    }
    return {**sd, **random_tensors(convolutions(upsample__0=(20, 5), conv_last=(3, 5)), gain=0.3)}


def swinir(sd: dict[str, Tensor], image: Tensor) -> Tensor:
    """×2, as its test script runs it: mirrored to the next multiple of the window, up to a whole window more."""
    encoder = Swinir(SWINIR).eval()
    encoder.load_state_dict(sd, strict=False)
    height, width = image.shape[2:]
    x = torch.cat([image, image.flip(2)], 2)[:, :, : (height // 4 + 1) * 4]
    x = torch.cat([x, x.flip(3)], 3)[..., : (width // 4 + 1) * 4]
    features = encoder(x - MEAN.view(1, 3, 1, 1))
    output = conv(nn.functional.pixel_shuffle(conv(features, sd, "upsample.0"), 2), sd, "conv_last")
    return (output + MEAN.view(1, 3, 1, 1))[..., : 2 * height, : 2 * width]


@pytest.mark.parametrize(
    ("make", "compute", "scale"), [(tiny_edsr, edsr, 4), (tiny_rdn, rdn, 3), (tiny_swinir, swinir, 2)]
)
def test_a_picture_is_that_of_the_published_code(make: Any, compute: Any, scale: int, tmp_path: Path) -> None:
    sd = make()
    model = load_checkpoint(saved(tmp_path / "m.pt", sd)).model
    picture = np.random.default_rng(0).integers(0, 256, (8, 11, 3)).astype(np.uint8)
    with torch.no_grad():
        expected = compute(sd, torch.from_numpy(to_unit(picture)).permute(2, 0, 1)[None])[0].permute(1, 2, 0)
    inside = ((expected > 0) & (expected < 1)).float().mean()
    assert inside > 0.5
    assert expected.std() > 0.02
    rows = WHOLE if model.encoder.size_multiple > 1 else None
    found = upscale(model, picture, (8 * scale, 11 * scale), group_rows=rows)
    np.testing.assert_allclose(found, expected.clamp(0, 1).numpy(), rtol=0, atol=2e-5)


def test_averaged_weights_are_preferred_and_a_prefix_is_removed(tmp_path: Path) -> None:
    sd = tiny_swinir()
    other = {key: torch.zeros_like(value) for key, value in sd.items()}
    averaged = {f"module.{key}": value for key, value in sd.items()}
    loaded = load_checkpoint(saved(tmp_path / "m.pth", {"params": other, "params_ema": averaged}))
    assert loaded.model.state_dict()["upsampler.2.bias"].equal(sd["conv_last.bias"])


def test_an_edsr_of_values_up_to_one_is_told_by_its_mean_shift(tmp_path: Path) -> None:
    sd = {**tiny_edsr(), "sub_mean.bias": -MEAN, "add_mean.bias": MEAN}
    assert load_checkpoint(saved(tmp_path / "m.pt", sd)).model.traits.std == (1, 1, 1)


def without(sd: dict[str, Tensor], *keys: str) -> dict[str, Tensor]:
    return {key: value for key, value in sd.items() if key not in keys}


@pytest.mark.parametrize(
    ("sd", "message"),
    [
        ({**tiny_edsr(), "sub_mean.bias": -127 * MEAN}, "sub_mean is not the mean colour of DIV2K times 1 or 255"),
        (without(tiny_edsr(), "sub_mean.bias"), "do not tell it either (KeyError: 'encoder.sub_mean.bias')"),
        (without(tiny_edsr(), "tail.0.2.weight"), "do not tell it either (KeyError: 'upsampler.2.weight')"),
        ({**tiny_rdn(), "UPNet.0.weight": torch.zeros(30, 6, 3, 3)}, "upsampler.0.weight has shape 30×6"),
        (without(tiny_swinir(), "conv_before_upsample.0.weight", "conv_last.weight", "conv_last.bias"), "no known"),
        ({**tiny_swinir(), "conv_hr.weight": torch.zeros(1)}, "1 unexpected (encoder.conv_hr.weight)"),
    ],
)
def test_what_is_no_published_network_is_refused(sd: dict[str, Tensor], message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(saved(tmp_path / "m.pt", sd))
    assert message in str(caught.value)
