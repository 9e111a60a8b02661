"""The sub-command `train`. PyTorch is imported when it runs."""

from __future__ import annotations

import json
import logging
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from hiif_deploy.cli.options import limited_threads
from hiif_deploy.errors import OptionError, WorkInterruptedError
from hiif_deploy.support.extras import require_extra

if TYPE_CHECKING:
    from hiif_training.training.machine import Machine
    from hiif_training.training.recipe import Recipe

logger = logging.getLogger(__name__)


def shipped_recipes() -> dict[str, Path]:
    """Return name → file of the recipes that come with the package."""
    with as_file(files("hiif_training") / "recipes") as folder:
        return {recipe.stem: recipe for recipe in sorted(folder.glob("*.toml"))}


RECIPE_HELP = f"TOML file, LIIF-family YAML, or name of a shipped recipe: {', '.join(shipped_recipes())}."


def train(
    recipe: Annotated[str, typer.Argument(help=RECIPE_HELP)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for checkpoints; a run there is resumed.")],
    data: Annotated[list[Path] | None, typer.Option(help="Folder of pictures; may be given several times.")] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change the recipe: steps=2000.")
    ] = None,
    init: Annotated[
        Path | None, typer.Option(help="Checkpoint, or shipped model, whose weights the model starts from.")
    ] = None,
    freeze: Annotated[str | None, typer.Option(help="encoder: train the decoder only; needs --init.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda; several GPUs: torchrun.")] = "auto",
    threads: Annotated[int, typer.Option(help="Processor threads; 0 leaves it to PyTorch.")] = 0,
    workers: Annotated[int, typer.Option(help="Processes that draw samples; 0 draws them in between.")] = 0,
    cache: Annotated[int, typer.Option(help="MiB of decoded pictures that are kept.")] = 1024,
    compile_: Annotated[bool, typer.Option("--compile", help="Use torch.compile; minutes to start.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Probe a few steps, print the plan and write nothing.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Errors only: no progress.")] = False,
) -> None:
    """Train a model by a recipe; run it again to resume."""
    require_extra("train")
    import torch

    from hiif_training.models.fixed_scale import spec_scale
    from hiif_training.training.loop import train as run
    from hiif_training.training.machine import Machine, World
    from hiif_training.training.recipe import read_recipe

    if threads := limited_threads(threads):
        torch.set_num_threads(threads)
    # A TOML string, because a path may look like a number.
    named = [
        f"{key}={json.dumps(str(value), ensure_ascii=False)}"
        for key, value in (("init", init), ("freeze", freeze))
        if value
    ]
    chosen = read_recipe(find_recipe(recipe), [*(changes or ()), *named], [str(folder) for folder in data or ()])
    machine = Machine(cast(Any, device), workers, cache << 20, compile_)
    if dry_run:
        print_plan(chosen, output, machine)
        return
    try:
        path = run(chosen, output, machine=machine, show_progress=not quiet)
    except KeyboardInterrupt as stop:
        if not stop.args:
            raise
        # Typer turns Ctrl-C into an exit code without printing anything.
        raise WorkInterruptedError(stop) from stop
    if World.of_environment().process == 0:
        target = "BUNDLE" if spec_scale(chosen.model) is None else "NAME.onnx"
        logger.info("%s: trained; next: hiif-deploy export %s -o %s", path, path, target)


def print_plan(recipe: Recipe, output: Path, machine: Machine) -> None:
    """Print the plan of a run as a table."""
    from rich.console import Console
    from rich.table import Table

    from hiif_training.training.plan import plan

    table = Table(title=f"plan: {output}", show_header=False, title_justify="left")
    for row in plan(recipe, output, machine).rows():
        table.add_row(*row)
    Console().print(table)


def find_recipe(name: str) -> Path:
    """Return a recipe file by path or shipped name; OptionError lists the shipped ones."""
    path = Path(name)
    if path.is_file():
        return path
    shipped = shipped_recipes()
    if name not in shipped:
        raise OptionError(f"recipe {name!r}: no such file, and no shipped recipe of that name ({', '.join(shipped)})")
    return shipped[name]
