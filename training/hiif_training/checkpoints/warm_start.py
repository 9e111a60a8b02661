"""Starts a model from the weights of a checkpoint, whole or in part: tensors of the same name and shape are copied."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from hiif_deploy.errors import CheckpointError
from hiif_training.checkpoints.checkpoint import COMPUTED, load_checkpoint
from hiif_training.models.encoders.edsr import Edsr
from hiif_training.models.encoders.encoder import Encoder
from hiif_training.models.implicit import ImplicitModel, ModelTraits

logger = logging.getLogger(__name__)

ENCODER = "encoder."
"""Prefix of the encoder's tensors."""


@dataclass(frozen=True)
class Match:
    """A model's trained tensors, by whether a checkpoint has them."""

    taken: tuple[str, ...]
    """Names whose tensor the checkpoint has in the same shape."""
    left: Mapping[str, str]
    """Name of every other tensor → why it was not taken."""

    @property
    def has_whole_encoder(self) -> bool:
        """Whether every tensor of the encoder was taken."""
        return not any(name.startswith(ENCODER) for name in self.left)


def init_weights(
    model: ImplicitModel, path: str | os.PathLike[str], prefix: str = "", blocks: Sequence[int] = ()
) -> Match:
    """Copy the tensors of a checkpoint that fit into `model`, and log which were taken, which were not and why.

    Only names with `prefix` are taken. With `blocks`, residual block n of the model starts from block `blocks[n]` of
    the checkpoint. CheckpointError where the checkpoint has no trained tensor of the model, or no such block.
    """
    loaded = load_checkpoint(path)
    adapt_input(loaded.model, model.traits)
    given = {name: value for name, value in loaded.model.state_dict().items() if not name.endswith(COMPUTED)}
    if blocks:
        given = choose_blocks(path, loaded.model.encoder, model.encoder, given, blocks)
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    match = match_tensors(trained, given, prefix)
    if not match.taken:
        raise CheckpointError(
            f"{path}: none of its tensors ({_parts(given)}) fits the model to be trained ({_reasons(match.left)}); "
            "choose a checkpoint with the same encoder or decoder, or change the recipe's model"
        )
    model.load_state_dict({name: given[name] for name in match.taken}, strict=False)
    logger.info("%s: took %d tensors (%s)", path, len(match.taken), _parts(match.taken))
    if match.left:
        logger.info("%s: %d tensors start from the seed: %s", path, len(match.left), _reasons(match.left))
    if unused := [name for name in given if name not in model.state_dict()]:
        logger.info("%s: %d of its tensors have no use here (%s)", path, len(unused), _parts(unused))
    _warn_of_settings(path, loaded.model, model)
    return match


def adapt_input(model: ImplicitModel, own: ModelTraits) -> None:
    """Let the encoder read pictures as `own` normalises them: (x − m₁)/s₁ = (z·s₂ + m₂ − m₁)/s₁ for z = (x − m₂)/s₂.

    Its features stay the same but for the border, whose padding is 0 in both ranges and so another colour.
    """
    given, layer = model.traits, model.encoder.input_layer
    if (given.mean, given.std) == (own.mean, own.std) or layer.bias is None:
        return
    colours = slice(layer.in_channels)
    mean, std = torch.tensor(given.mean)[colours], torch.tensor(given.std)[colours]
    own_mean, own_std = torch.tensor(own.mean)[colours], torch.tensor(own.std)[colours]
    with torch.no_grad():
        layer.bias += (layer.weight.sum((2, 3)) * ((own_mean - mean) / std)).sum(1)
        layer.weight *= (own_std / std)[:, None, None]
    logger.info(
        "the encoder reads pictures in another range of values than its checkpoint: its first layer was adapted"
    )


def match_tensors(own: Mapping[str, Tensor], given: Mapping[str, Tensor], prefix: str = "") -> Match:
    """Compare the names and shapes of a model's tensors with those of a checkpoint."""
    left = {}
    for name, value in own.items():
        if not name.startswith(prefix):
            left[name] = f"not below {prefix}"
        elif name not in given:
            left[name] = "not in the checkpoint"
        elif given[name].shape != value.shape:
            left[name] = "of another shape in the checkpoint"
    return Match(tuple(name for name in own if name not in left), left)


def choose_blocks(
    path: str | os.PathLike[str], given: Encoder, own: Encoder, tensors: Mapping[str, Tensor], blocks: Sequence[int]
) -> dict[str, Tensor]:
    """Rename the tensors of an EDSR encoder to those of one that has only the given residual blocks, in order."""
    if not isinstance(given, Edsr) or not isinstance(own, Edsr):
        kinds = f"{type(given).__name__} and {type(own).__name__}"
        raise CheckpointError(f"{path}: init_blocks chooses blocks of an EDSR; the encoders are {kinds}")
    if blocks[-1] >= given.config.blocks or len(blocks) != own.config.blocks:
        raise CheckpointError(
            f"{path}: init_blocks is {list(blocks)}: expected {own.config.blocks} blocks, one for each of the recipe's "
            f"encoder, out of the checkpoint's 0 to {given.config.blocks - 1}"
        )
    # The convolution behind the blocks has the number after the last one.
    numbers = {str(old): str(new) for new, old in enumerate([*blocks, given.config.blocks])}
    body = ENCODER + "body."
    chosen = {}
    for name, value in tensors.items():
        number, _, rest = name.removeprefix(body).partition(".")
        if not name.startswith(body):
            chosen[name] = value
        elif number in numbers:
            chosen[f"{body}{numbers[number]}.{rest}"] = value
    return chosen


def _warn_of_settings(path: str | os.PathLike[str], given: ImplicitModel, own: ImplicitModel) -> None:
    """Log settings that no shape reveals, such as EDSR's residual scale: with another one the weights mean less."""
    for part, one, other in (("encoder", given.encoder, own.encoder), ("decoder", given, own)):
        before, now = (_settings(module) for module in (one, other))
        changed = [name for name in now if type(one) is type(other) and before.get(name) != now[name]]
        if changed:
            listed = ", ".join(f"{name} {before.get(name)!r} → {now[name]!r}" for name in changed)
            logger.warning("%s: the %s has other settings in this recipe: %s", path, part, listed)


def _settings(module: Any) -> dict[str, Any]:
    return asdict(module.config) if hasattr(module, "config") else {}


def _parts(names: Iterable[str]) -> str:
    """Return the parts of a model to which tensors belong, and their number in each."""
    counts = Counter(name.partition(".")[0] for name in names)
    return ", ".join(f"{part} {count}" for part, count in counts.items())


def _reasons(left: Mapping[str, str]) -> str:
    """Return the parts of a model whose tensors were not taken, by reason."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in left.items():
        by_reason.setdefault(reason, []).append(name)
    return "; ".join(f"{_parts(names)} {reason}" for reason, names in by_reason.items())
