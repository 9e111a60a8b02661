"""The SPAN encoder: sizes, keys, structure."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hiif_deploy.errors import CheckpointError
from hiif_training.models.encoders.span import Span, SpanConfig
from hiif_training.models.registry import make_encoder


def test_span_has_the_parameters_of_the_published_network_without_its_upsampler() -> None:
    # SPAN-S has 426 thousand in all with an upsampler for ×4 (paper, table 2); its last convolution has 48·48·9 + 48.
    assert sum(p.numel() for p in Span(SpanConfig()).parameters()) == 405_504


def test_span_has_exactly_the_published_keys() -> None:
    layers = ["conv_1", "conv_2", "conv_cat", *(f"block_{n}.c{k}_r" for n in range(1, 7) for k in (1, 2, 3))]
    assert set(Span(SpanConfig()).state_dict()) == {f"{n}.{kind}" for n in layers for kind in ("weight", "bias")}


def test_span_equals_the_paper_written_out_with_functions() -> None:
    torch.manual_seed(0)
    model = Span(SpanConfig(blocks=2, features=8)).eval()
    state, image = model.state_dict(), torch.randn(2, 3, 9, 7)

    def conv(name: str, x: torch.Tensor, padding: int = 1) -> torch.Tensor:
        return nn.functional.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=padding)

    def block(name: str, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h1 = conv(f"{name}.c1_r", x)
        a1 = h1 * torch.sigmoid(h1)
        h2 = conv(f"{name}.c2_r", a1)
        h3 = conv(f"{name}.c3_r", h2 * torch.sigmoid(h2))
        return (x + h3) * (torch.sigmoid(h3) - 0.5), a1

    shallow = conv("conv_1", image)
    first, _ = block("block_1", shallow)
    last, inside = block("block_2", first)
    joined = torch.cat([shallow, conv("conv_2", last), first, inside], 1)
    with torch.no_grad():
        torch.testing.assert_close(model(image), conv("conv_cat", joined, padding=0))


def test_a_pixel_reaches_as_far_as_the_receptive_field_says() -> None:
    torch.manual_seed(1)
    model = Span(SpanConfig(blocks=2, features=4)).double().eval()
    image = torch.randn(1, 3, 41, 41, dtype=torch.float64, requires_grad=True)
    model(image)[0, :, 20, 20].sum().backward()
    assert image.grad is not None
    rows = image.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    assert (int(rows.min()), int(rows.max())) == (20 - model.receptive_field, 20 + model.receptive_field)


def test_the_registry_builds_span_from_the_published_arguments() -> None:
    encoder = make_encoder({"name": "span", "args": {"feature_channels": 32, "no_upsampling": True}})
    assert isinstance(encoder, Span)
    assert encoder.config == SpanConfig(features=32)


@pytest.mark.parametrize("args", [{"feature_channels": 0}, {"num_blocks": 1}, {"upscale": 2}])
def test_arguments_that_mean_nothing_are_refused(args: dict[str, int]) -> None:
    with pytest.raises(CheckpointError, match=r"SPAN|span"):
        make_encoder({"name": "span", "args": args})
