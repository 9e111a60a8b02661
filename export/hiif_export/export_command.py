"""The sub-commands `export`, `verify` and `decoders`. PyTorch and ONNX are imported when one of them runs."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from hiif_deploy.bundle.contract import Precision
from hiif_deploy.cli import options as shared
from hiif_deploy.cli.options import engine_options, limited_threads, refuse_options
from hiif_deploy.errors import HiifError, OptionError
from hiif_deploy.support.extras import require_extra
from hiif_deploy.support.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from hiif_export.parity.graph_parity import GraphDeviation
    from hiif_export.parity.parity import Deviation
    from hiif_export.parity.tensor_parity import TensorDeviation
    from hiif_training.evaluation.published import Compared

logger = logging.getLogger(__name__)


BUNDLE_ONLY = ("checkpoint", "engine", "precision", "library", "threads", "tolerance")
"""Parameters of `verify` that apply to bundles, not to published checkpoints."""
NOT_PLAIN = ("name", "scales", "precision")
"""Parameters of `export` that apply to bundles, not to plain ONNX files."""


def export(
    context: typer.Context,
    checkpoint: Annotated[
        Path, typer.Argument(help="Trained weights: .pth of the LIIF family, .safetensors, or a fixed-scale network.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the bundle, or NAME.onnx for a fixed-scale network.")
    ],
    name: Annotated[str | None, typer.Option(help="Name of the model; default: the folder's.")] = None,
    scales: Annotated[str, typer.Option(help="Scales seen in training, LOW-HIGH.")] = "1-4",
    precision: Annotated[
        str | None,
        typer.Option(help="Of the graphs: fp32, or fp32,fp16; default: every one that the decoder can be written in."),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace a bundle that is there.")] = False,
    threads: shared.ThreadsOption = 0,
    verbose: Annotated[
        bool,
        typer.Option("--verbose", "-v", help="Debug messages and a table of all cases.", rich_help_panel=shared.REPORT),
    ] = False,
    quiet: shared.QuietOption = False,
) -> None:
    """Turn a checkpoint into a bundle, and prove it against PyTorch."""
    require_extra("export")
    import torch

    requested = None if precision is None else parse_precisions(precision)
    threads = limited_threads(threads)
    if threads:
        torch.set_num_threads(threads)
    if output.suffix == ".onnx":
        refuse_options(context, NOT_PLAIN, f"for bundles, and {output} is one ONNX file; leave it out")
        export_file(checkpoint, output, overwrite=overwrite, threads=threads, verbose=verbose)
        return
    found = export_checkpoint(
        checkpoint,
        output,
        name=name or output.name,
        training_scales=parse_scales(scales),
        precisions=requested,
        overwrite=overwrite,
        threads=threads,
        show_progress=not quiet,
    )
    if verbose:
        print_deviations(found)
    logger.info(
        "%s: written, equal to PyTorch within %.1e (colours in [0, 1]); "
        "try: hiif-deploy upscale PICTURE --bundle %s --scale 3.3",
        output, max(case.colours for case in found), output,
    )  # fmt: skip


def export_file(checkpoint: Path, path: Path, *, overwrite: bool, threads: int, verbose: bool) -> None:
    """Write the checkpoint of a fixed-scale network as one plain ONNX file; OptionError for any other model."""
    from hiif_export.export import file_provenance
    from hiif_export.plain_export import export_plain
    from hiif_training.checkpoints.checkpoint import load_checkpoint
    from hiif_training.models.fixed_scale import FixedScaleModel

    loaded = load_checkpoint(checkpoint)
    if not isinstance(loaded.model, FixedScaleModel):
        raise OptionError(
            f"{path}: {loaded.spec['name']} upscales by any factor and becomes a bundle, which is a folder: -o FOLDER"
        )
    metadata = {**file_provenance(checkpoint, loaded.metadata), "model": json.dumps(loaded.spec)}
    found = export_plain(loaded.model, path, metadata, overwrite=overwrite, threads=threads)
    if verbose:
        rows = ((size, f"{d.largest:.1e}", f"{d.psnr:.0f}") for size, d in found.items())
        _print_table("deviation from PyTorch", "picture", "colours", "PSNR (dB)", rows=rows)
    logger.info(
        "%s: written, equal to PyTorch within %.1e; input and output are RGB [batch, 3, height, width] in [0, 1]",
        path, max(d.largest for d in found.values()),
    )  # fmt: skip


def export_checkpoint(
    checkpoint: Path,
    folder: Path,
    *,
    name: str,
    provenance: Mapping[str, Any] | None = None,
    precisions: Sequence[Precision] | None = None,
    **options: Any,
) -> list[Deviation]:
    """Write a checkpoint file as a bundle, in every precision of its decoder unless `precisions` lists some.

    `provenance` is stored beside the file's own; `options` are those of `export_bundle`. Returns its deviations.
    """
    from hiif_export.export import export_bundle, file_provenance
    from hiif_training.checkpoints.checkpoint import load_checkpoint

    loaded = load_checkpoint(checkpoint)
    return export_bundle(
        loaded.model,
        loaded.spec,
        folder,
        name=name,
        provenance={**file_provenance(checkpoint, loaded.metadata), **(provenance or {})},
        precisions=precisions or every_precision(loaded.spec),
        **options,
    )


def verify(
    context: typer.Context,
    bundle: Annotated[str, typer.Argument(help="Bundle folder, or name of a model; with --published, a checkpoint.")],
    checkpoint: Annotated[Path | None, typer.Option(help="Compare with this checkpoint run by PyTorch.")] = None,
    published: Annotated[
        str | None, typer.Option(help="Name of the published checkpoint, such as liif-edsr-baseline: measure it.")
    ] = None,
    data: Annotated[
        list[Path] | None, typer.Option(help="With --published: folder of a test set, named as the set; repeatable.")
    ] = None,
    scales: Annotated[str, typer.Option(help="With --published: factors, separated by commas.")] = "2,3,4",
    engine: shared.EngineOption = None,
    provider: shared.ProviderOption = None,
    precision: shared.PrecisionOption = None,
    library: shared.LibraryOption = None,
    threads: shared.ThreadsOption = 0,
    tolerance: Annotated[
        float | None, typer.Option(help="Largest deviation, colours in [0, 1]; default: what an export must keep.")
    ] = None,
) -> None:
    """Check a bundle: against PyTorch's stored outputs, or with --checkpoint against PyTorch itself.

    With --published: check a published checkpoint against the figures that were published of it.
    """
    if published is not None:
        refuse_options(context, BUNDLE_ONLY, "for bundles, and --published measures a checkpoint; leave it out")
        verify_against_paper(published, Path(bundle), data or [], scales, provider or "cpu")
        return
    refuse_options(context, ("data", "scales"), "for --published NAME; leave it out")
    from hiif_deploy.rendering.verify import TOLERANCES, Tolerance, check_stored, compare_stored
    from hiif_deploy.upscaler import Upscaler

    options = engine_options(engine, precision, threads, provider=provider, library=library)
    with Upscaler(bundle, engine=options) as upscaler:
        precision = upscaler.precision
        allowed = TOLERANCES[precision] if tolerance is None else Tolerance(tolerance, tolerance, psnr=0)
        place = f"within {allowed.largest:.1e} ({upscaler.description})"
        if checkpoint is None:
            stored = compare_stored(upscaler)
            for name, found in stored.items():
                print(f"{name}: largest deviation {found.largest:.2e}, {found.psnr:.0f} dB")
            check_stored(stored, allowed)
            logger.info("%s: outputs equal PyTorch's at export, %s", bundle, place)
            return
        require_extra("export")
        import torch

        from hiif_export.parity.graph_parity import check_graphs, compare_graphs
        from hiif_export.parity.parity import cases, check, compare
        from hiif_export.parity.tensor_parity import compare_tensors
        from hiif_training.checkpoints.checkpoint import load_checkpoint
        from hiif_training.models.fixed_scale import FixedScaleModel

        if options.threads:
            torch.set_num_threads(options.threads)
        model = load_checkpoint(checkpoint).model
        if isinstance(model, FixedScaleModel):
            raise OptionError(f"{checkpoint}: a network of a fixed scale, and bundles are of any; export compares it")
        # Polygraphy runs the single graphs on ONNX Runtime, whichever engine and precision run the whole bundle.
        graphs = compare_graphs(model, upscaler.bundle, options.graphs)
        print_graph_deviations(graphs)
        check_graphs(graphs, options.graphs)
        if options.graphs != "fp32":
            print_tensor_deviations(compare_tensors(model, upscaler.bundle, options.graphs))
        suite = cases()
        with Progress("verifying", len(suite), unit="cases") as progress:
            deviations = compare(model, upscaler, suite, progress.advance)
        print_deviations(deviations)
        check(deviations, allowed)
        logger.info("%s: equals %s run by PyTorch %s", bundle, checkpoint, place)


def decoders(
    rows: Annotated[list[str] | None, typer.Argument(help="DECODER:ENCODER, repeatable; default: all.")] = None,
    input_: Annotated[str, typer.Option("--input", help="WIDTHxHEIGHT of the picture that is timed.")] = "256x256",
    scale: Annotated[float, typer.Option(help="Factor.")] = 4.0,
    rounds: Annotated[int, typer.Option(min=1, help="Timed pictures of either way, after a small one.")] = 1,
    threads: Annotated[int, typer.Option(min=0, help="Processor threads; 0 takes all that may be used.")] = 0,
    memory: Annotated[int, typer.Option(min=1, help="Working memory of this project's way, in MiB.")] = 1280,
    keep: Annotated[
        Path | None, typer.Option(help="JSON file that keeps the rows: what is in it is not measured again.")
    ] = None,
) -> None:
    """Measure every decoder around every encoder against PyTorch, with random weights; Markdown on stdout.

    Encoding is timed in every row, decoding once per decoder in a run: its time stands in the rows of the other
    encoders too. A row that would not fit into memory is refused with what it needs.
    """
    require_extra("export")
    from hiif_deploy.backends.options import usable_cores
    from hiif_deploy.geometry.target import parse_size
    from hiif_export.baselines import decoder_table as table
    from hiif_export.baselines.decoder_times import TableSetting

    pairs = [table.pair(row) for row in rows or [f"{d}:{e}" for d in table.DECODERS for e in table.ENCODERS]]
    setting = TableSetting(
        parse_size("--input", input_), scale, rounds, limited_threads(threads) or usable_cores(), memory << 20
    )
    with Progress("measuring", len(pairs), unit="rows") as progress:
        found, missing = table.measure_all(pairs, setting, keep, progress.advance)
    print(table.markdown(found, setting), end="")
    if missing:
        raise HiifError(f"rows that could not be measured: {', '.join(missing)}")


def verify_against_paper(name: str, checkpoint: Path, data: Sequence[Path], scales: str, provider: str) -> None:
    """Measure a published checkpoint on test sets; ParityError where a figure is not the published one."""
    require_extra("train")
    from hiif_training.evaluation.evaluate import parse_scales
    from hiif_training.evaluation.published import check_published, verify_published
    from hiif_training.pictures.picture_sets import PictureSet

    if not data:
        raise OptionError("--published needs --data FOLDER, the test set to measure on: for example --data Set5")
    sets, factors = [PictureSet(folder) for folder in data], parse_scales(scales)
    total = sum(len(part.paths) for part in sets) * len(factors)
    with Progress("measuring", total, unit="pictures") as progress:
        found = verify_published(name, checkpoint, sets, factors, provider=provider, advance=progress.advance)
    print_compared(found)
    check_published(found)
    logger.info("%s: PSNR equals the published figures of %s", checkpoint, name)


def parse_precisions(text: str) -> list[Precision]:
    """Parse `fp32` or `fp32,fp16` into precisions, fp32 first; OptionError where fp32 is missing."""
    known: tuple[Precision, ...] = get_args(Precision)
    requested = [word.strip() for word in text.split(",")]
    if "fp32" not in requested or not set(requested) <= set(known) or len(set(requested)) < len(requested):
        raise OptionError(f"--precision {text!r}: expected fp32, or fp32,fp16 (fp32 is what the others are held to)")
    return [precision for precision in known if precision in requested]


def every_precision(spec: Mapping[str, Any]) -> tuple[Precision, ...]:
    """Return the precisions that this decoder can be exported in; a warning names those that it cannot."""
    from hiif_export.graphs.exporter import exporter_class

    found = exporter_class(spec).precisions
    if missing := [precision for precision in get_args(Precision) if precision not in found]:
        logger.warning(
            "%s supports %s only: it cannot be exported in %s", spec["name"], ", ".join(found), ", ".join(missing)
        )
    return found


def parse_scales(text: str) -> tuple[float, float]:
    """Parse `LOW-HIGH` into two floats; OptionError for any other text."""
    try:
        low, high = (float(part) for part in text.split("-"))
    except ValueError:
        raise OptionError(f"--scales {text!r}: expected LOW-HIGH, for example 1-4") from None
    return low, high


def print_deviations(found: Sequence[Deviation]) -> None:
    """Print the deviation of every case as a table."""
    rows = (
        (d.picture, *(f"{w}x{h}" for h, w in (d.source, d.target)), f"{d.features:.1e}", f"{d.colours:.1e}",
         f"{d.psnr:.0f}")
        for d in found
    )  # fmt: skip
    _print_table("deviation from PyTorch", "picture", "from", "to", "features", "colours", "PSNR (dB)", rows=rows)


def print_graph_deviations(found: Sequence[GraphDeviation]) -> None:
    """Print the deviation of every single graph as a table."""
    rows = ((d.graph, d.output, f"{d.largest:.1e}", f"{d.error:.1e}", f"{d.relative:.1e}") for d in found)
    columns = ("graph", "output", "largest value", "deviation", "relative")
    _print_table("each graph by itself (Polygraphy)", *columns, rows=rows)


def print_tensor_deviations(found: Sequence[TensorDeviation]) -> None:
    """Print the fp16 error of every tensor as a table."""
    rows = (
        (d.graph, d.tensor, f"{d.rms:.1e}", f"{d.error:.1e}", f"{d.largest:.1e}", f"{d.ratio_db:.0f}") for d in found
    )
    columns = ("graph", "tensor", "rms", "rms error", "largest", "dB")
    _print_table("where the error comes from (PyTorch)", *columns, rows=rows)


def print_compared(found: Sequence[Compared]) -> None:
    """Print measured and published PSNR side by side as a table."""
    rows = (
        (d.set, f"×{d.scale:g}", f"{d.measured:.3f}", f"{d.printed:.2f}", f"{d.measured - d.printed:+.3f}")
        for d in found
    )
    _print_table("PSNR (dB)", "set", "scale", "measured", "published", "difference", rows=rows)


def _print_table(title: str, *columns: str, rows: Iterable[tuple[str, ...]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*row)
    Console().print(table)
