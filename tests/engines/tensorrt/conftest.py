"""A builder on the double of TensorRT, and on TensorRT-RTX where its wheels are installed.

The double needs ONNX, which the light install lacks, so it is imported where it is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from fake_device import FakeDevice

if TYPE_CHECKING:
    from double_bench import Bench


@pytest.fixture
def device() -> Iterator[FakeDevice]:
    device = FakeDevice()
    yield device
    device.close()


@pytest.fixture
def double(device: FakeDevice) -> Iterator[Any]:
    from tensorrt_double.install import installed

    with installed(device) as module:
        yield module


@pytest.fixture(params=["double", "rtx"])
def library(request: pytest.FixtureRequest) -> Any:
    from double_bench import load_rtx

    return request.getfixturevalue("double") if request.param == "double" else load_rtx()


@pytest.fixture
def bench(library: Any) -> Bench:
    from double_bench import Bench

    return Bench(library)
