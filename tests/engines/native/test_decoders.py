"""Decoders of one graph, those of LIIF, LTE and MetaSR: colours, which graphs are read, and whole pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
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
from hiif_deploy.backends.options import ON_HOST
from hiif_deploy.backends.sessions.open import open_session
from hiif_deploy.bundle.loader import Bundle, open_bundle
from hiif_deploy.decoding.session import Session
from hiif_deploy.images.samples import sample
from hiif_deploy.rendering.verify import measure
from hiif_engines.native.backend import NativeBackend
from hiif_engines.native.check import EXACT
from hiif_engines.native.decoder_graph import read_decoder
from hiif_engines.native.target import TARGETS, Target
from hiif_export.parity.parity import cases
from hiif_training.checkpoints.checkpoint import load_checkpoint
from hiif_training.models.registry import make_model
from tolerances import decibels, detail, products, rounding_error

pytestmark = pytest.mark.processor

KINDS: dict[str, dict[str, Any]] = {
    "liif-one-layer": {"hidden": [16]},
    "liif-usual": {"hidden": [64, 64, 64, 64]},
    "liif-other-widths": {"hidden": [32, 48, 16]},
    "liif-pixels-alone": {"hidden": [16, 16], "feat_unfold": False, "cell_decode": False},
    "lte-usual": {"hidden": [64, 48], "hidden_dim": 32},
    "lte-plus": {"hidden_dim": 32},
    "metasr": {},
}
"""Name, which begins with the decoder's → its hidden widths and arguments."""
SIZES = [(1, 1), (3, 5), (1, 48), (7, 31)]
"""Rows and columns of queries."""
TERMS = 256
"""Of the largest sum in a product."""


def bundle_of(kind: str) -> Bundle:
    """A decoder of that kind with random weights."""
    model, spec = model_of(kind)
    return open_bundle(shared_bundle(model, spec, kind, suite=cases(sizes=((6, 9),), scales=(2.0,))))


def model_of(kind: str) -> tuple[Any, dict[str, Any]]:
    args = dict(KINDS[kind])
    args["encoder_spec"] = {"name": "edsr-baseline", "args": {**ENCODERS["edsr-baseline"], "no_upsampling": True}}
    if "hidden" in args:
        args["imnet_spec"] = {"name": "mlp", "args": {"out_dim": 3, "hidden_list": args.pop("hidden")}}
    spec = {"name": kind if kind in ("lte-plus", "metasr") else kind.split("-")[0], "args": args}
    torch.manual_seed(5)
    return make_model(spec).eval().requires_grad_(False), spec


def engine(target: Target, threads: int = 1) -> EngineOptions:
    return EngineOptions(engine="native", threads=threads, isa=target.name)


