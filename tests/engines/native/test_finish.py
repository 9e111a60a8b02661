"""Decoded colours to a frame's values in native code: bit for bit those of the shared graphs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hiif_deploy.backends.sessions.open import open_shared
from hiif_deploy.decoding.conversion import colour_range
from hiif_engines.native.finish import finish_session
from hiif_engines.native.target import Target

pytestmark = pytest.mark.processor

GRAPHS = ("finish-uint8", "finish-uint16", "finish-float32", "finish-colours")
Feeds = dict[str, NDArray[Any]]


def feeds(name: str, output: tuple[int, int], source: tuple[int, int]) -> Feeds:
    """Random colours beyond black and white, and a skip from any pixels of a frame."""
    rng = np.random.default_rng(output[1])
    found: Feeds = {"colour": rng.normal(0, 0.5, (output[0] * output[1], 3)).astype(np.float32)}
    found |= {vector: rng.random(3).astype(np.float32) for vector in ("offset", "std")}
    dtype = np.dtype(name.removeprefix("finish-").replace("colours", "float32"))
    unit = rng.random((*source, 3)).astype(np.float32)
    found["frame"] = unit if dtype.kind == "f" else (unit * np.iinfo(dtype).max).astype(dtype)
    for axis, shape, count, pixels in zip(("row", "column"), ((-1, 1, 1), (-1, 1)), output, source, strict=True):
        ends = {end: rng.integers(0, pixels, count).astype(np.int32) for end in ("lower", "upper")}
        found |= {f"{axis}_skip_{end}": taps for end, taps in ends.items()}
        found[f"{axis}_skip_weight"] = rng.random(count).astype(np.float32).reshape(shape)
    return found


def finished(name: str, target: Target, given: Feeds) -> dict[str, NDArray[Any]]:
    session = finish_session(name, target)
    assert session is not None
    return session.run(given)


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize(("output", "source"), [((1, 1), (1, 1)), ((3, 11), (2, 3)), ((5, 16), (4, 9))])
def test_values_are_those_of_the_graph(
    target: Target, name: str, output: tuple[int, int], source: tuple[int, int]
) -> None:
    given = feeds(name, output, source)
    found, wanted = finished(name, target, given), open_shared(name).run(given)
    np.testing.assert_array_equal(found["values"], wanted["values"], strict=True)
    assert (found["low"], found["high"]) == (wanted["low"], wanted["high"])
    # Three times as many summands as queries, each below 4 and rounded to 2⁻²⁴ of a sum.
    assert abs(found["total"] - wanted["total"]) <= (3 * output[0] * output[1]) ** 2 * 4 * 2**-24


def test_halves_are_rounded_as_in_the_graph(target: Target) -> None:
    given = feeds("finish-uint8", (16, 16), (1, 1))
    given |= {"std": np.ones(3, np.float32), "offset": np.zeros(3, np.float32), "frame": np.zeros((1, 1, 3), np.uint8)}
    given["colour"] = np.repeat((np.arange(256) + 0.5) / 255, 3).astype(np.float32).reshape(256, 3)
    wanted = open_shared("finish-uint8").run(given)["values"]
    np.testing.assert_array_equal(finished("finish-uint8", target, given)["values"], wanted)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_colour_that_is_no_number_shows_in_the_range(target: Target, value: float) -> None:
    given = feeds("finish-uint8", (3, 11), (2, 3))
    given["colour"][16, 1] = value
    assert not colour_range(finished("finish-uint8", target, given)).is_finite


@pytest.mark.parametrize("name", ["finish-uint8-grey", "finish-int32", "prepare-uint8", "crop-float32"])
def test_other_graphs_are_left_to_the_library(own_target: Target, name: str) -> None:
    assert finish_session(name, own_target) is None
