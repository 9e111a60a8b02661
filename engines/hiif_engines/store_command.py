"""The sub-commands `engines list`, `engines inspect` and `engines prune`."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hiif_deploy.bundle.contract import to_json
from hiif_deploy.cli.lazy_command import new_app
from hiif_deploy.engine_store.entry import ENGINE, SIDECAR, Entry, RefusedEngine, StoredEngine, checked_entry
from hiif_deploy.engine_store.identity import TITLES
from hiif_deploy.engine_store.store import EngineStore
from hiif_deploy.errors import EngineError, OptionError
from hiif_deploy.support.durations import duration
from hiif_deploy.support.messages import json_text, printable

if TYPE_CHECKING:
    from rich.table import Table

logger = logging.getLogger(__name__)
MOST_FIGURES = 3
"""Numbers of a report that fit into a line of the list."""

StoreOption = Annotated[
    Path | None,
    typer.Option("--store", help="Folder of the store; default: $HIIF_DEPLOY_STORE, else below the cache folder."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Report as JSON on stdout.")]


def list_engines(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Show every stored engine, after checking all of its bytes."""
    opened = EngineStore.open(store)
    entries = opened.entries()
    if as_json:
        facts = {"store": str(opened.root), "engines": [entry_facts(entry) for entry in entries]}
        print(json_text(facts))
    elif entries:
        _print(engines_table(entries, str(opened.root)))
        for entry in entries:
            if isinstance(entry, RefusedEngine):
                logger.warning("%s: %s", entry.path, entry.reason)
    else:
        print(f"{opened.root}: no engines; build some with: hiif-deploy build BUNDLE")


def inspect(
    which: Annotated[str, typer.Argument(metavar="PREFIX|FILE", help="Start of a name or key, or an engine file.")],
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show all that is known of one engine: what it depends on, its profiles, its verification."""
    path = Path(which)
    if path.suffix in (ENGINE, SIDECAR) and path.exists():
        entry = checked_entry(path.with_suffix(ENGINE))
    else:
        entry = choose(EngineStore.open(store), which)
    if not isinstance(entry, StoredEngine):
        raise EngineError(f"{path if entry is None else entry.path}: {'gone' if entry is None else entry.reason}")
    if as_json:
        print(json_text(entry_facts(entry)))
    else:
        _print(engine_table(entry))


def prune(
    store: StoreOption = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove all engines and timing caches.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Only say what would be removed.")] = False,
) -> None:
    """Remove engines that are damaged or half-written, or all of them."""
    opened = EngineStore.open(store)
    removals = opened.prune(everything=everything, dry_run=dry_run)
    verb = "would be removed" if dry_run else "removed"
    for removal in removals:
        print(f"{removal.path}: {verb} ({size_text(removal.size)}): {removal.reason}")
    total = sum(removal.size for removal in removals)
    print(f"{opened.root}: {len(removals)} {verb}, {size_text(total)}")


def choose(store: EngineStore, prefix: str) -> Entry:
    """The one engine whose file name or key begins so; OptionError where none or several do."""
    entries = store.entries()
    found = [entry for entry in entries if prefix and (entry.path.name.startswith(prefix) or _key(entry, prefix))]
    if len(found) == 1:
        return found[0]
    names = ", ".join(entry.path.stem for entry in found or entries) or "none"
    problem = f"{len(found)} engines begin so" if found else "no such file, and no stored engine begins so"
    raise OptionError(f"{prefix!r}: {problem} (in {store.root}: {names})")


def entry_facts(entry: Entry) -> dict[str, Any]:
    """All that is known of it, for JSON."""
    facts: dict[str, Any] = {"file": str(entry.path), "state": state(entry)}
    if isinstance(entry, RefusedEngine):
        return {**facts, "reason": entry.reason, "identity": to_json(entry.identity)}
    return {**facts, "key": entry.identity.key, **to_json(entry.sidecar)}


def engines_table(entries: list[Entry], title: str) -> Table:
    """One line for each."""
    from rich.markup import escape
    from rich.table import Table

    names = ("bundle", "graph", "precision", "built by", "GPU", "size", "state", "verified")
    table = Table(*names, title=escape(title), title_justify="left")
    for entry in entries:
        table.add_row(*map(escape, _row(entry)))
    return table


def engine_table(engine: StoredEngine) -> Table:
    """Everything about one."""
    from rich.markup import escape
    from rich.table import Table

    identity, sidecar = engine.identity, engine.sidecar
    rows = {
        "file": str(engine.path),
        "bundle": identity.bundle,
        "graph": f"{identity.graph} in {identity.precision}",
        "ONNX sha256": identity.onnx_sha256,
        "built by": str(identity.environment),
        "built": f"{sidecar.created}, in {duration(sidecar.build_seconds)}",
        "size": f"{sidecar.size:,} bytes",
        "sha256": sidecar.sha256,
        "key": identity.key,
        **{f"profile {name}": _profile(*shapes) for name, shapes in identity.profiles.items()},
        **{f"flag {name}": json.dumps(value, ensure_ascii=False) for name, value in identity.flags.items()},
        **{f"verified {name}": json.dumps(value, ensure_ascii=False) for name, value in sidecar.report.items()},
    }
    table = Table(show_header=False)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(escape(printable(name)), escape(printable(value)))
    return table


def state(entry: Entry) -> str:
    """ok, corrupt, stale or foreign."""
    return "ok" if isinstance(entry, StoredEngine) else entry.state


def size_text(size: int) -> str:
    """`12.3 MiB`."""
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size / 2**10:.1f} KiB"


def _row(entry: Entry) -> list[str]:
    identity = entry.identity
    if identity is None:
        return [entry.path.stem, "", "", "", "", "", state(entry), ""]
    built = f"{TITLES[identity.library]} {identity.library_version}"
    gpu = f"{identity.gpu} ({identity.capability})"
    size, figures = "", ""
    if isinstance(entry, StoredEngine):
        size, figures = size_text(entry.sidecar.size), _figures(entry.sidecar.report)
    return [identity.bundle, identity.graph, identity.precision, built, gpu, size, state(entry), figures]


def _figures(report: Mapping[str, Any]) -> str:
    plain = {name: value for name, value in report.items() if type(value) in (int, float)}
    shown = [f"{name} {value:.4g}" for name, value in list(plain.items())[:MOST_FIGURES]]
    return printable(", ".join(shown)) or "no"


def _profile(*shapes: tuple[int, ...]) -> str:
    return " / ".join("x".join(map(str, shape)) or "scalar" for shape in shapes)


def _key(entry: Entry, prefix: str) -> bool:
    return entry.identity is not None and entry.identity.key.startswith(prefix)


def _print(table: Table) -> None:
    from rich.console import Console

    Console().print(table)


engines = new_app(help="List, inspect and remove stored engines.")
engines.command(name="list")(list_engines)
engines.command()(inspect)
engines.command()(prune)
