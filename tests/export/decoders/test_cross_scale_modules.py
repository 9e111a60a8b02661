"""CiaoSR's non-local branch restructured: equal to the plain one in float64, for every parity of sizes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hiif_export.decoders.cross_scale_modules import PARTS, CrossScale, attend
from hiif_training.models.cross_scale_attention import CrossScaleAttention

torch.set_num_threads(1)


def branch() -> CrossScaleAttention:
    """Random weights, biases that matter, and a likeness that neither picks one patch nor averages all."""
    torch.manual_seed(3)
    plain = CrossScaleAttention(6).double().eval()
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return plain.requires_grad_(False)


def features(height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(8)
    return torch.randn(1, 6, height, width, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (2, 2), (5, 1), (7, 4), (8, 9), (10, 12)])
def test_the_branch_equals_the_plain_one(size: tuple[int, int]) -> None:
    plain = branch()
    expected = plain(features(*size))
    assert expected.std() > 0.05
    torch.testing.assert_close(CrossScale(plain).double()(features(*size)), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("count", [1, PARTS - 1, PARTS, 3 * PARTS + 5])
def test_attention_in_parts_is_attention(count: int) -> None:
    generator = torch.Generator().manual_seed(0)
    asked, known, answers = (
        torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((count, 5), (5, 7), (7, 4))
    )
    expected = (asked @ known).softmax(1) @ answers
    torch.testing.assert_close(attend(asked, known, answers), expected, rtol=0, atol=1e-12)
