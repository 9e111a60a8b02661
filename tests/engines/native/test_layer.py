"""Layers as machine code against the same in float64, written out with numpy."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from math import erf, sqrt

import numpy as np
import pytest

from emulated_code import compiled
from hiif_deploy.bundle.contract import GraphContract, TensorContract
from hiif_engines.native.compile import lacking
from hiif_engines.native.compose import composed
from hiif_engines.native.crew import Crew
from hiif_engines.native.kernel import BLOCK, emit_kernels
from hiif_engines.native.layer import Norm, ScratchLayout
from hiif_engines.native.products.precision import FP32, INT8, PRECISIONS
from hiif_engines.native.session import NativeSession, ThreadMemory
from hiif_engines.native.stage import Folded, LayerWeights, Product, Stage
from hiif_engines.native.target import TARGETS, Target
from native_targets import EVEX, PAIRS, every_precision
from tolerances import rounding_error

pytestmark = pytest.mark.processor

BITS = 3
"""Levels that have bits."""


def product(random: np.random.Generator, inputs: int, outputs: int, *, table: bool = False) -> Product:
    def values(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(np.float32)

    return Product(values(inputs, outputs) / sqrt(inputs), values(outputs), values(4, outputs) if table else None)


def level(random: np.random.Generator, inputs: int, hidden: int, outputs: int) -> LayerWeights:
    first, second = product(random, inputs, hidden, table=True), product(random, hidden, outputs)
    return LayerWeights(first, second, Norm(inputs + 2, 1e-5), 1)


def session_of(target: Target, layers: Sequence[LayerWeights], precision: str) -> NativeSession:
    stage = Stage(None, tuple(layers), None)
    kernel = stage.kernel(PRECISIONS[precision], target)
    scratch = ScratchLayout(target, max(kernel.widths))
    code = compiled(emit_kernels({"test": kernel}, scratch), target)
    inputs = (TensorContract("state_0", "float32", ("queries", kernel.inputs)),)
    outputs = (TensorContract("state_1", "float32", ("queries", kernel.outputs)),)
    return NativeSession(
        GraphContract("test", "test.onnx", "0" * 64, inputs, outputs), stage, kernel, code.function("test"),
        ThreadMemory(scratch), Crew(),
    )  # fmt: skip


def feeds_of(random: np.random.Generator, rows: int, columns: int, inputs: int) -> dict[str, np.ndarray]:
    return {
        "state_0": random.standard_normal((rows * columns, inputs)).astype(np.float32),
        "row_bits": random.integers(0, 2, (BITS, rows, 1)),
        "column_bits": random.integers(0, 2, (BITS, 1, columns)),
        "attention_0_weight": random.standard_normal((inputs, inputs)).astype(np.float32) / np.float32(sqrt(inputs)),
        "attention_0_bias": random.standard_normal(inputs).astype(np.float32),
    }


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.vectorize(erf)(x / sqrt(2)))


def reference(layers: list[LayerWeights], feeds: dict[str, np.ndarray]) -> np.ndarray:
    x = feeds["state_0"].astype(np.float64)
    for layer in layers:
        second = layer.second
        assert second is not None
        if layer.first is None:
            x = x @ second.weight + second.bias
        elif isinstance(layer.first, Folded):
            hidden = gelu(x @ feeds[layer.first.weight] + feeds[layer.first.bias])
            x = x + hidden @ second.weight + second.bias
        else:
            assert layer.norm is not None
            assert layer.first.table is not None
            rows, columns = feeds["row_bits"][layer.level], feeds["column_bits"][layer.level]
            row, column = (value.reshape(-1) for value in np.broadcast_arrays(rows, columns))
            both = np.concatenate([x, row[:, None], column[:, None]], axis=1)
            scale = 1 / np.sqrt(both.var(axis=1, keepdims=True) + layer.norm.epsilon)
            hidden = (x @ layer.first.weight + layer.first.table[2 * row + column]) * scale + layer.first.bias
            x = gelu(hidden) @ second.weight + second.bias
    return x


def deviation(answer: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(answer - expected) / np.linalg.norm(expected))


@every_precision
@pytest.mark.parametrize("width", [16, 48, 64, 256])
def test_layers_answer_as_they_do_in_float64(target: Target, precision: str, width: int) -> None:
    random = np.random.default_rng(width)
    attention = LayerWeights(Folded("attention_0_weight", "attention_0_bias"), product(random, width, width))
    layers = [attention, level(random, width, 64, width), LayerWeights(None, product(random, width, 32))]
    feeds = feeds_of(random, 11, 19, width)
    answer = session_of(target, layers, precision).run(feeds)["state_1"]
    assert 1e-9 < deviation(answer, reference(layers, feeds)) < rounding_error(precision, 5, width)


@every_precision
@pytest.mark.parametrize("width", [48, 64, 256])
def test_composed_levels_answer_as_the_levels_do(target: Target, precision: str, width: int) -> None:
    random = np.random.default_rng(width)
    layers = [*(level(random, width, width, width) for _ in range(3)), level(random, width, width, 16)]
    joined = composed(layers, target)
    assert [layer.second is None for layer in joined] == [True, True, True, False]
    feeds = feeds_of(random, 11, 19, width)
    answer = session_of(target, joined, precision).run(feeds)["state_1"]
    assert 1e-9 < deviation(answer, reference(layers, feeds)) < rounding_error(precision, 8, width)
    joined_macs, macs = (Stage(None, tuple(some), None).kernel(FP32, target).macs for some in (joined, layers))
    assert joined_macs < macs


@pytest.mark.parametrize(("width", "hidden"), [(64, 48), (16, 16), (48, 64)])
def test_levels_are_not_composed_where_that_is_no_triangle_or_saves_nothing(
    target: Target, width: int, hidden: int
) -> None:
    layers = [level(np.random.default_rng(n), width, hidden, width) for n in range(3)]
    assert composed(layers, target) == tuple(layers)


def test_an_attention_block_is_not_composed_with_the_levels_around_it(target: Target) -> None:
    random = np.random.default_rng(0)
    attention = LayerWeights(Folded("attention_0_weight", "attention_0_bias"), product(random, 64, 64))
    layers = (level(random, 64, 64, 64), attention, level(random, 64, 64, 64))
    assert composed(layers, target) == layers


@pytest.mark.parametrize(
    ("blocks", "tiles", "more"), [(0, 0, 1), (0, 1, -1), (0, 1, 0), (0, 1, 1), (1, 0, 0), (1, 0, 1), (2, 1, 5)]
)
def test_any_number_of_queries_is_answered(target: Target, blocks: int, tiles: int, more: int) -> None:
    queries = blocks * BLOCK + tiles * target.rows + more
    random = np.random.default_rng(queries)
    layers = [level(random, 32, 32, 48)]
    feeds = feeds_of(random, 1, queries, 32)
    answer = session_of(target, layers, "fp32").run(feeds)["state_1"]
    assert answer.shape == (queries, 48)
    assert deviation(answer, reference(layers, feeds)) < rounding_error("fp32", 5, 48)


@every_precision
def test_a_querys_answer_does_not_depend_on_the_queries_beside_it(target: Target, precision: str) -> None:
    random = np.random.default_rng(1)
    layers = [level(random, 32, 64, 32), level(random, 32, 32, 32)]
    feeds = feeds_of(random, 1, 500, 32)
    session = session_of(target, layers, precision)
    whole = session.run(feeds)["state_1"]
    for part in (slice(0, 7), slice(7, 300), slice(300, 500)):
        some = {**feeds, "state_0": feeds["state_0"][part], "column_bits": feeds["column_bits"][:, :, part]}
        np.testing.assert_array_equal(session.run(some)["state_1"], whole[part])


def test_inputs_may_lie_in_memory_in_any_order(target: Target) -> None:
    random = np.random.default_rng(2)
    layers = [level(random, 32, 32, 32)]
    feeds = feeds_of(random, 5, 9, 32)
    session = session_of(target, layers, "fp32")
    turned = {name: np.asfortranarray(value) for name, value in feeds.items()}
    np.testing.assert_array_equal(session.run(turned)["state_1"], session.run(feeds)["state_1"])


def test_a_folded_matrix_that_changes_is_packed_again(target: Target) -> None:
    random = np.random.default_rng(3)
    layers = [LayerWeights(Folded("attention_0_weight", "attention_0_bias"), product(random, 32, 32))]
    session = session_of(target, layers, "fp32")
    for seed in (4, 5):
        feeds = feeds_of(np.random.default_rng(seed), 3, 5, 32)
        assert deviation(session.run(feeds)["state_1"], reference(layers, feeds)) < rounding_error("fp32", 5, 48)


@pytest.mark.parametrize(("target", "precision"), [pair for pair in PAIRS if pair[1] == "int8"], indirect=["target"])
def test_rows_of_equal_values_survive_8_bits(target: Target, precision: str) -> None:
    random = np.random.default_rng(6)
    layers = [LayerWeights(None, product(random, 32, 32))]
    feeds = feeds_of(random, 1, 3, 32)
    feeds["state_0"][:] = np.array([[0.0], [1.0], [-3.0]], np.float32)
    answer = session_of(target, layers, precision).run(feeds)["state_1"]
    # What is left is the rounding of the matrix.
    assert deviation(answer, reference(layers, feeds)) < rounding_error("int8", 1)


@pytest.mark.parametrize("width", [16, 48, 64, 256])
def test_avx2s_int8_answers_in_avx512s_encoding(width: int) -> None:
    if names := lacking(EVEX, "int8"):
        pytest.skip(f"this processor lacks {', '.join(names)}")
    random = np.random.default_rng(width)
    attention = LayerWeights(Folded("attention_0_weight", "attention_0_bias"), product(random, width, width))
    layers = [attention, LayerWeights(None, product(random, width, 32))]
    feeds = feeds_of(random, 11, 19, width)
    answer = session_of(EVEX, layers, "int8").run(feeds)["state_1"]
    assert 1e-9 < deviation(answer, reference(layers, feeds)) < rounding_error("int8", 3, width)
    # Without a norm there is no sum whose order depends on the length of vectors.
    np.testing.assert_array_equal(answer, session_of(TARGETS["avx512"], layers, "int8").run(feeds)["state_1"])
    layers = [level(random, width, 64, width), level(random, width, 32, 16)]
    answer = session_of(EVEX, layers, "int8").run(feeds)["state_1"]
    assert 1e-9 < deviation(answer, reference(layers, feeds)) < rounding_error("int8", 4, width)


def test_colours_stay_in_float32_where_rows_go_to_8_bits() -> None:
    random = np.random.default_rng(7)
    last = dataclasses.replace(level(random, 32, 32, 16), is_last=True).step(INT8).layer
    between = level(random, 32, 32, 32).step(INT8).layer
    assert (last.first, last.second) == (INT8, FP32)
    assert (between.first, between.second) == (INT8, INT8)


@pytest.mark.parametrize("width", [16, 64, 256])
def test_leaving_out_zeros_changes_no_bit(target: Target, width: int) -> None:
    random = np.random.default_rng(width)
    layers = [LayerWeights(product(random, width, width), None, activation="relu") for _ in range(2)]
    sparse = [dataclasses.replace(layer, is_sparse=True) for layer in layers]
    feeds = feeds_of(random, 11, 19, width)
    # Tiles without any zero, with many inputs that are 0 in all of their rows, and of zeros alone.
    feeds["state_0"][50:] *= random.random(width) < 0.3
    feeds["state_0"][100:150] = 0
    answer, expected = (session_of(target, some, "fp32").run(feeds)["state_1"] for some in (sparse, layers))
    np.testing.assert_array_equal(answer, expected)
    x = feeds["state_0"].astype(np.float64)
    for layer in layers:
        assert isinstance(layer.first, Product)
        x = np.maximum(x @ layer.first.weight + layer.first.bias, 0)
    assert 1e-9 < deviation(answer, x) < rounding_error("fp32", 2, width)
