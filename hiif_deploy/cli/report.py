"""What the command line reports: tables for people on stderr or stdout, JSON for programs on stdout."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table

from hiif_deploy.bundle.contract import Contract
from hiif_deploy.bundle.loader import Bundle, find_bundle, read_contract
from hiif_deploy.bundle.model_list import ListedModel
from hiif_deploy.cli.doctor import Finding
from hiif_deploy.pictures import suitability
from hiif_deploy.pictures.batch import STATUSES, Outcome, summary
from hiif_deploy.rendering.tuned import Tuning
from hiif_deploy.support.durations import duration, pixel_rate
from hiif_deploy.support.messages import json_text, printable
from hiif_deploy.upscaler import Upscaler

logger = logging.getLogger(__name__)


def show(table: RenderableType) -> None:
    """Print a table on stdout."""
    Console().print(table)


def log_outcome(outcome: Outcome, *, is_plan: bool) -> None:
    """Log one line for a finished file; of a plan, which has a table, only errors."""
    if outcome.status == "failed":
        logger.error("%s", outcome.error)
    elif not is_plan:
        logger.info("%s", _line(outcome))


def report_batch(upscaler: Upscaler, outcomes: Sequence[Outcome], *, as_json: bool, is_plan: bool) -> None:
    """The closing report: JSON on stdout, or a table of plans or a count on stderr; one line for each model that was
    taken in place of the default, or was not trained for some pictures."""
    for name in dict.fromkeys(outcome.model for outcome in outcomes if outcome.model is not None):
        _report_model(name, upscaler.contract, outcomes)
    if as_json:
        facts = {
            "bundle": upscaler.contract.name,
            "folder": str(upscaler.bundle.folder),
            "engine": upscaler.description,
            "precision": upscaler.precision,
            "fallback_blocks": upscaler.fallback_blocks
            + sum(outcome.fallback_blocks for outcome in outcomes if outcome.model != upscaler.contract.name),
            "threads": upscaler.engine.thread_count,
            "files": [asdict(outcome) for outcome in outcomes],
            **summary(outcomes),
        }
        print(json_text(facts))
    elif is_plan:
        Console().print(_plan_table(upscaler, outcomes))
        for outcome in outcomes:
            for note in outcome.notes:
                Console().print(escape(printable(f"{outcome.target}: {note}")), soft_wrap=True, highlight=False)
    elif len(outcomes) > 1:
        counts = summary(outcomes)
        text = ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status])
        logger.info("%s in %s", text, duration(counts["seconds"]))


def _report_model(name: str, default: Contract, outcomes: Sequence[Outcome]) -> None:
    """Report how many pictures had another model than the default, and which a model was not trained for."""
    made = [outcome for outcome in outcomes if outcome.model == name]
    if name != default.name:
        what = made[0].source if len(made) == 1 else f"{len(made)} of {len(outcomes)} pictures"
        text = "%s: compressed or noisy, so %s is used, which was trained on such; --bundle %s takes the usual model"
        logger.info(text, what, name, default.name)
    found = {outcome.source: outcome.untrained for outcome in made if outcome.untrained is not None}
    if found:
        trained = default.trained_for if name == default.name else read_contract(find_bundle(name)).trained_for
        logger.warning("%s", suitability.warning(found, len(outcomes), name, trained))


def bundle_facts(bundle: Bundle) -> dict[str, Any]:
    """Facts about a bundle that `info` reports."""
    contract = bundle.contract
    return {
        "name": contract.name,
        "folder": str(bundle.folder),
        "model": dict(contract.model),
        "parameters": contract.parameters,
        "training_scales": list(contract.training_scales),
        "encoder": asdict(contract.encoder),
        "decoder": asdict(contract.decoder),
        "graphs": {graph.file: f"{len(bundle.graphs[graph.key]):,} bytes" for graph in contract.graphs},
        "parity": _without_cases(contract.parity),
        "provenance": dict(contract.provenance),
    }  # fmt: skip


def _without_cases(parity: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of each precision, without the lists that they sum up."""
    return {
        key: _without_cases(value) if isinstance(value, dict) else value
        for key, value in parity.items()
        if key not in ("cases", "graphs")
    }


