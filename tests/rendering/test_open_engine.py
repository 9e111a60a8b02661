"""Which engine runs: the requested one, and `auto` reports what it took and why."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from attention_model import ATTENTION_MODEL
from fake_device import FakeDevice
from hiif_deploy import EngineAbsentError, EngineError, EngineOptions, OptionError, Upscaler
from hiif_deploy.backends.cuda import open as device_module
from hiif_deploy.backends.tensorrt.library import load_library
from hiif_deploy.bundle.loader import Bundle, open_bundle
from hiif_deploy.decoding.session import ComputePrecision
from hiif_deploy.engine_store.store import EngineStore
from hiif_deploy.errors import MissingExtraError
from hiif_deploy.rendering import open_engine
from hiif_deploy.rendering import open_tensorrt as trt_module
from hiif_deploy.rendering.open_engine import open_backend, open_chosen
from hiif_deploy.rendering.open_tensorrt import find_or_build
from hiif_deploy.support import extras
from hiif_deploy.support.install import install_command
from sample_engine import HERE
from tensorrt_double.install import installed


@pytest.fixture(scope="module")
def bundle(half_bundle: Path) -> Bundle:
    return open_bundle(half_bundle)


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[FakeDevice]]:
    """Every GPU that was opened; all of them are closed and empty at the end."""
    opened: list[FakeDevice] = []
    with installed() as trt:

        def make() -> FakeDevice:
            opened.append(FakeDevice())
            trt.testing.device = opened[-1]
            return opened[-1]

        monkeypatch.setitem(device_module.LAYERS, "cuda-python", make)
        yield opened
        for device in opened:
            assert +device.live == {}


def test_auto_says_once_what_it_took_and_why_not_the_others(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def absent() -> FakeDevice:
        raise EngineError("cudaErrorNoDevice")

    monkeypatch.setattr(device_module, "LAYERS", {"cuda-python": absent})
    monkeypatch.setattr(open_engine, "has_driver", lambda: True)
    with installed():
        backend = open_backend(bundle, EngineOptions(threads=1, store=tmp_path))
    backend.close()
    (line,) = caplog.messages
    assert line.startswith("engine auto: ONNX Runtime, cpu, fp32; not tensorrt (no GPU can be used:")
    assert "cudaErrorNoDevice" in line
    assert "not cuda (" in line


@pytest.mark.usefixtures("native")
def test_auto_takes_native_code_before_what_works_anywhere(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(open_engine, "has_driver", lambda: False)
    caplog.set_level("INFO")
    backend, options = open_chosen(open_bundle(ATTENTION_MODEL), EngineOptions(threads=1))
    backend.close()
    assert options == EngineOptions(engine="native", threads=1)
    (record,) = caplog.records
    assert record.levelname == "INFO"
    reasons = r"not tensorrt \(this machine has no driver of NVIDIA's\); not torch \(this machine"
    assert re.match(rf"engine auto: native code \(\w+\) and ONNX Runtime, cpu, fp32; {reasons}", record.message)


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_auto_takes_openvino_in_lower_precisions_where_there_is_no_native_code(
    precision: ComputePrecision, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    monkeypatch.setitem(extras.EXTRAS, "native", ("no_such_module",))
    caplog.set_level("INFO")
    options = EngineOptions(engine="auto", precision=precision, threads=1)
    try:
        backend = open_backend(open_bundle(ATTENTION_MODEL), options)
    except EngineError as error:
        pytest.skip(str(error))
    backend.close()
    (line,) = caplog.messages
    assert line.startswith(f"engine auto: OpenVINO, cpu, {precision}; not native (")
    assert install_command("native") in line


def test_native_code_that_was_requested_is_never_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(extras.EXTRAS, "native", ("no_such_module",))
    with pytest.raises(MissingExtraError, match=r"\[native\]"):
        open_backend(open_bundle(ATTENTION_MODEL), EngineOptions(engine="native"))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_auto_takes_tensorrt_where_its_engines_are_stored(
    bundle: Bundle, devices: list[FakeDevice], tmp_path: Path, precision: ComputePrecision,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(open_engine, "has_driver", lambda: True)
    options = EngineOptions(precision=precision, threads=1, store=tmp_path)
    open_backend(bundle, options).close()
    lacking = f"not tensorrt (no {precision} engine for encoder, maps, .* build them once, with hiif-deploy build"
    assert re.search(lacking.replace("(", r"\("), caplog.messages[-1])
    open_backend(bundle, replace(options, engine="tensorrt")).close()
    caplog.set_level("INFO")
    backend = open_backend(bundle, options)
    backend.close()
    assert backend.precision == precision
    assert caplog.messages[-1].startswith(f"engine auto: tensorrt 11.4.0.106, {precision}")
    assert len(devices) == 3


def test_tensorrt_that_was_requested_is_never_replaced(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_module, "LAYERS", {})
    with installed(), pytest.raises(EngineError, match="no GPU can be used"):
        Upscaler(bundle, engine=EngineOptions(engine="tensorrt", store=tmp_path))


def test_a_device_is_closed_where_opening_fails(bundle: Bundle, devices: list[FakeDevice], tmp_path: Path) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise EngineError("no builder today")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trt_module, "find_or_build", refuse)
        with pytest.raises(EngineError, match="no builder today"):
            Upscaler(bundle, engine=EngineOptions(engine="tensorrt", store=tmp_path))
    with pytest.raises(EngineError):
        devices[0].allocate(1)


@pytest.mark.parametrize("device", ["cuda:1", "cpu"])
def test_tensorrt_on_another_gpu_than_the_first_is_refused(bundle: Bundle, tmp_path: Path, device: str) -> None:
    options = EngineOptions(engine="tensorrt", device=device, store=tmp_path)
    with pytest.raises(OptionError, match=f"device {device}: .*choose another GPU with CUDA_VISIBLE_DEVICES"):
        Upscaler(bundle, engine=options)


def test_without_a_builder_the_extra_is_named(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(trt_module, "entry_points", lambda **_: [])
    with installed(), pytest.raises(EngineAbsentError, match=r"\[engines\]"):
        find_or_build(bundle, "fp16", load_library(), HERE, EngineStore.open(tmp_path))
    assert "no fp16 engine for encoder, maps" in caplog.messages[0]


def test_a_builder_that_builds_nothing_is_found_out(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trt_module, "_builder", lambda: lambda *_: None)
    with installed(), pytest.raises(EngineError, match="gave no usable engine for decoder, encoder, finish"):
        find_or_build(bundle, "fp16", load_library(), HERE, EngineStore.open(tmp_path))


def test_a_bundle_without_the_precision_is_reported_before_anything_is_built(
    tiny_bundle: Path, devices: list[FakeDevice], tmp_path: Path
) -> None:
    with pytest.raises(Exception, match="holds no fp16 graph"):
        Upscaler(tiny_bundle, engine=EngineOptions(engine="tensorrt", store=tmp_path))
    assert len(devices) == 1


@pytest.mark.parametrize("options", [{"engine": "warp"}, {"precision": "int4"}])
def test_unknown_choices_are_a_usage_error(options: dict[str, str]) -> None:
    with pytest.raises(OptionError, match="expected one of"):
        EngineOptions(**options)  # type: ignore[arg-type]


def test_an_engine_may_be_named_by_a_word(bundle: Bundle) -> None:
    with Upscaler(bundle, engine="onnxruntime") as upscaler:
        assert upscaler.description == "ONNX Runtime, cpu, fp32"
    with pytest.raises(OptionError, match="engine is 'warp'"):
        Upscaler(bundle, engine="warp")  # type: ignore[arg-type]
