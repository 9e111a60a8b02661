"""Log messages of the command line: one handler on stderr, and the options and variable that set its level.

Imports only `errors` and `support.messages`, so that `--help` and `--version` stay quick.
"""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.main import get_command

from hiif_deploy.errors import OptionError
from hiif_deploy.support.messages import printable

VARIABLE = "HIIF_DEPLOY_LOG"
"""Environment variable that names the level."""
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
"""Values of the variable."""
AREAS = ("hiif_deploy", "hiif_engines", "hiif_export", "hiif_training")
"""Packages whose modules each log to `logging.getLogger(__name__)`."""
PREFIXES = {logging.WARNING: "hiif-deploy: ", logging.ERROR: "hiif-deploy: error: "}
CLEAR_LINE = "\r\x1b[K"
"""Takes a terminal's line away: the progress of a video stands there, without a line break, and is written again."""


class LineFormatter(logging.Formatter):
    """One line per message, without a time: `hiif-deploy: ` stands before warnings, a library's name before its own."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (the name that `logging` calls)
        """The prefix and the message."""
        is_ours = record.name.partition(".")[0] in AREAS
        prefix = PREFIXES.get(record.levelno, "") if is_ours else f"{record.name}: "
        return f"{prefix}{record.message}"

    def format(self, record: logging.LogRecord) -> str:
        """The line, and a traceback where there is one; control characters are escaped."""
        return printable(super().format(record))


class StderrHandler(logging.Handler):
    """Writes to what `sys.stderr` is at that time: while Rich shows a bar, its stand-in prints lines above the bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the record as one line on stderr."""
        try:
            clear = CLEAR_LINE if sys.stderr.isatty() else ""
            print(f"{clear}{self.format(record)}", file=sys.stderr, flush=True)
        except Exception:
            self.handleError(record)


@contextmanager
def log_to_stderr() -> Iterator[None]:
    """Messages of this project and of libraries go to stderr; afterwards, loggers are as they were before."""
    loggers = [logging.getLogger(), *map(logging.getLogger, AREAS)]
    levels = [logger.level for logger in loggers]
    handler = StderrHandler()
    handler.setFormatter(LineFormatter())
    loggers[0].addHandler(handler)
    set_level(logging.INFO)
    try:
        yield
    finally:
        loggers[0].removeHandler(handler)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def level_of_environment() -> int:
    """The level that `HIIF_DEPLOY_LOG` names; INFO where it is not set or empty. OptionError for another word."""
    word = os.environ.get(VARIABLE) or "info"
    if word.lower() not in LEVELS:
        raise OptionError(f"{VARIABLE}={word}: expected one of {', '.join(LEVELS)}")
    return LEVELS[word.lower()]


def set_level(level: int) -> None:
    """Least level of this project's messages that are shown. Libraries show warnings, with DEBUG also information."""
    for area in AREAS:
        logging.getLogger(area).setLevel(level)
    logging.getLogger().setLevel(logging.INFO if level == logging.DEBUG else max(level, logging.WARNING))


def logs_debug() -> bool:
    """Whether all messages are shown."""
    return logging.getLogger(AREAS[0]).level <= logging.DEBUG


def _verbose(value: bool) -> bool:
    if value:
        set_level(logging.DEBUG)
    return logs_debug()


def _quiet(value: bool) -> bool:
    if value:
        set_level(logging.ERROR)
    return logging.getLogger(AREAS[0]).level >= logging.ERROR


VerboseOption = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="Debug messages, and those of libraries.", is_eager=True, callback=_verbose),
]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="Errors only: no progress.", is_eager=True, callback=_quiet)
]


def add_log_options(command: Any) -> None:
    """Give a click command, or each command of a group, `--verbose` and `--quiet`; its own ones set the level too."""
    if hasattr(command, "commands"):
        for member in command.commands.values():
            add_log_options(member)
        return
    own = {param.name: param for param in command.params}
    for option in _options():
        if option.name in own:
            own[option.name].callback, own[option.name].is_eager = option.callback, True
        else:
            option.expose_value = False
            command.params.append(option)


def _options() -> list[Any]:
    """Both, as Typer makes them."""
    app = typer.Typer(add_completion=False)

    @app.command()
    def _declared(verbose: VerboseOption = False, quiet: QuietOption = False) -> None:
        """Whether the command declares the options."""

    return get_command(app).params
