"""What the command line says of the engine: options that would be ignored are refused."""

from __future__ import annotations

from typing import Any

import pytest

from hiif_deploy.backends.options import EngineOptions, usable_cores
from hiif_deploy.cli.options import engine_options, limited_threads
from hiif_deploy.errors import OptionError


def test_without_words_the_defaults_are_those_of_the_library() -> None:
    assert engine_options(None, None) == EngineOptions()
    assert engine_options(None, "bf16").engine == "auto"


@pytest.mark.parametrize(
    ("engine", "given", "message"),
    [
        ("auto", {"device": "cuda"}, "--device cuda is read by engine torch only.*uses auto: add --engine torch"),
        ("native", {"provider": "cuda"}, "--provider cuda is read by engine onnxruntime only.*uses native"),
        ("native", {"library": "tensorrt-rtx"}, "--library tensorrt-rtx is read by engine tensorrt and auto only"),
        (None, {"isa": "avx2", "device": "cuda"}, "--isa avx2 is read by engine native only, and this run uses torch"),
        ("torch", {"library": "tensorrt"}, "--library tensorrt is read by"),
        ("auto", {"isa": "avx2"}, "--isa avx2 is read by engine native only.*uses auto: add --engine native"),
        ("cuda", {}, "--engine cuda: expected one of .*--engine torch, --engine tensorrt, or --provider cuda"),
        ("fast", {}, "--engine fast: expected one of onnxruntime, "),
    ],
)
def test_an_option_that_the_engine_would_ignore_is_refused(engine: Any, given: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        engine_options(engine, None, **given)


def test_options_that_the_engine_reads_arrive() -> None:
    assert engine_options("torch", "fp16", device="cuda:1").device == "cuda:1"
    assert engine_options("onnxruntime", None, provider="cuda").provider == "cuda"
    assert engine_options("auto", None, library="tensorrt-rtx").library == "tensorrt-rtx"
    assert engine_options("native", None, isa="avx2").isa == "avx2"


@pytest.mark.parametrize(
    ("given", "engine"),
    [({"device": "cpu"}, "torch"), ({"isa": "avx2"}, "native"), ({"provider": "cpu"}, "onnxruntime"),
     ({"library": "tensorrt-rtx"}, "auto")],
)  # fmt: skip
def test_an_option_of_one_engine_chooses_it(given: Any, engine: str) -> None:
    assert engine_options(None, None, **given).engine == engine


def test_a_negative_number_of_threads_is_refused() -> None:
    with pytest.raises(OptionError, match="threads is -1: expected 0"):
        limited_threads(-1)


def test_more_threads_than_cores_are_limited_and_reported(caplog: pytest.LogCaptureFixture) -> None:
    cores = usable_cores()
    assert limited_threads(cores) == cores
    assert caplog.messages == []
    assert engine_options(None, None, 100_000).thread_count == cores
    assert f"--threads 100000: this process may use {cores} cores" in caplog.text