def feeds_of(bundle: Bundle, rows: int, columns: int, pixels: int = 30) -> dict[str, np.ndarray]:
    """Random inputs of the graph `decoder`; a fifth of the distances are 0, as on a source pixel's centre."""
    random, feeds = np.random.default_rng(rows), {}
    for tensor in bundle.contract.chain("fp32")["decoder"].inputs:
        shape = [{"rows": rows, "columns": columns, "pixels": pixels}.get(str(size), size) for size in tensor.shape]
        values = random.standard_normal(shape).astype(np.float32)
        if tensor.name.endswith("_distance"):
            values = np.abs(values) * (random.random(shape) > 0.2).astype(np.float32)
        is_tap = tensor.name.endswith("_tap")
        feeds[tensor.name] = random.integers(0, pixels // 2, shape).astype(np.int32) if is_tap else values
    return feeds


def expected_colours(bundle: Bundle, feeds: dict[str, np.ndarray]) -> np.ndarray:
    graph = bundle.contract.chain("fp32")["decoder"]
    known = open_session(graph, bundle.graphs["decoder"], ON_HOST, threads=1, keep_memory=True)
    return known.run(feeds)["colour"]


def require_equal_colours(session: Session, bundle: Bundle, feeds: dict[str, np.ndarray]) -> None:
    """Fail where a query's colour is not that of ONNX Runtime."""
    expected, colours = expected_colours(bundle, feeds), session.run(feeds)["colour"]
    assert colours.shape == expected.shape
    # Each query by itself: a colour in the place of another deviates by more than its own size.
    assert np.linalg.norm(colours - expected, axis=1).max() <= EXACT * np.linalg.norm(expected, axis=1).max()


@pytest.mark.parametrize("kind", KINDS)
def test_colours_are_those_of_onnx_runtime(target: Target, kind: str) -> None:
    bundle = bundle_of(kind)
    session = NativeBackend(bundle, engine(target)).sessions["decoder"]
    for size in SIZES:
        require_equal_colours(session, bundle, feeds_of(bundle, *size))


def test_rows_that_are_zero_throughout_or_nowhere_are_exact_too(target: Target) -> None:
    bundle, random = bundle_of("liif-usual"), np.random.default_rng(1)
    session = NativeBackend(bundle, engine(target)).sessions["decoder"]
    for share in (0.0, 0.02, 1.0):
        feeds = feeds_of(bundle, 5, 29)
        feeds["map_0"] = np.where(random.random(feeds["map_0"].shape) < share, 9, -9).astype(np.float32)
        feeds["row_relative"], feeds["column_relative"] = feeds["row_relative"] / 100, feeds["column_relative"] / 100
        require_equal_colours(session, bundle, feeds)


@pytest.mark.parametrize("kind", ["liif-usual", "lte-usual", "metasr"])
def test_nan_in_a_map_stays_visible(target: Target, kind: str) -> None:
    bundle = bundle_of(kind)
    feeds = feeds_of(bundle, 4, 9)
    pixels = feeds["row_tap"][:, None] + feeds["column_tap"][None, :]
    feeds["map_0"][pixels.flat[0]] = np.nan
    touched = (pixels == pixels.flat[0]).any(axis=(0, 1)).ravel()
    colours = NativeBackend(bundle, engine(target)).sessions["decoder"].run(feeds)["colour"]
    assert 0 < touched.sum() < touched.size
    assert np.isnan(colours[touched]).all()
    assert np.isfinite(colours[~touched]).all()


@pytest.mark.parametrize("kind", ["liif-usual", "lte-usual", "metasr"])
def test_a_querys_colour_does_not_depend_on_the_queries_beside_it(target: Target, kind: str) -> None:
    bundle = bundle_of(kind)
    feeds = feeds_of(bundle, 1, 130)
    session = NativeBackend(bundle, engine(target)).sessions["decoder"]
    whole = session.run(feeds)["colour"]
    for part in (slice(0, 7), slice(7, 60), slice(60, 130)):
        some = {
            name: value[:, :, part] if value.ndim == 3 and name.startswith("column_") else value
            for name, value in feeds.items()
        }
        np.testing.assert_array_equal(session.run(some)["colour"], whole[part])


@pytest.mark.parametrize(("name", "shape"), [("map_0", (30, 48)), ("row_relative", (2, 4, 1)), ("cell", (3,))])
def test_an_input_of_another_shape_is_refused(own_target: Target, name: str, shape: tuple[int, ...]) -> None:
    bundle = bundle_of("liif-usual")
    feeds = feeds_of(bundle, 3, 5) | {name: np.ones(shape, np.float32)}
    with pytest.raises(EngineError, match=r"graph decoder: \w+ is .*expected"):
        NativeBackend(bundle, engine(own_target)).sessions["decoder"].run(feeds)


def test_a_tap_beyond_the_map_is_refused(own_target: Target) -> None:
    bundle = bundle_of("liif-usual")
    feeds = feeds_of(bundle, 3, 5)
    feeds["row_tap"][1, 1] = 30
    with pytest.raises(EngineError, match="taps beyond the 30 pixels of the maps"):
        NativeBackend(bundle, engine(own_target)).sessions["decoder"].run(feeds)


@pytest.mark.usefixtures("native")
def test_work_counts_three_layers_of_every_corner_and_the_last_one_once() -> None:
    session: Any = NativeBackend(bundle_of("liif-usual"), EngineOptions(engine="native", threads=1)).sessions["decoder"]
    lanes = session.kernel.target.lanes
    macs, _ = session.work(feeds_of(bundle_of("liif-usual"), 3, 5))
    assert macs == 15 * (4 * (3 * 64 * 64 + 64) + 64 * lanes)


def node(graph: onnx.GraphProto, operator: str, n: int = 0) -> onnx.NodeProto:
    return [node for node in graph.node if node.op_type == operator][n]


def changed(bundle: Bundle, change: Callable[[onnx.GraphProto], None]) -> Bundle:
    model = onnx.load_from_string(bundle.graphs["decoder"])
    change(model.graph)
    return dataclasses.replace(bundle, graphs={**bundle.graphs, "decoder": model.SerializeToString()})


def replaced(graph: onnx.GraphProto, name: str, value: np.ndarray) -> None:
    (tensor,) = (tensor for tensor in graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float32), name))


