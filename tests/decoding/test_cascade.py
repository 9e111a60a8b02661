"""Features of a later decoder, a tile at a time; contracts with several decoders, and the engine that refuses them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from hiif_deploy.backends.engines import ENGINES
from hiif_deploy.bundle.contract import expected_graphs
from hiif_deploy.decoding.cascade import stage_tile
from hiif_deploy.errors import BundleError, EngineError
from hiif_deploy.geometry.tiling import Tile
from hiif_training.models.clit import stage_features
from sample_contract import make_contract

ANY = slice(0, 1)


@pytest.mark.parametrize(
    "part", [(slice(0, 20), slice(0, 12)), (slice(0, 3), slice(7, 12)), (slice(9, 10), slice(4, 5))]
)
def test_a_tile_of_a_stage_is_cut_from_the_whole_and_zero_beyond(part: tuple[slice, slice]) -> None:
    features = np.random.default_rng(0).random((4, 5, 3), dtype=np.float32)
    whole = stage_features(torch.from_numpy(features)[None], (20, 12)).numpy()
    expected = np.pad(whole, ((0, 0), (0, 0), (1, 1), (1, 1)))
    rows, columns = part
    expected = expected[:, :, rows.start : rows.stop + 2, columns.start : columns.stop + 2]
    np.testing.assert_allclose(stage_tile(features, (20, 12), Tile(ANY, ANY, *part), 1), expected, rtol=0, atol=1e-6)


def test_every_decoder_of_a_cascade_has_maps_and_a_graph() -> None:
    assert expected_graphs(0, cascade=3) == ["encoder", "maps", "decoder", "maps_1", "decoder_1", "maps_2", "decoder_2"]


def test_a_contract_without_the_later_graphs_is_refused() -> None:
    with pytest.raises(BundleError, match="graph 'maps_1' occurs 0 times"):
        make_contract(decoder={"cascade": 2})


def test_tensorrt_refuses_what_it_would_compute_wrong() -> None:
    contract = make_contract(encoder={"receptive_field": None, "tile": 192, "tile_overlap": 32})
    with pytest.raises(EngineError, match="choose --engine onnxruntime"):
        ENGINES["tensorrt"].check(contract)
    ENGINES["tensorrt"].check(dataclasses.replace(contract, encoder=dataclasses.replace(contract.encoder, tile=None)))


def test_tiles_that_overlap_entirely_are_refused() -> None:
    with pytest.raises(BundleError, match="tile_overlap is 8: expected less than the tile, 8"):
        make_contract(encoder={"tile": 8, "tile_overlap": 8})
