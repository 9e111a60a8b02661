"""The command line without its commands: quick, complete, and the same text as the commands themselves."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from hiif_deploy.cli import app as cli
from hiif_deploy.cli.lazy_command import LazyCommand
from hiif_engines.cli import COMMANDS as ENGINE_COMMANDS
from hiif_export.cli import COMMANDS as EXPORT_COMMANDS
from hiif_training.cli import COMMANDS as TRAINING_COMMANDS
from rows import every

ALL = {c.name: c for c in (*cli.COMMANDS, *ENGINE_COMMANDS, *EXPORT_COMMANDS, *TRAINING_COMMANDS)}
HEAVY = (
    "cv2",
    "onnxruntime",
    "ray",
    "torch",
    "PIL",
    "hiif_deploy.bench",
    "hiif_deploy.upscaler",
    "openvino",
    "llvmlite",
)
PROGRAM = """
import sys
from hiif_deploy.cli import app as cli
try:
    cli.main({words!r})
except SystemExit as stop:
    assert not stop.code, stop.code
print(*[name for name in {heavy!r} if name in sys.modules], sep=",", file=sys.stderr)
"""


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The help is text of 100 columns, whatever asks for colours here."""
    for name in ("FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "CLICOLOR_FORCE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "100")


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["upscale", "--help"]], ids=" ".join)
def test_version_and_help_import_no_engine(words: list[str]) -> None:
    program = PROGRAM.format(words=words, heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == ""
    assert "hiif-deploy" in done.stdout


def test_the_watch_on_imports_can_fail() -> None:
    program = "import cv2\n" + PROGRAM.format(words=["--version"], heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "cv2"


@pytest.mark.parametrize("command", ALL.values(), ids=list(ALL))
def test_the_line_in_the_help_is_the_commands_own(command: LazyCommand) -> None:
    loaded = command.load()
    assert loaded.name == command.name
    assert inspect.cleandoc(loaded.help).split("\n\n")[0].replace("\n", " ") == command.help


def test_every_commands_help_can_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ALL:
        with pytest.raises(SystemExit) as stop:
            cli.main([name, "--help"])
        assert not stop.value.code, name
        assert f"hiif-deploy {name}" in capsys.readouterr().out


def test_expert_commands_stand_in_a_panel_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    shown = capsys.readouterr().out
    first, expert = shown.split("Expert")
    assert all(f" {name} " in first for name in ("upscale", "export", "doctor"))
    assert all(f" {name} " in expert for name in ("tune", "engines", "decoders"))


def test_options_stand_in_panels_with_two_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["upscale", "--help"])
    shown = capsys.readouterr().out
    assert all(f"─ {panel} " in shown for panel in ("Output", "Size", "Model", "Speed", "Video", "Cluster", "Report"))
    assert shown.count(" hiif-deploy upscale ") == 3  # the usage, and two examples


def test_without_words_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([])
    assert not stop.value.code
    assert "Usage: hiif-deploy" in capsys.readouterr().out


def test_wrong_words_have_the_one_prefix_and_name_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    cases = (
        (["upscale", "--bogus"], "No such option: --bogus"), (["bogus"], "No such command 'bogus'"),
        (["engines"], "Missing command"), (["tune", "--precision", "foo"], "'--precision': 'foo' is not one of 'fp32'"),
        (["tune", "--threads", "x"], "'--threads': expected a whole number"),
        (["decoders", "--rounds", "0"], "'--rounds': expected at least 1"),
    )  # fmt: skip
    for words, named in cases:
        with pytest.raises(SystemExit) as stop:
            cli.main(words)
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert stop.value.code == 2
        assert line.startswith("hiif-deploy: error: ")
        assert named in line
        assert "Value error" not in line
        assert line.endswith("--help")


def test_the_shell_completes_options_of_a_command() -> None:
    line = {"COMP_WORDS": "hiif-deploy upscale --max", "COMP_CWORD": "2", "_HIIF_DEPLOY_COMPLETE": "complete_bash"}
    done = subprocess.run(
        [sys.executable, "-c", "from hiif_deploy.cli import main; main()"],
        env={**os.environ, **line}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert {"--max-side", "--max-pixels"} <= set(done.stdout.split())


def test_an_area_that_cannot_be_loaded_leaves_the_others(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = EntryPoint("old", "hiif_deploy.no_such_module:register", cli.ENTRY_POINTS)
    monkeypatch.setattr(cli, "entry_points", lambda **_: [broken])
    with pytest.raises(SystemExit) as stop:
        cli.main(["--help"])
    said = capsys.readouterr()
    assert not stop.value.code
    assert "upscale" in said.out
    assert "the commands of hiif_deploy.no_such_module:register cannot be loaded" in said.err


@every(
    "command, option",
    [
        ("upscale", "--larger"), ("upscale", "--precision"), ("upscale", "--statistics"), ("upscale", "--on-error"),
        ("watch", "--precision"), ("verify", "--library"), ("bench", "--precision"), ("build", "--library"),
        ("build", "--emit"), ("build", "--backend"),
    ],
)  # fmt: skip
def test_a_word_that_an_option_does_not_know_is_refused_with_those_that_it_knows(
    command: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "x", option, "no-such-word"])
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert f"Invalid value for '{option}': 'no-such-word' is not one of '" in said
