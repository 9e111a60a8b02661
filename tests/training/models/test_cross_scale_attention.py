"""CiaoSR's non-local branch: equality with loops over pixels and patches, odd sides, zero patches."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hiif_training.models.cross_scale_attention import CrossScaleAttention, pad_even


def branch(channels: int = 4) -> CrossScaleAttention:
    """Random weights large enough for every part to matter."""
    torch.manual_seed(0)
    module = CrossScaleAttention(channels).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module.requires_grad_(False)


def project(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    """[C, h, w] through a 1×1 convolution and a PReLU, pixel by pixel."""
    weight, bias, slope = (state[f"{name}.{part}"] for part in ("0.weight", "0.bias", "1.weight"))
    y = torch.einsum("oi,ihw->ohw", weight[:, :, 0, 0], x) + bias[:, None, None]
    return torch.where(y > 0, y, slope * y)


def patch(x: Tensor, top: int, left: int, size: int) -> Tensor:
    """[C, size, size] of a picture with zeros around it."""
    found = torch.zeros(x.shape[0], size, size)
    for row in range(size):
        for column in range(size):
            if 0 <= top + row < x.shape[1] and 0 <= left + column < x.shape[2]:
                found[:, row, column] = x[:, top + row, left + column]
    return found


def slow_branch(x: Tensor, state: dict[str, Tensor]) -> Tensor:
    """One picture [C, h, w] of even sides, pixel after pixel, patch after patch."""
    channels, height, width = x.shape
    match, assembly = project(x, state, "conv_match_1"), project(x, state, "conv_assembly")
    half = torch.stack([
        torch.stack([x[:, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2].mean((1, 2)) for c in range(width // 2)], dim=1)
        for r in range(height // 2)
    ], dim=1)  # fmt: skip
    known = project(half, state, "conv_match_2")
    places = [(r, c) for r in range(height // 2) for c in range(width // 2)]
    large = torch.zeros(channels, 2 * height, 2 * width)
    for row in range(height):
        for column in range(width):
            asked = patch(match, row - 1, column - 1, 3)
            scores = []
            for r, c in places:
                reference = patch(known, r - 1, c - 1, 3)
                scores.append(10 * (asked * reference).sum() / max(float(reference.norm()), 1e-4))
            for weight, (r, c) in zip(torch.stack(scores).softmax(0), places, strict=True):
                answer = patch(assembly, 2 * r - 2, 2 * c - 2, 6)
                for dy in range(6):
                    for dx in range(6):
                        y, z = 2 * row - 2 + dy, 2 * column - 2 + dx
                        if 0 <= y < 2 * height and 0 <= z < 2 * width:
                            large[:, y, z] += weight * answer[:, dy, dx]
    result = torch.zeros(channels, height, width)
    for row in range(height):
        for column in range(width):
            seen = patch(large, 2 * row - 1, 2 * column - 1, 3)
            result[:, row, column] = torch.einsum("oiyx,iyx->o", state["down.weight"], seen) + state["down.bias"]
    return result / 6


@pytest.mark.parametrize("size", [(2, 2), (4, 6), (6, 2)])
def test_the_branch_equals_loops_over_pixels_and_patches(size: tuple[int, int]) -> None:
    module, x = branch(), torch.randn(1, 4, *size, generator=torch.Generator().manual_seed(1))
    expected = slow_branch(x[0], module.state_dict())
    torch.testing.assert_close(module(x)[0], expected, atol=1e-5, rtol=1e-5)


def test_odd_sides_are_mirrored_and_cut_again() -> None:
    module, x = branch(), torch.randn(1, 4, 5, 3, generator=torch.Generator().manual_seed(1))
    even = torch.cat([x, x[:, :, 3:4]], dim=2)
    even = torch.cat([even, even[:, :, :, 1:2]], dim=3)
    assert pad_even(x).equal(even)
    torch.testing.assert_close(module(x)[0], slow_branch(even[0], module.state_dict())[:, :5, :3], atol=1e-5, rtol=1e-5)


def test_a_side_of_one_pixel_is_repeated() -> None:
    x = torch.randn(1, 4, 1, 3)
    assert pad_even(x)[:, :, 1, :3].equal(x[:, :, 0])


def test_a_patch_of_nothing_but_zeros_is_like_no_pixel_at_all() -> None:
    module = branch()
    with torch.no_grad():
        for name in ("conv_match_2.0.bias", "conv_match_2.0.weight"):
            module.state_dict()[name].zero_()
    likeness = module.likeness(torch.randn(1, 4, 4, 4))
    torch.testing.assert_close(likeness, torch.full_like(likeness, 1 / 4))


def test_likeness_is_a_softmax_over_the_patches() -> None:
    likeness = branch().likeness(torch.randn(2, 4, 6, 4))
    assert likeness.shape == (2, 6, 24)
    torch.testing.assert_close(likeness.sum(1), torch.ones(2, 24))


def test_the_keys_and_shapes_are_the_published_ones() -> None:
    shapes = {key: tuple(value.shape) for key, value in CrossScaleAttention(64).state_dict().items()}
    matched = {f"conv_match_{n}.{k}": s for n in (1, 2) for k, s in (("0.weight", (32, 64, 1, 1)), ("0.bias", (32,)))}
    slopes = {f"{name}.1.weight": (1,) for name in ("conv_match_1", "conv_match_2", "conv_assembly")}
    assembly = {"conv_assembly.0.weight": (64, 64, 1, 1), "conv_assembly.0.bias": (64,)}
    down = {"down.weight": (64, 64, 3, 3), "down.bias": (64,), "escape_NaN": (1,)}
    assert shapes == {**matched, **slopes, **assembly, **down}


def test_every_pixel_depends_on_the_whole_picture() -> None:
    module, x = branch(), torch.randn(1, 4, 12, 12, generator=torch.Generator().manual_seed(1))
    changed = x.clone()
    changed[:, :, -1, -1] += 1
    difference = (module(changed) - module(x)).abs().amax(1)
    assert difference.min() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_type_of_the_features_is_kept(dtype: torch.dtype) -> None:
    assert branch().to(dtype)(torch.randn(1, 4, 4, 4, dtype=dtype)).dtype == dtype
    assert math.isclose(float(branch().get_buffer("escape_NaN")), 1e-4, rel_tol=1e-6)
