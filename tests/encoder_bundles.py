"""Small bundles with each kind of encoder, in both precisions, exported once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from cached_export import shared_bundle
from hiif_export.parity.parity import cases
from hiif_training.models.implicit import ImplicitModel
from hiif_training.models.registry import make_model

ENCODERS: dict[str, dict[str, Any]] = {
    "edsr-baseline": {"n_resblocks": 2, "n_feats": 16, "no_upsampling": True},
    "rdn": {"G0": 16, "D": 2, "C": 2, "G": 16, "no_upsampling": True},
    "span": {"num_blocks": 2, "feature_channels": 16, "no_upsampling": True},
    "swinir": {"embed_dim": 16, "depths": [2, 2], "num_heads": [2, 2], "num_feat": 16, "no_upsampling": True},
}


def encoder_bundle_of(name: str) -> Path:
    """HIIF of width 16 around the encoder of that name; its decoder has the same weights around each of them."""
    torch.set_num_threads(1)
    model = _model(name)
    decoder = {key: value for key, value in _model("edsr-baseline").state_dict().items() if key[:8] != "encoder."}
    model.load_state_dict(decoder, strict=False)
    suite = cases(sizes=((9, 20),), scales=(2.0,))
    return shared_bundle(model, _spec(name), name, provenance={}, suite=suite, precisions=("fp32", "fp16"))


def _model(name: str) -> ImplicitModel:
    torch.manual_seed(5)
    return make_model(_spec(name)).eval()


def _spec(name: str) -> dict[str, Any]:
    args = {"blocks": 2, "hidden_dim": 16, "mlp_dim": 16, "levels": 3, "attention_blocks": 2, "bits": "exact"}
    return {"name": "hiif", "args": {"encoder_spec": {"name": name, "args": ENCODERS[name]}, **args}}
