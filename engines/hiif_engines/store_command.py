"""The sub-commands `engines list`, `engines inspect` and `engines prune`."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from hiif_deploy.bundle.contract import to_json
from hiif_deploy.cli.lazy_command import new_app
from hiif_deploy.engine_store.entry import ENGINE, SIDECAR, Entry, RefusedEngine, StoredEngine, checked_entry
from hiif_deploy.engine_store.identity import TITLES
from hiif_deploy.engine_store.store import EngineStore
from hiif_deploy.errors import EngineError, OptionError
from hiif_deploy.support.durations import duration
from hiif_deploy.support.messages import json_text, printable

logger = logging.getLogger(__name__)
COLUMNS = ("bundle", "graph", "precision", "built by", "GPU", "size", "state", "verified")
MAX_FIGURES = 3
"""Largest number of a report's figures in a line of the list."""

StoreOption = Annotated[
    Path | None,
    typer.Option("--store", help="Folder of the store; default: $HIIF_DEPLOY_STORE, else below the cache folder."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Report as JSON on stdout.")]


def list_engines(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Show every stored engine, after checking all of its bytes."""
    from rich.markup import escape

    opened = EngineStore.open(store)
    entries = opened.entries()
    if as_json:
        print(json_text({"store": str(opened.root), "engines": [entry_metadata(entry) for entry in entries]}))
    elif entries:
        _print_table([_row(entry) for entry in entries], *COLUMNS, title=escape(str(opened.root)))
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
    is_file = path.suffix in (ENGINE, SIDECAR) and path.exists()
    entry = checked_entry(path.with_suffix(ENGINE)) if is_file else choose(EngineStore.open(store), which)
    if not isinstance(entry, StoredEngine):
        raise EngineError(f"{path if entry is None else entry.path}: {'gone' if entry is None else entry.reason}")
    if as_json:
        print(json_text(entry_metadata(entry)))
    else:
        _print_table([[printable(name), printable(value)] for name, value in engine_metadata(entry).items()])


def prune(
    store: StoreOption = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove all engines.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Only report what would be removed.")] = False,
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
    """Return the one engine whose file name or key has that prefix; OptionError where none or several do."""
    entries = store.entries()
    found = [entry for entry in entries if prefix and any(name.startswith(prefix) for name in _names(entry))]
    if len(found) == 1:
        return found[0]
    names = ", ".join(entry.path.stem for entry in found or entries) or "none"
    problem = f"{len(found)} engines begin so" if found else "no such file, and no stored engine begins so"
    raise OptionError(f"{prefix!r}: {problem} (in {store.root}: {names})")


def entry_metadata(entry: Entry) -> dict[str, Any]:
    """Return everything that is known of an entry, for JSON."""
    metadata: dict[str, Any] = {"file": str(entry.path), "state": _state(entry)}
    if isinstance(entry, RefusedEngine):
        return {**metadata, "reason": entry.reason, "identity": to_json(entry.identity)}
    return {**metadata, "key": entry.identity.key, **to_json(entry.sidecar)}


def engine_metadata(engine: StoredEngine) -> dict[str, str]:
    """Return everything that is known of an engine, as label → text for people."""
    identity, sidecar = engine.identity, engine.sidecar
    return {
        "file": str(engine.path),
        "bundle": identity.bundle,
        "graph": f"{identity.graph} in {identity.precision}",
        "ONNX sha256": identity.onnx_sha256,
        "built by": str(identity),
        "built": f"{sidecar.created}, in {duration(sidecar.build_seconds)}",
        "size": f"{sidecar.size:,} bytes",
        "sha256": sidecar.sha256,
        "key": identity.key,
        **{f"profile {name}": _profile(*shapes) for name, shapes in identity.profiles.items()},
        **{f"flag {name}": json.dumps(value, ensure_ascii=False) for name, value in identity.flags.items()},
        **{f"verified {name}": json.dumps(value, ensure_ascii=False) for name, value in sidecar.report.items()},
    }


def size_text(size: int) -> str:
    """Format bytes as `12.3 MiB` or `12.3 KiB`."""
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size / 2**10:.1f} KiB"


def _row(entry: Entry) -> list[str]:
    identity, size, figures = entry.identity, "", ""
    if identity is None:
        return [entry.path.stem, "", "", "", "", "", _state(entry), ""]
    if isinstance(entry, StoredEngine):
        size, figures = size_text(entry.sidecar.size), _figures(entry.sidecar.report)
    built = f"{TITLES[identity.library]} {identity.library_version}"
    gpu = f"{identity.gpu} ({identity.capability})"
    return [identity.bundle, identity.graph, identity.precision, built, gpu, size, _state(entry), figures]


def _state(entry: Entry) -> str:
    return "ok" if isinstance(entry, StoredEngine) else "corrupt"


def _figures(report: Mapping[str, Any]) -> str:
    plain = {name: value for name, value in report.items() if type(value) in (int, float)}
    shown = [f"{name} {value:.4g}" for name, value in list(plain.items())[:MAX_FIGURES]]
    return printable(", ".join(shown)) or "no"


def _profile(*shapes: tuple[int, ...]) -> str:
    return " / ".join("x".join(map(str, shape)) or "scalar" for shape in shapes)


def _names(entry: Entry) -> list[str]:
    return [entry.path.name, *([entry.identity.key] if entry.identity else [])]


def _print_table(rows: list[list[str]], *columns: str, title: str | None = None) -> None:
    """Print rows with `columns` as headings, or as two columns without headings."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title, title_justify="left", show_header=bool(columns))
    for name in columns or ("", ""):
        table.add_column(name, overflow="ellipsis" if columns else "fold")
    for row in rows:
        table.add_row(*map(escape, row))
    Console().print(table)


engines = new_app(help="List, inspect and remove stored engines.")
engines.command(name="list")(list_engines)
engines.command()(inspect)
engines.command()(prune)