def other_operator(graph: onnx.GraphProto) -> None:
    node(graph, "Relu", 5).op_type = "Sigmoid"


def another_operator(graph: onnx.GraphProto) -> None:
    graph.node.append(helper.make_node("Relu", ["colour"], ["more"]))


def operator_of_others(graph: onnx.GraphProto) -> None:
    node(graph, "Relu").domain = "com.example"


def other_area(graph: onnx.GraphProto) -> None:
    replaced(graph, node(graph, "Add", 4).input[1], np.array(0.001))


def narrow_row(graph: onnx.GraphProto) -> None:
    replaced(graph, "position.row", np.ones(48))


def narrow_layer(graph: onnx.GraphProto) -> None:
    replaced(graph, "network.hidden.1.weight", np.ones((64, 48)))


def four_colours(graph: onnx.GraphProto) -> None:
    replaced(graph, "network.last.weight", np.ones((4, 64)))


CHANGES = [other_operator, another_operator, operator_of_others, other_area, narrow_row, narrow_layer, four_colours]


@pytest.mark.parametrize("change", CHANGES)
def test_other_graphs_are_not_read(change: Callable[[onnx.GraphProto], None]) -> None:
    bundle = bundle_of("liif-usual")
    contract = bundle.contract.chain("fp32")["decoder"]
    assert read_decoder(contract, bundle.graphs["decoder"], TARGETS["avx2"]) is not None
    assert read_decoder(contract, changed(bundle, change).graphs["decoder"], TARGETS["avx2"]) is None


@pytest.mark.parametrize("kind", ["liif-pixels-alone", "lte-usual", "metasr"])
def test_widths_of_no_whole_vectors_are_not_read(kind: str) -> None:
    bundle = bundle_of(kind)
    graph = bundle.contract.chain("fp32")["decoder"], bundle.graphs["decoder"]
    assert read_decoder(*graph, TARGETS["avx512"]) is not None
    # LTE's rows of 32 are taken by halves.
    lanes = 512 if kind == "metasr" else 32
    assert read_decoder(*graph, dataclasses.replace(TARGETS["avx512"], lanes=lanes)) is None


def swapped_corners(graph: onnx.GraphProto) -> None:
    first, second = node(graph, "Div", 0), node(graph, "Div", 1)
    first.output[0], second.output[0] = second.output[0], first.output[0]


def swapped_layers(graph: onnx.GraphProto) -> None:
    *_, first, second, _ = (node for node in graph.node if node.op_type == "Gemm")
    first.input[1], second.input[1] = second.input[1], first.input[1]


def swapped_waves(graph: onnx.GraphProto) -> None:
    sine, cosine = node(graph, "Sin"), node(graph, "Cos")
    sine.op_type, cosine.op_type = "Cos", "Sin"


def swapped_position(graph: onnx.GraphProto) -> None:
    for product in graph.node:
        for n, name in enumerate(product.input):
            product.input[n] = {"position.row": "position.column", "position.column": "position.row"}.get(name, name)


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("liif-usual", swapped_corners), ("liif-usual", swapped_layers), ("liif-usual", swapped_position),
        ("metasr", swapped_position),
        ("lte-usual", swapped_corners), ("lte-plus", swapped_layers), ("lte-usual", swapped_waves),
    ],
)  # fmt: skip
def test_a_graph_that_is_connected_otherwise_is_refused(kind: str, change: Callable[[onnx.GraphProto], None]) -> None:
    with pytest.raises(EngineError, match=rf"graph decoder of {kind} does not have the architecture.*deviate by"):
        NativeBackend(changed(bundle_of(kind), change), EngineOptions(engine="native", threads=1))


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize(
    ("decoder", "reason"),
    [("ciaosr", "needs a decoder of HIIF or SRNO in stages, or of"), ("clit", "needs a decoder")],
)
def test_other_decoders_are_refused(pairs: Pairs, decoder: str, reason: str) -> None:
    with pytest.raises(EngineError, match=f"{reason}.*--engine onnxruntime"):
        NativeBackend(open_bundle(pairs.bundle(decoder, "edsr-baseline")), EngineOptions(engine="native"))


