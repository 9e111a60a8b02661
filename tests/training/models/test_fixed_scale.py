"""Fixed-scale networks: sizes of the up-sampler, the one scale they take, what their specs may say."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hiif_deploy.errors import CheckpointError, ScaleError
from hiif_training.models.fixed_scale import FixedScaleModel, spec_scale
from hiif_training.models.registry import make_model

EDSR = {"name": "edsr-mini", "args": {"n_resblocks": 1, "n_feats": 4}}


def spec(**args: Any) -> dict[str, Any]:
    return {"name": "pixelshuffle", "args": {"encoder_spec": EDSR, **args}}


@pytest.mark.parametrize(("scale", "factors"), [(2, [2]), (3, [3]), (4, [2, 2]), (8, [2, 2, 2])])
def test_a_scale_is_a_sequence_of_pixel_shuffles(scale: int, factors: list[int]) -> None:
    model = make_model(spec(scale=scale))
    assert isinstance(model, FixedScaleModel)
    found = [layer.upscale_factor for layer in model.upsampler if isinstance(layer, torch.nn.PixelShuffle)]
    assert found == factors
    assert model.upsampler(torch.zeros(2, 4, 5, 3)).shape == (2, 3, 5 * scale, 3 * scale)


def test_the_up_sampler_of_rdn_has_the_width_and_kernel_of_its_blocks() -> None:
    encoder = {"name": "rdn", "args": {"G0": 6, "RDNkSize": 5, "D": 1, "C": 1, "G": 4}}
    shapes = {k: tuple(v.shape) for k, v in make_model(spec(encoder_spec=encoder)).state_dict().items()}
    assert (shapes["upsampler.0.weight"], shapes["upsampler.2.weight"]) == ((16, 6, 5, 5), (3, 4, 5, 5))


def test_queries_choose_pixels_of_the_whole_output() -> None:
    torch.manual_seed(0)
    model = make_model(spec(scale=3)).eval()
    image = torch.rand(2, 3, 4, 5)
    everything = model.make_queries((4, 5), (12, 15))
    some = torch.tensor([7, 0, 179, 33])
    chosen = model.make_queries((4, 5), (12, 15), some.numpy())
    both = type(everything).concatenate([everything, everything])
    whole = model(image, both)
    torch.testing.assert_close(whole, model.upsampler(model.encoder(image)).flatten(2).transpose(1, 2))
    torch.testing.assert_close(model(image[:1], chosen), whole[:1, some])


@pytest.mark.parametrize("target", [(12, 10), (8, 11), (9, 10), (4, 5)])
def test_another_scale_is_refused(target: tuple[int, int]) -> None:
    with pytest.raises(ScaleError, match=rf"5x4 → {target[1]}x{target[0]}: this network upscales ×2 only"):
        make_model(spec()).make_queries((4, 5), target)


def test_values_inside_the_network_follow_from_the_spec() -> None:
    traits = make_model(spec(rgb_range=1)).traits
    assert (traits.mean, traits.std, traits.skip) == ((0.4488, 0.4371, 0.4040), (1, 1, 1), "none")
    traits = make_model(spec(shift_mean=False)).traits
    assert (traits.mean, traits.std) == ((0, 0, 0), (1 / 255, 1 / 255, 1 / 255))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"scale": 5}, "pixelshuffle scale is 5: expected one of 2, 3, 4, 8"),
        ({"scale": 2.5}, "pixelshuffle: scale is 2.5: expected int"),
        ({"rgb_range": 0}, "pixelshuffle rgb_range is 0.0: expected more than 0"),
        ({"shift_mean": 1}, "shift_mean is 1: expected bool"),
        ({"upsampler": "nearest+conv"}, "unknown argument of pixelshuffle 'upsampler'"),
    ],
)
def test_what_is_wrong_with_a_spec_is_named(args: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        make_model(spec(**args))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("described", "scale"),
    [(spec(scale=3), 3), (spec(), 2), ({"name": "pixelshuffle"}, 2), ({"name": "hiif", "args": {}}, None), ("x", None)],
)
def test_a_spec_tells_its_scale(described: Any, scale: int | None) -> None:
    assert spec_scale(described) == scale
