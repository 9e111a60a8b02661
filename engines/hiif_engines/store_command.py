"""The sub-commands `engines list` and `engines prune`."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from hiif_deploy.bundle.contract import to_json
from hiif_deploy.cli.lazy_command import new_app
from hiif_deploy.engine_store.entry import Entry, RefusedEngine, StoredEngine
from hiif_deploy.engine_store.identity import TITLES
from hiif_deploy.engine_store.store import EngineStore
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
    """Show every stored engine, after checking all of its bytes; --json shows all that is known of them."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    opened = EngineStore.open(store)
    entries = opened.entries()
    if as_json:
        print(json_text({"store": str(opened.root), "engines": [entry_metadata(entry) for entry in entries]}))
    elif entries:
        table = Table(title=escape(str(opened.root)), title_justify="left")
        for name in COLUMNS:
            table.add_column(name, overflow="ellipsis")
        for entry in entries:
            table.add_row(*map(escape, _row(entry)))
        Console().print(table)
        for entry in entries:
            if isinstance(entry, RefusedEngine):
                logger.warning("%s: %s", entry.path, entry.reason)
    else:
        print(f"{opened.root}: no engines; build some with: hiif-deploy build BUNDLE")


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


def entry_metadata(entry: Entry) -> dict[str, Any]:
    """Return everything that is known of an entry, for JSON."""
    metadata: dict[str, Any] = {"file": str(entry.path), "state": _state(entry)}
    if isinstance(entry, RefusedEngine):
        return {**metadata, "reason": entry.reason, "identity": to_json(entry.identity)}
    return {**metadata, "key": entry.identity.key, **to_json(entry.sidecar)}


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


engines = new_app(help="List and remove stored engines.")
engines.command(name="list")(list_engines)
engines.command()(prune)