def require_equal_pictures(bundle: Bundle, target: Target, image: np.ndarray, size: tuple[int, int]) -> None:
    """Whole pictures equal ONNX Runtime's within rounding, with one thread and two, in tiles and in blocks."""
    with Upscaler(bundle, engine="onnxruntime") as known:
        expected = known.render_unclamped(known.encode(image), size=size)
    # The network adds to nothing but the mean: its colours are as large as the picture's.
    error = rounding_error("fp32", products(bundle), TERMS) * float(np.sqrt(np.mean(expected**2)))
    options = RenderOptions(query_block=100, tile_rows=5)
    for threads, limits in ((1, RenderOptions()), (2, options)):
        with Upscaler(bundle, engine=engine(target, threads), options=limits) as native:
            answer = native.render_unclamped(native.encode(image), size=size)
            assert native.description.startswith(f"native code ({target.name}) and ONNX Runtime, cpu, fp32")
        assert decibels(error, 1.0) < measure(answer, expected).psnr < 200


@pytest.mark.parametrize("kind", ["liif-other-widths", "liif-pixels-alone", "lte-usual", "metasr"])
def test_a_picture_is_the_same_within_the_arithmetic(own_target: Target, kind: str) -> None:
    require_equal_pictures(bundle_of(kind), own_target, sample("astronaut")[:40, :28], (131, 90))


@pytest.mark.parametrize("cycles", [2, 15])
def test_fast_waves_are_as_exact_as_in_onnx_runtime(own_target: Target, cycles: int) -> None:
    """The root mean square of LTE's frequencies is the fastest wave that ×4 or ×30 shows, in cycles per source pixel.

    Its maps' errors by minimal filtering become errors of angles, 2π times as large.
    """
    image, size = sample("astronaut")[:24, :24], (75, 85)
    model, spec = model_of("lte-usual")
    pixels = ((torch.from_numpy(image.copy()) / 255 - 0.5) / 0.5).permute(2, 0, 1)[None]
    for part, wanted in ((model.freq, cycles), (model.coef, 1)):
        factor = wanted / part(model.encoder(pixels)).square().mean().sqrt()
        part.weight.mul_(factor), part.bias.mul_(factor)
    for layer in model.network[::2]:
        # As much contrast behind a layer as before it.
        layer.weight.mul_(2)
    bundle = open_bundle(shared_bundle(model, spec, "lte-fast", suite=cases(sizes=((6, 9),), scales=(2.0,))))
    queries = model.make_queries(image.shape[:2], size)
    expected = model.double()(pixels.double(), queries)[0].reshape(*size, 3).numpy() * 0.5 + 0.5
    errors = []
    for one in (engine(own_target), EngineOptions(engine="onnxruntime", threads=1)):
        with Upscaler(bundle, engine=one) as upscaler:
            errors.append(np.linalg.norm(upscaler.render_unclamped(upscaler.encode(image), size=size) - expected))
    assert detail(expected, image) > 0.05
    assert errors[0] < 3 * errors[1]


def test_a_part_of_a_picture_is_that_part_of_the_whole(own_target: Target, pairs: Pairs) -> None:
    image, bundle = sample("astronaut")[:30, :20], pairs.bundle("liif", "edsr-baseline")
    with Upscaler(bundle, engine=engine(own_target, 2)) as upscaler:
        whole = upscaler.upscale(image, scale=2.5)
        part = upscaler.upscale(image, scale=2.5, region=(11, 9, 40, 30))
    np.testing.assert_array_equal(part, whole[11:51, 9:39])


def test_the_published_checkpoint_gives_the_same_picture(own_target: Target, shared: Path) -> None:
    path = shared / "data" / "published" / "edsr-baseline-liif.pth"
    if not path.is_file():
        pytest.skip("needs the LIIF authors' checkpoint in ../shared/data/published, which is not here")
    loaded = load_checkpoint(path)
    bundle = open_bundle(shared_bundle(loaded.model, loaded.spec, "liif-published"))
    require_equal_pictures(bundle, own_target, sample("astronaut")[:40, :28], (131, 90))
