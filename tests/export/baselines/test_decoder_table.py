"""The table of decoders: rows count what formulas say, stand for themselves, and are kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from hiif_deploy.errors import OptionError
from hiif_export.baselines import decoder_table as table
from hiif_export.baselines.decoder_table import Row, TableSetting
from hiif_export.baselines.decoder_times import Seconds
from hiif_training.models.registry import make_model

torch.set_num_threads(1)

SETTING = TableSetting(source=(6, 8), scale=2.0, rounds=1, threads=1, suite=((7, 5),))
TINY = {"n_resblocks": 1, "no_upsampling": True}
WIDTH = 16
"""Inside LIIF's network, twice."""


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """LIIF around a tiny encoder, a model that does not exist, and few pixels to count."""
    network = {"name": "mlp", "args": {"out_dim": 3, "hidden_list": [WIDTH, WIDTH]}}
    monkeypatch.setattr(table, "DECODERS", {"liif": ("liif", {"imnet_spec": network}), "none": ("nonesuch", {})})
    monkeypatch.setattr(table, "ENCODERS", {"edsr-mini": TINY})
    monkeypatch.setattr(table, "COUNTED", (8, 8))


@pytest.mark.usefixtures("tiny")
def test_a_row_counts_what_the_formulas_say_and_one_that_cannot_be_had_leaves_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keep = tmp_path / "rows.json"
    pairs = [("none", "edsr-mini"), ("liif", "edsr-mini")]
    rows, missing = table.measure_all(pairs, SETTING, keep)
    (row,) = rows
    assert missing == ["none:edsr-mini"]
    assert "nonesuch" in caplog.text
    surroundings, position = 9 * 16, 4
    assert row.parameters == (surroundings + position + 1) * WIDTH + (WIDTH + 1) * WIDTH + (WIDTH + 1) * 3
    assert row.macs_before == 4 * ((surroundings + position) * WIDTH + WIDTH * WIDTH + WIDTH * 3)
    # ×2: four queries share a source pixel's map. What the cell adds, once per call, is less than one product.
    assert row.macs_after == pytest.approx(surroundings * WIDTH / 4 + 4 * WIDTH * WIDTH + 3 * WIDTH, abs=4)
    assert row.error < 1e-4
    assert table.read_rows(keep, SETTING) == {("liif", "edsr-mini"): row}
    again, _ = table.measure_all(pairs[1:], SETTING, keep)
    assert again == rows


ROW = Row("liif", "rdn", 346883, 1383424.0, 794000.0, 95_000_000, Seconds(2, 1), Seconds(10, 3), 1.5e-6)


def test_the_table_is_markdown() -> None:
    caption, _, head, rule, line = table.markdown([ROW], TableSetting()).splitlines()
    assert "256x256 at ×4, 2 threads, 1280 MiB;" in caption
    assert head.count("|") == rule.count("|") == line.count("|")
    assert line.startswith("| liif | rdn | 346,883 | 1,383 k → 794 k | 95.0 MB |")
    assert line.endswith("| 2.00 + 10.00 s | 1.00 + 3.00 s | 3.0 | 1.5e-06 |")


def test_rows_of_another_setting_or_another_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    assert table.read_rows(path, SETTING) == {}
    table.keep_rows(path, [ROW], SETTING)
    with pytest.raises(OptionError, match="was measured with"):
        table.read_rows(path, TableSetting(rounds=2))
    path.write_text(json.dumps([1]))
    with pytest.raises(OptionError, match="holds no rows"):
        table.read_rows(path, SETTING)


@pytest.mark.parametrize("text", ["liif", "liif:", ":rdn", "liif:vgg", "bicubic:rdn"])
def test_a_row_that_does_not_exist_is_refused_with_those_that_do(text: str) -> None:
    with pytest.raises(OptionError, match="metasr, liif"):
        table.pair(text)


@pytest.mark.parametrize("decoder", table.DECODERS)
@pytest.mark.parametrize("encoder", table.ENCODERS)
def test_every_row_describes_a_model_that_exists(decoder: str, encoder: str) -> None:
    with torch.device("meta"):
        model = table.make_model(table.spec(decoder, encoder))
    assert sum(parameter.numel() for parameter in model.parameters()) > 1_000_000


def test_what_a_model_does_behind_its_encoder_counts() -> None:
    model = make_model(
        {
            "name": "clit",
            "args": {
                "encoder_spec": {"name": "edsr-mini", "args": TINY},
                "imnet_spec": {"name": "mlp", "args": {"out_dim": 3, "hidden_list": [8, 8], "act": "gelu"}},
                "pb_spec": {"name": "posenc", "args": {"enc_dims": 8, "posenc_scale": 4}},
                "base_dim": 32, "head": 2, "r": 1, "imnet_num": 1, "conv_num": 1,
            },
        }
    )  # fmt: skip
    behind = sum(layer.weight.numel() for layer in model.modules() if isinstance(layer, torch.nn.Conv2d))
    behind -= sum(layer.weight.numel() for layer in model.encoder.modules() if isinstance(layer, torch.nn.Conv2d))
    assert table.plain_macs(model, 1.0) >= behind
