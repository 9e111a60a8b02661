"""The models inside the package: what `hiif-deploy models` reports of them."""

from dataclasses import dataclass

from hiif_deploy.bundle.loader import DEFAULT_MODEL, read_contract, shipped_models, unknown_model
from hiif_deploy.errors import BundleError

CARD_FILE = "CARD.md"
"""A model's card, beside its bundle.json: title, one sentence, then sections."""


@dataclass(frozen=True)
class ShippedModel:
    """Name, size and purpose of a shipped model."""

    name: str
    """What `--bundle` takes."""
    is_default: bool
    """Taken where none is named."""
    parameters: int
    """Of the whole model."""
    size: int
    """Bytes of all its files."""
    passes: int
    """How often the decoder goes over every output pixel."""
    purpose: str
    """The card's first sentence."""


def list_models() -> list[ShippedModel]:
    """All of them, by name."""
    found = []
    for name, folder in shipped_models().items():
        contract = read_contract(folder)
        size = sum(path.stat().st_size for path in folder.iterdir())
        passes = contract.decoder.statistics_passes + 1
        purpose = model_card(name).split("\n\n")[1].replace("\n", " ")
        found.append(ShippedModel(name, name == DEFAULT_MODEL, contract.parameters, size, passes, purpose))
    return found


def model_card(name: str) -> str:
    """Markdown; BundleError for a name that is not shipped."""
    if name not in shipped_models():
        raise BundleError(f"{name}: {unknown_model(name)}")
    return (shipped_models()[name] / CARD_FILE).read_text(encoding="utf-8")
