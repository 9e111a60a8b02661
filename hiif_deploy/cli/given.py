"""Which options a user gave, so that those that cannot apply are refused instead of ignored."""

from __future__ import annotations

from collections.abc import Iterable

import typer

from hiif_deploy.errors import OptionError


def given_options(context: typer.Context, names: Iterable[str]) -> list[str]:
    """Options among `names` that the user gave, as they are written on the command line: `--crf`."""
    wanted = set(names)
    return [
        max(parameter.opts, key=len)
        for parameter in context.command.params
        if parameter.name in wanted and str(context.get_parameter_source(parameter.name)).endswith("COMMANDLINE")
    ]


def refuse_options(context: typer.Context, names: Iterable[str], why: str) -> None:
    """OptionError where any of them was given; `why` says what they are for."""
    if given := given_options(context, names):
        raise OptionError(f"{', '.join(given)}: {why}")
