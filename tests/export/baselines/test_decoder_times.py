"""Times of the table of decoders: a decoder's are taken once, and what does not fit into memory is refused before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hiif_deploy.errors import HiifError
from hiif_export.baselines import decoder_table as table
from hiif_export.baselines import plain_memory
from hiif_export.baselines.bench_plain import chunks, decode_maps
from hiif_export.baselines.decoder_table import TableSetting
from hiif_export.baselines.plain_memory import Alive, check_memory, plain_bytes
from hiif_training.models.implicit import ImplicitModel
from hiif_training.models.registry import make_model

torch.set_num_threads(1)

SOURCE, SIZE = (6, 7), (13, 15)
TINY = {"n_resblocks": 1, "no_upsampling": True}
CLIT = {
    "base_dim": 16, "head": 2, "r": 3, "imnet_num": 1, "conv_num": 1,
    "imnet_spec": {"name": "mlp", "args": {"out_dim": 3, "hidden_list": [16], "act": "gelu"}},
    "pb_spec": {"name": "posenc", "args": {"enc_dims": 16, "posenc_scale": 4}},
}  # fmt: skip
SMALL: dict[str, dict[str, Any]] = {"liif": {}, "lte": {}, "metasr": {}, "ciaosr": {"hidden_list": [16]}, "clit": CLIT}


def tiny(name: str, args: dict[str, Any]) -> ImplicitModel:
    torch.manual_seed(3)
    encoder = {"name": "edsr-mini", "args": TINY}
    return make_model({"name": name, "args": {"encoder_spec": encoder, **args}}).eval().requires_grad_(False)


@pytest.mark.parametrize("name", SMALL)
def test_chunks_of_queries_that_do_not_depend_on_each_other_give_the_same_picture(name: str) -> None:
    model = tiny(name, SMALL[name])
    features = model.encode(torch.rand(1, 3, *SOURCE))
    (whole,) = (decode_maps(model, features, queries) for queries in chunks(model, SOURCE, SIZE, None))
    parts = [decode_maps(model, features, queries) for queries in chunks(model, SOURCE, SIZE, 50)]
    assert len(parts) == 4
    # Matrix products of other sizes add up in another order.
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-4, atol=1e-5)


def test_the_most_bytes_alive_are_counted() -> None:
    with Alive() as alive:
        first = torch.zeros(1000, device="meta")
        second = first[:500] + 1
        assert alive.most == 4000 + 2000
        del first
        second = second * 2
        second = second * 2
    assert alive.most == 4000 + 2000
    assert second.shape == (500,)


def test_memory_of_a_whole_grid_grows_with_it_and_that_of_chunks_does_not() -> None:
    model = tiny("sronet", {"width": 32, "blocks": 4})
    small, large = (plain_bytes(model, (8, 8), (side, side), None) for side in (64, 128))
    assert 3.5 < large / small < 4.5
    assert plain_bytes(model, (8, 8), (64, 64), 100) == plain_bytes(model, (8, 8), (128, 128), 100) < small / 10


def test_a_picture_that_does_not_fit_is_refused_with_what_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, table_file = tiny("liif", {}), tmp_path / "meminfo"
    monkeypatch.setattr(plain_memory, "MEMINFO", table_file)
    check_memory(model, SOURCE, SIZE, None)
    table_file.write_text("MemTotal: 9000 kB\nMemAvailable: 4000000 kB\n")
    check_memory(model, SOURCE, SIZE, None)
    with pytest.raises(HiifError, match=r"takes \d+\.\d GB for 512x512 → 2048x2048, and 4\.1 GB are free"):
        check_memory(model, (512, 512), (2048, 2048), None)


def test_a_decoder_is_timed_once_and_its_time_stands_around_every_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "DECODERS", {"metasr": ("metasr", {})})
    monkeypatch.setattr(table, "ENCODERS", {"edsr-mini": TINY, "edsr": {**TINY, "n_feats": 16}})
    monkeypatch.setattr(table, "COUNTED", (8, 8))
    setting = TableSetting(source=(6, 8), scale=2.0, threads=1, suite=((7, 5),))
    rows, missing = table.measure_all([("metasr", "edsr-mini"), ("metasr", "edsr")], setting)
    assert missing == []
    assert rows[0].decoding is rows[1].decoding
    assert rows[0].encoding != rows[1].encoding
    assert rows[0].decoding.plain > 0
