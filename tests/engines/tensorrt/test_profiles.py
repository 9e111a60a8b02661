"""Profiles cover every input and agree where they must."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from hiif_deploy.backends.tensorrt.graphs import shared_graphs
from hiif_deploy.bundle.contract import Contract
from hiif_deploy.bundle.loader import open_bundle
from hiif_deploy.errors import UsageError
from hiif_engines.tensorrt.profiles import (
    MAX_EXCESS,
    PRESETS,
    BuildSizes,
    ShapeRange,
    make_profiles,
    make_shared_profiles,
    parse_sizes,
)

SMALL = BuildSizes((40, 48), (20, 24), queries=1024)


@pytest.fixture(scope="module")
def contract(half_bundle: Path) -> Contract:
    return open_bundle(half_bundle).contract


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("preset", PRESETS)
def test_every_input_of_every_graph_that_tensorrt_runs_has_a_range(
    contract: Contract, preset: str, precision: str
) -> None:
    profiles = make_profiles(contract, precision, PRESETS[preset])  # type: ignore[arg-type]
    assert list(profiles) == ["encoder", "maps", "statistics_0", "statistics_1", "decoder"]
    for name, profile in profiles.items():
        assert list(profile) == [tensor.name for tensor in contract.graph(name).inputs]


def test_ranges_follow_from_the_sizes_that_were_asked_for(contract: Contract) -> None:
    profiles = make_profiles(contract, "fp32", SMALL)
    assert profiles["encoder"]["image"] == ShapeRange((1, 3, 1, 1), (1, 3, 20, 24), (1, 3, 40, 48))
    assert profiles["maps"]["features"] == ShapeRange((1, 16, 3, 3), (1, 16, 66, 26), (1, 16, 130, 50))
    assert profiles["decoder"]["map_0"] == ShapeRange((1, 48), (480, 48), (1920, 48))
    assert profiles["decoder"]["row_tap"] == ShapeRange((2, 1, 1), (2, 21, 1), (2, 21, 1))
    assert profiles["decoder"]["column_tap"] == ShapeRange((2, 1, 1), (2, 1, 48), (2, 1, 192))
    assert profiles["decoder"]["cell"] == ShapeRange((2,), (2,), (2,))


@pytest.mark.parametrize("sizes", [*PRESETS.values(), SMALL])
def test_axes_of_one_name_agree_in_order(contract: Contract, sizes: BuildSizes) -> None:
    graphs = {name: graph for name, (graph, _) in shared_graphs().items()} | contract.chain("fp16")
    for name, profile in {**make_profiles(contract, "fp16", sizes), **make_shared_profiles(contract, sizes)}.items():
        seen: dict[str, tuple[int, ...]] = {}
        for tensor in graphs[name].inputs:
            bounds = profile[tensor.name]
            for axis, *found in zip(tensor.shape, bounds.min, bounds.opt, bounds.max, strict=True):
                assert 1 <= found[0] <= found[1] <= found[2]
                expected = seen.setdefault(axis, tuple(found)) if isinstance(axis, str) else (axis,) * 3
                assert tuple(found) == expected, f"{name}: {tensor.name} {axis}"


@pytest.mark.parametrize("sizes", [*PRESETS.values(), SMALL, BuildSizes((9000, 16000), (1, 1), queries=256)])
def test_no_call_exceeds_its_queries_and_no_tensor_tensorrts_limit(contract: Contract, sizes: BuildSizes) -> None:
    profiles = make_profiles(contract, "fp32", sizes)
    for name in ("statistics_0", "decoder"):
        rows, columns = (profiles[name][f"{axis}_tap"].max for axis in ("row", "column"))
        best = profiles[name]["row_tap"].opt[1] * profiles[name]["column_tap"].opt[2]
        assert best <= sizes.queries
        assert rows[1] * columns[2] <= max(MAX_EXCESS * sizes.queries, columns[2])
        pixels = profiles[name]["map_0"].max[0]
        assert pixels * 256 < 1 << 31
        assert pixels >= 2 * sizes.max_input[1]


@pytest.mark.parametrize("sizes", [*PRESETS.values(), SMALL, BuildSizes((9000, 16000), (1, 1), queries=256)])
def test_the_graphs_that_convert_frames_take_every_block_and_every_frame(contract: Contract, sizes: BuildSizes) -> None:
    decoder = make_profiles(contract, "fp32", sizes)["decoder"]
    profiles = make_shared_profiles(contract, sizes)
    assert profiles["prepare-uint8"]["frame"].max[:2] == sizes.max_input
    for name in ("finish-uint8", "finish-int32-grey", "finish-colours"):
        rows, columns = decoder["row_tap"].max[1], decoder["column_tap"].max[2]
        assert profiles[name]["row_skip_lower"].max == (rows,)
        assert profiles[name]["column_skip_weight"].max == (columns, 1)
        assert profiles[name]["colour"].max == (rows * columns, 3)
        height, width = sizes.max_input
        assert profiles[name]["frame"].max == (height + 2, width + 2, 1 if "grey" in name else 3)


def test_a_window_transformers_sizes_are_multiples(contract: Contract) -> None:
    windows = dataclasses.replace(contract, encoder=dataclasses.replace(contract.encoder, size_multiple=8))
    image = make_profiles(windows, "fp32", BuildSizes((41, 47), (10, 10)))["encoder"]["image"]
    assert image == ShapeRange((1, 3, 8, 8), (1, 3, 16, 16), (1, 3, 48, 48))


def test_words_become_sizes() -> None:
    assert parse_sizes(None, None, None, None) == PRESETS["1080p"]
    assert parse_sizes("4k", None, 4096, None).queries == 4096
    assert parse_sizes(None, "640x360", None, 6.0) == BuildSizes((360, 640), (360, 640), scale=6.0, max_scale=6.0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("8k", None, None, None), "--preset '8k': expected one of 720p, 1080p, 4k"),
        (("4k", "640x360", None, None), "exclude each other"),
        ((None, "640", None, None), "--max-input '640': expected WIDTHxHEIGHT"),
        ((None, "0x9", None, None), "must lie within|expected sides"),
        ((None, "99999x9", None, None), "expected sides of 1 to 32768"),
        ((None, None, 17, None), "17 queries per call: expected 256 to"),
        ((None, None, None, 0.5), "expected 1 ≤ scale"),
    ],
)
def test_words_that_make_no_sense_are_a_usage_error(words: tuple[str | None, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_sizes(*words)  # type: ignore[arg-type]
