"""The sub-commands `export` and `verify`. Nothing heavy is imported before one of them runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hiif_deploy.errors import OptionError
from hiif_deploy.extras import require_extra
from hiif_deploy.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hiif_export.graph_parity import GraphDeviation
    from hiif_export.parity import Deviation


def register(app: typer.Typer) -> None:
    """Add this area's sub-commands."""
    app.command()(export)
    app.command()(verify)


def export(
    checkpoint: Annotated[Path, typer.Argument(help="Trained weights: .pth of the LIIF family, or .safetensors.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the bundle to write.")],
    name: Annotated[str | None, typer.Option(help="Name of the model; default: the folder's.")] = None,
    scales: Annotated[str, typer.Option(help="Scales seen in training, LOW-HIGH.")] = "1-4",
    overwrite: Annotated[bool, typer.Option(help="Replace a bundle that is there.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no table.")] = False,
) -> None:
    """Turn a checkpoint into a bundle, and prove it against PyTorch."""
    require_extra("export")
    from hiif_export.export import export_bundle, file_provenance
    from hiif_training.checkpoint import load_checkpoint

    loaded = load_checkpoint(checkpoint)
    found = export_bundle(
        loaded.model,
        loaded.spec,
        output,
        name=name or output.name,
        provenance=file_provenance(checkpoint, loaded.metadata),
        training_scales=parse_scales(scales),
        overwrite=overwrite,
        say=_silent if quiet else _say,
        show_progress=not quiet,
    )
    if not quiet:
        print_deviations(found)
    _say(f"{output}: written; try: hiif-deploy upscale PICTURE --bundle {output} --scale 3.3")


def verify(
    bundle: Annotated[str, typer.Argument(help="Bundle folder, or name of a shipped model.")],
    checkpoint: Annotated[Path | None, typer.Option(help="Compare with this checkpoint run by PyTorch.")] = None,
    provider: Annotated[str, typer.Option(help="ONNX Runtime execution provider.")] = "cpu",
    tolerance: Annotated[float, typer.Option(help="Largest deviation, colours in [0, 1].")] = 1e-4,
) -> None:
    """Check a bundle: against PyTorch's stored answers, or with --checkpoint against PyTorch itself."""
    from hiif_deploy.session import EngineOptions
    from hiif_deploy.upscaler import Upscaler
    from hiif_deploy.verify import check_stored, compare_stored

    with Upscaler(bundle, engine=EngineOptions(provider)) as upscaler:
        if checkpoint is None:
            stored = compare_stored(upscaler)
            for name, error in stored.items():
                print(f"{name}: largest deviation {error:.2e}")
            check_stored(stored, tolerance)
            _say(f"{bundle}: answers as PyTorch did at export, within {tolerance:.0e}, on {provider}")
            return
        require_extra("export")
        from hiif_export.graph_parity import check_graphs, compare_graphs
        from hiif_export.parity import cases, check, compare
        from hiif_training.checkpoint import load_checkpoint

        model = load_checkpoint(checkpoint).model
        graphs = compare_graphs(model, upscaler.bundle)
        print_graph_deviations(graphs)
        check_graphs(graphs)
        suite = cases()
        with Progress("verifying", len(suite), unit="cases") as progress:
            found = compare(model, upscaler, suite, progress.advance)
        print_deviations(found)
        check(found, tolerance)
        _say(f"{bundle}: equals {checkpoint} run by PyTorch within {tolerance:.0e}, on {provider}")


def parse_scales(text: str) -> tuple[float, float]:
    """`1-4` → (1.0, 4.0)."""
    try:
        low, high = (float(part) for part in text.split("-"))
    except ValueError:
        raise OptionError(f"--scales {text!r}: expected LOW-HIGH, for example 1-4") from None
    return low, high


def print_deviations(found: Sequence[Deviation]) -> None:
    """The parity table on stdout."""
    from rich.console import Console
    from rich.table import Table

    table = Table("picture", "from", "to", "features", "colours", "PSNR (dB)", title="deviation from PyTorch")
    for deviation in found:
        before, after = (f"{size[1]}x{size[0]}" for size in (deviation.source, deviation.target))
        table.add_row(
            deviation.picture, before, after, f"{deviation.features:.1e}", f"{deviation.colours:.1e}",
            f"{deviation.psnr:.0f}",
        )  # fmt: skip
    Console().print(table)


def print_graph_deviations(found: Sequence[GraphDeviation]) -> None:
    """The table of single graphs on stdout."""
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "graph", "output", "largest value", "deviation", "relative", title="each graph by itself (Polygraphy)"
    )
    for deviation in found:
        numbers = (f"{value:.1e}" for value in (deviation.largest, deviation.error, deviation.relative))
        table.add_row(deviation.graph, deviation.output, *numbers)
    Console().print(table)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _silent(_: str) -> None:
    """In place of `_say` when quiet."""
