"""The models that ship are listed with what they are for, and each has its card."""

from __future__ import annotations

import json

import pytest

from hiif_deploy import shipped_models
from hiif_deploy.bundle.shipped import list_models, model_card
from hiif_deploy.cli import app as cli
from hiif_deploy.errors import BundleError

SECTIONS = ("## Model", "## Data and licence", "## Training", "## Figures", "## Limits")


def run(*words: str) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["models", *words])
    assert not stop.value.code


@pytest.mark.parametrize("name", sorted(shipped_models()))
def test_every_model_has_a_card_with_all_sections(name: str) -> None:
    card = model_card(name)
    assert card.startswith(f"# {name}\n\n")
    assert [line for line in card.splitlines() if line.startswith("## ")] == list(SECTIONS)


def test_one_model_is_the_default_and_all_are_small() -> None:
    found = list_models()
    assert [model.name for model in found] == sorted(shipped_models())
    assert sum(model.is_default for model in found) == 1
    assert all(model.size <= 4 << 20 and model.parameters > 100_000 and model.purpose for model in found)


def test_the_list_is_for_people_and_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    run()
    assert "hiif-compact (default)" in capsys.readouterr().out
    run("--json")
    assert [model["name"] for model in json.loads(capsys.readouterr().out)] == sorted(shipped_models())


def test_a_card_is_shown_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    run("hiif-compact")
    assert capsys.readouterr().out.startswith("# hiif-compact\n")


def test_a_card_of_an_unknown_model_is_refused() -> None:
    with pytest.raises(BundleError, match=r"none: no shipped model of that name \(shipped: hiif-compact"):
        model_card("none")
