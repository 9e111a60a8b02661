"""The command `hiif-deploy`. Other areas add their sub-commands through the entry points `hiif_deploy.commands`."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points
from typing import Annotated

import typer

from hiif_deploy import __version__, commands
from hiif_deploy.errors import HiifError
from hiif_deploy.say import say_on_stderr

ENTRY_POINTS = "hiif_deploy.commands"
INTERRUPTED = 130
"""Exit code after Ctrl-C."""


def make_app() -> typer.Typer:
    """The command with every installed area's sub-commands."""
    app = typer.Typer(
        help="Continuous super-resolution: upscale pictures by any factor, export checkpoints, verify.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(_global_options)
    commands.register(app)
    for entry in sorted(entry_points(group=ENTRY_POINTS), key=lambda point: point.name):
        entry.load()(app)
    return app


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 wrong usage, 130 interrupted, 143 terminated."""
    words = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in words
    if not debug:
        silence_libraries()
    with sigterm_as_ctrl_c() as termination:
        try:
            make_app()(args=[word for word in words if word != "--debug"], prog_name="hiif-deploy")
        except HiifError as error:
            if debug:
                raise
            _fail(str(error), error.exit_code)
        except SystemExit as stop:
            # Typer has turned Ctrl-C into this exit code without a word.
            if stop.code == INTERRUPTED:
                how, code = ("terminated", TERMINATED) if termination.came else ("interrupted", INTERRUPTED)
                _fail(f"{how}; no half-written file was left", code)
            raise
        except MemoryError as error:
            if debug:
                raise
            _fail(f"out of memory ({error}); a smaller --memory makes smaller tiles", 1)
        except Exception as error:
            if debug:
                raise
            _fail(
                f"unexpected {type(error).__name__}: {error}; add --debug for the traceback, and please report it",
                1,
            )


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"hiif-deploy {__version__}")
        raise typer.Exit


def _global_options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks. May stand anywhere.")] = False,
) -> None:
    """Both are dealt with elsewhere; they stand here for --help."""
    del version, debug


def _fail(message: str, code: int) -> None:
    say_on_stderr(f"hiif-deploy: error: {message}")
    raise SystemExit(code)


if __name__ == "__main__":
    main()
