"""GELU(x) = x · Φ(x), in vectors.

Φ(x) − ½ = c · P(c²) / Q(c²), c being x clamped to [−L, L]. The coefficients minimise the largest error of x · Φ(x); a
test checks it.
"""

from __future__ import annotations

from dataclasses import dataclass

from hiif_engines.native.emit import Emitter, Value


@dataclass(frozen=True)
class Normal:
    """An approximation of the normal distribution's Φ."""

    limit: float
    """L: beyond it Φ is 0 or 1."""
    above: tuple[float, ...]
    """Coefficients of P, by falling powers."""
    below: tuple[float, ...] = ()
    """Coefficients of Q, by falling powers; empty where there is no division."""


EXACT = Normal(
    5.4,
    (1.1448873e-10, -2.3101460e-08, 3.5253138e-06, 1.8970617e-04, 4.6219178e-03, 3.7628222e-02, 3.9894170e-01),
    (6.9486479e-05, 1.9356502e-03, 3.0091466e-02, 2.6098025e-01, 1.0),
)
"""Errors below 10⁻⁶ in float32, as in PyTorch's own GELU."""
COARSE = Normal(
    3.9,
    (
        2.6478686e-08, -1.7804344e-06, 5.1421856e-05, -8.4617740e-04, 8.9212627e-03, -6.4884570e-02, 3.9809543e-01,
    ),
)  # fmt: skip
"""Errors below 2 · 10⁻⁴, less than bfloat16's rounding."""
ROUGH = Normal(3.4, (1.0876003e-05, -4.2462926e-04, 6.8112337e-03, -6.0232883e-02, 3.9488743e-01))
"""Errors below 1.2 · 10⁻³, a fraction of a step of 8 bits for values that reach from 0 to 2 and more."""


def gelu(e: Emitter, x: Value, normal: Normal) -> Value:
    """Emit GELU of a vector, lane by lane."""
    c = e.between(x, -normal.limit, normal.limit)
    square = e.builder.fmul(c, c)
    ratio = polynomial(e, square, normal.above)
    if normal.below:
        ratio = e.builder.fdiv(ratio, polynomial(e, square, normal.below))
    return e.builder.fmul(x, e.fma(c, ratio, e.reals(0.5)))


def polynomial(e: Emitter, x: Value, coefficients: tuple[float, ...]) -> Value:
    """Emit a polynomial of a vector, its coefficients by falling powers."""
    value = e.reals(coefficients[0])
    for coefficient in coefficients[1:]:
        value = e.fma(value, x, e.reals(coefficient))
    return value
