"""The convolution kernel against a plain convolution in float64, with an error bound from its own matrices."""

from __future__ import annotations

import numpy as np
import pytest
from llvmlite import ir
from numpy.typing import NDArray

from hiif_engines.native.compile import Compiled
from hiif_engines.native.encoder import NativeStep, PlaneLayer, plane_of
from hiif_engines.native.winograd import IN, OUT, WEIGHTS_TRANSFORM, Convolution, emit_convolution

Array = NDArray[np.float64]
ROUNDING = 2.0**-24
"""Largest relative error of a float32 operation."""
INPUTS_TRANSFORM = np.array(
    [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0], [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0],
     [0, 4, 0, -5, 0, 1]], np.float64,
)  # fmt: skip
"""Bᵀ."""
OUTPUTS_TRANSFORM = np.array(
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]], np.float64
)
"""Aᵀ."""


def plain(x: Array, weights: Array) -> Array:
    """[C, h, w] and [O, C, 3, 3] → [O, h, w], by the definition."""
    wide = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    height, width = x.shape[1:]
    parts = [
        [np.tensordot(weights[:, :, i, j], wide[:, i : i + height, j : j + width], 1) for j in range(3)]
        for i in range(3)
    ]
    return np.sum(parts, axis=(0, 1))


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


def run(x: Array, weights: Array, bias: Array, *, relu: bool, added: Array | None, threads: int = 1) -> Array:
    layer = PlaneLayer(
        "x", "y", weights.astype(np.float32), bias.astype(np.float32), relu, "z" if added is not None else ""
    )
    module = ir.Module()
    emit_convolution(module, "convolution", layer.kind)
    size = (x.shape[1], x.shape[2])
    planes = {"x": plane_of(x.astype(np.float32)), "y": plane_of(np.zeros((len(weights), *size), np.float32))}
    if added is not None:
        planes["z"] = plane_of(added.astype(np.float32))
    NativeStep(layer, Compiled(module).function("convolution")).run(planes, size, threads, map)
    inside = planes["y"][1 : size[0] + 1, 1 : size[1] + 1]
    assert np.count_nonzero(planes["y"]) == np.count_nonzero(inside), "the padding of the next layer is 0"
    return inside[:, :, : len(weights)].transpose(2, 0, 1).astype(np.float64)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (4, 4), (9, 53), (17, 100)])
@pytest.mark.parametrize(("inputs", "outputs"), [(3, 16), (24, 40), (64, 64)])
def test_outputs_are_those_of_a_plain_convolution(size: tuple[int, int], inputs: int, outputs: int) -> None:
    random = np.random.default_rng(inputs * size[1])
    x, weights = random.standard_normal((inputs, *size)), random.standard_normal((outputs, inputs, 3, 3))
    x, weights = x.astype(np.float32).astype(np.float64), weights.astype(np.float32).astype(np.float64)
    found = run(x, weights, np.zeros(outputs), relu=False, added=None)
    assert np.all(np.abs(found - plain(x, weights)) <= bound(x, weights))


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("is_added", [False, True])
def test_bias_relu_and_the_added_plane_follow_in_this_order(relu: bool, is_added: bool) -> None:
    # Whole numbers: the outputs are exact in every order of operations but for the weights' sixths.
    x, weights = np.ones((16, 8, 8)), np.zeros((16, 16, 3, 3))
    weights[np.arange(16), np.arange(16), 1, 1] = np.arange(-8, 8)
    added = np.full((16, 8, 8), 100.0) if is_added else None
    wanted = np.arange(-8, 8) + 0.5
    wanted = (np.maximum(wanted, 0) if relu else wanted) + (100 if is_added else 0)
    found = run(x, weights, np.full(16, 0.5), relu=relu, added=added)
    np.testing.assert_allclose(found, np.broadcast_to(wanted[:, None, None], found.shape), atol=1e-4)


def test_the_split_into_parts_changes_no_bit() -> None:
    random = np.random.default_rng(3)
    x, weights = random.standard_normal((16, 30, 21)), random.standard_normal((32, 16, 3, 3))
    one, many = (run(x, weights, np.ones(32), relu=True, added=None, threads=threads) for threads in (1, 5))
    np.testing.assert_array_equal(one, many)


def test_a_kernel_states_its_multiplications() -> None:
    assert Convolution(64, 64, has_relu=False, is_added=False).macs == 36 * 64 * 64 // 16
