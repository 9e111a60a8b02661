"""Registers the sub-commands `build` and `engines`; their modules are imported when one runs."""

import typer

from hiif_deploy.cli.lazy_command import EXPERT, MODELS, LazyCommand, add_commands

COMMANDS = (
    LazyCommand(
        "build", "hiif_engines.build_command:build",
        "Turn a bundle's graphs into TensorRT engines for the GPU at hand, and prove them against PyTorch's outputs.",
        MODELS,
    ),
    LazyCommand(
        "engines", "hiif_engines.store_command:engines", "List and remove stored engines.", EXPERT,
    ),
)  # fmt: skip


def register(app: typer.Typer) -> None:
    """Add this area's sub-commands to `app`."""
    add_commands(app, *COMMANDS)
