"""A contract survives the way through JSON; whatever does not belong in one is named with its place."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from hiif_deploy.bundle.contract import Contract, TrainedFor, expected_graphs, from_json, to_json
from hiif_deploy.errors import BundleError
from rows import every
from sample_contract import contract_value, make_contract

Path = tuple[str | int, ...]
FREE = ("model", "provenance", "parity")
"""Objects whose contents are not the runtime's business."""
WRONG: dict[type, list[Any]] = {
    str: [7, None, [], {}],
    int: ["7", True, 1.5, None, []],
    float: ["0.5", True, None, []],
    list: [7, "text", None, {}],
    dict: [7, "text", None, []],
}
"""Type of a value → what must not stand in its place."""


def places(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every value inside `value` that the contract describes, with its path."""
    if path:
        yield path, value
    if isinstance(value, dict) and (not path or path[0] not in FREE):
        for key, item in value.items():
            yield from places(item, (*path, key))
    if isinstance(value, list):
        for n, item in enumerate(value):
            yield from places(item, (*path, n))


def place(path: Path) -> str:
    """As the messages write it: bundle.json.graphs[0].inputs."""
    return "bundle.json" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)


def replaced(path: Path, new: Any) -> dict[str, Any]:
    value = contract_value()
    inner = value
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = new
    return value


def wrong_values() -> list[Any]:
    found = []
    for path, value in places(contract_value()):
        # Both None and any number of dimensions are legal in one place each.
        legal = [None] if path[-1] == "receptive_field" else ["7"] if "shape" in path[-2:] else []
        if "shape" in path[:-1] and isinstance(value, str):
            legal = [7]
        wrong = [new for new in WRONG[type(value)] if new not in legal or isinstance(new, bool)]
        found += [(path, new) for new in wrong]
    return found


def refused(value: Any, message: str) -> None:
    with pytest.raises(BundleError, match=re.escape(message)) as caught:
        from_json(Contract, value)
    assert "\n" not in str(caught.value)


OPTIONAL = {("decoder", "levels"), ("decoder", "bits")}
KEYS = [
    p for p, _ in places(contract_value()) if isinstance(p[-1], str) and p[:-1] != ("reference",) and p not in OPTIONAL
]


def as_written(value: dict[str, Any]) -> dict[str, Any]:
    """What is written today; files of version 1 name no precision and mean fp32, those before 3 know one grid."""
    decoder = {**value["decoder"], "axes": "corners", "clips_cell": True, "cascade": 1}
    encoder = {**value["encoder"], "tile": None, "tile_overlap": 0}
    return {
        **value,
        "encoder": encoder,
        "decoder": decoder,
        "graphs": [{**graph, "precision": "fp32"} for graph in value["graphs"]],
    }


def test_a_contract_comes_back_from_json_text_as_it_was() -> None:
    contract = make_contract()
    assert to_json(contract) == as_written(contract_value())
    assert from_json(Contract, json.loads(json.dumps(to_json(contract)))) == contract


def test_reading_leaves_the_parsed_json_as_it_was() -> None:
    value = contract_value()
    before = copy.deepcopy(value)
    from_json(Contract, value)
    assert value == before


def test_an_unbounded_receptive_field_is_null() -> None:
    contract = make_contract(encoder={"receptive_field": None})
    assert contract.encoder.receptive_field is None
    assert to_json(contract)["encoder"]["receptive_field"] is None


def test_whole_numbers_are_numbers_with_a_point_where_those_are_expected() -> None:
    contract = from_json(Contract, {**contract_value(), "training_scales": [1, 4]})
    assert contract.training_scales == (1.0, 4.0)
    assert all(type(scale) is float for scale in contract.training_scales)


def test_a_graph_is_found_by_its_name() -> None:
    assert make_contract().graph("fold_0").file == "fold_0.onnx"


@pytest.mark.parametrize(
    ("passes", "names"),
    [
        (0, ["encoder", "maps", "decoder"]),
        (2, ["encoder", "maps", "statistics_0", "fold_0", "statistics_1", "fold_1", "decoder"]),
    ],
)
def test_the_graphs_of_a_bundle_follow_from_its_passes(passes: int, names: list[str]) -> None:
    assert expected_graphs(passes) == names


@every("path, new", wrong_values())
def test_a_value_of_the_wrong_type_is_named_with_its_place(path: Path, new: Any) -> None:
    refused(replaced(path, new), f"{place(path)} is {new!r}: expected ")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (("decoder", "bits"), "reference"),
        (("decoder", "skip"), "bilinear"),
        (("graphs", 2, "inputs", 0, "dtype"), "float32"),
    ],
)
def test_an_unknown_choice_is_refused_with_the_known_ones(path: Path, expected: str) -> None:
    with pytest.raises(BundleError, match=f"{re.escape(place(path))} is 'other': expected .*{expected}"):
        from_json(Contract, replaced(path, "other"))


@every("path", KEYS)
def test_a_missing_key_is_named(path: Path) -> None:
    value = contract_value()
    inner = value
    for step in path[:-1]:
        inner = inner[step]
    del inner[path[-1]]
    refused(value, f"{place(path[:-1])} lacks {path[-1]}")


@pytest.mark.parametrize("path", [(), ("encoder",), ("graphs", 1), ("graphs", 1, "outputs", 0)], ids=place)
def test_an_unknown_key_is_named(path: Path) -> None:
    refused(replaced((*path, "colour"), 1), f"{place(path)} has unknown 'colour'")


@pytest.mark.parametrize("value", [None, 3, "text", [], True])
def test_a_contract_is_an_object(value: Any) -> None:
    refused(value, f"bundle.json is {value!r}: expected an object")


@pytest.mark.parametrize("count", [0, 1, 3])
def test_training_scales_are_two_numbers(count: int) -> None:
    refused(replaced(("training_scales",), [2.0] * count), "bundle.json.training_scales is [")


@pytest.mark.parametrize("scales", [[0.5, 4.0], [3.0, 2.0]])
def test_training_scales_are_ordered_and_at_least_one(scales: list[float]) -> None:
    refused(replaced(("training_scales",), scales), f"training scales {scales[0]} to {scales[1]}: expected 1 ≤ low")


@pytest.mark.parametrize("part", ["mean", "std"])
@pytest.mark.parametrize("count", [0, 2, 4])
def test_normalisation_is_three_means_and_three_deviations(part: str, count: int) -> None:
    value = replaced(("normalisation", part), [0.5] * count)
    refused(value, "expected three means and three positive standard deviations")


@pytest.mark.parametrize(
    "path", [("normalisation", "mean", 0), ("normalisation", "std", 2), ("training_scales", 1)], ids=place
)
@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), -float("inf"), 10**400], ids=["nan", "inf", "-inf", "10^400"]
)
def test_numbers_are_finite(path: Path, value: float) -> None:
    refused(replaced(path, value), f"{place(path)} is {repr(value)[:20]}")


@pytest.mark.parametrize("value", [0.0, -0.5])
def test_standard_deviations_are_positive(value: float) -> None:
    refused(replaced(("normalisation", "std", 1), value), "expected three means and three positive standard deviations")


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("encoder", "channels", 0),
        ("encoder", "receptive_field", -1),
        ("encoder", "size_multiple", 0),
        ("encoder", "memory_channels", 0),
        ("encoder", "size_multiple", 1 << 20),
        ("decoder", "halo", -1),
        ("decoder", "halo", 1000),
        ("decoder", "statistics_passes", -1),
        ("decoder", "statistics_passes", 10**9),
        ("decoder", "map_channels", 0),
        ("decoder", "query_channels", 0),
        ("decoder", "levels", -1),
        ("decoder", "levels", 64),
    ],
)
def test_a_count_out_of_range_is_refused(section: str, name: str, value: int) -> None:
    refused(replaced((section, name), value), f"{section} {name} is {value}")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("normalisation", "std", 0), 1e-30, "expected means up to"),
        (("normalisation", "mean", 0), 1e30, "expected means up to"),
        (("training_scales", 1), 1e9, "expected 1 ≤ low ≤ high ≤ 1000"),
        (("graphs", 0, "inputs", 0, "shape"), [1] * 40, "expected at most 8 sizes"),
        (("graphs", 0, "inputs", 0, "shape"), [1 << 40], "expected at most 8 sizes"),
    ],
)
def test_a_number_far_beyond_those_of_any_model_is_refused(path: Path, value: Any, message: str) -> None:
    refused(replaced(path, value), message)


@pytest.mark.parametrize("name", ["encoder", "statistics_0", "fold_0", "decoder"])
def test_every_graph_occurs_once(name: str) -> None:
    value = contract_value()
    graphs = value["graphs"]
    found = next(graph for graph in graphs if graph["name"] == name)
    refused({**value, "graphs": [*graphs, found]}, f"graph {name!r} occurs 2 times, expected once")
    rest = [graph for graph in graphs if graph is not found]
    refused({**value, "graphs": rest}, f"graph {name!r} occurs 0 times, expected once")


def trained_for(value: Any) -> dict[str, Any]:
    return replaced(("provenance", "trained_for"), value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({}, TrainedFor()),
        ({"jpeg": [15, 95]}, TrainedFor(jpeg=(15, 95))),
        ({"jpeg": None, "noise": [0, 25.5]}, TrainedFor(noise=(0, 25.5))),
        ({"blur": "of a later version"}, TrainedFor()),
    ],
)
def test_a_contract_says_what_the_model_was_trained_for(value: dict[str, Any], expected: TrainedFor) -> None:
    contract = from_json(Contract, trained_for(value))
    assert contract.trained_for == expected
    assert to_json(contract)["provenance"]["trained_for"] == value


def test_a_model_of_which_nothing_is_recorded_was_trained_on_clean_pictures() -> None:
    assert make_contract().trained_for == TrainedFor()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("jpeg", "bundle.json.provenance.trained_for is 'jpeg': expected an object"),
        ([], "bundle.json.provenance.trained_for is []: expected an object"),
        ({"jpeg": 40}, "bundle.json.provenance.trained_for.jpeg is 40: expected "),
        ({"jpeg": [40]}, "bundle.json.provenance.trained_for.jpeg is [40]: expected "),
        ({"noise": [float("nan"), 5]}, "bundle.json.provenance.trained_for.noise is [nan, 5]: expected "),
        ({"jpeg": [0, 95]}, "trained_for jpeg is [0.0, 95.0]: expected 1 ≤ low ≤ high ≤ 100"),
        ({"noise": [25, 5]}, "trained_for noise is [25.0, 5.0]: expected 0 ≤ low ≤ high ≤ 255"),
    ],
)
def test_a_malformed_record_of_the_training_is_refused(value: Any, message: str) -> None:
    refused(trained_for(value), message)
