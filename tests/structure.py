"""How the source is built: modules, imports, sizes. `python tests/structure.py [ROOT]` prints a table of it.

The boundary tests read the same functions, so that what is reported is what is tested.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

ROOT = Path(__file__).resolve().parents[1]
AREAS = {
    "hiif_deploy": "hiif_deploy", "hiif_engines": "engines/hiif_engines", "hiif_export": "export/hiif_export",
    "hiif_training": "training/hiif_training",
}  # fmt: skip
"""Import package → its folder."""
BLOCK = 6
"""Consecutive equal lines, blank ones aside, that count as duplicated."""
ARRAYS = re.compile(r"\b(NDArray|Array|Frame|Image|Tensor)\b")
SHAPE = re.compile(r"\[[^\]]+\]")


@dataclass(frozen=True)
class Module:
    """One source file."""

    name: str
    """Dotted; a package has the name of its folder."""
    path: Path
    is_package: bool

    @property
    def tree(self) -> ast.Module:
        """Parsed."""
        return ast.parse(self.path.read_text(encoding="utf-8"))


def modules(root: Path = ROOT, area: str | None = None) -> dict[str, Module]:
    """Name → module, of one area or of all."""
    found = {}
    for package, folder in AREAS.items():
        if area in (None, package):
            for path in sorted((root / folder).rglob("*.py")):
                parts = [package, *path.relative_to(root / folder).with_suffix("").parts]
                is_package = parts[-1] == "__init__"
                name = ".".join(parts[:-1] if is_package else parts)
                found[name] = Module(name, path, is_package)
    return found


def imports(module: Module, known: Iterable[str]) -> set[str]:
    """Which of the known modules a file imports, inside functions too, and not for the type checker alone."""
    names, found = set(known), set()
    for node in _run(module.tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & names
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found |= {full if full in names else node.module} & names
    return found - {module.name}


def graph(root: Path = ROOT, area: str | None = None) -> dict[str, set[str]]:
    """Module → modules that it imports."""
    found = modules(root, area)
    return {name: imports(module, found) for name, module in found.items()}


def circles(arrows: Mapping[str, set[str]]) -> list[set[str]]:
    """Groups of modules that import each other, directly or by way of others."""
    reached = {name: _reachable(name, arrows) for name in arrows}
    groups: list[set[str]] = []
    for name in arrows:
        group = {other for other in reached[name] if name in reached.get(other, ())} | {name}
        if len(group) > 1 and group not in groups:
            groups.append(group)
    return groups


def levels(arrows: Mapping[str, set[str]]) -> int:
    """Longest chain of imports; a circle counts as one step."""
    groups = circles(arrows)
    home = {name: min(group) for group in groups for name in group}
    known: dict[str, int] = {}

    def depth(name: str) -> int:
        if name not in known:
            members = next((group for group in groups if name in group), {name})
            below = {home.get(x, x) for member in members for x in arrows.get(member, ())} - {name}
            known[name] = 1 + max((depth(x) for x in below), default=0)
        return known[name]

    return max(depth(home.get(name, name)) for name in arrows)


def function_lengths(found: Iterable[Module]) -> list[tuple[str, int]]:
    """Name and number of lines of every function and method, signature and docstring included."""
    return [
        (f"{module.name}.{node.name}", (node.end_lineno or node.lineno) - node.lineno + 1)
        for module in found
        for node in ast.walk(module.tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]


def array_functions(found: Iterable[Module]) -> list[tuple[str, bool]]:
    """Public functions that take or give arrays, and whether their docstring states a shape."""
    answers = []
    for module in found:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                notes = [*(a.annotation for a in (*node.args.args, *node.args.kwonlyargs)), node.returns]
                if any(note is not None and ARRAYS.search(ast.unparse(note)) for note in notes):
                    text = ast.get_docstring(node) or ""
                    answers.append((f"{module.name}.{node.name}", SHAPE.search(text) is not None))
    return answers


def comment_lines(path: Path) -> int:
    """Lines that begin with a comment, or end with one that is no directive."""
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
    directive = re.compile(r"#\s*(fmt|noqa|type):")
    return sum(token.type == tokenize.COMMENT and not directive.match(token.string) for token in tokens)


def duplicated_blocks(paths: Iterable[Path]) -> int:
    """Places where `BLOCK` lines of code stand that stand elsewhere too; imports and brackets aside."""
    seen: Counter[tuple[str, ...]] = Counter()
    for path in paths:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        lines = [line for line in lines if len(line) > 3 and not line.startswith(("import ", "from ", "#"))]
        seen.update({tuple(lines[n : n + BLOCK]) for n in range(len(lines) - BLOCK + 1)})
    return sum(count for count in seen.values() if count > 1)


def lines(paths: Iterable[Path]) -> int:
    """Lines of all files together."""
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)


def report(root: Path) -> Iterator[tuple[str, str]]:
    """Measure → value, as text."""
    every = modules(root)
    for area in AREAS:
        arrows = graph(root, area)
        folders = Counter(module.path.parent for module in modules(root, area).values() if not module.is_package)
        largest, count = folders.most_common(1)[0]
        yield f"{area}: modules", str(sum(folders.values()))
        yield f"{area}: most modules in a folder", f"{count} ({largest.relative_to(root)})"
        yield f"{area}: import levels", str(levels(arrows))
        yield f"{area}: import arrows", str(sum(map(len, arrows.values())))
        yield f"{area}: circles", str(len(circles(arrows)))
    sizes = [length for _, length in function_lengths(every.values())]
    described = array_functions(every.values())
    paths = [module.path for module in every.values()]
    tests = sorted((root / "tests").rglob("*.py"))
    yield "source lines", f"{lines(paths):,}"
    yield "test lines", f"{lines(tests):,}"
    yield "longest test file", str(max(lines([path]) for path in tests))
    yield "function lines: median, p90, max", f"{median(sizes):.0f}, {quantiles(sizes, n=10)[-1]:.0f}, {max(sizes)}"
    yield "public array functions with shapes", f"{sum(has for _, has in described)} of {len(described)}"
    yield "comment lines", str(sum(map(comment_lines, paths)))
    yield f"duplicated blocks of {BLOCK} lines", str(duplicated_blocks(paths))
    yield "README words", str(len((root / "README.md").read_text(encoding="utf-8").split()))


def _reachable(name: str, arrows: Mapping[str, set[str]]) -> set[str]:
    found: set[str] = set()
    waiting = [name]
    while waiting:
        for other in arrows.get(waiting.pop(), ()):
            if other not in found:
                found.add(other)
                waiting.append(other)
    return found


def _run(tree: ast.AST) -> Iterator[ast.AST]:
    """Nodes that run, which those below `if TYPE_CHECKING` do not."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from _run(node)


if __name__ == "__main__":
    for measure, value in report(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT):
        print(f"{measure:40} {value}")
