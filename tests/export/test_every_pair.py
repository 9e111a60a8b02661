"""Seven decoders around three kinds of encoders: each pair is exported, verified, and upscales as PyTorch does."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from decoder_pairs import ENCODERS, Pairs
from hiif_deploy import RenderOptions, Upscaler
from hiif_deploy.bundle.loader import open_bundle
from hiif_deploy.images.samples import sample
from hiif_deploy.pixels import to_unit
from hiif_training.models.reference import upscale

DECODERS = ("hiif", "liif", "lte", "sronet", "metasr", "ciaosr", "clit")
PAIRS = [
    # A decoder's graphs are the same around every encoder: HIIF is tried around each of them in every run, and the
    # other decoders around one in tests/export/decoders.
    pytest.param(*pair, marks=() if pair[0] == "hiif" else pytest.mark.slow)
    for pair in product(DECODERS, ENCODERS)
]


@pytest.mark.early
@pytest.mark.parametrize(("decoder", "encoder"), PAIRS)
def test_the_export_finds_the_graphs_equal_to_pytorch(pairs: Pairs, decoder: str, encoder: str) -> None:
    parity = open_bundle(pairs.bundle(decoder, encoder)).contract.parity
    assert len(parity["cases"]) == 8
    assert parity["max_error"] <= 1e-4


@pytest.mark.early
@pytest.mark.parametrize(("decoder", "encoder"), PAIRS)
def test_upscale_gives_pytorchs_picture_at_another_size(pairs: Pairs, decoder: str, encoder: str) -> None:
    picture = sample("coffee")[60:71, 80:93].copy()
    expected = upscale(pairs.model(decoder, encoder), picture, (29, 40))
    with Upscaler(pairs.bundle(decoder, encoder)) as upscaler:
        found = upscaler.upscale(picture, size=(29, 40))
        exact = upscaler.upscale(to_unit(picture), size=(29, 40))
    np.testing.assert_allclose(exact, expected, rtol=0, atol=1e-4)
    assert np.abs(found - np.rint(expected * 255)).max() <= 1


@pytest.mark.early
@pytest.mark.parametrize(("decoder", "encoder"), PAIRS)
def test_queries_run_a_row_at_a_time_have_the_same_output(pairs: Pairs, decoder: str, encoder: str) -> None:
    picture, size = sample("coffee")[60:71, 80:93].copy(), (29, 40)
    answers = []
    for rows in (1, size[0]):
        options = RenderOptions(query_block=rows * size[1], tile_rows=rows)
        with Upscaler(pairs.bundle(decoder, encoder), options=options) as upscaler:
            answers.append(upscaler.render_unclamped(upscaler.encode(picture), size=size))
    np.testing.assert_allclose(*answers, rtol=0, atol=1e-5)
