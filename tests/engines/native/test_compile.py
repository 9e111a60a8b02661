"""Machine code is compiled once and kept; what cannot be had is refused in words."""

from __future__ import annotations

import gc
import re
import sys
from collections import Counter
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
from hiif_engines.native.compile import FOLDER, OPTIMISATION, Compiled, choose_target, kept_path, lacking, machine_of
from hiif_engines.native.emit import POINTER, Emitter
from hiif_engines.native.kernel import emit_kernels
from hiif_engines.native.layer import Layer, ScratchLayout, emit_layer
from hiif_engines.native.products.precision import FP32, PRECISIONS
from hiif_engines.native.stage import LayerWeights, Product, Stage
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
    [
        ("avx2", "fp32", "fma"),
        ("avx2", "int8", "avxvnni"),
        ("avx512", "bf16", "avx512bf16"),
        ("avx512", "int8", "avx512vnni"),
    ],
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


def test_avx2_is_taken_where_avx512_lacks_the_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    features = {"x86_64", "avxvnni", *TARGETS["avx2"].needs, *TARGETS["avx512"].needs}
    monkeypatch.setattr(native_compile, "_features", lambda: features)
    assert [choose_target(precision).name for precision in ("fp32", "int8")] == ["avx512", "avx2"]


LATER = re.compile(r"%(zmm|k\d|[xy]mm(?:1[6-9]|[23]\d))")
"""What AVX2 lacks: wide vectors, masks and registers from 16 on."""


def test_code_for_avx2_has_no_instruction_that_avx2_lacks() -> None:
    kinds = {}
    for name in ("avx2", "avx512"):
        target = TARGETS[name]
        if lacking(target, "fp32"):
            pytest.skip(f"this processor lacks {name}")
        found = ir.Module("test")
        emit_layer(found, "run", Layer(64, 64, 64, None, False, FP32, FP32), ScratchLayout(target, 64))
        code = machine_of(target).emit_assembly(llvm.parse_assembly(str(found)))
        kinds[name] = set(LATER.findall(code))
    assert kinds["avx2"] == set()
    assert "zmm" in kinds["avx512"]


def encoded(target: Target, precision: ComputePrecision) -> str:
    """A layer as text for any x86 processor with the target's instructions."""
    layers = (LayerWeights(Product(*zeros(64, 64)), Product(*zeros(64, 64))),)
    kernel = Stage(None, layers, None).kernel(PRECISIONS[precision], target)
    parsed = llvm.parse_assembly(str(emit_kernels({"run": kernel}, ScratchLayout(target, 64))))
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    features = ",".join(f"+{name}" for name in sorted(target.needs | target.precisions[precision]))
    machine = llvm.Target.from_triple("x86_64-linux-gnu").create_target_machine(features=features, opt=OPTIMISATION)
    return str(machine.emit_assembly(parsed))


@pytest.mark.parametrize(("precision", "product"), [("bf16", "tdpbf16ps"), ("int8", "tdpbusd")])
def test_code_for_tiles_has_the_processors_own_instructions(precision: ComputePrecision, product: str) -> None:
    """What runs elsewhere in tests are these instructions' meanings."""
    code = encoded(TARGETS["amx"], precision)
    found = re.findall(r"\t(ldtilecfg|tilerelease|tilezero|tileloadd|tilestored|tdp\w+)", code)
    # Of each of two products: four tiles of sums, two of rows and two of weights.
    assert Counter(found) == {
        "ldtilecfg": 1, "tilerelease": 1, "tilezero": 8, "tileloadd": 8, product: 8, "tilestored": 8
    }  # fmt: skip


def zeros(inputs: int, outputs: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((inputs, outputs), np.float32), np.zeros(outputs, np.float32)


def test_tiles_that_the_system_does_not_grant_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    target = TARGETS["amx"]
    there = dict.fromkeys(target.needs | target.precisions["int8"] | {"avx512vnni"}, True)
    monkeypatch.setattr(native_compile.llvm, "get_host_cpu_features", lambda: there)
    monkeypatch.setattr(native_compile.llvm, "get_default_triple", lambda: "x86_64-unknown-linux-gnu")
    for is_granted, expected in ((True, "amx"), (False, "avx512")):
        features = native_compile._features.__wrapped__
        monkeypatch.setattr(native_compile, "request_tiles", lambda is_granted=is_granted: is_granted)
        with monkeypatch.context() as patch:
            found = features()
            patch.setattr(native_compile, "_features", lambda found=found: found)
            assert choose_target("int8").name == expected


def test_int8_for_avx2_has_the_products_of_avx_vnni() -> None:
    """What runs elsewhere in tests is AVX-512's encoding of them, which has no prefix."""
    code = encoded(TARGETS["avx2"], "int8")
    products = re.findall(r".*vpdpbusd.*", code)
    # A panel's two vectors of each row, twice as loops are unrolled, for each of two products.
    assert len(products) == 2 * 2 * 2 * TARGETS["avx2"].rows
    assert all(re.match(r"\s*\{vex\}\s+vpdpbusd\s.*%ymm\d+, %ymm\d+$", product) for product in products)
    assert not LATER.search(code)


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
