"""The table of engines: what it promises of each is so, and every decision can be read off it."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import entry_points
from typing import get_args

import pytest

from attention_model import ATTENTION_MODEL
from hiif_deploy.backends.choice import auto_attempts, library_engine, runs_on_gpu
from hiif_deploy.backends.engines import AUTO, ENGINES, Engine
from hiif_deploy.backends.options import EngineOptions
from hiif_deploy.bundle.loader import open_bundle
from hiif_deploy.decoding.session import ComputePrecision
from hiif_deploy.errors import EngineError, OptionError
from hiif_deploy.support.extras import EXTRAS
from hiif_deploy.support.resolve import resolve
from rows import every


def test_the_table_holds_every_engine_that_an_option_may_name() -> None:
    assert {*ENGINES, AUTO} == set(get_args(Engine))
    assert all(name == spec.name for name, spec in ENGINES.items())


@pytest.mark.parametrize("name", ENGINES)
def test_what_opens_an_engine_is_there(name: str) -> None:
    spec = ENGINES[name]
    brought = entry_points(group="hiif_deploy.backends", name=name)
    assert (spec.opener is None) == bool(brought)
    if spec.opener is not None:
        assert callable(resolve(spec.opener))
    if spec.session is not None:
        assert callable(resolve(spec.session))
    assert spec.extra is None or spec.extra in EXTRAS


@every("precision", get_args(ComputePrecision))
def test_a_precision_is_refused_where_the_engine_has_it_not(precision: ComputePrecision) -> None:
    for name, spec in ENGINES.items():
        if precision in spec.precisions:
            assert EngineOptions(engine=spec.name, precision=precision).precision == precision
        else:
            with pytest.raises(OptionError, match=f"precision {precision} does not run on {name}, which computes in"):
                EngineOptions(engine=spec.name, precision=precision)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (EngineOptions(engine="onnxruntime"), False),
        (EngineOptions(engine="onnxruntime", provider="cuda"), True),
        (EngineOptions(engine="onnxruntime", provider="CPUExecutionProvider"), False),
        (EngineOptions(engine="torch"), True),
        (EngineOptions(engine="torch", device="cpu"), False),
        (EngineOptions(engine="tensorrt"), True),
        (EngineOptions(engine="native"), False),
    ],
)
def test_options_say_whether_the_work_is_on_a_gpu(options: EngineOptions, expected: bool) -> None:
    assert runs_on_gpu(options) == expected


def test_auto_tries_gpus_and_then_the_processor_all_exactly() -> None:
    contract = open_bundle(ATTENTION_MODEL).contract
    tried = [attempt for _, attempt in auto_attempts(contract, EngineOptions())]
    assert [(options.engine, options.precision) for options in tried] == [
        ("tensorrt", "fp32"), ("torch", "fp32"), ("onnxruntime", "fp32"), ("native", None), ("onnxruntime", None),
    ]  # fmt: skip
    assert not tried[0].builds
    assert [runs_on_gpu(options) for options in tried] == [True, True, True, False, False]


def test_auto_keeps_a_precision_that_was_chosen() -> None:
    contract = open_bundle(ATTENTION_MODEL).contract
    for precision in ("fp32", "fp16", "bf16", "int8"):
        options = EngineOptions(engine="auto", precision=precision)
        found = [attempt for _, attempt in auto_attempts(contract, options)]
        assert {tried.precision for tried in found} == {precision}
        assert all(runs_on_gpu(tried) for tried in found) is False
        assert found[-1].engine == library_engine(precision)


def test_auto_tries_no_gpu_in_a_precision_that_the_bundle_lacks() -> None:
    contract = open_bundle(ATTENTION_MODEL).contract
    contract = replace(contract, graphs=tuple(graph for graph in contract.graphs if graph.precision == "fp32"))
    tried = [attempt.engine for _, attempt in auto_attempts(contract, EngineOptions(precision="fp16"))]
    assert tried == ["onnxruntime"]


@every("name", [name for name, spec in ENGINES.items() if not spec.cascades])
def test_a_bundle_whose_encoder_averages_tiles_is_refused(name: str) -> None:
    contract = open_bundle(ATTENTION_MODEL).contract
    contract = replace(contract, encoder=replace(contract.encoder, tile=48, tile_overlap=4))
    with pytest.raises(EngineError, match=r"does not run on .* yet, .*: choose --engine onnxruntime"):
        ENGINES[name].check(contract)
