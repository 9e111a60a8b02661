"""Cards are written for models of others, and their purpose and figures are read again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hiif_deploy import open_bundle
from hiif_deploy.bundle import cards
from hiif_deploy.bundle.known import KNOWN_MODELS


@pytest.mark.parametrize("name", KNOWN_MODELS)
def test_the_card_of_a_known_model_says_what_the_table_says(name: str) -> None:
    model, card = KNOWN_MODELS[name], cards.known_card(name)
    assert card.startswith(f"# {name}\n\n")
    assert cards.purpose(card)
    assert set(cards.psnr(card)) == set(cards.psnr(card, "Set14")) == set(cards.SCALES)
    assert f"{model.parameters:,} parameters" in card
    assert f"{model.licence} (LICENSE.txt)" in card
    assert model.source in card


def test_figures_with_ssim_and_further_scales_are_read() -> None:
    card = (
        "# m\n\nFor\nall.\n\n| | ×2 | ×4 | ×8 |\n|---|---|---|---|\n| Set5 | 37.33 / 0.9584 | 31.24 / 0.88 | 26.22 |\n"
    )
    assert cards.psnr(card) == {"2": 37.33, "4": 31.24}
    assert cards.purpose(card) == "For all."


def test_a_text_without_a_table_or_a_sentence_gives_nothing() -> None:
    assert cards.psnr("# m\n\nA | B\n") == {}
    assert cards.psnr("") == {}
    assert cards.purpose("# m") == ""


def test_a_model_of_unknown_origin_gets_a_plain_card() -> None:
    contract = open_bundle("hiif-video").contract
    assert cards.purpose(cards.plain_card("mine", contract)).startswith("Added from hiif-video.pth")
    stated = replace(contract, provenance={"source": "https://host/x.pth", "licence": "MIT"})
    card = cards.plain_card("mine", stated)
    assert "Added from https://host/x.pth.\n" in card
    assert "\nMIT\n" in card
    assert "Added by hand." in cards.plain_card("mine", replace(contract, provenance={}))
