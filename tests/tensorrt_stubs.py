"""Type stubs of the real TensorRT bindings, for mypy and for judging the recording double.

    python tests/tensorrt_stubs.py OUT [--version 11.4.0.106 ...]

writes OUT/VERSION/tensorrt/__init__.pyi, which mypy finds with MYPYPATH=OUT/VERSION, and OUT/VERSION/enums.json, the
numbers behind the enumerations. The bindings come from PyPI; the libraries that they load are played by empty ones,
compiled here, because importing asks nothing of them. The bindings are NVIDIA's: keep OUT out of version control.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

from shared_cache import cache_folder

VERSIONS = ("10.13.3.9", "10.16.1.11", "11.4.0.106")
"""The oldest TensorRT that this project supports, the last 10, the newest 11."""

SYMBOLS = (
    "createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL",
    "createNvOnnxParser_INTERNAL", "createNvOnnxParserRefitter_INTERNAL", "getBuilderPluginRegistry",
    "getPluginRegistry", "getNvOnnxParserVersion", "initLibNvInferPlugins",
)  # fmt: skip
"""All that the bindings link against by name."""

ENUMS = """
import importlib, json, sys
module = importlib.import_module(sys.argv[1])
found = {name: kind for name, kind in vars(module).items() if hasattr(kind, "__members__")}
print(json.dumps({name: {key: int(value) for key, value in kind.__members__.items()} for name, kind in found.items()}))
"""

MAYBE_NONE = {"build_serialized_network", "deserialize_cuda_engine", "create_execution_context"}
"""Methods that answer None where they fail; the bindings' signatures do not say so."""
BUILTINS = {"bool", "int", "float", "str", "list", "tuple", "type", "slice"}
"""Names that stand for Python's own types in annotations, whatever else the module calls so."""
CALLBACKS = {"ILogger", "IErrorRecorder", "IProgressMonitor"}
"""Classes whose methods are overridden and called with plain Python values."""
HEAD = """# Generated from proprietary bindings: not to be committed.
# mypy: disable-error-code="overload-cannot-match, type-arg, no-untyped-def, assignment, override, misc"
import builtins
import collections.abc
"""
"""What the plugin classes get wrong is not ours; names and types that do not exist stay errors."""
TAIL = """
__version__: str
def volume(iterable: collections.abc.Iterable[int]) -> int: ...
def nptype(trt_type: DataType) -> type[typing.Any]: ...
"""
"""What the bindings' own `__init__.py` adds."""


class StubsUnavailableError(Exception):
    """No stubs can be made here; the message says what is missing."""


def stubs_folder() -> Path:
    """Where stubs are kept between runs."""
    folder = cache_folder() / "tensorrt-stubs"
    folder.mkdir(exist_ok=True)
    return folder


def make_stubs(out: Path, version: str) -> Path:
    """The folder for MYPYPATH, made once; StubsUnavailableError without PyPI, gcc or pybind11-stubgen."""
    folder = out / version
    with FileLock(out / f"{version}.lock"):
        if not (folder / "enums.json").exists():
            _make_stubs(folder, version)
    return folder


def _make_stubs(folder: Path, version: str) -> None:
    with tempfile.TemporaryDirectory(prefix="tensorrt-stubs-") as name:
        scratch = Path(name)
        _unpack(_download(version, scratch / "wheel"), scratch / "site")
        _compile_libraries(scratch / "lib", version.partition(".")[0])
        paths = {"PYTHONPATH": str(scratch / "site"), "LD_LIBRARY_PATH": str(scratch / "lib")}
        _generate("tensorrt_bindings.tensorrt", folder, scratch, paths)


def make_rtx_stubs(out: Path) -> Path:
    """The same of the TensorRT-RTX that is installed, whose real libraries are there too."""
    folder = out / "rtx"
    with FileLock(out / "rtx.lock"):
        if not (folder / "enums.json").exists():
            with tempfile.TemporaryDirectory(prefix="tensorrt-stubs-") as name:
                _generate("tensorrt_rtx_bindings.tensorrt_rtx", folder, Path(name), {})
    return folder


def _generate(module: str, folder: Path, scratch: Path, paths: dict[str, str]) -> None:
    environment = {**os.environ, **paths}
    options = ["--ignore-all-errors", "--print-invalid-expressions-as-is"]
    _call([sys.executable, "-m", "pybind11_stubgen", module, "-o", str(scratch / "raw"), *options], environment)
    raw = (scratch / "raw" / module.replace(".", "/")).with_suffix(".pyi").read_text(encoding="utf-8")
    enums = _call([sys.executable, "-W", "ignore", "-c", ENUMS, module.partition(".")[0]], environment)
    (folder / "tensorrt").mkdir(parents=True, exist_ok=True)
    (folder / "tensorrt" / "__init__.pyi").write_text(repair(raw), encoding="utf-8")
    (scratch / "enums.json").write_text(json.dumps(json.loads(enums)), encoding="utf-8")
    shutil.move(scratch / "enums.json", folder / "enums.json")


def _download(version: str, folder: Path) -> Path:
    package = f"tensorrt-cu13-bindings=={version}"
    options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "-q"]
    _call([sys.executable, "-m", "pip", "download", package, *options, "-d", str(folder)], dict(os.environ))
    return next(folder.glob("*.whl"))


