"""The native engine on whole pictures, and what it refuses."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from attention_model import ATTENTION_MODEL
from hiif_deploy import EngineError, EngineOptions, OptionError, RenderOptions, Upscaler
from hiif_deploy.backends.options import IsaName
from hiif_deploy.bundle.loader import Bundle, open_bundle
from hiif_deploy.decoding.session import ComputePrecision
from hiif_deploy.images.samples import sample
from hiif_deploy.rendering.verify import measure
from hiif_deploy.support.cache_dir import VARIABLE
from hiif_engines.native import backend
from hiif_engines.native import compile as native_compile
from hiif_engines.native.backend import NativeBackend
from hiif_engines.native.check import EXACT, check_kernels
from hiif_engines.native.compile import choose_target, lacking
from hiif_engines.native.kernel import BLOCK
from hiif_engines.native.target import TARGETS, Target
from native_targets import EVEX, own_precisions
from tolerances import UNIT, decibels, detail, order_error, products, rounding_error

pytestmark = pytest.mark.processor

TERMS = 256
"""Of the largest sum in a product."""
SIZE = (77, 52)
ENGINE = EngineOptions(engine="native", threads=2)


def engine(target: Target, precision: ComputePrecision = "fp32") -> EngineOptions:
    return EngineOptions(engine="native", precision=precision, threads=2, isa=target.name)


@own_precisions
@pytest.mark.parametrize("name", [ATTENTION_MODEL, "hiif-video"])
@pytest.mark.parametrize("statistics", ["exact", "sampled"])
def test_a_picture_is_the_same_within_the_arithmetic(
    own_target: Target, precision: ComputePrecision, name: str, statistics: Any
) -> None:
    image = sample("astronaut")[:40, :28]
    options = RenderOptions(statistics=statistics, samples=2000)
    with (
        Upscaler(name, engine="onnxruntime", options=options) as known,
        Upscaler(known.bundle, engine=engine(own_target, precision), options=options) as native,
    ):
        expected = known.render_unclamped(known.encode(image), size=SIZE)
        answer = native.render_unclamped(native.encode(image), size=SIZE)
        other = "OpenVINO (encoder)" if precision != "fp32" and backend.has_amx() else "ONNX Runtime"
        assert native.description.startswith(f"native code ({own_target.name}) and {other}, cpu, {precision}")
    error = rounding_error(precision, products(known.bundle), TERMS)
    assert decibels(error, detail(expected, image)) < measure(answer, expected).psnr < 200


def test_avx2s_int8_gives_the_same_picture_in_another_encoding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if names := lacking(EVEX, "int8"):
        pytest.skip(f"this processor lacks {', '.join(names)}")
    # Kept code is named by the target, and this one has another's name.
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    monkeypatch.setitem(TARGETS, EVEX.name, EVEX)
    test_a_picture_is_the_same_within_the_arithmetic(EVEX, "int8", str(ATTENTION_MODEL), "exact")


@pytest.mark.parametrize(
    ("size", "threads", "rows"), [((128, 128), 2, 15), ((128, 128), 3, 11), ((64, 64), 2, 7), ((5, 5), 8, 7)]
)
def test_tiles_have_the_most_rows_that_leave_every_thread_some(size: tuple[int, int], threads: int, rows: int) -> None:
    with Upscaler("hiif-live", engine=EngineOptions(engine="native", threads=threads)) as upscaler:
        plan = upscaler.plan(size)
    assert plan.decoder_tile == (rows, size[1])


def test_many_threads_have_small_calls_within_the_memory() -> None:
    engine, options = EngineOptions(engine="native", threads=64), RenderOptions(memory=128 << 20)
    with Upscaler(ATTENTION_MODEL, engine=engine, options=options) as upscaler:
        assert BLOCK <= upscaler.plan((64, 64)).query_block < 2048


def test_a_call_has_as_many_queries_as_the_memory_allows() -> None:
    for memory, block in ((1 << 30, 1 << 14), (6 << 20, 1536)):
        with Upscaler("hiif-live", engine=ENGINE, options=RenderOptions(memory=memory)) as upscaler:
            assert upscaler.plan((64, 64)).query_block == block


@own_precisions
def test_a_picture_does_not_depend_on_how_it_is_cut(own_target: Target, precision: ComputePrecision) -> None:
    image = sample("astronaut")[:30, :20]
    answers = []
    for block, memory in ((64, 2 << 20), (4096, 1 << 30)):
        options = RenderOptions(query_block=block, memory=memory)
        with Upscaler(ATTENTION_MODEL, engine=engine(own_target, precision), options=options) as upscaler:
            answers.append(upscaler.render_unclamped(upscaler.encode(image), size=(79, 53)))
    # Sums over the queries are taken in another order, and the encoder's over another tile.
    error = order_error(precision, products(upscaler.bundle), answers[0].shape[0] * answers[0].shape[1])
    assert measure(answers[0], answers[1]).psnr > decibels(error, detail(answers[0], image))


def test_a_part_of_a_picture_is_that_part_of_the_whole(own_target: Target) -> None:
    image = sample("astronaut")[:30, :20]
    with Upscaler("hiif-video", engine=engine(own_target)) as upscaler:
        whole = upscaler.upscale(image, scale=2.5)
        part = upscaler.upscale(image, scale=2.5, region=(11, 9, 40, 30))
    np.testing.assert_array_equal(part, whole[11:51, 9:39])


def test_several_threads_share_one_upscaler(own_target: Target) -> None:
    images = [sample(name)[:24, :24] for name in ("astronaut", "coffee", "chelsea")] * 3
    with Upscaler(ATTENTION_MODEL, engine=engine(own_target)) as upscaler:
        expected = [upscaler.upscale(image, scale=2) for image in images[:3]] * 3
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda image: upscaler.upscale(image, scale=2), images))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_decoder_without_stages_is_refused() -> None:
    bundle = open_bundle(ATTENTION_MODEL)
    graphs = tuple(graph for graph in bundle.contract.graphs if graph.name not in bundle.contract.stages)
    whole = dataclasses.replace(bundle, contract=dataclasses.replace(bundle.contract, graphs=graphs))
    with pytest.raises(EngineError, match=r"needs a decoder of HIIF or SRNO in stages.*--engine onnxruntime"):
        NativeBackend(whole, ENGINE)


def test_heads_of_another_size_are_refused(tiny_bundle: Path) -> None:
    with pytest.raises(EngineError, match=r"graph sums_0 does not have the architecture.*--engine onnxruntime"):
        Upscaler(tiny_bundle, engine=ENGINE)


def test_a_graph_that_only_seems_to_be_known_is_refused() -> None:
    with pytest.raises(EngineError, match=r"graph tail of hiif-video does not have the architecture.*deviate by \d+"):
        NativeBackend(with_shortcut(open_bundle("hiif-video")), ENGINE)


def with_shortcut(bundle: Bundle) -> Bundle:
    """Its last graph with equal names and weights, but twice the colours: what only an answer shows."""
    model = onnx.load_from_string(bundle.graphs["tail"])
    (last,) = [node for node in model.graph.node if node.output[0] == "colour"]
    last.output[0] = "half"
    model.graph.initializer.append(numpy_helper.from_array(np.array(2, np.float32), "two"))
    model.graph.node.append(onnx.helper.make_node("Mul", ["half", "two"], ["colour"]))
    return dataclasses.replace(bundle, graphs={**bundle.graphs, "tail": model.SerializeToString()})


def test_an_answer_that_is_no_number_is_found_out() -> None:
    bundle = open_bundle("hiif-video")
    backend = NativeBackend(bundle, ENGINE)
    first = backend.contract.stages["first"]

    class Broken:
        def run(self, feeds: Any) -> dict[str, np.ndarray]:
            queries = feeds["row_tap"].shape[1] * feeds["column_tap"].shape[2]
            return {first.outputs[0].name: np.full((queries, *first.outputs[0].shape[1:]), np.nan)}

    with pytest.raises(EngineError, match="deviate by nan"):
        check_kernels(bundle, {"first": first}, {"first": Broken()}, EXACT)
    backend.close()


def test_instruction_sets_answer_alike() -> None:
    targets = [target for target in TARGETS.values() if "fp32" in target.precisions and not lacking(target, "fp32")]
    if len(targets) < 2:
        pytest.skip("this processor has one instruction set")
    image, answers = sample("astronaut")[:30, :20], []
    for target in targets:
        with Upscaler(ATTENTION_MODEL, engine=engine(target)) as upscaler:
            answers.append(upscaler.render_unclamped(upscaler.encode(image), size=SIZE))
    # The detail errs, and its sum with the interpolated picture, below 1, is rounded once more.
    error = rounding_error("fp32", products(upscaler.bundle), TERMS) * detail(answers[0], image) + UNIT["fp32"]
    for answer in answers[1:]:
        # Sums are split otherwise, so that not every bit is the same.
        assert decibels(error, 1.0) < measure(answer, answers[0]).psnr < 200


def test_the_fastest_instruction_set_of_the_processor_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    for target in TARGETS.values():
        for precision, more in target.precisions.items():
            features = target.needs | more | {target.machine}
            monkeypatch.setattr(native_compile, "_features", lambda features=features: features)
            assert choose_target(precision) is target


def test_a_processor_without_the_instructions_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_compile, "_features", lambda: frozenset({"x86_64", "avx2"}))
    with pytest.raises(EngineError, match=r"native code in fp32 needs instructions.*\(fma\).*--engine onnxruntime"):
        NativeBackend(open_bundle(ATTENTION_MODEL), ENGINE)
    with pytest.raises(EngineError, match=r"native code in bf16 needs instructions.*avx512bf16.*--engine openvino"):
        NativeBackend(open_bundle(ATTENTION_MODEL), dataclasses.replace(ENGINE, precision="bf16"))
    monkeypatch.setattr(native_compile, "_features", lambda: frozenset({"riscv64"}))
    with pytest.raises(EngineError, match=r"native code in fp32 is not written for .*--engine onnxruntime"):
        NativeBackend(open_bundle(ATTENTION_MODEL), ENGINE)


def test_an_instruction_set_that_cannot_be_had_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = open_bundle(ATTENTION_MODEL)
    with pytest.raises(OptionError, match="native code for avx2 computes in fp32, int8 and not in bf16: leave isa out"):
        NativeBackend(bundle, dataclasses.replace(ENGINE, isa="avx2", precision="bf16"))
    monkeypatch.setattr(native_compile, "_features", lambda: frozenset({"x86_64", "avx2", "fma"}))
    with pytest.raises(OptionError, match=r"native code for avx512 in fp32 needs instructions.*avx512f.*leave isa out"):
        NativeBackend(bundle, dataclasses.replace(ENGINE, isa="avx512"))


def test_options_that_make_no_sense_are_refused() -> None:
    with pytest.raises(OptionError, match="does not run on native, which computes in fp32, bf16, int8"):
        EngineOptions(engine="native", precision="fp16")
    with pytest.raises(OptionError, match="a call of native has one"):
        EngineOptions(engine="native", call_threads=2)
    with pytest.raises(OptionError, match="isa is 'sse': expected one of amx, avx512, avx2, neon"):
        EngineOptions(engine="native", isa="sse")  # type: ignore[arg-type]
    for other in ("auto", "openvino"):
        with pytest.raises(OptionError, match=f"isa is avx2: engine {other} does not read it"):
            EngineOptions(engine=other, isa="avx2")


def test_every_name_of_an_instruction_set_has_a_target() -> None:
    assert get_args(IsaName) == tuple(TARGETS)
