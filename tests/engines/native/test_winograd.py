"""The convolution kernel against a plain convolution in float64, with an error bound from its own matrices."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from hiif_engines.native.target import Target
from hiif_engines.native.winograd import IN, OUT, WEIGHTS_TRANSFORM, Activation, Convolution
from plane_layers import ROUNDING, normal, plain, run

Array = NDArray[np.float64]
INPUTS_TRANSFORM = np.array(
    [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0], [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0],
     [0, 4, 0, -5, 0, 1]], np.float64,
)  # fmt: skip
"""Bᵀ."""
OUTPUTS_TRANSFORM = np.array(
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]], np.float64
)
"""Aᵀ."""


def bound(x: Array, weights: Array) -> Array:
    """Largest error [O, h, w] of minimal filtering in float32: every sum of n terms errs by at most n roundings of the
    sum of their absolute values; transforms have at most 6 terms in each direction, products C."""
    tiles = [-(-size // OUT) for size in x.shape[1:]]
    high, wide = (tile * OUT + 2 for tile in tiles)
    d = np.zeros((len(x), high, wide))
    d[:, 1 : x.shape[1] + 1, 1 : x.shape[2] + 1] = np.abs(x)
    b, g, a = np.abs(INPUTS_TRANSFORM), np.abs(WEIGHTS_TRANSFORM), np.abs(OUTPUTS_TRANSFORM)
    u = np.einsum("ay,ocyx,bx->ocab", g, np.abs(weights), g)
    found = np.zeros((len(weights), tiles[0] * OUT, tiles[1] * OUT))
    for row in range(tiles[0]):
        for column in range(tiles[1]):
            y, z = row * OUT, column * OUT
            v = np.einsum("ay,cyx,bx->cab", b, d[:, y : y + IN, z : z + IN], b)
            m = np.einsum("ocab,cab->oab", u, v)
            found[:, y : y + OUT, z : z + OUT] = np.einsum("ya,oab,xb->oyx", a, m, a)
    terms = 6 + 6 + len(x) + 6 + 6 + 3
    whole: Array = terms * ROUNDING * found[:, : x.shape[1], : x.shape[2]]
    return whole


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (4, 4), (9, 53), (17, 100)])
@pytest.mark.parametrize(("inputs", "outputs"), [(3, 16), (24, 40), (64, 64)])
def test_outputs_are_those_of_a_plain_convolution(
    target: Target, size: tuple[int, int], inputs: int, outputs: int
) -> None:
    random = np.random.default_rng(inputs * size[1])
    x, weights = normal(random, inputs, *size), normal(random, outputs, inputs, 3, 3)
    found = run(target, [(x, weights)], np.zeros(outputs))
    assert np.all(np.abs(found - plain(x, weights)) <= bound(x, weights))


@pytest.mark.parametrize("size", [(1, 1), (9, 53)])
@pytest.mark.parametrize("channels", [(16, 16), (40, 3, 24), (16, 16, 3, 48)])
@pytest.mark.parametrize("points", [0, 1])
def test_a_sum_is_that_of_3x3_and_1x1_convolutions(
    target: Target, size: tuple[int, int], channels: tuple[int, ...], points: int
) -> None:
    random = np.random.default_rng(sum(channels))
    sides = [1] * points * (len(channels) - 1)
    sides += [3] * (len(channels) - len(sides))
    parts = [(normal(random, c, *size), normal(random, 48, c, k, k)) for c, k in zip(channels, sides, strict=True)]
    x = np.concatenate([x for x, _ in parts])
    margins = [((0, 0), (0, 0), ((3 - k) // 2,) * 2, ((3 - k) // 2,) * 2) for k in sides]
    weights = np.concatenate([np.pad(w, margin) for (_, w), margin in zip(parts, margins, strict=True)], axis=1)
    assert np.all(np.abs(run(target, parts, np.zeros(48)) - plain(x, weights)) <= bound(x, weights))


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


ACTIVATIONS: dict[Activation, Callable[[Array, Array], Array]] = {
    "none": lambda c, x: c + x,
    "relu": lambda c, x: np.maximum(c, 0) + x,
    "silu": lambda c, x: c * sigmoid(c) + x,
    "gate": lambda c, x: (c + x) * (sigmoid(c) - 0.5),
}


@pytest.mark.parametrize(
    ("activation", "is_added"),
    [(name, added) for name in ACTIVATIONS for added in (False, True) if name != "gate" or added],
)
def test_bias_activation_and_the_added_plane_follow_in_this_order(
    target: Target, activation: Activation, is_added: bool
) -> None:
    # Whole numbers: the outputs are exact in every order of operations but for the weights' sixths.
    x, weights = np.ones((16, 8, 8)), np.zeros((16, 16, 3, 3))
    weights[np.arange(16), np.arange(16), 1, 1] = np.arange(-8, 8)
    added = np.full((16, 8, 8), 100.0) if is_added else None
    wanted = ACTIVATIONS[activation](np.arange(-8, 8) + 0.5, np.array(100.0 if is_added else 0.0))
    found = run(target, [(x, weights)], np.full(16, 0.5), activation, added)
    np.testing.assert_allclose(found, np.broadcast_to(wanted[:, None, None], found.shape), atol=1e-4)


def test_threads_that_share_a_call_change_no_bit(own_target: Target) -> None:
    random = np.random.default_rng(3)
    # As many multiplications as wake two other threads.
    parts = [(normal(random, 64, 60, 50), normal(random, 32, 64, 3, 3))]
    one, many = (run(own_target, parts, np.ones(32), "silu", threads=threads) for threads in (1, 3))
    np.testing.assert_array_equal(one, many)


def test_a_kernel_states_its_multiplications() -> None:
    assert Convolution((64,), 0, 64).macs == 36 * 64 * 64 // 16
    # A 1×1 convolution has as many as by its definition.
    assert Convolution((48, 64), 1, 64).macs == 36 * 64 * 64 // 16 + 48 * 64


@pytest.mark.parametrize("size", [(1, 1), (2, 13), (9, 21)])
@pytest.mark.parametrize(("channels", "outputs"), [((16,), 16), ((24, 24, 40, 3), 48), ((64, 64, 64), 64)])
def test_outputs_are_those_of_products_with_all_planes(
    target: Target, size: tuple[int, int], channels: tuple[int, ...], outputs: int
) -> None:
    random = np.random.default_rng(sum(channels) + size[1])
    parts = [(normal(random, c, *size), normal(random, outputs, c, 1, 1)) for c in channels]
    bias, added = normal(random, outputs), normal(random, outputs, *size)
    terms = [(np.tensordot(w[:, :, 0, 0], x, 1), np.tensordot(np.abs(w[:, :, 0, 0]), np.abs(x), 1)) for x, w in parts]
    wanted, most = (sum(pair) for pair in zip(*terms, strict=True))
    found = run(target, parts, bias, "none", added)
    # A sum of n terms errs by at most n roundings of the sum of their absolute values.
    most = (sum(channels) + 2) * ROUNDING * (most + np.abs(bias)[:, None, None] + np.abs(added))
    assert np.all(np.abs(found - (wanted + bias[:, None, None] + added)) <= most)


@pytest.mark.parametrize(("activation", "value"), [("none", -2.0), ("relu", 0.0), ("silu", -2 / (1 + np.exp(2.0)))])
def test_bias_and_activation_follow_a_product(target: Target, activation: Activation, value: float) -> None:
    parts = [(np.ones((16, 5, 6)), np.full((16, 16, 1, 1), -0.25))]
    found = run(target, parts, np.full(16, 2.0), activation)
    np.testing.assert_allclose(found, np.full((16, 5, 6), value), atol=1e-6)


def test_threads_that_share_a_product_change_no_bit(own_target: Target) -> None:
    random = np.random.default_rng(3)
    parts = [(normal(random, 64, 24, 43), normal(random, 256, 64, 1, 1))]
    one, many = (run(own_target, parts, np.ones(256), threads=threads) for threads in (1, 3))
    np.testing.assert_array_equal(one, many)


def test_a_product_states_its_multiplications_and_weights() -> None:
    kind = Convolution((48, 64), 2, 32)
    assert (kind.macs, kind.weights) == (112 * 32, 112 * 32)
    assert Convolution((48, 64), 1, 32).weights == 36 * 112 * 32


def test_planes_of_one_kind_are_one_run() -> None:
    assert Convolution((64, 64, 64, 16, 64), 2, 64).runs == [range(2), range(2, 3), range(3, 4), range(4, 5)]
