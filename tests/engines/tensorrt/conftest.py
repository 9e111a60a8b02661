"""A builder on the double of TensorRT, and on TensorRT-RTX where its wheels are installed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from double_bench import Bench, load_rtx
from fake_device import FakeDevice
from tensorrt_double.install import installed


@pytest.fixture
def device() -> Iterator[FakeDevice]:
    device = FakeDevice()
    yield device
    device.close()


@pytest.fixture
def double(device: FakeDevice) -> Iterator[Any]:
    with installed(device) as module:
        yield module


@pytest.fixture(params=["double", "rtx"])
def library(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue("double") if request.param == "double" else load_rtx()


@pytest.fixture
def bench(library: Any) -> Bench:
    return Bench(library)
