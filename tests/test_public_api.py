"""What `import hiif_deploy` offers, and the tree of its errors."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import hiif_deploy
from hiif_deploy import errors
from hiif_deploy.support.extras import missing_extra
from hiif_deploy.support.install import install_command

ERRORS: dict[str, type[Exception]] = {
    name: kind for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, Exception)
}
DRAWN = re.compile(r"^(?P<branches>[│├└─ ]*)(?P<name>\w+Error)\s+(exit code (?P<code>\d+))?", re.MULTILINE)
"""A line of the tree in the docstring of `hiif_deploy.errors`."""


def drawn_parents() -> Iterator[tuple[str, str]]:
    """(error, the one that it hangs on) as drawn; the root hangs on Exception."""
    above: list[str] = []
    for line in DRAWN.finditer(errors.__doc__ or ""):
        depth = len(line["branches"]) // 4 - 1
        above[depth:] = [line["name"]]
        yield line["name"], above[depth - 1] if depth else "Exception"


def public_callables() -> Iterator[tuple[str, Any]]:
    """Everything in `__all__`, and the public methods and properties of its classes."""
    for name in hiif_deploy.__all__:
        offered = getattr(hiif_deploy, name)
        yield name, offered
        if inspect.isclass(offered):
            for member, value in vars(offered).items():
                if not member.startswith("_") and (callable(value) or isinstance(value, (property, classmethod))):
                    yield f"{name}.{member}", value


def test_the_public_names_are_sorted_and_unique() -> None:
    assert hiif_deploy.__all__ == sorted(set(hiif_deploy.__all__))


@pytest.mark.parametrize("name", hiif_deploy.__all__)
def test_a_public_name_can_be_imported(name: str) -> None:
    space: dict[str, Any] = {}
    exec(f"from hiif_deploy import {name}", space)
    assert space[name] is getattr(hiif_deploy, name)


@pytest.mark.parametrize("name", ["errors", "bundle", "upscaler"])
def test_a_module_of_public_names_is_reached_from_the_package(name: str) -> None:
    program = f"import hiif_deploy; print(hiif_deploy.{name}.__name__)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"hiif_deploy.{name}"


def test_every_name_that_lies_open_is_public_or_a_module() -> None:
    offered = {
        name for name, value in vars(hiif_deploy).items() if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert offered == set(hiif_deploy.__all__)


@pytest.mark.parametrize(
    ("name", "offered"), list(public_callables()), ids=lambda value: value if type(value) is str else ""
)
def test_a_public_class_function_or_method_is_documented(name: str, offered: Any) -> None:
    text = (vars(offered).get("__doc__") if inspect.isclass(offered) else offered.__doc__) or ""
    assert text.strip(), name
    # The docstring that a dataclass writes for itself is only its signature.
    assert not text.startswith(f"{name}(")


def test_the_drawn_tree_of_errors_is_the_real_one() -> None:
    real = {name: kind.__bases__[0].__name__ for name, kind in ERRORS.items()}
    assert dict(drawn_parents()) == real
    assert len(real) > 5


@pytest.mark.parametrize("kind", ERRORS.values(), ids=list(ERRORS))
def test_an_error_is_a_hiif_error_with_one_parent_and_is_public(kind: type[Exception]) -> None:
    assert issubclass(kind, errors.HiifError)
    assert len(kind.__bases__) == 1
    assert kind.__name__ in hiif_deploy.__all__


def test_exit_codes_are_those_drawn_in_the_tree() -> None:
    drawn = {line["name"]: int(line["code"]) for line in DRAWN.finditer(errors.__doc__ or "") if line["code"]}
    assert drawn == {"HiifError": 1, "UsageError": 2, "WorkInterruptedError": 130}
    for name, kind in ERRORS.items():
        nearest = next(parent.__name__ for parent in kind.__mro__ if parent.__name__ in drawn)
        assert kind.exit_code == drawn[nearest], name  # type: ignore[attr-defined]


def test_a_missing_extra_is_refused_with_the_command_that_adds_it() -> None:
    error = missing_extra("torch", "train")
    assert (error.package, error.extra) == ("torch", "train")
    assert str(error) == f"torch is not installed; add it with: {install_command('train')}"


def test_nothing_is_sent_to_anyone_about_its_use(tmp_path: Path) -> None:
    """ONNX Runtime's telemetry keeps its state among the temporary files as soon as it is imported."""
    asked = {name: value for name, value in os.environ.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY")}
    command = [sys.executable, "-c", "import hiif_deploy.upscaler, onnxruntime"]
    subprocess.run(command, env={**asked, "TMPDIR": str(tmp_path)}, check=True)
    assert list(tmp_path.iterdir()) == []
