"""Plans and calls are cut to what engines take, and nothing else about them changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from attention_model import ATTENTION_MODEL
from hiif_deploy.backends.sessions.onnxruntime import OrtSession
from hiif_deploy.bundle.loader import Bundle, open_bundle
from hiif_deploy.decoding.plan import BLEND_OVERLAP, make_plan
from hiif_deploy.decoding.queries import geometry_inputs
from hiif_deploy.errors import OptionError
from hiif_deploy.geometry.grid import axis_table, relative_cell
from hiif_deploy.geometry.tiling import Tile
from hiif_engines.emit.portions import ChunkedSession, axis_limits, fit_plan
from hiif_engines.tensorrt.profiles import MAX_EXCESS, PRESETS, make_profiles
from sample_contract import make_contract

LIMITS = {"height": 96, "width": 128, "tile_height": 18, "tile_width": 66, "pixels": 4096, "rows": 4, "columns": 9}


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return open_bundle(ATTENTION_MODEL)


def test_limits_are_what_all_engines_take(bundle: Bundle) -> None:
    profiles = make_profiles(bundle.contract, "fp32", PRESETS["720p"])
    graphs = {name: bundle.contract.graph(name) for name in profiles}
    limits = axis_limits(graphs, profiles)
    assert (limits["height"], limits["width"]) == (720, 1280)
    assert limits["rows"] * limits["columns"] <= MAX_EXCESS * PRESETS["720p"].queries
    smaller = {name: replace(bounds, max=bounds.min) for name, bounds in profiles["statistics_1"].items()}
    assert axis_limits(graphs, {**profiles, "statistics_1": smaller})["pixels"] == 1


def test_a_picture_that_fits_is_encoded_whole() -> None:
    contract = make_contract()
    plan = make_plan(contract, (96, 60))
    fitted = fit_plan(plan, contract, (96, 60), LIMITS)
    assert (fitted.encoder_tile, fitted.overlap, fitted.blended) == ((96, 60), 0, False)
    assert fitted.decoder_tile == (8, 60)
    assert fitted.query_block == plan.query_block


def test_a_larger_picture_is_cut_with_the_exact_overlap() -> None:
    contract = make_contract(encoder={"receptive_field": 6})
    fitted = fit_plan(make_plan(contract, (97, 500)), contract, (97, 500), LIMITS)
    assert (fitted.encoder_tile, fitted.overlap, fitted.blended) == ((84, 116), 6, False)
    # Maps of 64 columns hold the taps of 63.
    assert fitted.decoder_tile == (8, 63)


def test_maps_stay_within_rows_and_pixels() -> None:
    contract = make_contract()
    plan = make_plan(contract, (90, 60), tile_rows=64)
    assert fit_plan(plan, contract, (90, 60), LIMITS).decoder_tile[0] == 15
    assert fit_plan(plan, contract, (90, 60), {**LIMITS, "pixels": 610}).decoder_tile[0] == 9


def test_a_window_transformers_tiles_are_blended_and_multiples_fit() -> None:
    contract = make_contract(encoder={"receptive_field": None, "size_multiple": 8})
    fitted = fit_plan(make_plan(contract, (200, 300)), contract, (200, 300), {**LIMITS, "height": 103})
    assert (fitted.encoder_tile, fitted.overlap, fitted.blended) == ((96 - 64, 128 - 64), BLEND_OVERLAP, True)


def test_engines_too_small_for_the_overlap_are_named() -> None:
    contract = make_contract(encoder={"receptive_field": 50})
    with pytest.raises(OptionError, match="picture of 300x200: the engines take at most 128x96, too little for tiles"):
        fit_plan(make_plan(contract, (200, 300)), contract, (200, 300), LIMITS)


@pytest.mark.parametrize("name", ["decoder", "statistics_0"])
def test_calls_in_portions_have_the_outputs_of_one_call(bundle: Bundle, name: str) -> None:
    graph = bundle.contract.graph(name)
    session = OrtSession(graph, bundle.graphs[name], "cpu", 1)
    feeds = random_feeds(bundle, name)
    calls: list[tuple[int, int]] = []

    class Watched:
        def run(self, feeds: Any) -> Any:
            calls.append((feeds["row_tap"].shape[1], feeds["column_tap"].shape[2]))
            return session.run(feeds)

    whole = session.run(feeds)
    found = ChunkedSession(Watched(), graph, LIMITS).run(feeds)
    assert calls == [(4, 9), (4, 9), (4, 2), (4, 9), (4, 9), (4, 2), (2, 9), (2, 9), (2, 2)]
    assert found.keys() == whole.keys()
    for output, value in whole.items():
        assert found[output].shape == value.shape
        # Float32 sums over 200 queries, added in another order.
        np.testing.assert_allclose(found[output], value, rtol=1e-4, atol=1e-3 if name != "decoder" else 1e-5)
    calls.clear()
    ChunkedSession(Watched(), graph, {"rows": 10, "columns": 20}).run(feeds)
    assert calls == [(10, 20)]


def random_feeds(bundle: Bundle, name: str) -> dict[str, Any]:
    """Inputs of 10 × 20 queries over 4 × 6 source pixels."""
    graph = bundle.contract.graph(name)
    rows, columns = axis_table(4, 10), axis_table(6, 20)
    tile = Tile(slice(0, 10), slice(0, 20), slice(0, 4), slice(0, 6))
    geometry = geometry_inputs(graph.geometry, rows, columns, tile, relative_cell((4, 6), (10, 20)))
    random = np.random.default_rng(2)
    feeds = dict(geometry)
    for tensor in graph.inputs:
        if tensor.name not in geometry:
            shape = tuple(24 if size == "pixels" else int(size) for size in tensor.shape)
            feeds[tensor.name] = random.uniform(0.2, 0.6, shape).astype(np.float32)
    feeds["moments"] += 10  # Σf² is never below (Σf)² over the number of values.
    return feeds
