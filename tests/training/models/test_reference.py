"""Whole pictures through the plain module: equal to the runtime, exact and as published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hiif_deploy.images.samples import sample
from hiif_deploy.upscaler import RenderOptions, Upscaler
from hiif_training.models.reference import upscale
from hiif_training.models.registry import make_model

SMALL = np.ascontiguousarray(sample("coffee")[40:58, 60:81])


@pytest.mark.parametrize(
    ("rows", "clip", "size"), [(None, False, (45, 60)), (20, True, (108, 126)), (7, False, (36, 42))]
)
def test_the_plain_module_equals_the_runtime(
    tiny_model: Any, tiny_bundle: Path, rows: int | None, clip: bool, size: tuple[int, int]
) -> None:
    with Upscaler(tiny_bundle, options=RenderOptions(group_rows=rows, clip_cell=clip)) as upscaler:
        expected = upscaler.upscale(SMALL / np.float32(255), size=size)
    found = upscale(tiny_model, SMALL, size, group_rows=rows, clip_cell=clip)
    assert found.shape == (*size, 3)
    # The export's own tolerance.
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_groups_of_rows_change_the_picture_of_a_model_with_attention(tiny_model: Any) -> None:
    whole, grouped = (upscale(tiny_model, SMALL, (36, 42), group_rows=rows) for rows in (None, 9))
    assert np.abs(whole - grouped).max() > 1e-3


def test_a_clipped_cell_counts_beyond_the_trained_scale_only(tiny_model: Any) -> None:
    for size, differs in (((72, 84), False), ((144, 168), True)):
        plain, clipped = (upscale(tiny_model, SMALL, size, clip_cell=clip) for clip in (False, True))
        assert (not np.array_equal(plain, clipped)) == differs


def test_a_window_encoder_is_padded_by_a_whole_window_as_published() -> None:
    encoder = {"name": "swinir", "args": {"embed_dim": 8, "depths": [2], "num_heads": [2], "num_feat": 8}}
    args = {"encoder_spec": encoder, "blocks": 2, "hidden_dim": 8, "mlp_dim": 8, "levels": 2, "bits": "exact"}
    model = make_model({"name": "hiif", "args": args}).eval()
    frame = SMALL[:16, :16]
    padded = np.pad(frame, ((0, 8), (0, 8), (0, 0)), mode="symmetric")
    expected = upscale(model, padded, (48, 48))[:32, :32]
    np.testing.assert_allclose(upscale(model, frame, (32, 32), group_rows=1 << 30), expected, atol=1e-6)
