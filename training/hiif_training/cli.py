"""The sub-command `train`. Nothing heavy is imported before it runs."""

from __future__ import annotations

import dataclasses
import sys
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated

import typer

from hiif_deploy.errors import OptionError
from hiif_deploy.extras import require_extra


def register(app: typer.Typer) -> None:
    """Add this area's sub-commands."""
    app.command()(train)


def train(
    recipe: Annotated[str, typer.Argument(help="TOML file, or name of a shipped recipe such as compact.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for checkpoints; a run there is resumed.")],
    data: Annotated[list[Path] | None, typer.Option(help="Folder of pictures; may be given several times.")] = None,
    threads: Annotated[int, typer.Option(help="Processor threads; 0 leaves it to PyTorch.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Train a model by a recipe; run it again to go on where it stopped."""
    require_extra("train")
    import torch

    from hiif_training.loop import train as run
    from hiif_training.recipe import read_recipe

    if threads:
        torch.set_num_threads(threads)
    chosen = read_recipe(find_recipe(recipe))
    if data:
        chosen = dataclasses.replace(chosen, data=tuple(str(folder) for folder in data))
    path = run(chosen, output, show_progress=not quiet)
    print(f"{path}: trained; next: hiif-deploy export {path} -o BUNDLE", file=sys.stderr)


def find_recipe(name: str) -> Path:
    """A recipe file by path or by shipped name; OptionError lists the shipped ones."""
    path = Path(name)
    if path.is_file():
        return path
    with as_file(files("hiif_training") / "recipes") as folder:
        shipped = {recipe.stem: recipe for recipe in sorted(folder.glob("*.toml"))}
    if name not in shipped:
        raise OptionError(f"recipe {name!r}: no such file, and no shipped recipe of that name ({', '.join(shipped)})")
    return shipped[name]
