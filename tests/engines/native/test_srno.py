"""SRNO's stages as machine code: against PyTorch in float64, and whole pictures against ONNX Runtime."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

pytest.importorskip("onnxscript")

import torch

from cached_export import shared_bundle
from decoder_pairs import ENCODERS, Pairs
from hiif_deploy import EngineError, EngineOptions, RenderOptions, Upscaler
from hiif_deploy.bundle.loader import Bundle, open_bundle
from hiif_deploy.decoding.session import ComputePrecision
from hiif_deploy.images.samples import sample
from hiif_deploy.rendering.verify import measure
from hiif_engines.native.backend import NativeBackend
from hiif_engines.native.target import Target
from hiif_export.decoders.srno_export import SrnoExporter
from hiif_export.graphs.exporter import make_exporter
from hiif_export.parity.parity import cases
from hiif_training.models.registry import make_model
from native_targets import own_precisions
from tolerances import decibels, detail, order_error, products, rounding_error

pytestmark = pytest.mark.processor

WIDTH, HEADS, PIXELS = 32, 2, 30
SPEC: dict[str, Any] = {
    "name": "sronet",
    "args": {
        "width": WIDTH, "blocks": HEADS,
        "encoder_spec": {"name": "edsr-baseline", "args": {**ENCODERS["edsr-baseline"], "no_upsampling": True}},
    },
}  # fmt: skip
TERMS = 256
"""Of the largest sum in a product."""


@cache
def model() -> Any:
    """Random weights. Keys and values of the first block are as small as what is added to their deviation."""
    torch.manual_seed(5)
    found = make_model(SPEC).eval().requires_grad_(False)
    for name in ("weight", "bias"):
        found.get_parameter(f"conv0.qkv_proj.{name}").mul_(1e-4)
    return found


@cache
def bundle() -> Bundle:
    return open_bundle(shared_bundle(model(), SPEC, "srno", suite=cases(sizes=((6, 9),), scales=(2.0,))))


@pytest.fixture(scope="module")
def backend(target: Target) -> NativeBackend:
    return NativeBackend(bundle(), EngineOptions(engine="native", threads=1, isa=target.name))


def feeds_of(backend: NativeBackend, stage: str, rows: int, columns: int) -> dict[str, np.ndarray]:
    """Random inputs; a fifth of the distances are 0, as on a source pixel's centre."""
    random, feeds = np.random.default_rng(rows), {}
    sizes = {"rows": rows, "columns": columns, "pixels": PIXELS, "queries": rows * columns}
    for tensor in backend.contract.stages[stage].inputs:
        shape = [sizes.get(str(size), size) for size in tensor.shape]
        values = random.standard_normal(shape).astype(np.float32)
        if tensor.name.endswith("_distance"):
            values = np.abs(values) * (random.random(shape) > 0.2).astype(np.float32)
        if tensor.name.endswith("_weight"):
            values /= np.float32(np.sqrt(WIDTH))
        is_tap = tensor.name.endswith("_tap")
        feeds[tensor.name] = random.integers(0, PIXELS // 2, shape).astype(np.int32) if is_tap else values
    return feeds


def reference(stage: str, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Outputs of the exporter's module in float64."""
    exporter = make_exporter(model(), SPEC)
    assert isinstance(exporter, SrnoExporter)
    kind, _, n = stage.partition("_")
    module = exporter.stage(kind, int(n or 0)).double()
    tensors = [torch.from_numpy(value) for value in feeds.values()]
    outputs = module(*(tensor.double() if tensor.is_floating_point() else tensor for tensor in tensors))
    return [output.detach().numpy() for output in (outputs if isinstance(outputs, tuple) else (outputs,))]


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 5), (7, 31)])
@pytest.mark.parametrize("stage", ["first", "sums_0", "sums_1", "mix_0", "tail"])
def test_stages_answer_as_they_do_in_float64(backend: NativeBackend, stage: str, rows: int, columns: int) -> None:
    feeds = feeds_of(backend, stage, rows, columns)
    expected, found = reference(stage, feeds), backend.sessions[stage].run(feeds)
    for output, value in zip(backend.contract.stages[stage].outputs, expected, strict=True):
        assert found[output.name].shape == value.shape
        error = np.linalg.norm(found[output.name] - value) / np.linalg.norm(value)
        assert 1e-9 < error < rounding_error("fp32", 3, WIDTH)


def test_stages_joined_answer_bit_for_bit_as_one_after_the_other(backend: NativeBackend) -> None:
    feeds: dict[str, Any] = {}
    for name in ("first", "mix_0", "tail"):
        feeds = feeds_of(backend, name, 9, 31) | feeds
        feeds |= backend.sessions[name].run(feeds)
    for name in ("last_pass", "whole"):
        np.testing.assert_array_equal(backend.sessions[name].run(feeds)["colour"], feeds["colour"])


