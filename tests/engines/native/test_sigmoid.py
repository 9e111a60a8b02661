"""The logistic function as machine code against its definition."""

from __future__ import annotations

import numpy as np
import pytest
from llvmlite import ir

from emulated_code import compiled
from hiif_engines.native.emit import POINTER, WORD, Emitter
from hiif_engines.native.functions.sigmoid import sigmoid
from hiif_engines.native.target import Target

pytestmark = pytest.mark.processor


def compiled_sigmoid(target: Target, x: np.ndarray) -> np.ndarray:
    module = ir.Module("test")
    e = Emitter(target, module, "run", [POINTER])
    values = e.load(POINTER, e.arguments[0])
    with e.loop(x.size, e.lanes) as turn:
        place = e.times(turn.index, WORD)
        e.store(sigmoid(e, e.load(e.floats, values, place)), values, place)
    e.finish()
    code, found = compiled(module, target), x.astype(np.float32)
    code.function("run")([found])
    return found


def test_values_err_by_little_more_than_their_rounding(target: Target) -> None:
    x = np.concatenate([np.linspace(-20, 20, 1 << 16), np.linspace(-1e-3, 1e-3, 1 << 10)]).astype(np.float32)
    wanted = 1 / (1 + np.exp(-x.astype(np.float64)))
    found = compiled_sigmoid(target, x)
    assert np.abs(found - wanted).max() < 2e-7
    # Of small values too, which the polynomial and the rounded constant log₂ e decide.
    assert np.abs(found / wanted - 1).max() < 2e-6


def test_far_out_nothing_overflows(target: Target) -> None:
    x = np.array([-np.inf, -3e38, -100, -87, 87, 100, 3e38, np.inf] * 2, np.float32)
    found = compiled_sigmoid(target, x)[:8]
    assert 0 <= found[:4].min() <= found[:4].max() < 2e-38
    assert np.all(found[4:] == 1)


def test_products_with_it_keep_nan_and_infinity_visible(target: Target) -> None:
    x = np.array([np.nan, np.inf] * 8, np.float32)
    assert not np.isfinite(x * compiled_sigmoid(target, x)).any()
