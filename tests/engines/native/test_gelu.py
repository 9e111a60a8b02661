"""GELU as machine code against its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
from llvmlite import ir

from emulated_code import compiled
from hiif_engines.native.emit import POINTER, WORD, Emitter
from hiif_engines.native.functions.gelu import COARSE, EXACT, ROUGH, Normal, gelu
from hiif_engines.native.target import Target

pytestmark = pytest.mark.processor


def compiled_gelu(target: Target, x: np.ndarray, normal: Normal) -> np.ndarray:
    module = ir.Module("test")
    e = Emitter(target, module, "run", [POINTER])
    values = e.load(POINTER, e.arguments[0])
    with e.loop(x.size, e.lanes) as turn:
        place = e.times(turn.index, WORD)
        e.store(gelu(e, e.load(e.floats, values, place), normal), values, place)
    e.finish()
    code, answer = compiled(module, target), x.astype(np.float32)
    code.function("run")([answer])
    return answer


@pytest.mark.parametrize(("normal", "allowed"), [(EXACT, 1e-6), (COARSE, 2e-4), (ROUGH, 1.2e-3)])
def test_gelu_is_as_close_as_it_says(target: Target, normal: Normal, allowed: float) -> None:
    x = np.linspace(-8, 8, 1 << 16, dtype=np.float32)
    expected = [0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x.astype(np.float64)]
    assert np.abs(compiled_gelu(target, x, normal) - expected).max() < allowed


def test_gelu_of_what_is_far_out_is_zero_or_the_value_itself(target: Target) -> None:
    x = np.array([-1e30, -50, -6, 0, 6, 50, 1e30, 1] * 2, dtype=np.float32)
    answer = compiled_gelu(target, x, EXACT)
    np.testing.assert_allclose(answer[:7], [0, 0, 0, 0, 6, 50, 1e30], atol=1e24, rtol=1e-6)
    assert np.abs(answer[1:4]).max() < 1e-5
