"""Checkpoint files for tests, and how they are refused."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hiif_deploy.errors import CheckpointError
from hiif_training.checkpoints.checkpoint import load_checkpoint
from hiif_training.models.registry import make_model

SPEC: dict[str, Any] = {
    "name": "hiif",
    "args": {
        "encoder_spec": {"name": "edsr-mini", "args": {"no_upsampling": True}},
        "blocks": 2,
        "hidden_dim": 8,
        "bits": "exact",
    },
}


def weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return make_model(SPEC).state_dict()


def public(sd: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A file of the LIIF family as its trainer writes it."""
    model = {**SPEC, "sd": OrderedDict(sd), **changes}
    return {"model": model, "optimizer": {"name": "adam", "args": {"lr": 1e-4}, "sd": {}}, "epoch": 7}


def saved(path: Path, content: Any, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert str(path.parent) in str(caught.value)
    return str(caught.value)
