"""The shared graphs against their reference in numpy, bit for bit, on every engine that runs on the processor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hiif_deploy.backends.sessions.open import open_shared
from hiif_deploy.bundle.contract import Contract, Normalisation
from hiif_deploy.decoding.compose import finish, normalise
from hiif_deploy.decoding.conversion import FrameConverter
from hiif_deploy.decoding.job import Job, Window
from hiif_deploy.decoding.plan import make_plan
from hiif_deploy.decoding.queries import query_axes
from hiif_deploy.decoding.session import Session
from hiif_deploy.decoding.shared_graphs import FRAME_TYPES, contracts, model
from hiif_deploy.pixels import Frame, FrameFormat, from_unit, to_unit
from rows import every
from sample_contract import make_contract

RANDOM = np.random.default_rng(9)
SOURCE, SIZE = (24, 20), (70, 61)


class Torch:
    """A shared graph, operation by operation in PyTorch."""

    def __init__(self, name: str) -> None:
        torch = pytest.importorskip("torch")
        from hiif_engines.torch_graph.interpreter import TorchGraph

        self._graph = TorchGraph(contracts()[name], model(name), torch.device("cpu"))

    def run(self, feeds: Any) -> dict[str, NDArray[Any]]:
        import torch

        tensors = {name: torch.tensor(np.ascontiguousarray(value)) for name, value in feeds.items()}
        return {name: value.numpy() for name, value in self._graph(tensors).items()}


ENGINES: dict[str, Callable[[str], Session]] = {"onnxruntime": open_shared, "torch": Torch}


def types_of(engine: str) -> Iterator[str]:
    """PyTorch has no uint16 to compute with: there 16 bits travel as int32."""
    yield from (dtype for dtype in FRAME_TYPES if dtype != ("uint16" if engine == "torch" else "int32"))


def levels(dtype: str, channels: int) -> Frame:
    """A frame that holds every value of its type, or as many floats."""
    if dtype == "float32":
        return RANDOM.random((64, 64, channels), dtype=np.float32)
    top = 255 if dtype == "uint8" else 65535
    values = np.arange(top + 1, dtype=dtype)
    side = round(len(values) ** 0.5)
    frame = values.reshape(side, side, 1)
    return np.concatenate([np.roll(frame, n, 0) for n in range(channels)], 2)


def contract_of(skip: str) -> Contract:
    scales = Normalisation((0.4, 0.5, 0.6), (0.3, 0.25, 0.2))
    contract = make_contract()
    return replace(contract, normalisation=scales, decoder=replace(contract.decoder, skip=skip))


def job_of(contract: Contract, frame: Frame, *, clamps: bool = True) -> Job:
    size = SIZE[0], SIZE[1]
    plan = make_plan(contract, (frame.shape[0], frame.shape[1]))
    return Job(contract, None, frame, size, plan, np.zeros(2, np.float32), clamps=clamps)


def unit(frame: Frame) -> NDArray[np.float32]:
    """As `to_unit`, which knows no int32."""
    return to_unit(frame.astype(np.uint16) if frame.dtype == np.int32 else frame)


@pytest.mark.parametrize("engine", ENGINES)
@every("channels", [1, 3])
def test_every_value_of_a_frame_is_normalised_as_in_numpy(engine: str, channels: int) -> None:
    contract = contract_of("bilinear")
    converter = FrameConverter(contract, ENGINES[engine])
    for dtype in types_of(engine):
        frame = levels(dtype, channels)
        np.testing.assert_array_equal(converter.image(frame), normalise(contract, unit(frame)), err_msg=dtype)


@pytest.mark.parametrize("engine", ENGINES)
@every("skip", ["bilinear", "none"])
@every("channels", [1, 3])
def test_colours_become_the_values_that_numpy_gives(engine: str, skip: str, channels: int) -> None:
    contract = contract_of(skip)
    converter = FrameConverter(contract, ENGINES[engine])
    window = Window((13, 40), (5, 61))
    for dtype in types_of(engine):
        frame = (RANDOM.random((*SOURCE, channels)) * (1 if dtype == "float32" else np.iinfo(dtype).max)).astype(dtype)
        frame = np.minimum(frame, 65535) if dtype == "int32" else frame
        rows, columns = query_axes(contract, SOURCE, SIZE, window)
        colours = RANDOM.normal(size=(*window.shape, 3)).astype(np.float32)
        found = converter.block(job_of(contract, frame), window, rows, columns, colours.copy())
        expected = finish(contract, colours.copy(), unit(frame), rows, columns)
        like = FrameFormat(np.dtype("uint16" if dtype == "int32" else dtype), channels)
        np.testing.assert_array_equal(found.values, from_unit(expected, like), err_msg=dtype)
        assert found.values.dtype == dtype
        assert (found.range.low, found.range.high) == (expected.min(), expected.max())
        assert found.range.is_finite


@pytest.mark.parametrize("engine", ENGINES)
@every("dtype", ["uint8", "uint16"])
def test_every_step_between_two_values_rounds_half_to_even(engine: str, dtype: str) -> None:
    contract = replace(contract_of("none"), normalisation=Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))
    carried = "int32" if engine == "torch" and dtype == "uint16" else dtype
    top = np.iinfo(dtype).max
    # Every value, every half between two of them, and both neighbours of each half in float32.
    halves = ((np.arange(-1, top + 1) + 0.5) / top).astype(np.float32)
    whole = (np.arange(-2, top + 3) / top).astype(np.float32)
    values = np.concatenate([whole, halves, np.nextafter(halves, np.float32(9)), np.nextafter(halves, np.float32(-9))])
    colours = np.resize(values, (256, -(-len(values) // 256), 3))
    size = colours.shape[0], colours.shape[1]
    rows, columns = query_axes(contract, (4, 4), size, Window((0, size[0]), (0, size[1])))
    frame = np.zeros((4, 4, 3), carried)
    converter = FrameConverter(contract, ENGINES[engine])
    found = converter.block(job_of(contract, frame), Window((0, size[0]), (0, size[1])), rows, columns, colours)
    expected = from_unit(colours.reshape(*size, 3), FrameFormat(np.dtype(dtype), 3))
    np.testing.assert_array_equal(found.values, expected)


@pytest.mark.parametrize("engine", ENGINES)
def test_unclamped_colours_keep_their_overshoot(engine: str) -> None:
    contract = contract_of("bilinear")
    frame = RANDOM.random((*SOURCE, 3), dtype=np.float32)
    rows, columns = query_axes(contract, SOURCE, SIZE, Window((0, SIZE[0]), (0, SIZE[1])))
    colours = RANDOM.normal(size=(*SIZE, 3)).astype(np.float32) * 9
    job = job_of(contract, frame, clamps=False)
    found = FrameConverter(contract, ENGINES[engine]).block(
        job, Window((0, 70), (0, 61)), rows, columns, colours.copy()
    )
    np.testing.assert_array_equal(found.values, finish(contract, colours, frame, rows, columns))


@pytest.mark.parametrize("engine", ENGINES)
@every("value", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_no_number_shows_in_the_range(engine: str, value: float) -> None:
    contract = contract_of("bilinear")
    rows, columns = query_axes(contract, SOURCE, SIZE, Window((0, SIZE[0]), (0, SIZE[1])))
    converter = FrameConverter(contract, ENGINES[engine])
    for place in ((0, 0, 0), (31, 17, 1), (69, 60, 2)):
        colours = RANDOM.normal(size=(*SIZE, 3)).astype(np.float32)
        colours[place] = value
        found = converter.block(
            job_of(contract, np.zeros((*SOURCE, 3), np.uint8)), Window((0, 70), (0, 61)), rows, columns, colours
        )
        assert not found.range.is_finite, place
