"""Options of the command line for work on a Ray cluster."""

from __future__ import annotations

from typing import Annotated

import typer

from hiif_deploy.cli.options import CLUSTER

RayOption = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="Spread the work over a Ray cluster: local, auto or HOST:PORT.",
        rich_help_panel=CLUSTER,
    ),
]
WorkersOption = Annotated[
    int,
    typer.Option(help="With --ray: maximum number of workers; 0 uses the whole cluster.", rich_help_panel=CLUSTER),
]