def bundle_table(bundle: Bundle) -> Table:
    """Table of `bundle_facts`."""
    table = Table(show_header=False, title=bundle.contract.name, title_justify="left")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in bundle_facts(bundle).items():
        if isinstance(value, dict):
            for key, item in value.items():
                table.add_row(f"{name}.{key}", json.dumps(item, ensure_ascii=False))
        else:
            table.add_row(name, f"{value:,}" if isinstance(value, int) else str(value))
    return table


def tuning_table(tuning: Tuning) -> Table:
    """Table of what `tune` measured; the fastest is marked."""
    title = f"{tuning.bundle}, {tuning.engine}, {tuning.processor}"
    table = Table("queries x threads per call", "seconds", "", title=title, title_justify="left")
    for name, seconds in tuning.seconds.items():
        is_best = name == f"{tuning.call.query_block} x {tuning.call.call_threads}"
        table.add_row(name, f"{seconds:.3f}", "fastest, stored" if is_best else "")
    return table


def models_table(models: Sequence[ListedModel]) -> Table:
    """Table of the models that are here or can be added; readable in 80 columns."""
    table = Table(title="models", title_justify="left", show_lines=True)
    table.add_column("name", no_wrap=True)
    table.add_column("what it is", overflow="fold")
    for model in models:
        name = f"{model.name} (default)" if model.is_default else model.name
        table.add_row(f"{name}\n{model.state}", escape(printable("\n".join(_model_lines(model)))))
    return table


def _model_lines(model: ListedModel) -> list[str]:
    if model.state == "damaged":
        return [model.purpose]
    passes = f"{model.passes} pass{'es' if model.passes > 1 else ''}"
    sizes = f"{model.parameters:,} parameters, {passes}, {model.size / 1e6:.1f} MB"
    lines = [
        model.purpose,
        f"source: {model.source or 'not stated'}",
        f"licence: {model.licence or 'not stated'}",
        sizes,
    ]
    if model.psnr:
        figures = ", ".join(f"×{scale} {value:.2f} dB" for scale, value in model.psnr.items())
        lines.append(f"Set5: {figures}")
    if model.state == "not installed":
        lines.append(f"add it with: hiif-deploy models add {model.name}")
    return lines


def findings_table(findings: Sequence[Finding], title: str) -> Table:
    """Table of the findings of `doctor`."""
    table = Table("", "found", "what to do", title=title, title_justify="left")
    marks = {"ok": "[green]ok[/]", "absent": "[yellow]--[/]", "broken": "[red]!![/]"}
    for finding in findings:
        table.add_row(f"{marks[finding.status]} {finding.name}", escape(finding.found), escape(finding.advice))
    return table


def _line(outcome: Outcome) -> str:
    notes = "".join(f"\n  note: {note}" for note in outcome.notes)
    if outcome.status in ("skipped", "copied"):
        return f"{outcome.target}: {outcome.status}{notes}"
    assert outcome.target_size is not None
    assert outcome.seconds is not None
    assert outcome.megapixels_per_second is not None
    size = f"{outcome.target_size[0]}x{outcome.target_size[1]}"
    far = "" if outcome.deviation_db is None else f", {outcome.deviation_db:.1f} dB from exact"
    pace = f"{duration(outcome.seconds)}, {pixel_rate(outcome.megapixels_per_second)}"
    return f"{outcome.target}: {size} in {pace}{far}{notes}"


def _plan_table(upscaler: Upscaler, outcomes: Sequence[Outcome]) -> Table:
    title = f"plan: {upscaler.contract.name}, {upscaler.description}, {upscaler.engine.thread_count} threads"
    table = Table(title=title, title_justify="left")
    for column in ("input", "from", "to", "output", "memory", "decoder calls", "about"):
        table.add_column(column, overflow="fold")
    for outcome in outcomes:
        source, target = (escape(printable(name)) for name in (outcome.source, outcome.target))
        if outcome.status != "planned" or not outcome.source_size or not outcome.target_size:
            table.add_row(source, "", "", target, "", "", escape(printable(outcome.error or outcome.status)))
            continue
        before, after = (f"{size[0]}x{size[1]}" for size in (outcome.source_size, outcome.target_size))
        table.add_row(
            source, before, after, target, f"{outcome.memory_mib} MiB", f"{outcome.decoder_calls:,}",
            "" if outcome.seconds is None else duration(outcome.seconds),
        )  # fmt: skip
    return table
