"""Sine and cosine as machine code against their definition."""

from __future__ import annotations

import numpy as np
import pytest
from llvmlite import ir

from emulated_code import compiled
from hiif_engines.native.emit import POINTER, WORD, Emitter
from hiif_engines.native.functions.sincos import sine_and_cosine
from hiif_engines.native.target import Target

pytestmark = pytest.mark.processor


def compiled_waves(target: Target, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """sin x and cos x, [n] float32."""
    module = ir.Module("test")
    e = Emitter(target, module, "run", [POINTER])
    values = e.load(POINTER, e.arguments[0])
    with e.loop(x.size, e.lanes) as turn:
        place = e.times(turn.index, WORD)
        for n, value in enumerate(sine_and_cosine(e, e.load(e.floats, values, place))):
            e.store(value, values, place, n * x.size * WORD)
    e.finish()
    code, found = compiled(module, target), np.tile(x.astype(np.float32), 2)
    code.function("run")([found])
    return found[: x.size], found[x.size :]


@pytest.mark.parametrize("limit", [1.0, 20.0, 1e5])
def test_values_err_by_little_more_than_their_rounding(target: Target, limit: float) -> None:
    x = np.concatenate([np.linspace(-limit, limit, 1 << 16), np.arange(-64, 64) * np.pi / 4]).astype(np.float32)
    exact = x.astype(np.float64)
    for found, wanted in zip(compiled_waves(target, x), (np.sin(exact), np.cos(exact)), strict=True):
        # Half a unit of the last digit of 1 is 6e-8.
        assert np.abs(found - wanted).max() < 1e-7


def test_infinity_and_nan_stay_visible(target: Target) -> None:
    x = np.array([np.nan, np.inf, -np.inf, np.nan] * 4, np.float32)
    for found in compiled_waves(target, x):
        assert np.isnan(found).all()
