"""Chooses and opens the Python layer to the GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hiif_deploy.backends.cuda.device import INSTALL, Device
from hiif_deploy.errors import EngineError, OptionError
from hiif_deploy.support.extras import installed_version


@dataclass(frozen=True)
class DeviceLayer:
    """A Python package that reaches the GPU."""

    name: str
    """What `open_device` calls it."""
    version: str | None
    """None where it is not installed."""
    install: str
    """What adds it."""


DISTRIBUTIONS = {"cuda-python": "cuda-bindings", "pycuda": "pycuda"}
"""Layer → the distribution that brings it."""


def device_layers() -> list[DeviceLayer]:
    """Which layers are installed, best first. Imports none of them and touches no driver."""
    return [DeviceLayer(name, installed_version(DISTRIBUTIONS[name]), INSTALL[name]) for name in LAYERS]


def open_device(layer: str = "auto") -> Device:
    """The GPU through the layer of that name; `auto` takes the first that works.

    OptionError where there is no such layer; EngineError says what was tried, what each said and what to install.
    """
    if layer != "auto" and layer not in LAYERS:
        raise OptionError(f"device layer {layer!r} does not exist: expected auto, {', '.join(LAYERS)}")
    if layer != "auto":
        return LAYERS[layer]()
    said = []
    for open_layer in LAYERS.values():
        try:
            return open_layer()
        except EngineError as error:
            said.append(f"\n- {error}")
    raise EngineError("no GPU can be used:" + "".join(said))


def _cuda_python() -> Device:
    from hiif_deploy.backends.cuda.cuda_python import CudaPythonDevice

    return CudaPythonDevice()


def _pycuda() -> Device:
    from hiif_deploy.backends.cuda.pycuda import PycudaDevice

    return PycudaDevice()


LAYERS: dict[str, Callable[[], Device]] = {"cuda-python": _cuda_python, "pycuda": _pycuda}
"""Layer → what opens it, best first."""
