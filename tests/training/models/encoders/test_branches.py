"""Branches of convolutions: what they compute, that they start as nothing, and what a file may hold of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hiif_deploy.errors import CheckpointError
from hiif_training.models.encoders.branches import MAX_WIDTH, add_branches, merge_branches
from hiif_training.models.encoders.edsr import Edsr, EdsrConfig

conv = nn.functional.conv2d


def encoder(seed: int = 3) -> Edsr:
    torch.manual_seed(seed)
    return Edsr(EdsrConfig(blocks=1, features=4))


def with_branches(seed: int = 3) -> Edsr:
    """An encoder whose branches have been trained, so that none of them is zero."""
    own = encoder(seed)
    add_branches(own, 2)
    with torch.no_grad():
        for value in own.parameters():
            value += 0.1 * torch.randn_like(value)
    return own


def branch(state: dict[str, Tensor], name: str) -> Tensor:
    return state[f"body.1.parametrizations.weight.{name}"]


def test_branches_are_zero_at_first() -> None:
    own, x = encoder(), torch.randn(1, 3, 9, 8)
    before = own(x)
    add_branches(own, 2)
    assert own(x).equal(before)


def test_a_convolution_with_branches_equals_the_sum_of_its_branches() -> None:
    # Without bias, borders padded with zeros pass through 1×1 convolutions as zeros.
    own, x = with_branches().double(), torch.randn(1, 4, 9, 8).double()
    state = own.state_dict()
    chain = conv(conv(x, branch(state, "0.widen")[:, :, None, None]), branch(state, "0.spread"), padding=1)
    wanted = conv(x, branch(state, "original"), state["body.1.bias"], padding=1)
    wanted += conv(chain, branch(state, "0.reduce")[:, :, None, None])
    wanted += conv(x, branch(state, "0.point")[:, :, None, None])
    torch.testing.assert_close(own.body[1](x), wanted)


def test_merged_branches_give_a_plain_encoder_of_the_same_output() -> None:
    own, plain, x = with_branches(), encoder(), torch.randn(1, 3, 9, 8)
    plain.load_state_dict(merge_branches(own.state_dict()))
    assert plain(x).equal(own(x))


def test_every_branch_learns() -> None:
    own = with_branches()
    own(torch.randn(1, 3, 9, 8)).square().mean().backward()
    assert all(value.grad is not None and bool(value.grad.any()) for value in own.parameters() if value.requires_grad)


@pytest.mark.parametrize("change", ["missing", "shape", "width", "repeated", "sparse", "meta", "whole numbers"])
def test_branches_that_do_not_fit_are_refused(change: str) -> None:
    state = with_branches().state_dict()
    prefix, middle = "body.1.parametrizations.weight.0.", 4 * MAX_WIDTH + 1
    if change == "missing":
        del state[prefix + "widen"]
    elif change == "shape":
        state[prefix + "reduce"] = torch.zeros(4, 9)
    elif change == "repeated":  # a file of a few bytes, and a product of any size
        state[prefix + "reduce"] = torch.zeros(1).expand(4, 8)
    elif change == "sparse":
        state[prefix + "reduce"] = torch.zeros(4, 8).to_sparse()
    elif change == "meta":
        state[prefix + "reduce"] = torch.zeros(4, 8, device="meta")
    elif change == "whole numbers":
        state[prefix + "reduce"] = torch.zeros(4, 8, dtype=torch.int64)
    else:
        state[prefix + "widen"] = torch.zeros(middle, 4)
        state[prefix + "spread"] = torch.zeros(middle, middle, 3, 3)
        state[prefix + "reduce"] = torch.zeros(4, middle)
    with pytest.raises(CheckpointError, match=r"body\.1: its kernel and branches have shapes"):
        merge_branches(state)


def test_branches_in_half_precision_are_merged_in_float32() -> None:
    state = {name: value.half() for name, value in with_branches().state_dict().items()}
    assert merge_branches(state)["body.1.weight"].dtype == torch.float32
