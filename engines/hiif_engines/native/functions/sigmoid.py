"""σ(x) = 1 / (1 + 2ᵗ) in vectors, t = −x · log₂ e.

2ᵗ = 2ⁿ · 2ᶠ: n is t rounded, and 2ᶠ a polynomial whose relative error is below 8 · 10⁻⁸ for |f| ≤ ½.
"""

from __future__ import annotations

import math

from hiif_engines.native.emit import Emitter, Value
from hiif_engines.native.functions.gelu import polynomial

POWER = (1.3276472e-03, 9.6755413e-03, 5.5507133e-02, 2.4022120e-01, 6.9314697e-01, 1.0)
"""Coefficients of 2ᶠ by falling powers; the last one is rounded from 1.00000007."""
LIMIT = 87.0
"""Largest |x| that is computed: beyond it 2ⁿ would leave the range of float32."""
ROUNDER = 1.5 * 2.0**23
"""Numbers of this size have no fraction: what is added to it is rounded, and lies in the lowest bits."""
MANTISSA = 23
"""Bits below a float32's exponent."""


def sigmoid(e: Emitter, x: Value) -> Value:
    """Emit σ of a vector, lane by lane; a number between 0 and 1 of infinite values, and of NaN too."""
    b, x = e.builder, e.between(x, -LIMIT, LIMIT)
    rounded = e.fma(x, e.reals(-math.log2(math.e)), e.reals(ROUNDER))
    fraction = e.fma(x, e.reals(-math.log2(math.e)), b.fsub(e.reals(ROUNDER), rounded))
    exponent = b.shl(b.bitcast(rounded, e.words), e.integers(MANTISSA))
    power = b.add(b.bitcast(polynomial(e, fraction, POWER), e.words), exponent)
    return b.fdiv(e.reals(1.0), b.fadd(b.bitcast(power, e.floats), e.reals(1.0)))
