"""The command `hiif-deploy`. Other areas add their sub-commands through the entry points `hiif_deploy.commands`."""

import logging
import re
import sys
from importlib.metadata import entry_points
from typing import Annotated, Any

import typer

from hiif_deploy.cli.lazy_command import EXPERT, MEASURE, MODELS, USE, LazyCommand, add_commands, new_app
from hiif_deploy.cli.log import VARIABLE, QuietOption, VerboseOption, level_of_environment, log_to_stderr, set_level
from hiif_deploy.errors import TERMINATED, HiifError
from hiif_deploy.support.signals import sigterm_as_ctrl_c
from hiif_deploy.support.version import __version__

logger = logging.getLogger(__name__)

ENTRY_POINTS = "hiif_deploy.commands"
"""Entry points, each a function (`typer.Typer`) → None that adds sub-commands, cheap to import."""
INTERRUPTED = 130
"""Exit code after Ctrl-C."""
PARSER_WORDS = (
    ("Value error, ", ""),
    ("Input should be a valid integer.*", "expected a whole number"),
    ("Input should be a valid number.*", "expected a number"),
    ("Input should be greater than or equal to", "expected at least"),
)
"""What Typer's library for values says → what we say."""
COMMANDS = (
    LazyCommand(
        "upscale", "hiif_deploy.cli.commands:upscale", "Upscale pictures and videos by any factor or to any size.", USE
    ),
    LazyCommand(
        "watch", "hiif_deploy.cli.watch:watch",
        "Show a clip or a camera beside its enlargement, live, in a window; frames are dropped rather than late.", USE
    ),
    LazyCommand(
        "serve", "hiif_deploy.cli.serve_command:serve",
        "Serve a page where pictures zoom without end, IIIF, and upscaling over HTTP.", USE,
    ),
    LazyCommand(
        "demo", "hiif_deploy.cli.commands:demo",
        "Upscale the pictures that the package carries, and write a sheet that compares them with bicubic.", USE,
    ),
    LazyCommand(
        "models", "hiif_deploy.cli.models_command:models",
        "List shipped, added and known models with their figures, show the card of one, add or remove models.", MODELS,
    ),
    LazyCommand(
        "info", "hiif_deploy.cli.commands:info",
        "Show what a bundle holds and promises, after checking all of it.", MODELS
    ),
    LazyCommand(
        "doctor", "hiif_deploy.cli.commands:show_doctor",
        "Show versions, engines and shipped models, and the command that adds what is missing.", MEASURE,
    ),
    LazyCommand(
        "bench", "hiif_deploy.cli.bench_command:bench",
        "Measure ways to enlarge a picture, in turns: seconds, memory, and how far their outputs are from float64.",
        MEASURE,
    ),
    LazyCommand(
        "tune", "hiif_deploy.cli.commands:tune",
        "Find the fastest way of cutting the decoder's work on this machine, and store it for later runs.", EXPERT,
    ),
)  # fmt: skip
"""The runtime's own sub-commands."""


def make_app() -> typer.Typer:
    """The command with every installed area's sub-commands."""
    app = new_app(
        help="Continuous super-resolution: upscale pictures by any factor, export checkpoints, verify.",
        epilog=f"{VARIABLE}=debug|info|warning|error sets which messages appear on stderr; -v and -q go before it.",
        add_completion=True,
    )
    app.callback()(_global_options)
    add_commands(app, *COMMANDS)
    for entry in sorted(entry_points(group=ENTRY_POINTS), key=lambda point: point.name):
        try:
            register = entry.load()
        except ImportError as error:  # an area of another version: the others still work
            logger.warning("the commands of %s cannot be loaded (%s): install it again", entry.value, error)
            continue
        register(app)
    return app


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 wrong usage, 130 interrupted, 143 terminated."""
    words = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    with log_to_stderr(), sigterm_as_ctrl_c() as termination:
        try:
            set_level(logging.DEBUG if debug else level_of_environment())
            code = make_app()(args=words or ["--help"], prog_name="hiif-deploy", standalone_mode=False)
        except Exception as error:
            if debug:
                raise
            _fail(*_explained(error))
        if code == INTERRUPTED:
            # Typer has turned Ctrl-C into this exit code without a word.
            how, code = ("terminated", TERMINATED) if termination.came else ("interrupted", INTERRUPTED)
            _fail(f"{how}; no half-written file was left", code)
    raise SystemExit(code or 0)


def _explained(error: Exception) -> tuple[str, int]:
    """One sentence for the user, and the exit code."""
    if isinstance(error, HiifError):
        return str(error), error.exit_code
    if isinstance(error, MemoryError):
        return f"out of memory ({error}); a smaller --memory makes smaller tiles", 1
    if hasattr(error, "format_message"):
        return _usage(error), 2
    return f"unexpected {type(error).__name__}: {error}; add --debug for the traceback, and please report it", 1


def _usage(error: Any) -> str:
    """Sentence for a wrong command line from the argument parser, whose error classes are private to Typer."""
    text = str(error.format_message()).rstrip(".")
    for theirs, ours in PARSER_WORDS:
        text = re.sub(theirs, ours, text)
    context = getattr(error, "ctx", None)
    return f"{text}; see {context.command_path} --help" if context else text


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"hiif-deploy {__version__}")
        raise typer.Exit


def _global_options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Debug messages, and tracebacks of errors. May stand anywhere.")
    ] = False,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> None:
    """All are dealt with elsewhere; they stand here for --help."""
    del version, debug, verbose, quiet


def _fail(message: str, code: int) -> None:
    logger.error("%s", message)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
