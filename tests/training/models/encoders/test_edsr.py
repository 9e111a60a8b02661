"""The EDSR encoder: sizes, keys, structure, how far a feature sees."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hiif_deploy.errors import CheckpointError
from hiif_training.models.encoders.edsr import Edsr, EdsrConfig
from hiif_training.models.registry import make_encoder

TINY = EdsrConfig(blocks=2, features=6)


def trainable(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def frozen(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if not p.requires_grad)


def seeded(config: EdsrConfig) -> Edsr:
    torch.manual_seed(0)
    return Edsr(config).eval()


def monotone(config: EdsrConfig) -> Edsr:
    """Weights of one sign: no ReLU cuts a path off, and no two paths cancel."""
    model = seeded(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_()
    return model


def test_edsr_baseline_has_the_published_number_of_parameters() -> None:
    model = Edsr(EdsrConfig())
    assert trainable(model) == 1_220_416
    assert frozen(model) == 24


@pytest.mark.parametrize(
    ("name", "blocks", "features", "scale"),
    [("edsr-baseline", 16, 64, 1.0), ("edsr", 32, 256, 0.1), ("edsr-mini", 4, 16, 2.0)],
)
def test_each_published_name_has_the_parameters_of_its_convolutions(
    name: str, blocks: int, features: int, scale: float
) -> None:
    model = make_encoder({"name": name, "args": {"no_upsampling": True}})
    assert isinstance(model, Edsr)
    square = features * features * 9 + features
    assert trainable(model) == 3 * features * 9 + features + (2 * blocks + 1) * square
    assert model.config.residual_scale == scale
    assert model.out_channels == features


def test_edsr_baseline_has_exactly_the_published_keys() -> None:
    layers = ["sub_mean", "add_mean", "head.0", "body.16"]
    layers += [f"body.{n}.body.{m}" for n in range(16) for m in (0, 2)]
    assert set(Edsr(EdsrConfig()).state_dict()) == {f"{n}.{kind}" for n in layers for kind in ("weight", "bias")}


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("sub_mean.weight", (3, 3, 1, 1)),
        ("head.0.weight", (64, 3, 3, 3)),
        ("body.15.body.2.weight", (64, 64, 3, 3)),
        ("body.16.bias", (64,)),
    ],
)
def test_edsr_baseline_tensors_have_the_published_shapes(key: str, shape: tuple[int, ...]) -> None:
    assert tuple(Edsr(EdsrConfig()).state_dict()[key].shape) == shape


@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_edsr_equals_the_paper_written_out_with_functions(scale: float) -> None:
    model = seeded(EdsrConfig(blocks=2, features=6, residual_scale=scale))
    weights = model.state_dict()

    def conv(x: Tensor, name: str) -> Tensor:
        return nn.functional.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1)

    image = torch.rand(2, 3, 9, 7)
    first = x = conv(image, "head.0")
    for n in range(2):
        x = x + scale * conv(conv(x, f"body.{n}.body.0").relu(), f"body.{n}.body.2")
    torch.testing.assert_close(model(image), first + conv(x, "body.2"))


def test_the_mean_shifts_are_saved_but_neither_used_nor_trained() -> None:
    model = seeded(TINY)
    image = torch.rand(1, 3, 6, 6)
    before = model(image)
    with torch.no_grad():
        for layer in (model.sub_mean, model.add_mean):
            layer.weight.fill_(7.0)
    assert model(image).equal(before)
    assert not any(p.requires_grad for p in (*model.sub_mean.parameters(), *model.add_mean.parameters()))


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (5, 11)])
def test_edsr_keeps_any_size_and_the_batch(size: tuple[int, int]) -> None:
    assert seeded(TINY)(torch.rand(2, 3, *size)).shape == (2, 6, *size)


def test_edsr_baseline_sees_34_pixels_to_every_side() -> None:
    assert Edsr(EdsrConfig()).receptive_field == 34


@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize("direction", [(1, 0), (-1, 0), (0, 1), (0, -1), (1, -1)])
def test_the_receptive_field_is_exact(blocks: int, direction: tuple[int, int]) -> None:
    model = monotone(EdsrConfig(blocks=blocks, features=3))
    reach, centre = model.receptive_field, 10
    image = torch.rand(1, 3, 21, 21)
    before = model(image)[..., centre, centre]
    for distance, is_seen in ((reach, True), (reach + 1, False)):
        moved = image.clone()
        moved[..., centre + distance * direction[0], centre + distance * direction[1]] += 1
        assert model(moved)[..., centre, centre].equal(before) != is_seen


@pytest.mark.parametrize("wrong", [{"blocks": 0}, {"features": -1}, {"colours": 0}])
def test_an_edsr_size_below_one_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(CheckpointError, match=rf"EDSR {next(iter(wrong))} is .*: expected at least 1"):
        EdsrConfig(**wrong)


def test_more_than_three_colours_are_refused() -> None:
    with pytest.raises(CheckpointError, match="EDSR colours is 4: expected 1 to 3"):
        EdsrConfig(colours=4)
