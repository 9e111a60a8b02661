"""The double of TensorRT has nothing that the real bindings lack."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from double_bench import OURS, load_rtx
from tensorrt_stubs import VERSIONS, StubsUnavailableError, make_rtx_stubs, make_stubs, stubs_folder


class Surface:
    """Classes, methods and properties of a stub file."""

    def __init__(self, folder: Path) -> None:
        module = ast.parse((folder / "tensorrt" / "__init__.pyi").read_text(encoding="utf-8"))
        self.numbers: dict[str, dict[str, int]] = json.loads((folder / "enums.json").read_text(encoding="utf-8"))
        self.classes = {node.name: node for node in module.body if isinstance(node, ast.ClassDef)}
        functions = [node for node in module.body if isinstance(node, ast.FunctionDef)]
        self.names = {*self.classes, *(node.name for node in functions)}
        self.names |= {ast.unparse(node.target) for node in module.body if isinstance(node, ast.AnnAssign)}

    def members(self, name: str) -> list[ast.stmt]:
        node = self.classes[name]
        bases = [base.id for base in node.bases if isinstance(base, ast.Name) and base.id in self.classes]
        return [*node.body, *(member for base in bases for member in self.members(base))]

    def signatures(self, kind: str, name: str) -> list[list[str]]:
        """Parameters of every overload, those with a default marked with `=`; empty where there is no such method."""
        found = [m for m in self.members(kind) if isinstance(m, ast.FunctionDef) and m.name == name]
        return [stub_parameters(method.args) for method in found if not method.decorator_list or overloaded(method)]

    def property(self, kind: str, name: str) -> str:
        """`read`, `write`, or nothing where there is no such property."""
        found = ""
        for member in self.members(kind):
            if isinstance(member, ast.AnnAssign) and ast.unparse(member.target) == name:
                return "write"
            if isinstance(member, ast.FunctionDef) and member.name == name and member.decorator_list:
                decorators = [ast.unparse(decorator) for decorator in member.decorator_list]
                found = "write" if f"{name}.setter" in decorators else found or "read"
        return found


def overloaded(method: ast.FunctionDef) -> bool:
    return [ast.unparse(decorator) for decorator in method.decorator_list] == ["typing.overload"]


def stub_parameters(arguments: ast.arguments) -> list[str]:
    names = [argument.arg for argument in [*arguments.posonlyargs, *arguments.args]][1:]
    plain = len(names) - len(arguments.defaults)
    return [name if n < plain else f"{name}=" for n, name in enumerate(names)]


def our_parameters(function: Any) -> list[str]:
    parameters = list(inspect.signature(function).parameters.values())[1:]
    return [p.name if p.default is p.empty else f"{p.name}=" for p in parameters]


def public_members(kind: type) -> dict[str, Any]:
    """What a class of the double has of its own, constructor included where it has one."""
    own = [vars(base) for base in reversed(kind.__mro__) if base.__module__.startswith("tensorrt.")]
    members = {name: value for scope in own for name, value in scope.items()}
    constructible = "__init__" in members and members["__init__"].__qualname__ != "Strict.__init__"
    return {n: v for n, v in members.items() if not n.startswith("_") or (n == "__init__" and constructible)}


def surplus(double: Any, surface: Surface) -> list[str]:
    """Everything in the double that the bindings lack, or have otherwise."""
    found = [name for name in set(double.__all__) - OURS if name not in surface.names]
    for name in sorted(set(double.__all__) - OURS):
        kind = getattr(double, name)
        if isinstance(kind, type) and name in surface.classes and not hasattr(kind, "__members__"):
            found += [f"{name}.{member}" for member in surplus_members(name, kind, surface)]
    return found


def surplus_members(name: str, kind: type, surface: Surface) -> Iterator[str]:
    for member, value in public_members(kind).items():
        if isinstance(value, property):
            if surface.property(name, member) not in (("write",) if value.fset else ("read", "write")):
                yield member
        elif inspect.isfunction(value):
            if our_parameters(value) not in surface.signatures(name, member):
                yield f"{member}{our_parameters(value)}, really {surface.signatures(name, member)}"
        elif not surface.property(name, member) and not any(
            isinstance(node, ast.ClassDef) and node.name == member for node in surface.members(name)
        ):
            yield member


def wrong_numbers(double: Any, surface: Surface) -> list[str]:
    found = []
    for name in set(double.__all__) - OURS:
        members = getattr(getattr(double, name), "__members__", {})
        for key, member in members.items():
            if surface.numbers[name].get(key) != int(member):
                found.append(f"{name}.{key} is {int(member)}, really {surface.numbers[name].get(key)}")
    return found


def surface_of(version: str) -> Surface:
    folder = stubs_folder()
    try:
        return Surface(make_rtx_stubs(folder) if version == "rtx" else make_stubs(folder, version))
    except StubsUnavailableError as error:
        pytest.skip(f"no stubs of TensorRT {version}: {error}")


def rtx_surface() -> Surface:
    load_rtx()
    pytest.importorskip("pybind11_stubgen")
    return surface_of("rtx")


def test_the_double_has_nothing_that_tensorrt_rtx_lacks(double: Any) -> None:
    surface = rtx_surface()
    assert surplus(double, surface) == []
    assert wrong_numbers(double, surface) == []


@pytest.mark.early
@pytest.mark.parametrize("version", VERSIONS)
def test_the_double_has_nothing_that_tensorrt_lacks(double: Any, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    surface = surface_of(version)
    monkeypatch.setattr(double, "__version__", version)
    assert surplus(double, surface) == []
    assert wrong_numbers(double, surface) == []


def test_an_invented_member_of_the_double_is_found_out(double: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    surface = rtx_surface()

    def renamed(self: Any, tensor: str, shape: Any) -> bool:
        raise NotImplementedError

    renamed.__module__ = double.IExecutionContext.__module__
    monkeypatch.setattr(double.IExecutionContext, "set_input_shape", renamed)
    monkeypatch.setattr(double.ICudaEngine, "num_bindings", property(len), raising=False)
    monkeypatch.setattr(double.ICudaEngine, "num_layers", property(len, setattr))
    monkeypatch.setattr(double, "__all__", [*double.__all__, "init_plugins"])
    monkeypatch.setattr(double, "init_plugins", print, raising=False)
    assert sorted(name.partition("[")[0] for name in surplus(double, surface)) == [
        "ICudaEngine.num_bindings", "ICudaEngine.num_layers", "IExecutionContext.set_input_shape", "init_plugins",
    ]  # fmt: skip


def test_numbers_of_another_version_are_found_out(double: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    surface = rtx_surface()
    monkeypatch.setattr(double, "__version__", "10.13.3.9")
    assert "NetworkDefinitionCreationFlag.STRONGLY_TYPED is 1, really 0" in wrong_numbers(double, surface)
