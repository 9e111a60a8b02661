"""Checkpoints that would exhaust the machine are refused before anything is built."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from checkpoint_files import SPEC, public, refusal, saved, weights
from hiif_training.models.registry import make_encoder, make_model


def described(**encoder: Any) -> dict[str, Any]:
    return {"name": "liif", "args": {"encoder_spec": {"name": "edsr-baseline", "args": encoder}}}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (described(n_resblocks=2**31), "edsr-baseline: n_resblocks is 2147483648: expected at most 128"),
        (described(n_feats=10**300), "edsr-baseline: n_feats is a number of 997 bits: expected at most 4096"),
        (described(n_feats=4096), "weights: expected at most 268,435,456"),
        (described(res_scale=float("nan")), "res_scale is nan: expected a number between ±1000"),
        ({"name": "ciaosr", "args": {**described()["args"], "hidden_list": [1] * 99}},
         "hidden_list has 99 entries: expected at most 32"),
        ({"name": "hiif", "args": {**described()["args"], "levels": 10**6}}, "levels is 1000000: expected at most 30"),
        (described(n_feats=torch.ones(2)), "not plain data"),
    ],
    ids=["blocks", "width", "weights", "nan", "list", "levels", "tensor"],
)  # fmt: skip
def test_a_model_far_larger_than_any_is_refused_before_it_is_built(
    tmp_path: Path, spec: dict[str, Any], message: str
) -> None:
    assert message in refusal(saved(tmp_path / "m.pth", public({}, **spec)))


def test_a_model_is_built_from_the_same_random_numbers_as_before() -> None:
    # The first build, which only counts, takes none of them.
    torch.manual_seed(3)
    state = torch.get_rng_state()
    encoder = make_encoder(SPEC["args"]["encoder_spec"])
    torch.set_rng_state(state)
    assert make_model(SPEC).encoder.state_dict()["head.0.weight"].equal(encoder.state_dict()["head.0.weight"])


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.empty(128, 64, 3, 3, device="meta"), "has no values (it is on the meta device)"),
        (torch.zeros(2).to(torch.float8_e4m3fn), "is torch.float8_e4m3fn: expected a floating-point tensor"),
        (torch.zeros(2, 2).to_sparse(), "is stored as torch.sparse_coo: expected a dense tensor"),
    ],
    ids=["meta", "float8", "sparse"],
)
def test_a_tensor_without_usual_values_is_named(tmp_path: Path, tensor: Tensor, message: str) -> None:
    sd = {**weights(), "freq.bias": tensor}
    assert f"freq.bias {message}" in refusal(saved(tmp_path / "m.pth", public(sd)))


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def doubled(times: int) -> Any:
    """Lists that hold the one before twice: small in the file, without end for whoever prints it."""
    value: Any = [1]
    for _ in range(times):
        value = [value, value]
    return value


@pytest.mark.parametrize("value", [deep(100), doubled(40)], ids=["deep", "doubled"])
def test_data_that_unfolds_without_end_is_refused(tmp_path: Path, value: Any) -> None:
    path = saved(tmp_path / "m.pth", {**public(weights()), "history": value})
    assert refusal(path).endswith("nested deeper than 64 levels, or with more than 1048576 values")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "not a JSON file"),
        ('{"model": {}, "metadata": {"a": ' + "[" * 100 + "]" * 100 + "}}", "nested deeper than 64 levels"),
        (" " * (5 << 20), "so it is no description of a model"),
    ],
    ids=["unread", "read", "large"],
)
def test_a_description_that_is_deep_or_huge_is_refused(tmp_path: Path, text: str, message: str) -> None:
    safetensors.torch.save_file(weights(), tmp_path / "m.safetensors")
    (tmp_path / "m.json").write_text(text, encoding="utf-8")
    assert message in refusal(tmp_path / "m.safetensors")


def test_a_compressed_archive_is_refused_packed(tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/data/0", bytes(1 << 24))
    assert "a compressed archive: expected one that torch.save wrote" in refusal(path)
