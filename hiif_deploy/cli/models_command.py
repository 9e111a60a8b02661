"""The sub-commands `models`, `models NAME`, `models add` and `models remove`."""

import logging
from dataclasses import asdict
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from hiif_deploy.cli.lazy_command import new_app
from hiif_deploy.cli.log import QuietOption, VerboseOption
from hiif_deploy.cli.options import JsonOption
from hiif_deploy.support.messages import json_text, printable

logger = logging.getLogger(__name__)


class NamesGroup(TyperGroup):
    """Commands among which `NAME`, where no command has that name, stands for `show NAME`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command of the first word."""
        return super().resolve_command(ctx, args if args[0] in self.commands else ["show", *args])


models = new_app(cls=NamesGroup, invoke_without_command=True, subcommand_metavar="[NAME | COMMAND]")


@models.callback()
def list_models(
    context: typer.Context,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> None:
    """List shipped, added and known models with their figures, show the card of one, add or remove models.

    \b
    hiif-deploy models
    hiif-deploy models add liif-edsr
    """
    del verbose, quiet
    if context.invoked_subcommand is not None:
        return
    from hiif_deploy.bundle import model_list
    from hiif_deploy.cli import report

    found = model_list.list_models()
    if as_json:
        print(json_text([asdict(model) for model in found]))
    else:
        report.show(report.models_table(found))


@models.command(hidden=True)
def show(name: Annotated[str, typer.Argument(help="Name of a model.")], as_json: JsonOption = False) -> None:
    """Show the card of a model: data, licence, training, figures, limits."""
    from hiif_deploy.bundle.model_list import model_card

    card = model_card(name)
    print(json_text({"name": name, "card": card}) if as_json else printable(card))


@models.command()
def add(
    source: Annotated[
        str, typer.Argument(metavar="NAME|FILE|URL", help="Known model, checkpoint, bundle folder, or https URL.")
    ],
    name: Annotated[str | None, typer.Option(help="Name of the model; default: the file's or folder's.")] = None,
    sha256: Annotated[
        str | None, typer.Option(help="SHA-256 that the checkpoint must have, hexadecimal; a URL needs it.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace a model that was added before.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Add a model, which --bundle then takes by its name.

    A checkpoint is exported and verified against PyTorch first, which needs the extra `export`.
    """
    from hiif_deploy.bundle.add_model import AddOptions, add_model

    folder = add_model(source, AddOptions(name, sha256, overwrite, show_progress=not quiet))
    logger.info("added %s; try: hiif-deploy upscale PICTURE --bundle %s --scale 3.3", folder, folder.name)


@models.command()
def remove(name: Annotated[str, typer.Argument(help="Name of an added model.")]) -> None:
    """Remove an added model."""
    from hiif_deploy.bundle.added import remove_model

    logger.info("removed %s", remove_model(name))
