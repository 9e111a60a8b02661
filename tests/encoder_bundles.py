"""Small bundles with each kind of encoder, in both precisions, exported once per run of the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from hiif_export.export import export_bundle
from hiif_export.parity import cases
from hiif_training.models.registry import make_model

ENCODERS: dict[str, dict[str, Any]] = {
    "edsr-baseline": {"n_resblocks": 2, "n_feats": 16, "no_upsampling": True},
    "rdn": {"G0": 16, "D": 2, "C": 2, "G": 16, "no_upsampling": True},
    "swinir": {"embed_dim": 16, "depths": [2, 2], "num_heads": [2, 2], "no_upsampling": True},
}


def export_encoder_bundle(name: str, folder: Path) -> Path:
    """HIIF of width 16 around the encoder of that name."""
    torch.set_num_threads(1)
    torch.manual_seed(5)
    args = {"blocks": 2, "hidden_dim": 16, "mlp_dim": 16, "levels": 3, "attention_blocks": 2}
    spec = {"name": "hiif", "args": {"encoder_spec": {"name": name, "args": ENCODERS[name]}, **args}}
    suite = cases(sizes=((9, 20),), scales=(2.0,))
    export_bundle(
        make_model(spec).eval(), spec, folder, name=name, provenance={}, suite=suite, precisions=("fp32", "fp16")
    )
    return folder
