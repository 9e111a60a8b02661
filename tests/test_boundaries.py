"""The runtime stands alone: it loads no training or export package, and imports between the areas point one way.

Also the sizes that keep functions and files readable. Every check is shown to be able to fail.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

import structure
from structure import ROOT

AREAS = {area: ROOT / folder for area, folder in structure.AREAS.items()}
ALLOWED = {
    "hiif_deploy": set(),
    "hiif_engines": {"hiif_deploy"},
    "hiif_export": {"hiif_deploy", "hiif_training"},
    "hiif_training": {"hiif_deploy"},
}
"""Area → the other areas that it may import, anywhere in its files."""
ORDER = {
    "hiif_deploy": (
        "errors", "pixels", "support", "geometry", "bundle", "images", "decoding", "backends", "engine_store",
        "rendering", "upscaler", "opencv", "pictures", "video", "bench", "cluster", "server", "cli",
    ),
    "hiif_engines": (
        "onnx_graph", "torch_graph", "fused", "torch_engine", "native", "tensorrt", "emit", "store_command",
        "build_command", "cli",
    ),
    "hiif_export": ("graphs", "decoders", "parity", "export", "plain_export", "baselines", "export_command", "cli"),
    "hiif_training": (
        "queries", "models", "checkpoints", "pictures", "training", "evaluation", "train_command", "evaluate_command",
        "cli",
    ),
}  # fmt: skip
"""Area → its packages and modules from the ground up; each imports only what stands before it."""
MAX_MODULES = 20
"""Of a folder."""
HEAVY = {
    "torch",
    "tensorrt",
    "tensorrt_rtx",
    "pycuda",
    "cuda",
    "onnx",
    "onnxscript",
    "openvino",
    "llvmlite",
    "av",
    "ray",
    "starlette",
    "uvicorn",
    "python_multipart",
    "prometheus_client",
}
"""Never loaded by importing the runtime; some are imported inside the function that needs them."""

IMPORT_EVERYTHING = """
import importlib, pkgutil, sys
package = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def loaded_by(package: str, *folders: Path) -> set[str]:
    """Top-level packages in `sys.modules` of a new process that imported every module of `package`."""
    paths = [*folders, ROOT, *(folder.parent for folder in AREAS.values())]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORT_EVERYTHING, package],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def imported(path: Path) -> set[str]:
    """Top-level packages that a file imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add((node.module or "").partition(".")[0])
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "import_module"):
            names.update(str(a.value).partition(".")[0] for a in node.args if isinstance(a, ast.Constant))
    return names


def sources(area: str) -> list[Path]:
    return sorted(AREAS[area].rglob("*.py"))


def trespasses(area: str, files: list[Path]) -> dict[str, set[str]]:
    """File → areas that it imports although `area` may not."""
    others = set(AREAS) - ALLOWED[area] - {area}
    found = {str(path): imported(path) & others for path in files}
    return {path: areas for path, areas in found.items() if areas}


def climbs(arrows: dict[str, set[str]], order: tuple[str, ...]) -> set[tuple[str, str]]:
    """Imports (from, to) of an area that point up its order, or to what the order does not name."""
    places = {name: place for place, name in enumerate(order)}

    def place(module: str) -> int:
        _, _, rest = module.partition(".")
        return places.get(rest.partition(".")[0], len(places))

    within = {(one, other) for one, others in arrows.items() for other in others if "." in one}
    return {(one, other) for one, other in within if place(other) > place(one) or place(other) == len(places)}


def all_functions() -> list[tuple[str, int]]:
    return structure.function_lengths(structure.modules().values())


@pytest.fixture(scope="module")
def runtime_modules() -> set[str]:
    return loaded_by("hiif_deploy")


@pytest.mark.parametrize("package", sorted(HEAVY | set(AREAS) - {"hiif_deploy"}))
def test_importing_the_whole_runtime_does_not_load(package: str, runtime_modules: set[str]) -> None:
    assert {"hiif_deploy", "numpy"} <= runtime_modules
    assert package not in runtime_modules


@pytest.mark.parametrize("line", ["import av", "from openvino import Core", "import hiif_training"])
def test_a_module_that_loads_too_much_is_found_out(line: str, tmp_path: Path) -> None:
    stand_in = tmp_path / "stand_ins"
    stand_in.mkdir()
    (stand_in / "av.py").touch()
    (stand_in / "openvino.py").write_text("Core = None\n")
    package = tmp_path / "trespasser"
    (package / "deep").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "deep" / "__init__.py").touch()
    assert not loaded_by("trespasser", tmp_path, stand_in) & (HEAVY | set(AREAS))
    (package / "deep" / "module.py").write_text(line + "\n")
    assert line.split()[1] in loaded_by("trespasser", tmp_path, stand_in)


@pytest.mark.parametrize("area", AREAS)
def test_imports_between_the_areas_point_one_way(area: str) -> None:
    assert sources(area)
    assert not trespasses(area, sources(area))


@pytest.mark.parametrize(
    "text",
    [
        "import hiif_training",
        "import hiif_training.models.hiif as model",
        "from hiif_training.models import hiif",
        "def late():\n    from hiif_training import checkpoints",
        "import importlib\nimportlib.import_module('hiif_training.training.loop')",
        "try:\n    import hiif_training\nexcept ImportError:\n    pass",
    ],
)
@pytest.mark.parametrize("area", ["hiif_deploy", "hiif_engines"])
def test_an_import_that_points_the_wrong_way_is_found_out(area: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(text)
    assert trespasses(area, [path]) == {str(path): {"hiif_training"}}
    assert not trespasses("hiif_export", [path])


@pytest.mark.parametrize("area", AREAS)
def test_each_package_imports_only_what_stands_below_it(area: str) -> None:
    arrows = structure.graph(area=area)
    assert arrows
    assert climbs(arrows, ORDER[area]) == set()


@pytest.mark.parametrize("area", AREAS)
def test_modules_do_not_import_each_other_in_circles(area: str) -> None:
    assert structure.circles(structure.graph(area=area)) == []


def test_an_import_that_climbs_and_a_circle_are_found_out() -> None:
    arrows = {"area.low.a": {"area.high.b"}, "area.high.b": {"area.low.c"}, "area.low.c": {"area.low.a", "area.new"}}
    assert climbs(arrows, ("low", "high")) == {("area.low.a", "area.high.b"), ("area.low.c", "area.new")}
    assert structure.circles(arrows) == [{"area.low.a", "area.high.b", "area.low.c"}]
    assert structure.circles({"a": {"b"}, "b": set()}) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("from hiif_deploy import errors", {"hiif_deploy.errors"}),
        ("import hiif_deploy.errors as e", {"hiif_deploy.errors"}),
        ("def late():\n    from hiif_deploy.errors import HiifError", {"hiif_deploy.errors"}),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import hiif_deploy.errors", set()),
    ],
)
def test_imports_are_found_inside_functions_and_not_for_the_type_checker(
    text: str, found: set[str], tmp_path: Path
) -> None:
    path = tmp_path / "module.py"
    path.write_text(text)
    assert structure.imports(structure.Module("module", path, False), ["hiif_deploy.errors"]) == found


def test_no_folder_holds_more_modules_than_a_reader_can() -> None:
    folders = {path.parent for area in AREAS for path in sources(area)}
    counts = {folder: sum(path.name != "__init__.py" for path in folder.glob("*.py")) for folder in folders}
    assert {str(folder): count for folder, count in counts.items() if count > MAX_MODULES} == {}


@pytest.mark.parametrize("area", AREAS)
def test_every_package_says_what_lives_there_and_what_it_may_import(area: str) -> None:
    packages = [module for module in structure.modules(area=area).values() if module.is_package]
    texts = {module.name: ast.get_docstring(module.tree) or "" for module in packages if module.name != "hiif_deploy"}
    assert [name for name, text in texts.items() if "May import:" not in text] == []


def test_no_runtime_file_imports_torch_anywhere() -> None:
    assert not [path for path in sources("hiif_deploy") if "torch" in imported(path)]


def test_no_function_is_longer_than_eighty_lines() -> None:
    assert [(name, lines) for name, lines in all_functions() if lines > 80] == []


def test_half_of_all_functions_are_no_longer_than_twelve_lines() -> None:
    assert median(lines for _, lines in all_functions()) <= 12


def test_no_file_is_longer_than_four_hundred_lines() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for area in AREAS for path in sources(area)}
    assert {str(path): lines for path, lines in lengths.items() if lines > 400} == {}


def test_a_function_is_counted_with_its_signature_and_its_docstring(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text('class A:\n    def long(\n        self,\n    ):\n        """Doc."""\n\n        return 1\n')
    assert structure.function_lengths([structure.Module("module", path, False)]) == [("module.long", 6)]
