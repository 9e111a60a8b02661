"""Sub-commands whose module is imported when they run, so that `--help` and `--version` stay quick."""

from dataclasses import dataclass
from typing import Any

import typer
from typer.core import TyperCommand
from typer.main import get_command

from hiif_deploy.cli.log import add_log_options, logs_debug
from hiif_deploy.support.library_output import silence_libraries
from hiif_deploy.support.resolve import resolve

USE, MODELS, MEASURE, EXPERT = "Use", "Models", "Check and measure", "Expert"
"""Panels of `hiif-deploy --help`."""


@dataclass(frozen=True)
class LazyCommand:
    """One sub-command, or a group of them."""

    name: str
    """As typed."""
    target: str
    """`module:attribute`: the function of a command, or the `typer.Typer` of a group."""
    help: str
    """Its line in `hiif-deploy --help`: the first one of the function's docstring."""
    panel: str = USE
    """Where `hiif-deploy --help` lists it."""

    def load(self) -> Any:
        """The click command, built from the imported target."""
        found = resolve(self.target)
        if not isinstance(found, typer.Typer):
            app = new_app()
            app.command(name=self.name)(found)
            found = app
        command = get_command(found)
        command.name = self.name
        add_log_options(command)
        return command


def new_app(**settings: Any) -> typer.Typer:
    """A `typer.Typer` with the settings that all commands of this project share."""
    return typer.Typer(pretty_exceptions_enable=False, rich_markup_mode="rich", **{"add_completion": False, **settings})


def add_commands(app: typer.Typer, *commands: LazyCommand) -> None:
    """Add sub-commands to `app` without importing them."""
    for command in commands:
        declare = app.command(
            name=command.name, cls=_placeholder(command), help=command.help, rich_help_panel=command.panel
        )
        declare(lambda: None)  # never called: the placeholder hands over before


def _placeholder(command: LazyCommand) -> type[TyperCommand]:
    """A click command that stands in `--help`, and hands its arguments to the real one when it is run or completed."""

    class Placeholder(TyperCommand):
        def make_context(self, *args: Any, **kwargs: Any) -> Any:
            context = command.load().make_context(*args, **kwargs)
            if not logs_debug():
                silence_libraries()
            return context

    return Placeholder
