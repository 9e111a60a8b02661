"""Cards of models: Markdown with a title, one sentence on the model's purpose, then sections."""

import re
from importlib.resources import files

from hiif_deploy.bundle.contract import Contract

CARD_FILE = "CARD.md"
"""A model's card, beside its bundle.json."""
SCALES = ("2", "3", "4")
"""Scales of the figures that lists of models show."""
LICENCE_FILE = "LICENSE.txt"
"""Text of a model's licence, beside its bundle.json."""


def purpose(card: str) -> str:
    """Return the card's first sentence on one line; empty where the card has none."""
    paragraphs = card.split("\n\n")
    return " ".join(paragraphs[1].split()) if len(paragraphs) > 1 else ""


def psnr(card: str, test_set: str = "Set5") -> dict[str, float]:
    """Return scale → PSNR in dB of a test set, from the card's table of figures; empty where it has none."""
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in card.splitlines() if "|" in line]
    scales = next((row for row in rows if any(re.fullmatch(r"×\d+", cell) for cell in row)), [])
    figures = next((row[1:] for row in rows if row[0] == test_set), [])
    pairs = zip((scale for scale in scales if scale), figures, strict=False)
    found = {scale.removeprefix("×"): re.match(r"\d+\.\d+", figure) for scale, figure in pairs}
    return {scale: float(match[0]) for scale, match in found.items() if match and scale in SCALES}


def known_card(name: str) -> str:
    """Return the card of a known model."""
    return (files("hiif_deploy") / "models" / name / CARD_FILE).read_text(encoding="utf-8")


def known_licence(name: str) -> str:
    """Return the text of the licence of a known model whose weights ship with this project."""
    return (files("hiif_deploy") / "models" / name / LICENCE_FILE).read_text(encoding="utf-8")


def plain_card(name: str, contract: Contract) -> str:
    """Return a card of what the contract of a model of unknown origin says."""
    origin = source(contract)
    low, high = contract.training_scales
    return "\n".join([
        f"# {name}", "", f"Added from {origin}." if origin else "Added by hand.", "",
        "## Model", f"{contract.parameters:,} parameters, trained at ×{low:g} to ×{high:g}.",
        "", "## Data and licence", licence(contract) or "Not stated.", "",
    ])  # fmt: skip


def source(contract: Contract) -> str:
    """Return where the weights come from, as the contract says; empty where it says nothing."""
    provenance = contract.provenance
    return str(provenance.get("source") or provenance.get("checkpoint") or "")


def licence(contract: Contract) -> str:
    """Return the licence of the weights, as the contract says; empty where it says nothing."""
    return str(contract.provenance.get("licence") or "")
