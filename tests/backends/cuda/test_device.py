"""The protocol on the fake GPU, and the choice of a layer."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from device_protocol import PROTOCOL
from fake_device import FACTS, SCHEDULES, FakeDevice, Schedule
from hiif_deploy.backends.cuda import open as module
from hiif_deploy.backends.cuda.cuda_python import CudaPythonDevice
from hiif_deploy.backends.cuda.device import Device
from hiif_deploy.backends.cuda.open import open_device
from hiif_deploy.errors import EngineError, OptionError

SMALL = replace(FACTS, memory=1 << 22)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("fact", PROTOCOL, ids=lambda fact: fact.__name__)
def test_the_fake_keeps_the_protocol(fact: Callable[[Device], None], schedule: Schedule) -> None:
    device = FakeDevice(facts=SMALL, schedule=schedule)
    fact(device)
    device.close()
    assert not device.live


def _layers(monkeypatch: pytest.MonkeyPatch, **opens: Any) -> None:
    def opener(answer: Any) -> Callable[[], Any]:
        def open_layer() -> Any:
            if isinstance(answer, Exception):
                raise answer
            return answer

        return open_layer

    for name, answer in opens.items():
        monkeypatch.setitem(module.LAYERS, name.replace("_", "-"), opener(answer))


def test_cuda_python_is_taken_where_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    better, other = FakeDevice(), FakeDevice()
    _layers(monkeypatch, cuda_python=better, pycuda=other)
    assert open_device() is better


def test_pycuda_is_taken_where_cuda_python_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    other = FakeDevice()
    _layers(monkeypatch, cuda_python=EngineError("absent"), pycuda=other)
    assert open_device() is other


def test_a_named_layer_is_never_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    other = FakeDevice()
    _layers(monkeypatch, cuda_python=EngineError("absent"), pycuda=other)
    assert open_device("pycuda") is other
    with pytest.raises(EngineError, match="absent"):
        open_device("cuda-python")


def test_where_no_layer_works_each_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    _layers(monkeypatch, cuda_python=EngineError("first: no driver"), pycuda=EngineError("second: not installed"))
    with pytest.raises(EngineError, match=r"no GPU can be used:\n- first: no driver\n- second: not installed$"):
        open_device()


def test_a_fault_of_our_own_is_not_taken_for_a_missing_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    _layers(monkeypatch, cuda_python=TypeError("bug"), pycuda=FakeDevice())
    with pytest.raises(TypeError, match="bug"):
        open_device()


def test_an_unknown_layer_is_refused_with_those_there_are() -> None:
    with pytest.raises(OptionError, match="'cupy' does not exist: expected auto, cuda-python, pycuda"):
        open_device("cupy")


def test_listing_layers_loads_none_of_them() -> None:
    code = """
import sys
from hiif_deploy.backends.cuda.open import LAYERS
print([name for name in sys.modules if name.split(".")[0] in ("cuda", "pycuda", "torch", "tensorrt")])
print(*(f"{name}: {layer.install}" for name, layer in LAYERS.items()), sep="\\n")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded, cuda_python, pycuda = done.stdout.splitlines()
    assert loaded == "[]"
    assert cuda_python.startswith("cuda-python: pip install cuda-bindings")
    assert pycuda.startswith("pycuda: pip install pycuda")


def test_closing_gives_everything_back_newest_first_whatever_fails() -> None:
    released: list[object] = []

    class Layer(CudaPythonDevice):
        module = "sys"

        def __init__(self) -> None:
            Device.__init__(self)

        def synchronize(self, stream: int | None = None) -> None:
            released.append(stream)

    def fail() -> None:
        raise EngineError("second went wrong")

    device = Layer()
    device._live.update({1: lambda: released.append(1), 2: fail, 3: lambda: released.append(3)})
    with pytest.raises(EngineError, match="second went wrong"):
        device.close()
    assert released == [None, 3, 1]
    device.close()
    assert released == [None, 3, 1]
