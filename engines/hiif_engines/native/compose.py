"""Composes pairs of levels, so that the rows between them are never built.

Between two levels only the second level's LayerNorm and its first product W read x = g·S + s. The product is g·(S·W) +
s·W, one matrix. The LayerNorm's scale needs Σx and Σx². Σx is a product with one vector. For Σx², S without its part
along (1, …, 1) is L·Q with L lower triangular and Q orthogonal, so that Σ (x − mean)² = Σ (g·L + c)² exactly: no square
of a difference, and half a matrix to multiply with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hiif_engines.native.layer import triangle_macs
from hiif_engines.native.stage import LayerWeights, Product, Rest
from hiif_engines.native.target import Target


def composed(layers: Sequence[LayerWeights], target: Target) -> tuple[LayerWeights, ...]:
    """Return equivalent layers with every pair of levels composed, where that saves work; computed in float64."""
    found: list[LayerWeights] = []
    for layer in layers:
        before = found[-1] if found else None
        if before is not None and before.second is not None and _is_joinable(target, before.second, before, layer):
            found[-1] = replace(before, second=None)
            layer = _joined(before.second, layer)
        found.append(layer)
    return tuple(found)


def _is_joinable(target: Target, second: Product, before: LayerWeights, layer: LayerWeights) -> bool:
    """Return whether two levels can be composed with fewer multiplications than before."""
    if not isinstance(before.first, Product) or not isinstance(layer.first, Product):
        return False
    (inputs, width), hidden = second.weight.shape, layer.first.weight.shape[1]
    return bool(inputs >= width and inputs * hidden + triangle_macs(target, inputs, width) < (inputs + hidden) * width)


def _joined(before: Product, layer: LayerWeights) -> LayerWeights:
    first = layer.first
    assert isinstance(first, Product)
    assert first.table is not None
    weight, bias = before.weight.astype(np.float64), before.bias.astype(np.float64)
    then = first.weight.astype(np.float64)
    product = Product((weight @ then).astype(np.float32), first.bias, (first.table + bias @ then).astype(np.float32))
    return replace(layer, first=product, rest=_rest(weight, bias))


def _rest(weight: NDArray[np.float64], bias: NDArray[np.float64]) -> Rest:
    """Return the matrices whose products are Σx and Σ (x − mean)²."""
    centred = weight - weight.mean(axis=1, keepdims=True)
    orthogonal, upper = np.linalg.qr(centred.T)
    triangle = Product(upper.T.astype(np.float32), ((bias - bias.mean()) @ orthogonal).astype(np.float32))
    mean = np.append(weight.sum(axis=1), bias.sum()).astype(np.float32)
    return Rest(triangle, mean)
