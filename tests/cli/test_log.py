"""Messages on stderr: their level, their form, and that they neither steer the terminal nor garble a bar."""

from __future__ import annotations

import io
import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from attention_model import ATTENTION_MODEL
from hiif_deploy.cli import app as cli
from hiif_deploy.cli import log
from hiif_deploy.cli.app import make_app
from hiif_deploy.cli.report import log_outcome
from hiif_deploy.images.io import Picture, write_image
from hiif_deploy.images.samples import sample
from hiif_deploy.pictures.batch import Outcome
from hiif_deploy.support.progress import Progress
from rows import every

STEERING = "a\x1b]0;owned\x07\x1b[2J\u202eb\x9b.png"
SHOWN = r"a\x1b]0;owned\x07\x1b[2J\u202eb\x9b.png"
LEVELS = ("debug", "info", "warning", "error")

Shown = Callable[..., list[str]]


class Terminal(io.StringIO):
    """A stderr that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shown:
    """(words) → the lines on stderr of `hiif-deploy [words before] models [words after]`, which logs at each level."""

    def models() -> None:
        logger = logging.getLogger("hiif_engines.tensorrt.build")
        for level in LEVELS:
            getattr(logger, level)("[bold]%s", level)
            getattr(logging.getLogger("library"), level)(level)

    def work(*after: str, before: tuple[str, ...] = ()) -> list[str]:
        with pytest.raises(SystemExit) as end:
            cli.main([*before, "models", *after])
        assert not end.value.code
        return capsys.readouterr().err.splitlines()

    monkeypatch.delenv(log.VARIABLE, raising=False)
    monkeypatch.setattr("hiif_deploy.cli.models_command.models", models)
    return work


OURS = ["[bold]debug", "[bold]info", "hiif-deploy: [bold]warning", "hiif-deploy: error: [bold]error"]
THEIRS = ["library: debug", "library: info", "library: warning", "library: error"]
DEFAULT = [OURS[1], OURS[2], THEIRS[2], OURS[3], THEIRS[3]]
ALL = [OURS[0], OURS[1], THEIRS[1], OURS[2], THEIRS[2], OURS[3], THEIRS[3]]
ERRORS = [OURS[3], THEIRS[3]]
WARNINGS = [OURS[2], THEIRS[2], *ERRORS]


def test_information_warnings_and_errors_are_shown_by_default(shown: Shown) -> None:
    assert shown() == DEFAULT


@every(
    "words, lines",
    [(("-v",), ALL), (("--verbose",), ALL), (("--debug",), ALL), (("-q",), ERRORS), (("--quiet",), ERRORS)],
)
def test_options_stand_before_or_after_the_command(shown: Shown, words: tuple[str, ...], lines: list[str]) -> None:
    assert shown(*words) == lines
    assert shown(before=words) == lines


@every("level, lines", [("debug", ALL), ("info", DEFAULT), ("WARNING", WARNINGS), ("error", ERRORS), ("", DEFAULT)])
def test_the_variable_names_the_level(
    shown: Shown, monkeypatch: pytest.MonkeyPatch, level: str, lines: list[str]
) -> None:
    monkeypatch.setenv(log.VARIABLE, level)
    assert shown() == lines


def test_options_go_before_the_variable(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(log.VARIABLE, "warning")
    assert shown("-v") == ALL
    assert shown("-q") == ERRORS


def test_another_word_in_the_variable_is_a_usage_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(log.VARIABLE, "loud")
    with pytest.raises(SystemExit) as end:
        cli.main(["models"])
    assert end.value.code == 2
    expected = "hiif-deploy: error: HIIF_DEPLOY_LOG=loud: expected one of debug, info, warning, error\n"
    assert capsys.readouterr().err == expected


def test_loggers_are_afterwards_as_they_were(shown: Shown) -> None:
    loggers = [logging.getLogger(), *map(logging.getLogger, log.AREAS)]
    before = [(logger.level, list(logger.handlers)) for logger in loggers]
    shown("-v")
    assert [(logger.level, logger.handlers) for logger in loggers] == before


def test_every_command_has_both_options_and_the_help_names_the_variable(capsys: pytest.CaptureFixture[str]) -> None:
    names = [command.name for command in make_app().registered_commands]
    names.remove("engines")
    for words in ([], *([name] for name in names), ["engines", "list"], ["engines", "prune"]):
        with pytest.raises(SystemExit):
            cli.main([*words, "--help"])
        found = capsys.readouterr().out
        assert all(re.search(rf"{long} +{short} ", found) for long, short in (("--verbose", "-v"), ("--quiet", "-q")))
        assert words or log.VARIABLE in found


def test_quiet_before_the_command_is_quiet_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(tmp_path / "a.png", Picture(sample("chelsea")[:6, :6].copy()))
    words = ["upscale", str(tmp_path / "a.png"), "--scale", "2", "--bundle", "hiif-video", "--overwrite"]
    for line in ([*words], ["-q", *words], [*words, "-q"]):
        with pytest.raises(SystemExit) as end:
            cli.main(line)
        assert not end.value.code
        assert bool(capsys.readouterr().err) is ("-q" not in line)


def test_statistics_that_a_model_does_not_compute_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "a.png", Picture(sample("chelsea")[:6, :6].copy()))
    words = ["upscale", str(tmp_path / "a.png"), "--scale", "2", "--statistics", "sampled", "--overwrite"]
    for model, expected in (("hiif-video", True), (ATTENTION_MODEL, False)):
        with pytest.raises(SystemExit) as end:
            cli.main([*words, "--bundle", model])
        assert not end.value.code
        assert (
            "hiif-video computes no statistics: --statistics changes nothing" in capsys.readouterr().err
        ) is expected


def test_file_names_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with log.log_to_stderr():
        logging.getLogger("hiif_deploy").warning("%s", STEERING)
        log_outcome(Outcome(STEERING, STEERING, "failed", error=STEERING), is_plan=True)
        log_outcome(Outcome(STEERING, STEERING, "skipped", notes=(STEERING,)), is_plan=False)
    with Progress(STEERING, 1) as progress:
        print(progress.title, file=sys.stderr)
    with pytest.raises(SystemExit):
        cli.main(["upscale", f"/absent/{STEERING}", "--scale", "2", "--bundle", STEERING])
    said = capsys.readouterr().err
    assert said.count(SHOWN) >= 6
    assert not [character for character in said if not character.isprintable() and character != "\n"]


def test_lines_stand_above_a_bar_and_clear_an_unfinished_line(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with log.log_to_stderr():
        logger = logging.getLogger("hiif_deploy")
        logger.warning("[red]before")
        assert terminal.getvalue() == "\r\x1b[Khiif-deploy: [red]before\n"
        with Progress("working", 10) as progress:
            progress.advance(3)
            logger.warning("[red]between")
    lines = re.sub("\x1b\\[[0-9;?]*[A-Za-z]", "", terminal.getvalue()).replace("\r", "\n").splitlines()
    assert [line.strip() for line in lines if "between" in line] == ["hiif-deploy: [red]between"]
    assert any(line.startswith("working") for line in lines)