def _unpack(wheel: Path, folder: Path) -> None:
    shutil.unpack_archive(wheel, folder, "zip")


def _compile_libraries(folder: Path, major: str) -> None:
    folder.mkdir()
    source = folder / "empty.c"
    source.write_text("".join(f"void *{symbol}(void) {{ return 0; }}\n" for symbol in SYMBOLS), encoding="ascii")
    for name in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
        library = f"lib{name}.so.{major}"
        command = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", str(folder / library), str(source)]
        _call(command, dict(os.environ))


def _call(command: Sequence[str], environment: dict[str, str]) -> str:
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StubsUnavailableError(f"{command[0]}: {error}") from error
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise StubsUnavailableError(f"{' '.join(command[:5])} … ended with {done.returncode}: {last}")
    return done.stdout


def repair(text: str) -> str:
    """Make what pybind11-stubgen writes of these bindings valid, and as strict as the bindings are."""
    classes = set(re.findall(r"^class (\w+)", text, re.MULTILINE))
    text = re.sub(r"= <[^>\n]*>", "= ...", text)
    text = re.sub(r"\bin: ", "in_: ", text)
    text = re.sub(r"\bcapsule\b|\btyping_extensions\.CapsuleType\b|(?:\w+::)+\w+<[^>\n]*>", "typing.Any", text)
    text = re.sub(r"(?:\w+::)+(\w+)", lambda found: _python_name(found[1], classes), text)
    module = _Repair().visit(ast.parse(_without_misplaced_defaults(text)))
    return HEAD + ast.unparse(ast.fix_missing_locations(module)) + TAIL


def _python_name(name: str, classes: set[str]) -> str:
    known = {"IParserError": "ParserError", "IParser": "OnnxParser", "INetwork": "INetworkDefinition"}.get(name, name)
    return known if known in classes else "typing.Any"


def _without_misplaced_defaults(text: str) -> str:
    """One function has a parameter without default after some with; no default at all is the strict reading."""
    lines = text.splitlines()
    while True:
        try:
            ast.parse("\n".join(lines))
            return "\n".join(lines)
        except SyntaxError as error:
            number = (error.lineno or 1) - 1
            line, lines[number] = lines[number], re.sub(r" = [^,)]+", "", lines[number])
            if lines[number] == line:
                raise


class _Repair(ast.NodeTransformer):
    """Docstrings go; names, integers, shapes, buffers and failing answers become what they are at run time."""

    kind = ""

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        outer, self.kind = self.kind, node.name
        self.generic_visit(node)
        self.kind = outer
        if node.name == "Dims":
            node.body += ast.parse("def __iter__(self) -> collections.abc.Iterator[builtins.int]: ...").body
        if node.name == "IHostMemory":
            node.body += ast.parse("def __buffer__(self, flags: builtins.int) -> builtins.memoryview: ...").body
        node.body = node.body or [ast.Expr(ast.Constant(...))]
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        node.body = [ast.Expr(ast.Constant(...))]
        if node.name in MAYBE_NONE and node.returns is not None:
            node.returns = ast.parse(f"{ast.unparse(node.returns)} | None", mode="eval").body
        if node.name in ("__enter__", "__exit__"):
            node.args = ast.parse("def f(*args: typing.Any) -> typing.Any: ...").body[0].args  # type: ignore[attr-defined]
            node.returns = ast.parse("typing.Any", mode="eval").body
        self._make_unnamed_positional(node.args)
        for argument in node.args.args:
            self._widen(argument)
        self.generic_visit(node)
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AnnAssign:
        self.generic_visit(node)
        if ast.unparse(node.target) in ("error_recorder", "progress_monitor"):
            node.annotation = ast.parse(f"{ast.unparse(node.annotation)} | None", mode="eval").body
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        # The bindings take whatever has __index__, and refuse a float.
        if ast.unparse(node) == "typing.SupportsInt":
            name = "builtins.int" if self.kind in CALLBACKS else "typing.SupportsIndex"
            return ast.parse(name, mode="eval").body
        return node

    def visit_Name(self, node: ast.Name) -> ast.expr:
        # `bool`, `int8` and others are also data types, at the top and inside classes.
        if isinstance(node.ctx, ast.Load) and node.id in {
            "bool",
            "int",
            "float",
            "str",
            "list",
            "tuple",
            "type",
            "slice",
        }:
            return ast.parse(f"builtins.{node.id}", mode="eval").body
        return node

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        return None if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str) else node

    @staticmethod
    def _make_unnamed_positional(arguments: ast.arguments) -> None:
        names = arguments.args
        if len(names) > 1 and all(re.fullmatch(r"arg\d+", argument.arg) for argument in names[1:]):
            arguments.posonlyargs, arguments.args = names, []

    def _widen(self, argument: ast.arg) -> None:
        given = ast.unparse(argument.annotation) if argument.annotation else ""
        wider = {"Dims": "Dims | collections.abc.Sequence[builtins.int]"}.get(given)
        if argument.arg == "parent_phase":
            wider = "str | None"
        if wider:
            argument.annotation = ast.parse(wider, mode="eval").body


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--version", action="append", choices=VERSIONS)
    given = parser.parse_args(arguments)
    for version in given.version or VERSIONS:
        print(make_stubs(given.out, version))


if __name__ == "__main__":
    main()
