"""The sub-commands of this area. Nothing else is imported before one of them runs."""

from __future__ import annotations

import typer

from hiif_deploy.cli.lazy_command import MEASURE, MODELS, LazyCommand, add_commands

COMMANDS = (
    LazyCommand(
        "train", "hiif_training.train_command:train",
        "Train a model by a recipe; run it again to go on where it stopped.", MODELS,
    ),
    LazyCommand(
        "evaluate", "hiif_training.evaluate_command:evaluate",
        "Measure a model on test sets by the published protocol.", MEASURE,
    ),
)  # fmt: skip


def register(app: typer.Typer) -> None:
    """Add this area's sub-commands."""
    add_commands(app, *COMMANDS)
