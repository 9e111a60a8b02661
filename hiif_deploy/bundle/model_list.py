"""Shipped, added and known models: what `hiif-deploy models` reports of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hiif_deploy.bundle import cards
from hiif_deploy.bundle.known import KNOWN_MODELS, KnownModel
from hiif_deploy.bundle.loader import DEFAULT_MODEL, added_models, read_contract, shipped_models, unknown_model
from hiif_deploy.errors import BundleError

State = Literal["shipped", "added", "damaged", "not installed"]
SHIPPED_LICENCE = "Apache-2.0; training data: see its card"


@dataclass(frozen=True)
class ListedModel:
    """A model that is here, or that `models add NAME` can fetch."""

    name: str
    """What `--bundle` takes."""
    state: State
    """Whether it is installed, and how."""
    is_default: bool
    """Taken where none is named."""
    parameters: int
    """Of the whole model; 0 where a damaged model does not say."""
    size: int
    """Bytes of all its files; of the checkpoint where the model is not installed."""
    passes: int
    """How often the decoder goes over every output pixel."""
    purpose: str
    """The card's first sentence; of a damaged model what is wrong with it."""
    source: str
    """Where the weights come from; empty where nothing says it."""
    licence: str
    """Of the weights; empty where nothing says it."""
    psnr: Mapping[str, float]
    """Scale → PSNR in dB on Set5, from the card."""


def list_models() -> list[ListedModel]:
    """Return all of them: shipped, added and not installed ones, each by name."""
    added = added_models()
    shipped = [
        _installed(name, folder, "shipped", "ships with hiif-deploy", SHIPPED_LICENCE)
        for name, folder in shipped_models().items()
    ]
    return [
        *shipped,
        *(_added(name, folder) for name, folder in added.items()),
        *(_absent(model) for name, model in KNOWN_MODELS.items() if name not in added),
    ]


def model_card(name: str) -> str:
    """Return a model's card as Markdown, also of a known model that is not installed. BundleError for other names."""
    installed = {**added_models(), **shipped_models()}
    if name in installed:
        return _card(name, installed[name])
    if name in KNOWN_MODELS:
        return cards.known_card(name)
    raise BundleError(f"{name}: {unknown_model(name)}")


def _added(name: str, folder: Path) -> ListedModel:
    try:
        contract = read_contract(folder)
        return _installed(name, folder, "added", cards.source(contract), cards.licence(contract))
    except BundleError as error:
        return ListedModel(name, "damaged", False, 0, _size(folder), 0, str(error), "", "", {})


def _installed(name: str, folder: Path, state: State, source: str, licence: str) -> ListedModel:
    contract, card = read_contract(folder), _card(name, folder)
    return ListedModel(
        name, state, name == DEFAULT_MODEL, contract.parameters, _size(folder), contract.decoder.statistics_passes + 1,
        cards.purpose(card), source, licence, cards.psnr(card),
    )  # fmt: skip


def _absent(model: KnownModel) -> ListedModel:
    card = cards.known_card(model.name)
    return ListedModel(
        model.name, "not installed", False, model.parameters, model.size, model.passes, cards.purpose(card),
        model.source, model.licence, cards.psnr(card),
    )  # fmt: skip


def _card(name: str, folder: Path) -> str:
    try:
        return (folder / cards.CARD_FILE).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"{folder / cards.CARD_FILE}: cannot be read ({error}); add {name} again") from error


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
