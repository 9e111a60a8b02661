"""Our code uses only what the real TensorRT bindings have, from the oldest version supported to the newest.

The stubs are made from the bindings on PyPI; see tensorrt_stubs.py.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tensorrt_stubs import MAYBE_NONE, VERSIONS, StubsUnavailableError, make_stubs, repair, stubs_folder

ROOT = Path(__file__).resolve().parents[3]
AREAS = ("hiif_deploy", "engines/hiif_engines")
REMOVED = {
    "BuilderFlag.FP16": "trt.BuilderFlag.FP16",
    "EXPLICIT_BATCH": "trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH",
    "num_bindings": "engine.num_bindings",
    "execute_async_v2": "context.execute_async_v2([], 0)",
    "max_workspace_size": "config.max_workspace_size = 1",
    "a float address": "context.set_tensor_address('x', 1.5)",
    "an unknown keyword": "config.set_memory_pool_limit(pool=trt.MemoryPoolType.WORKSPACE, bytes=1)",
    "an unchecked failure": "engine.create_execution_context().infer_shapes()",
}
"""What tutorials show and TensorRT 11 lacks, and mistakes that it answers only at run time."""
USED = """
import tensorrt as trt

class Monitor(trt.IProgressMonitor):
    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None: ...
    def step_complete(self, phase_name: str, step: int) -> bool: return True
    def phase_finish(self, phase_name: str) -> None: ...

def build(config: trt.IBuilderConfig, engine: trt.ICudaEngine, context: trt.IExecutionContext) -> str:
    config.progress_monitor = Monitor()
    sizes = tuple(context.get_tensor_shape("x"))
    right = context.set_input_shape("x", (1, *sizes)) and not context.infer_shapes()
    again = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
    if again is not None and right:
        again.set_device_memory(256, 256)
        return f"{trt.__version__} {bytes(engine.serialize())!r}"
    {statement}
    return ""
"""


@pytest.fixture(
    scope="module",
    params=[pytest.param(v, marks=() if v == VERSIONS[-1] else pytest.mark.slow) for v in VERSIONS],
)
def stubs(request: pytest.FixtureRequest) -> Path:
    return stubs_of(request.param)


def stubs_of(version: str) -> Path:
    try:
        return make_stubs(stubs_folder(), version)
    except StubsUnavailableError as error:
        pytest.skip(f"no stubs of TensorRT {version}: {error}")


def mypy(stubs: Path, *arguments: str, root: Path = ROOT) -> str:
    """What mypy says with the project's settings when `tensorrt` is the stub; empty where nothing is wrong."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--no-warn-unused-ignores",
            "--cache-dir",
            str(stubs.parent / "mypy-cache"),  # one for all versions: only what imports TensorRT is checked again
            *arguments,
        ],
        cwd=root,
        env={**os.environ, "MYPYPATH": str(stubs)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr + done.stdout
    return done.stdout if done.returncode else ""


def check_snippet(stubs: Path, folder: Path, statement: str) -> str:
    path = folder / "snippet.py"
    path.write_text(USED.replace("{statement}", statement), encoding="utf-8")
    return mypy(stubs, str(path), root=folder)


def copy_of_our_code(folder: Path) -> list[Path]:
    shutil.copy(ROOT / "pyproject.toml", folder)
    for area in AREAS:
        shutil.copytree(ROOT / area, folder / area, ignore=shutil.ignore_patterns("models", "__pycache__"))
    return sorted(folder.rglob("*.py"))


@pytest.mark.early
def test_the_stub_itself_has_no_unknown_names(stubs: Path) -> None:
    assert mypy(stubs, "-p", "tensorrt") == ""


@pytest.mark.early
def test_our_code_uses_only_what_the_bindings_have(stubs: Path) -> None:
    assert mypy(stubs, "-p", "hiif_deploy", "-p", "hiif_engines") == ""


@pytest.mark.early
@pytest.mark.parametrize(
    ("used", "removed"), [("STRONGLY_TYPED", "EXPLICIT_BATCH"), ("execute_async_v3", "execute_async_v2")]
)
def test_our_code_with_a_removed_name_is_found_out(used: str, removed: str, tmp_path: Path) -> None:
    stubs = stubs_of(VERSIONS[-1])
    users = [path for path in copy_of_our_code(tmp_path) if f".{used}" in path.read_text(encoding="utf-8")]
    assert users
    for path in users:
        path.write_text(path.read_text(encoding="utf-8").replace(f".{used}", f".{removed}"), encoding="utf-8")
    found = mypy(stubs, "-p", "hiif_deploy", "-p", "hiif_engines", root=tmp_path)
    for path in users:
        assert any(path.name in line and removed in line for line in found.splitlines()), found


@pytest.mark.early
def test_right_use_is_accepted_by_every_version(stubs: Path, tmp_path: Path) -> None:
    assert check_snippet(stubs, tmp_path, "pass") == ""


@pytest.mark.early
@pytest.mark.parametrize("wrong", REMOVED)
def test_wrong_use_is_found_out_by_the_newest_version(wrong: str, tmp_path: Path) -> None:
    stubs = stubs_of(VERSIONS[-1])
    found = check_snippet(stubs, tmp_path, REMOVED[wrong])
    line = USED.splitlines().index("    {statement}") + 1
    assert f"snippet.py:{line}: error:" in found


def test_what_the_generator_gets_wrong_is_repaired() -> None:
    text = "\n".join([
        "from __future__ import annotations",
        "class Dims:",
        '    """Text that is not ours."""',
        "class Thing:",
        "    def plug(self, in: nvinfer1::Dims, kind: Kind = <Kind.A: 0>) -> nvinfer1::Secret: ...",
        "    def scale(self, shift: Dims = None, axis: typing.SupportsInt) -> bool: ...",
        "    def create_execution_context(self) -> Thing: ...",
        "    def named(self, arg0: typing.SupportsInt) -> None: ...",
        "bool: Dims",
    ])  # fmt: skip
    shape = "Dims | collections.abc.Sequence[builtins.int]"
    repaired = repair(text)
    for line in (
        f"def plug(self, in_: {shape}, kind: Kind=...) -> typing.Any:",
        f"def scale(self, shift: {shape}, axis: typing.SupportsIndex) -> builtins.bool:",
        "def create_execution_context(self) -> Thing | None:",
        "def named(self, arg0: typing.SupportsIndex, /) -> None:",
        "\nbool: Dims\n",
    ):
        assert line in repaired
    assert "not ours" not in repaired


def test_methods_that_may_fail_are_spelt_as_in_the_bindings() -> None:
    text = (stubs_of(VERSIONS[-1]) / "tensorrt" / "__init__.pyi").read_text(encoding="utf-8")
    assert {name for name in MAYBE_NONE if f"def {name}(" in text} == MAYBE_NONE
