"""How far arithmetics may lie apart: worked out from the arithmetic, never read off a machine.

Rounding. An operand in a float type of unit roundoff u is off by at most u of itself, uniformly: u/√3 rms. In 8 bits a
row is cut into 255 steps from its lowest to its highest value, and off by at most half a step, uniformly: step/√12 rms.
A product of rounded rows and rounded weights has both errors, √2 of one; sums over many terms keep the ratio of error
and value. n products one behind the other, errors independent: √(2n) of one. Norms and GELU change ratios little.

Order. A sum of k terms of float32 taken in another order differs by at most about u·√k of itself (a random walk), u
being float32's. In a reduced type a relative difference e carries a value over a rounding edge with the probability
e/2u, u being that type's, and then changes it by a step of 2u: every product adds a mean square of 2eu, the next one
begins with what came of it, and so it grows until the two answers are as far apart as two independent roundings.

Each is multiplied by `SAFETY`, for errors that are not independent and layers that amplify. What is said of a decoder's
answer refers to the part of the picture that the network adds, `detail`: the rest is interpolated in float32.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import onnx
from numpy.typing import NDArray

from hiif_deploy.bundle.loader import Bundle

UNIT = {"fp32": 2.0**-24, "fp16": 2.0**-11, "bf16": 2.0**-8}
"""Unit roundoff: half the distance from 1 to the next number."""
STEPS = 255.0
"""Of a row in 8 bits."""
ROW_RANGE = 8.0
"""From the lowest to the highest value of a row, in standard deviations: 2√(2 ln n), 6.7 for 256 normal values."""
SAFETY = 2.0
"""Factor on every estimate."""
PRODUCTS = ("MatMul", "Gemm", "Conv")


def operand_error(precision: str) -> float:
    """Root mean square of an operand's rounding error, as a share of its own."""
    return ROW_RANGE / STEPS / math.sqrt(12) if precision == "int8" else UNIT[precision] / math.sqrt(3)


def rounding_error(precision: str, products: int, terms: int = 1) -> float:
    """Of an answer after so many products, as a share of its rms; in fp32 the sums of `terms` terms round too."""
    sums = math.sqrt(terms) if precision == "fp32" else 1.0
    return SAFETY * operand_error(precision) * math.sqrt(2 * products) * sums


def order_error(precision: str, products: int, terms: int) -> float:
    """Between two answers whose float32 sums of `terms` terms were taken in different orders, likewise."""
    error = UNIT["fp32"] * math.sqrt(terms)
    if precision == "fp32":
        return SAFETY * error * math.sqrt(products)
    unit = ROW_RANGE / STEPS / 2 if precision == "int8" else UNIT[precision]
    for _ in range(products):
        error = math.sqrt(error**2 + 2 * error * unit)
    return min(SAFETY * error, math.sqrt(2) * rounding_error(precision, products))


def decibels(error: float, detail: float) -> float:
    """PSNR, white being 1, of an error that is a share of `detail`."""
    return -20 * math.log10(error * detail)


def detail(colours: NDArray[Any], picture: NDArray[Any]) -> float:
    """Rms of what a network adds to [h, w, 3] uint8 interpolated to the size of its answer [H, W, 3]."""
    size = (colours.shape[1], colours.shape[0])
    skip = cv2.resize(picture.astype(np.float32) / 255, size, interpolation=cv2.INTER_LINEAR)
    return float(np.sqrt(np.mean((colours - skip) ** 2)))


def products(bundle: Bundle) -> int:
    """Products one behind the other in the encoder, the maps and the decoder of a bundle."""
    return sum(
        node.op_type in PRODUCTS
        for name in ("encoder", "maps", "decoder")
        if name in bundle.graphs
        for node in onnx.load_from_string(bundle.graphs[name]).graph.node
    )
