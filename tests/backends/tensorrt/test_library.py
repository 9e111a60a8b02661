"""TensorRT is loaded late, its version is checked, and its absence is explained."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from hiif_deploy.backends.tensorrt.library import MODULES, Messages, check_version, load_library
from hiif_deploy.errors import EngineAbsentError, EngineError, OptionError
from hiif_deploy.support.install import install_command
from tensorrt_double.install import installed


def test_an_absent_library_is_a_usage_error_with_the_command_that_adds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODULES, "tensorrt", ("no_such_library",))
    with pytest.raises(EngineAbsentError) as caught:
        load_library()
    assert caught.value.exit_code == 2
    assert str(caught.value) == (
        f"tensorrt is not installed; add it with: {install_command('tensorrt')} "
        "(or: pip install tensorrt-cu13 cuda-bindings)"
    )


@pytest.mark.parametrize("version", ["10.13.0", "10.13.3.9.post1", "10.16.1.11", "11.0.0.114", "11.4.0.106"])
def test_versions_from_10_13_to_11_are_supported(version: str) -> None:
    with installed(version=version):
        assert load_library().version == version


@pytest.mark.parametrize("version", ["8.6.1", "10.12.9", "12.0.0"])
def test_other_versions_are_refused_with_what_is_supported(version: str) -> None:
    with (
        installed(version=version),
        pytest.raises(EngineError, match=rf"tensorrt {version} .* 10.13 or newer, below 12"),
    ):
        load_library()
    with pytest.raises(EngineError, match=r"1\.4 or newer, below 2"):
        check_version("tensorrt-rtx", version)


def test_a_library_that_breaks_on_import_is_told_from_an_absent_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.11: not found')")
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(EngineError, match=r"tensorrt is installed but does not load: libnvinfer\.so\.11: not found"):
        load_library()


def test_an_unknown_library_is_answered_with_the_known_ones() -> None:
    with pytest.raises(OptionError, match="library 'tensorrt-lite': expected one of tensorrt, tensorrt-rtx"):
        load_library("tensorrt-lite")  # type: ignore[arg-type]


def test_errors_are_collected_from_logger_and_recorder_and_each_is_told_once() -> None:
    with installed() as trt:
        library = load_library()
        messages = Messages(library)
        messages.logger.log(trt.Logger.ERROR, "first \n")
        messages.logger.log(trt.Logger.WARNING, "not an error")
        messages.recorder.report_error(trt.ErrorCodeTRT.INVALID_STATE, "second")
        messages.recorder.report_error(trt.ErrorCodeTRT.INVALID_STATE, "first")
        assert messages.reason() == "first; second"
        assert Messages(library).reason() == "the library gave no reason"
        assert isinstance(library.module, ModuleType)
