"""Machine code is compiled once and kept; what cannot be had is refused in words."""

from __future__ import annotations

import gc
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from llvmlite import binding as llvm
from llvmlite import ir

from hiif_deploy import EngineError
from hiif_deploy.backends.options import IsaName
from hiif_deploy.decoding.session import ComputePrecision
from hiif_deploy.support.cache_dir import VARIABLE
from hiif_engines.native import compile as native_compile
from hiif_engines.native.compile import FOLDER, Compiled, choose_target, kept_path, lacking, machine_of
from hiif_engines.native.emit import POINTER, Emitter
from hiif_engines.native.layer import Layer, ScratchLayout, emit_layer
from hiif_engines.native.products.precision import FP32
from hiif_engines.native.target import TARGETS, Target


def module(target: Target, name: str) -> ir.Module:
    """A function that stores a vector of what one of LLVM's own makes of 4."""
    found = ir.Module("test")
    e = Emitter(target, found, "run", [POINTER])
    e.store(e.call(name, e.floats, e.reals(4.0)), e.load(POINTER, e.arguments[0]))
    e.finish()
    return found


def test_code_that_llvm_does_not_take_is_refused(own_target: Target) -> None:
    with pytest.raises(EngineError, match=r"LLVM \d+\.\d+\.\d+ rejects native code \(.*--engine onnxruntime"):
        Compiled(lambda: "define nonsense", own_target)


@pytest.mark.parametrize(
    ("isa", "precision", "missing"),
    [("avx2", "fp32", "fma"), ("avx512", "bf16", "avx512bf16"), ("avx512", "int8", "avx512vnni")],
)
def test_lacking_instructions_are_named(
    isa: IsaName, precision: ComputePrecision, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = TARGETS[isa]
    features = {target.machine} | target.needs | target.precisions[precision]
    monkeypatch.setattr(native_compile, "_features", lambda: features)
    assert choose_target(precision) is target
    monkeypatch.setattr(native_compile, "_features", lambda: features - {missing})
    with pytest.raises(EngineError, match=rf"native code in {precision} needs .*\({missing}\)"):
        choose_target(precision)


def test_code_for_avx2_has_no_instruction_that_avx2_lacks() -> None:
    kinds = {}
    for name in ("avx2", "avx512"):
        target = TARGETS[name]
        if lacking(target, "fp32"):
            pytest.skip(f"this processor lacks {name}")
        found = ir.Module("test")
        emit_layer(found, "run", Layer(64, 64, 64, None, False, FP32, FP32), ScratchLayout(target, 64))
        code = machine_of(target).emit_assembly(llvm.parse_assembly(str(found)))
        kinds[name] = set(re.findall(r"%(zmm|k\d|[xy]mm(?:1[6-9]|[23]\d))", code))
    # Wide vectors, masks and registers from 16 on.
    assert kinds["avx2"] == set()
    assert "zmm" in kinds["avx512"]


def test_a_function_keeps_its_code_alive(own_target: Target) -> None:
    answer = np.zeros(own_target.lanes, np.float32)
    function = Compiled(lambda: module(own_target, "llvm.sqrt"), own_target).function("run")
    gc.collect()
    function([answer])
    assert (answer == 2).all()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an empty store where code is kept."""
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    return tmp_path / FOLDER


def root_of_four(target: Target, described: object = "test") -> list[bool]:
    """Compile, call and check a function; return [True] where it was written, [] where it was kept."""
    written: list[bool] = []

    def write() -> ir.Module:
        written.append(True)
        return module(target, "llvm.sqrt")

    answer = np.zeros(target.lanes, np.float32)
    Compiled(write, target, described).function("run")([answer])
    assert (answer == 2).all()
    return written


def test_code_is_written_once_for_a_processor(own_target: Target, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [root_of_four(own_target) for _ in range(2)] == [[True], []]
    assert root_of_four(own_target, "another") == [True]
    features = native_compile._features() - {"sse4a"} | {"unheard"}
    monkeypatch.setattr(native_compile, "_features", lambda: features)
    assert root_of_four(own_target) == [True]
    assert len(list(store.iterdir())) == 3


def test_damaged_code_is_compiled_again(own_target: Target, store: Path, caplog: pytest.LogCaptureFixture) -> None:
    root_of_four(own_target)
    (path,) = store.iterdir()
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[:20], bytes(len(whole)), b""):
        path.write_bytes(damaged)
        assert root_of_four(own_target) == [True]
        assert path.read_bytes() == whole
    assert [record.message.count("damaged, it is compiled again") for record in caplog.records] == [1, 1, 1]


def test_the_oldest_code_makes_room(own_target: Target, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_compile, "KEPT", 2)
    for n in range(4):
        root_of_four(own_target, n)
    assert len(list(store.iterdir())) == 2
    assert root_of_four(own_target, 3) == []


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of POSIX")
def test_code_is_not_taken_from_a_folder_that_others_write_to(own_target: Target, store: Path) -> None:
    root_of_four(own_target)
    store.parent.chmod(0o777)
    store.chmod(0o777)
    assert root_of_four(own_target) == [True]


def test_a_description_that_another_process_would_not_give_is_refused() -> None:
    with pytest.raises(ValueError, match="not the same in another process"):
        kept_path(repr(object()))
