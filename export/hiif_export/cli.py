"""Registers the sub-commands `export`, `verify` and `decoders`; their modules are imported when one of them runs."""

import typer

from hiif_deploy.cli.lazy_command import EXPERT, MEASURE, MODELS, LazyCommand, add_commands

COMMANDS = (
    LazyCommand(
        "export", "hiif_export.export_command:export",
        "Turn a checkpoint into a bundle, and prove it against PyTorch.", MODELS,
    ),
    LazyCommand(
        "verify", "hiif_export.export_command:verify",
        "Check a bundle: against PyTorch's stored outputs, or with --checkpoint against PyTorch itself.", MEASURE,
    ),
    LazyCommand(
        "decoders", "hiif_export.export_command:decoders",
        "Measure every decoder around every encoder against PyTorch, with random weights; Markdown on stdout.", EXPERT,
    ),
)  # fmt: skip


def register(app: typer.Typer) -> None:
    """Add this area's sub-commands to `app`."""
    add_commands(app, *COMMANDS)
