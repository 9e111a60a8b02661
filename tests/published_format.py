"""The published checkpoint formats: `tests/published/*.json` as complete lists of tensors, and files made from them.

The lists are written by hand from design/model.md and the papers' parameter counts, not from this project's modules.
In a name, `{a,b}` and `{0..15}` stand for each of those.
"""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FOLDER = Path(__file__).parent / "published"
BUFFERS = ("relative_position_index", "attn_mask", "escape_NaN")
"""Ends of the names of what is saved but not trained."""

FAMILY_ARGS: dict[str, dict[str, Any]] = {
    "metasr": {},
    "liif": {"imnet_spec": {"name": "mlp", "args": {"out_dim": 3, "hidden_list": [256] * 4}}},
    "lte": {"imnet_spec": {"name": "mlp", "args": {"out_dim": 3, "hidden_list": [256] * 3}}, "hidden_dim": 256},
    "lte-plus": {"hidden_dim": 256},
    "srno": {"width": 256, "blocks": 16},
    "hiif": {"blocks": 16, "hidden_dim": 256},
} | {
    f"clit-{n}": {
        "base_dim": 256, "head": 8, "r": 3, "imnet_num": n, "conv_num": n, "is_cell": True, "local_attn": True,
        "pb_spec": {
            "name": "posenc",
            "args": {"posenc_type": "sinusoid", "posenc_scale": 10, "hidden_dims": 64, "enc_dims": 64, "gamma": 1},
        },
        "imnet_spec": {"name": "mlp", "args": {"out_dim": 3, "hidden_list": [256] * 4, "act": "gelu"}},
    }
    for n in (1, 2, 3)
}  # fmt: skip
"""Arguments beside `encoder_spec` that a published file of the LIIF family holds, by decoder list."""
NAMES = {"srno": "sronet", "clit-1": "clit", "clit-2": "clit", "clit-3": "clit"}
"""Model names where they are not those of the lists."""
ENCODERS = ("edsr-baseline", "rdn", "swinir")


def parameters(name: str) -> int:
    """The published number of parameters."""
    return int(_read(name)["parameters"])


def shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Every tensor of a list."""
    return {key: tuple(shape) for names, shape in _read(name)["tensors"].items() for key in expanded(names)}


def expanded(names: str) -> list[str]:
    """All that a pattern stands for."""
    parts = re.split(r"\{([^}]*)\}", names)
    choices = [_choices(part) if n % 2 else [part] for n, part in enumerate(parts)]
    return ["".join(words) for words in itertools.product(*choices)]


def tensors(*names: str) -> dict[str, Tensor]:
    """The lists' tensors, each full of a value of its own, which half precision holds exactly."""
    found: dict[str, Tensor] = {}
    for number, (key, shape) in enumerate(item for name in names for item in shapes(name).items()):
        # One stored value per tensor keeps the files small.
        found[key] = torch.tensor((number + 1) / 1024).expand(shape)
    return found


def family_file(decoder: str, encoder: str) -> dict[str, Any]:
    """What a published file of the LIIF family holds."""
    encoder_spec = {"name": encoder, "args": {"no_upsampling": True}}
    args = {"encoder_spec": encoder_spec, **FAMILY_ARGS[decoder]}
    model = {"name": NAMES.get(decoder, decoder), "args": args, "sd": tensors(f"encoder-{encoder}", decoder)}
    return {"model": model, "optimizer": {"name": "adam", "args": {"lr": 1e-4}, "sd": {}}, "epoch": 1000}


def mmcv_file(encoder: str) -> dict[str, Any]:
    """What a published file of CiaoSR holds."""
    decoder = "ciaosr-180" if encoder == "swinir" else "ciaosr-64"
    meta = {"epoch": 1, "iter": 1000000, "mmcv_version": "1.3.17", "time": "Mon Jan  2 03:04:05 2023"}
    return {"meta": meta, "state_dict": tensors(f"generator-{encoder}", decoder), "optimizer": {"generator": {}}}


def _read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return content


def _choices(text: str) -> list[str]:
    if found := re.fullmatch(r"(\d+)\.\.(\d+)", text):
        return [str(n) for n in range(int(found[1]), int(found[2]) + 1)]
    return text.split(",")
