"""ONNX Runtime with tensors that stay on its device from graph to graph (I/O binding)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from hiif_deploy.backends.providers import full_provider
from hiif_deploy.backends.sessions.onnxruntime import OrtSession, first_line
from hiif_deploy.bundle.contract import ElementType
from hiif_deploy.errors import EngineError
from hiif_deploy.geometry.tiling import Tile

DEVICES = {"CPUExecutionProvider": "cpu", "CUDAExecutionProvider": "cuda", "TensorrtExecutionProvider": "cuda"}
"""Execution providers and what ONNX Runtime calls the memory that they compute in."""


def device_of(provider: str) -> str | None:
    """Where tensors of a provider (short or full name) lie; None where they cannot be left there."""
    return DEVICES.get(full_provider(provider))


@dataclass(frozen=True)
class Held:
    """A tensor where ONNX Runtime computes. It goes wherever a numpy array goes that only sessions read."""

    value: ort.OrtValue
    """Its memory."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Size of each axis."""
        return tuple(self.value.shape())

    @property
    def nbytes(self) -> int:
        """Size of the tensor in bytes."""
        return int(self.value.tensor_size_in_bytes())

    def numpy(self) -> NDArray[Any]:
        """A copy on the host."""
        array: NDArray[Any] = self.value.numpy()
        return array


class DeviceSession(OrtSession):
    """One graph whose inputs may lie on the device already, and whose outputs may stay there."""

    def run(self, feeds: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """Outputs on the host; arrays or `Held` tensors in. EngineError names the graph and the engine's reason."""
        return {name: held.numpy() for name, held in self._run(feeds, "cpu").items()}

    def hold(self, feeds: Mapping[str, Any]) -> dict[str, Held]:
        """Run the graph and leave the outputs on the device."""
        return self._run(feeds, self._device)

    def place(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Feeds of which those that this graph reads are on the device, in the graph's types."""
        return {
            name: self.upload(name, value) if name in self._dtypes and not isinstance(value, Held) else value
            for name, value in feeds.items()
        }

    def upload(self, name: str, value: NDArray[Any]) -> Held:
        """An array for the input `name`."""
        # A copy: on the processor ONNX Runtime reads the array's own memory, which its owner may write to.
        array = np.array(value, dtype=self._dtypes[name], order="C")
        return Held(ort.OrtValue.ortvalue_from_numpy(array, self._device, 0))

    def dtype_of(self, name: str) -> ElementType:
        """Element type of the input `name`."""
        return cast(ElementType, str(self._dtypes[name]))

    @property
    def _device(self) -> str:
        device = device_of(self.provider)
        if device is None:
            raise EngineError(f"graph {self.name}: tensors cannot stay on {self.provider}: expected {list(DEVICES)}")
        return device

    def _run(self, feeds: Mapping[str, Any], device: str) -> dict[str, Held]:
        # Arrays are bound by their address, so they must outlive the call.
        inputs = {name: _ready(feeds[name], dtype) for name, dtype in self._dtypes.items()}
        binding = self._session.io_binding()
        try:
            for name, value in inputs.items():
                if isinstance(value, Held):
                    binding.bind_ortvalue_input(name, value.value)
                else:
                    binding.bind_cpu_input(name, value)
            for name in self._outputs:
                binding.bind_output(name, device, 0)
            self._session.run_with_iobinding(binding, self._run_options)
            # The next graph has a stream of its own.
            binding.synchronize_outputs()
        except Exception as error:
            shapes = ", ".join(f"{name} {value.shape}" for name, value in inputs.items())
            raise EngineError(f"graph {self.name} failed on {shapes}: {first_line(error)}") from error
        return {name: Held(value) for name, value in zip(self._outputs, binding.get_outputs(), strict=True)}


@dataclass(frozen=True)
class HeldFeatures:
    """An encoded picture on the device."""

    held: Held
    """[1, C, h or more, w or more]: padded as the encoder wanted it."""
    size: tuple[int, int]
    """(h, w)."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, height and width."""
        return self.held.shape[1], *self.size

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """A copy on the host."""
        del copy
        return np.array(self.held.numpy()[0, :, : self.size[0], : self.size[1]], dtype=dtype)


class Crop:
    """Cuts tiles out of features on the device."""

    def __init__(self, session: DeviceSession) -> None:
        """`session` of the shared graph `crop-DTYPE` for the features' type."""
        self._session = session

    def __call__(self, features: HeldFeatures, tile: Tile, halo: int) -> Held:
        """[1, C, b + 2·halo, w + 2·halo]; zero outside the picture, as the convolution pads."""
        ends = zip((tile.source_rows, tile.source_columns), features.size, strict=True)
        parts = [(part.start - halo, part.stop + halo, size) for part, size in ends]
        before = [max(-start, 0) for start, _, _ in parts]
        after = [max(stop - size, 0) for _, stop, size in parts]
        feeds = {
            "starts": np.array([max(start, 0) for start, _, _ in parts], np.int64),
            "ends": np.array([min(stop, size) for _, stop, size in parts], np.int64),
            "axes": np.array([2, 3], np.int64),
            "pads": np.array([0, 0, *before, 0, 0, *after], np.int64),
        }
        return self._session.hold({"features": features.held, **feeds})["crop"]


def _ready(value: NDArray[Any] | Held, dtype: np.dtype[Any]) -> NDArray[Any] | Held:
    return value if isinstance(value, Held) else np.ascontiguousarray(value, dtype=dtype)