def test_a_querys_state_does_not_depend_on_the_queries_beside_it(backend: NativeBackend) -> None:
    feeds = feeds_of(backend, "first", 1, 130)
    whole = backend.sessions["first"].run(feeds)["state_0"]
    for part in (slice(0, 7), slice(7, 60), slice(60, 130)):
        some = {name: value[:, :, part] if name.startswith("column_") else value for name, value in feeds.items()}
        np.testing.assert_array_equal(backend.sessions["first"].run(some)["state_0"], whole[part])


@own_precisions
@pytest.mark.parametrize("statistics", ["exact", "sampled"])
def test_a_picture_is_the_same_within_the_arithmetic(
    own_target: Target, precision: ComputePrecision, statistics: Any
) -> None:
    image = sample("astronaut")[:40, :28]
    options = RenderOptions(statistics=statistics, samples=2000)
    engine = EngineOptions(engine="native", precision=precision, threads=2, isa=own_target.name)
    with (
        Upscaler(bundle(), engine="onnxruntime", options=options) as known,
        Upscaler(bundle(), engine=engine, options=options) as native,
    ):
        expected, answer = (one.render_unclamped(one.encode(image), size=(131, 90)) for one in (known, native))
        assert native.description.startswith(f"native code ({own_target.name}) and ")
    error = rounding_error(precision, products(bundle()), TERMS)
    assert decibels(error, detail(expected, image)) < measure(answer, expected).psnr < 200


def test_a_picture_does_not_depend_on_how_it_is_cut(own_target: Target) -> None:
    image, answers = sample("astronaut")[:30, :20], []
    for block, memory in ((64, 2 << 20), (4096, 1 << 30)):
        options = RenderOptions(query_block=block, memory=memory)
        engine = EngineOptions(engine="native", threads=2, isa=own_target.name)
        with Upscaler(bundle(), engine=engine, options=options) as upscaler:
            answers.append(upscaler.render_unclamped(upscaler.encode(image), size=(99, 61)))
    error = order_error("fp32", products(bundle()), answers[0].shape[0] * answers[0].shape[1])
    assert measure(answers[0], answers[1]).psnr > decibels(error, detail(answers[0], image))


def swapped_corners(graph: onnx.GraphProto) -> None:
    first, second = [node for node in graph.node if node.op_type == "Div"][:2]
    first.output[0], second.output[0] = second.output[0], first.output[0]


def swapped_position(graph: onnx.GraphProto) -> None:
    names = {"row_weight": "column_weight", "column_weight": "row_weight"}
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]


def narrow_position(graph: onnx.GraphProto) -> None:
    (tensor,) = (tensor for tensor in graph.initializer if tensor.name == "row_weight")
    tensor.CopyFrom(numpy_helper.from_array(np.ones((2, WIDTH), np.float32), tensor.name))


def other_deviation(graph: onnx.GraphProto) -> None:
    """As HIIF's: divided by the number of values."""
    (node,) = (node for node in graph.node if node.op_type == "Div")
    graph.initializer.append(numpy_helper.from_array(np.float32(16), "sixteen"))
    node.input[1] = "sixteen"


def other_activation(graph: onnx.GraphProto) -> None:
    node = next(node for node in graph.node if node.op_type == "Gelu")
    node.CopyFrom(helper.make_node("Relu", node.input, node.output))


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize(
    ("stage", "change"),
    [
        ("first", swapped_corners), ("first", swapped_position), ("first", narrow_position),
        ("sums_0", other_deviation), ("mix_0", other_activation), ("tail", other_activation),
    ],
)  # fmt: skip
def test_a_graph_of_another_form_is_refused(stage: str, change: Callable[[onnx.GraphProto], None]) -> None:
    changed = onnx.load_from_string(bundle().graphs[stage])
    change(changed.graph)
    other = dataclasses.replace(bundle(), graphs={**bundle().graphs, stage: changed.SerializeToString()})
    with pytest.raises(EngineError, match=rf"{stage} of srno does not have the architecture|they do not fit"):
        NativeBackend(other, EngineOptions(engine="native", threads=1))


@pytest.mark.usefixtures("native")
def test_heads_of_another_size_are_refused(pairs: Pairs) -> None:
    path = pairs.bundle("sronet", "edsr-baseline")
    with pytest.raises(EngineError, match=r"graph sums_0 does not have.*--engine onnxruntime"):
        NativeBackend(open_bundle(path), EngineOptions(engine="native"))
