"""Registers the sub-commands `train` and `evaluate`; their modules are imported when one of them runs."""

from __future__ import annotations

import typer

from hiif_deploy.cli.lazy_command import MEASURE, MODELS, LazyCommand, add_commands

COMMANDS = (
    LazyCommand(
        "train", "hiif_training.train_command:train",
        "Train a model by a recipe; run it again to resume.", MODELS,
    ),
    LazyCommand(
        "evaluate", "hiif_training.evaluate_command:evaluate",
        "Measure models on test sets by the published protocol.", MEASURE,
    ),
)  # fmt: skip


def register(app: typer.Typer) -> None:
    """Add this area's sub-commands to `app`."""
    add_commands(app, *COMMANDS)
