"""Features on the GPU: a zero margin around them, and parts copied in and out of it."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from fake_device import SCHEDULES, FakeDevice
from hiif_deploy.backends.cuda.memory import DeviceTensor
from hiif_deploy.backends.cuda.streams import Gpu
from hiif_deploy.backends.tensorrt.features import TrtFeatures


@pytest.fixture(params=SCHEDULES)
def gpu(request: pytest.FixtureRequest) -> Iterator[Gpu]:
    device = FakeDevice(schedule=request.param)
    yield Gpu(device)
    device.close()


def features_of(gpu: Gpu, shape: tuple[int, int, int], halo: int = 1) -> TrtFeatures:
    return TrtFeatures(gpu, shape, np.float16, halo)


def uploaded(gpu: Gpu, array: NDArray[np.float16]) -> DeviceTensor:
    return gpu.upload(array, array.dtype)


def numbers(*shape: int) -> NDArray[np.float16]:
    return np.random.default_rng(2).standard_normal(shape).astype(np.float16)


@pytest.mark.parametrize("halo", [0, 1, 2])
def test_tiles_are_put_together_inside_a_zero_margin(gpu: Gpu, halo: int) -> None:
    whole = numbers(3, 7, 9)
    features = features_of(gpu, (3, 7, 9), halo)
    for rows in (slice(0, 4), slice(4, 7)):
        for columns in (slice(0, 5), slice(5, 9)):
            # Each tile arrives with one pixel too many to every side, padded with something else.
            tile = np.pad(whole, ((0, 0), (1, 1), (1, 1)), constant_values=9)[
                None, :, rows.start : rows.stop + 2, columns.start : columns.stop + 2
            ]
            inner = slice(1, 1 + rows.stop - rows.start), slice(1, 1 + columns.stop - columns.start)
            features.put(uploaded(gpu, np.ascontiguousarray(tile)), inner, rows, columns)
    np.testing.assert_array_equal(np.asarray(features), whole)
    margins = ((0, 0), (halo, halo), (halo, halo))
    np.testing.assert_array_equal(gpu.download(features.padded).wait(), np.pad(whole, margins))


@pytest.mark.parametrize("columns", [slice(0, 9), slice(0, 4), slice(3, 9)])
@pytest.mark.parametrize("rows", [slice(0, 7), slice(0, 1), slice(2, 6)])
def test_a_crop_has_the_neighbours_or_the_margin_around_it(gpu: Gpu, rows: slice, columns: slice) -> None:
    whole = numbers(3, 7, 9)
    features = features_of(gpu, (3, 7, 9))
    features.put(uploaded(gpu, whole[None]), (slice(0, 7), slice(0, 9)), slice(0, 7), slice(0, 9))
    crop = features.crop(rows, columns)
    expected = np.pad(whole, ((0, 0), (1, 1), (1, 1)))[:, rows.start : rows.stop + 2, columns.start : columns.stop + 2]
    np.testing.assert_array_equal(gpu.download(crop).wait()[0], expected)


def test_memory_returns_to_the_pool_with_the_object(gpu: Gpu) -> None:
    features = features_of(gpu, (2, 3, 4))
    address = features.padded.address
    del features
    gc.collect()
    assert features_of(gpu, (2, 3, 4)).padded.address == address


def test_they_come_to_the_host_in_the_type_that_is_asked_for(gpu: Gpu) -> None:
    features = features_of(gpu, (1, 2, 2))
    assert np.asarray(features).dtype == np.float16
    assert np.asarray(features, dtype=np.float32).dtype == np.float32
