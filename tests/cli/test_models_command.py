"""`models`, `models NAME`, `models add` and `models remove` as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hiif_deploy import shipped_models
from hiif_deploy.bundle.known import KNOWN_MODELS
from hiif_deploy.cli import app as cli
from hiif_deploy.support import extras

VIDEO = shipped_models()["hiif-video"]


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HIIF_DEPLOY_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main([str(word) for word in words])
    return int(stop.value.code or 0)


def test_the_list_is_for_people_and_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models") == 0
    shown = capsys.readouterr().out
    assert "hiif-compact (default)" in shown
    assert "Set5: ×2 37.86 dB, ×3 34.17 dB, ×4 31.91 dB" in shown
    assert "add it with: hiif-deploy models add liif-edsr" in shown
    assert run("models", "--json", "-q") == 0
    listed = json.loads(capsys.readouterr().out)
    assert [model["name"] for model in listed] == [*sorted(shipped_models()), *KNOWN_MODELS]
    assert [model["state"] for model in listed] == [
        *["shipped"] * len(shipped_models()),
        *["not installed"] * len(KNOWN_MODELS),
    ]


def test_a_card_is_shown_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models", "hiif-compact") == 0
    assert capsys.readouterr().out.startswith("# hiif-compact\n")
    assert run("models", "liif-edsr", "--json") == 0
    assert json.loads(capsys.readouterr().out)["card"].startswith("# liif-edsr\n")
    assert run("models", "hiif-compakt") == 1
    assert "no model of that name" in capsys.readouterr().err


def test_a_bundle_is_added_used_by_name_and_removed_in_the_light_install(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    assert run("models", "add", VIDEO, "--name", "mine") == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == f"added {root / 'mine'}; try: hiif-deploy upscale PICTURE --bundle mine --scale 3.3\n"
    sample = Path(cli.__file__).parents[1] / "samples" / "coffee.png"
    assert run("upscale", sample, "-b", "mine", "--scale", "1.5", "-o", tmp_path / "out.png") == 0
    assert run("models", "remove", "mine") == 0
    assert f"removed {root / 'mine'}" in capsys.readouterr().err
    assert run("upscale", sample, "-b", "mine", "--scale", "1.5") == 1
    assert "mine: no such folder, and no model of that name" in capsys.readouterr().err


def test_a_checkpoint_without_pytorch_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    assert run("models", "add", "liif-edsr") == 2
    assert "torch is not installed; add it with: pip install" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("add",), "Missing argument 'NAME|FILE|URL'"),
        (("remove", "hiif-video"), "hiif-video ships with hiif-deploy and cannot be removed"),
        (("remove", "../models"), "'../models' is no added model (added: none)"),
        (("add", "hiif-video"), "there is nothing to add"),
    ],
)
def test_wrong_usage_is_refused(words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models", *words) == 2
    assert message in capsys.readouterr().err
