"""Chooses and opens the Python layer to the GPU."""

from __future__ import annotations

import ctypes
import sys

from hiif_deploy.backends.cuda.cuda_python import CudaPythonDevice
from hiif_deploy.backends.cuda.device import Device
from hiif_deploy.backends.cuda.pycuda import PycudaDevice
from hiif_deploy.errors import EngineError, OptionError

LAYERS: dict[str, type[Device]] = {kind.name: kind for kind in (CudaPythonDevice, PycudaDevice)}
"""Name → layer, best first. Importing them loads neither package and touches no driver."""


def has_driver() -> bool:
    """Whether NVIDIA's driver is installed, without starting it."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


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
