"""The protocol on a real GPU, through each layer that works here."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from device_protocol import PROTOCOL
from hiif_deploy.backends.cuda.device import Device
from hiif_deploy.backends.cuda.open import LAYERS, open_device
from hiif_deploy.errors import EngineError

pytestmark = pytest.mark.gpu


@pytest.fixture(params=list(LAYERS))
def device(request: pytest.FixtureRequest) -> Iterator[Device]:
    try:
        opened = open_device(request.param)
    except EngineError as error:
        pytest.skip(f"needs an NVIDIA GPU through {request.param}: {error}")
    yield opened
    opened.close()


@pytest.mark.parametrize("fact", PROTOCOL, ids=lambda fact: fact.__name__)
def test_the_gpu_keeps_the_protocol(fact: Callable[[Device], None], device: Device) -> None:
    fact(device)


def test_a_thousand_openings_leave_no_memory_behind(device: Device) -> None:
    size = device.facts().memory // 100
    for _ in range(1000):
        # Not freed one by one: closing must give it back, or the hundredth would not fit.
        again = open_device(device.layer.split()[0])
        again.allocate(size)
        again.stream()
        again.close()


def test_two_layers_share_one_gpu() -> None:
    opened = []
    for name in LAYERS:
        try:
            opened.append(open_device(name))
        except EngineError as error:
            pytest.skip(f"needs an NVIDIA GPU through every layer: {error}")
    first, second = opened
    sent, back = np.arange(1000, dtype=np.float32), np.zeros(1000, dtype=np.float32)
    address, stream, other = first.allocate(sent.nbytes), first.stream(), second.stream()
    first.upload(address, sent, stream)
    first.synchronize(stream)
    second.download(back, address, other)
    second.synchronize(other)
    np.testing.assert_array_equal(back, sent)
    second.close()
    first.close()
