"""Tiles of the encoder give what the whole picture gives; blending and padding leave no trace of themselves."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hiif_deploy.backends.options import EngineOptions
from hiif_deploy.backends.sessions.open import open_session, open_shared
from hiif_deploy.bundle.contract import Contract
from hiif_deploy.bundle.loader import Bundle, open_bundle
from hiif_deploy.decoding.compose import normalise
from hiif_deploy.decoding.conversion import FrameConverter
from hiif_deploy.decoding.encode import encode, encode_whole, encoder_calls
from hiif_deploy.decoding.plan import Plan, make_plan
from hiif_deploy.decoding.session import Session, Tensors
from hiif_deploy.errors import OptionError
from sample_contract import make_contract

Array = NDArray[np.float32]
TOLERANCE = 1e-5
HEIGHT, WIDTH = 40, 53


class Repeating:
    """An encoder that answers the network's input itself, and remembers what it saw."""

    def __init__(self) -> None:
        self.seen: list[Array] = []

    def run(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        self.seen.append(feeds["image"])
        return {"features": feeds["image"].copy()}


def picture(height: int = HEIGHT, width: int = WIDTH) -> Array:
    return np.random.default_rng(2).random((height, width, 3), dtype=np.float32)


def a_plan(contract: Contract, **changes: Any) -> Plan:
    return replace(make_plan(contract, (HEIGHT, WIDTH)), **changes)


def run(session: Session, contract: Contract, image: Array, plan: Plan) -> tuple[Array, int]:
    """Features, and how many tiles were reported."""
    steps: list[int] = []
    whole = partial(encode_whole, session, contract, FrameConverter(contract, open_shared))
    return encode(whole, contract, image, plan, steps.append), sum(steps)


def channels_first(contract: Contract, image: Array) -> Array:
    return normalise(contract, image)[0]


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return open_bundle(tiny_bundle)


@pytest.fixture(scope="module")
def session(bundle: Bundle) -> Session:
    graph = bundle.contract.graph("encoder")
    return open_session(
        graph, bundle.graphs["encoder"], EngineOptions(engine="onnxruntime", threads=1), threads=1, keep_memory=False
    )


def test_a_picture_is_normalised_and_its_channels_come_first() -> None:
    contract = make_contract(normalisation={"mean": [0.1, 0.2, 0.3], "std": [1.0, 0.5, 0.25]})
    image = picture(4, 5)
    found = normalise(contract, image)
    assert (found.shape, found.dtype) == ((1, 3, 4, 5), np.float32)
    np.testing.assert_allclose(found[0, 1], (image[..., 1] - 0.2) / 0.5, rtol=0, atol=1e-6)


@pytest.mark.parametrize("tile", [(40, 53), (64, 64), (20, 53), (40, 17), (13, 17), (7, 5), (1, 53), (8, 1)], ids=str)
def test_tiles_with_the_receptive_field_around_them_are_exact(
    bundle: Bundle, session: Session, tile: tuple[int, int]
) -> None:
    contract, image = bundle.contract, picture()
    whole, _ = run(session, contract, image, a_plan(contract))
    plan = a_plan(contract, encoder_tile=tile, overlap=contract.encoder.receptive_field)
    features, steps = run(session, contract, image, plan)
    assert (features.shape, features.dtype) == ((contract.encoder.channels, HEIGHT, WIDTH), np.float32)
    assert steps == encoder_calls((HEIGHT, WIDTH), plan) == -(-HEIGHT // tile[0]) * -(-WIDTH // tile[1])
    np.testing.assert_allclose(features, whole, rtol=0, atol=TOLERANCE)


def test_a_smaller_overlap_is_not_exact(bundle: Bundle, session: Session) -> None:
    contract, image = bundle.contract, picture()
    whole, _ = run(session, contract, image, a_plan(contract))
    features, _ = run(session, contract, image, a_plan(contract, encoder_tile=(13, 17), overlap=1))
    assert np.abs(features - whole).max() > 10 * TOLERANCE


@pytest.mark.parametrize("share", [0.9, 0.6, 0.35])
def test_a_plan_for_less_memory_gives_the_same_features(bundle: Bundle, session: Session, share: float) -> None:
    contract = bundle.contract
    image = picture(300, 260)
    budget = int(4 * contract.encoder.memory_channels * 300 * 260 * share)
    plan = make_plan(contract, (300, 260), budget=budget, query_block=64, tile_rows=1)
    assert encoder_calls((300, 260), plan) > 1
    features, _ = run(session, contract, image, plan)
    whole, _ = run(session, contract, image, make_plan(contract, (300, 260)))
    np.testing.assert_allclose(features, whole, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("tile", [(10, 10), (40, 9), (3, 53), (8, 8), (39, 52)], ids=str)
@pytest.mark.parametrize("overlap", [0, 1, 8, 32, 100])
def test_blending_tiles_that_agree_changes_nothing(tile: tuple[int, int], overlap: int) -> None:
    contract = make_contract(encoder={"receptive_field": None})
    image = picture()
    plan = a_plan(contract, encoder_tile=tile, overlap=overlap, blended=True)
    features, steps = run(Repeating(), contract, image, plan)
    assert steps == encoder_calls((HEIGHT, WIDTH), plan) > 1
    np.testing.assert_allclose(features, channels_first(contract, image), rtol=0, atol=1e-6)


def test_blending_goes_over_gradually_from_one_tile_to_the_next() -> None:
    class Counting(Repeating):
        def run(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
            super().run(feeds)
            return {"features": np.full_like(feeds["image"], len(self.seen))}

    contract = make_contract(encoder={"receptive_field": None})
    plan = a_plan(contract, encoder_tile=(HEIGHT, 27), overlap=8, blended=True)
    features, steps = run(Counting(), contract, picture(), plan)
    assert steps == 2
    line = features[0, 0]
    assert (line[:19] == 1).all()
    assert (line[35:] == 2).all()
    assert (np.diff(line[18:36]) > 0).all()
    assert np.diff(line).max() < 0.2


def test_tiles_that_the_contract_names_are_averaged_where_they_overlap() -> None:
    class Counting(Repeating):
        def run(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
            super().run(feeds)
            return {"features": np.full_like(feeds["image"], len(self.seen))}

    contract = make_contract(encoder={"receptive_field": None, "tile": 24, "tile_overlap": 4})
    session, plan = Counting(), make_plan(contract, (HEIGHT, WIDTH))
    features, steps = run(session, contract, picture(), plan)
    # Columns 0 to 24, 20 to 44 and 29 to 53; rows 0 to 24 and 16 to 40.
    assert steps == encoder_calls((HEIGHT, WIDTH), plan) == 6
    assert {image.shape[2:] for image in session.seen} == {(24, 24)}
    np.testing.assert_array_equal(features[0, 0, [0, 21, 25, 30, 50]], [1, 1.5, 2, 2.5, 3])
    np.testing.assert_array_equal(features[0, [0, 20, 30], 0], [1, 2.5, 4])


def test_a_picture_of_one_such_tile_is_encoded_whole() -> None:
    contract = make_contract(encoder={"receptive_field": None, "tile": 53, "tile_overlap": 4})
    plan = make_plan(contract, (HEIGHT, WIDTH))
    assert (plan.averaged, encoder_calls((HEIGHT, WIDTH), plan)) == (False, 1)


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (8, 16), (9, 23), (40, 53)], ids=str)
def test_padding_to_the_size_multiple_is_mirrored_and_cut_off_again(size: tuple[int, int]) -> None:
    contract, session, image = make_contract(encoder={"size_multiple": 8}), Repeating(), picture(*size)
    features, _ = run(session, contract, image, make_plan(contract, size))
    np.testing.assert_array_equal(features, channels_first(contract, image))
    (seen,) = session.seen
    height, width = (-(-n // 8) * 8 for n in size)
    assert seen.shape == (1, 3, height, width)
    margins = ((0, height - size[0]), (0, width - size[1]), (0, 0))
    np.testing.assert_array_equal(seen, normalise(contract, np.pad(image, margins, mode="symmetric")))


@pytest.mark.parametrize("blended", [True, False])
def test_every_tile_has_sides_of_the_size_multiple(blended: bool) -> None:
    contract, session, image = make_contract(encoder={"size_multiple": 8}), Repeating(), picture()
    plan = a_plan(contract, encoder_tile=(16, 24), overlap=5, blended=blended)
    features, _ = run(session, contract, image, plan)
    assert all(side % 8 == 0 for seen in session.seen for side in seen.shape[2:])
    np.testing.assert_allclose(features, channels_first(contract, image), rtol=0, atol=1e-6)


def test_a_budget_without_room_for_the_overlap_is_refused(bundle: Bundle) -> None:
    with pytest.raises(OptionError, match=r"too small for this encoder, which needs tiles with \d+ pixels of overlap"):
        make_plan(bundle.contract, (300, 260), budget=30_000, query_block=1, tile_rows=1)
