"""CiaoSR's published files: mmcv checkpoints whose generator contains the encoder's layers under mmediting's names.

{'meta': {...}, 'state_dict': {'generator.conv_first.weight': ..., 'generator.imnet_q.layers.0.weight': ...}, ...}

No entry names the model, so it is derived from the tensors (`detect.py`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hiif_deploy.errors import CheckpointError
from hiif_training.models.encoders.edsr import Edsr, EdsrConfig

GENERATOR = "generator."
"""Prefix of every key that belongs to the model."""
DECODER = ("imnet_", "cs_attn.")
"""Prefixes of the decoder's keys; all others are the encoder's."""
RENAMED = {
    "edsr": (
        (r"body\.(\d+)\.conv1\.", r"body.\1.body.0."),
        (r"body\.(\d+)\.conv2\.", r"body.\1.body.2."),
        (r"conv_first\.", "head.0."),
        (r"conv_after_body\.", "body.{blocks}."),
    ),
    "rdn": (
        (r"sfe([12])\.", r"SFENet\1."),
        (r"rdbs\.(\d+)\.layers\.(\d+)\.conv\.", r"RDBs.\1.convs.\2.conv.0."),
        (r"rdbs\.(\d+)\.lff\.", r"RDBs.\1.LFF."),
        (r"gff\.", "GFF."),
    ),
    "swinir": (),
}
"""Encoder → patterns of mmediting's layer names and the LIIF family's, where they differ."""


def is_mmcv(content: Mapping[str, Any]) -> bool:
    """Return whether a file's dictionary holds a generator."""
    tensors = content.get("state_dict")
    return isinstance(tensors, Mapping) and any(str(key).startswith(GENERATOR) for key in tensors)


def family_tensors(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Return a generator's tensors under the names of the LIIF family, the encoder's below `encoder.`.

    Tensors outside the generator (losses, discriminators) are dropped. CheckpointError for an unknown encoder.
    """
    inner = {key.removeprefix(GENERATOR): value for key, value in tensors.items() if key.startswith(GENERATOR)}
    encoder = _encoder(inner)
    blocks = len({key.split(".")[1] for key in inner if key.startswith("body.")})
    found = {_renamed(key, RENAMED[encoder]).replace("{blocks}", str(blocks)): value for key, value in inner.items()}
    return {**_mean_shifts(), **found} if encoder == "edsr" else found


def _mean_shifts() -> dict[str, Any]:
    """Return EDSR's two mean-shift layers, for which mmediting has no weights and which nothing uses."""
    tensors = Edsr(EdsrConfig(blocks=1, features=1)).state_dict()
    return {f"encoder.{key}": value for key, value in tensors.items() if "_mean." in key}


def _encoder(keys: Mapping[str, Any]) -> str:
    signs = {"rdn": "sfe1.weight", "swinir": "patch_embed.norm.weight", "edsr": "conv_first.weight"}
    for name, key in signs.items():
        if key in keys:
            return name
    raise CheckpointError(
        f"the generator's encoder is unknown: expected one of the tensors {', '.join(signs.values())}"
    )


def _renamed(key: str, rules: tuple[tuple[str, str], ...]) -> str:
    if key.startswith(DECODER):
        return key
    for before, after in rules:
        if re.match(before, key):
            return f"encoder.{re.sub(f'^{before}', after, key)}"
    return f"encoder.{key}"
