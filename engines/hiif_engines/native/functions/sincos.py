"""sin x and cos x in vectors.

x is reduced to r within ±π/4 by a multiple of π/2 in two parts, and both are polynomials of r, from Cephes' `sinf`.
Their errors are below 10⁻⁷ for |x| < 10⁵, where a rounded result's are up to 6 · 10⁻⁸; beyond 10⁶ they have no meaning.
"""

from __future__ import annotations

import math

from hiif_engines.native.emit import Emitter, Value
from hiif_engines.native.functions.gelu import polynomial
from hiif_engines.native.functions.sigmoid import ROUNDER

SINE = (-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)
"""Coefficients of (sin r − r) / r³ by falling powers of r²."""
COSINE = (2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2)
"""Coefficients of (cos r − 1 + r² / 2) / r⁴."""
QUARTER = 1.57079637050628662109375
"""π/2, rounded to float32."""
REST = math.pi / 2 - QUARTER
SIGN = 30
"""Bits from the second lowest one to the sign."""


def sine_and_cosine(e: Emitter, x: Value) -> tuple[Value, Value]:
    """Emit sin and cos of a vector, lane by lane; NaN of infinite values and of NaN."""
    b = e.builder
    turned = e.fma(x, e.reals(2 / math.pi), e.reals(ROUNDER))
    turns, quarter = b.fsub(e.reals(ROUNDER), turned), b.bitcast(turned, e.words)
    r = e.fma(turns, e.reals(REST), e.fma(turns, e.reals(QUARTER), x))
    z = b.fmul(r, r)
    sine = e.fma(b.fmul(polynomial(e, z, SINE), z), r, r)
    cosine = e.fma(b.fmul(polynomial(e, z, COSINE), z), z, e.fma(z, e.reals(-0.5), e.reals(1.0)))
    is_turned = b.icmp_unsigned("!=", b.and_(quarter, e.integers(1)), e.integers(0))
    following = b.add(quarter, e.integers(1))
    return (
        _signed(e, b.select(is_turned, cosine, sine), quarter),
        _signed(e, b.select(is_turned, sine, cosine), following),
    )


def _signed(e: Emitter, value: Value, quarter: Value) -> Value:
    """Emit −value in the third and fourth quarter of a turn."""
    b = e.builder
    sign = b.shl(b.and_(quarter, e.integers(2)), e.integers(SIGN))
    return b.bitcast(b.xor(b.bitcast(value, e.words), sign), e.floats)
