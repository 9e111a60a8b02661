"""Picture → features on the GPU, whole or in tiles with exact overlap."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.backends.cuda.streams import Gpu
from hiif_deploy.backends.tensorrt.features import DeviceFeatures
from hiif_deploy.backends.tensorrt.session import TrtSession
from hiif_deploy.bundle.contract import Contract
from hiif_deploy.decoding.encode import normalise, widen, within
from hiif_deploy.errors import EngineError
from hiif_deploy.geometry.sizes import Size, padded_size
from hiif_deploy.geometry.tiling import steps
from hiif_deploy.pixels import mirror

Array = NDArray[np.float32]


class TrtEncoder:
    """The encoder's engine."""

    def __init__(self, gpu: Gpu, contract: Contract, session: TrtSession) -> None:
        self._gpu, self._contract, self._session = gpu, contract, session
        self._dtype = np.dtype(session.graph.outputs[0].dtype)

    def encode(self, image: Array, advance: Callable[[int], None]) -> DeviceFeatures:
        """Unit picture [h, w, 3] → features. Returns as soon as the work is queued.

        EngineError where the picture is larger than the engine was built for and tiles would not be exact.
        """
        size = (image.shape[0], image.shape[1])
        gpu, shape = self._gpu, (self._contract.encoder.channels, *size)
        with gpu.lock:
            features = DeviceFeatures(
                gpu.device, gpu.pool, gpu.compute, shape, self._dtype, self._contract.decoder.halo
            )
            for rows, columns in self.tiles(size):
                self._encode_tile(image, features, rows, columns)
                advance(1)
        return features

    def tiles(self, size: Size) -> list[tuple[slice, slice]]:
        """What each call contributes, in rows and columns of the picture."""
        field, multiple = self._contract.encoder.receptive_field, self._contract.encoder.size_multiple
        _, high = self._session.limits["image"]
        most = (high[2] // multiple * multiple, high[3] // multiple * multiple)
        if all(padded <= limit for padded, limit in zip(padded_size(size, multiple), most, strict=True)):
            return [(slice(0, size[0]), slice(0, size[1]))]
        if field is None:
            raise EngineError(
                f"picture of {size[1]}x{size[0]}: the encoder's engine takes at most {most[1]}x{most[0]}, and this "
                f"encoder has no exact tiles; build it with --max-input {size[1]}x{size[0]}"
            )
        tile = [limit if side <= limit else limit - 2 * field for side, limit in zip(size, most, strict=True)]
        if min(tile) < 1:
            raise EngineError(
                f"picture of {size[1]}x{size[0]}: the encoder's engine takes at most {most[1]}x{most[0]}, less than "
                f"twice the overlap of {field} pixels; build it with a larger --max-input"
            )
        return [(rows, columns) for rows in steps(size[0], tile[0]) for columns in steps(size[1], tile[1])]

    def _encode_tile(self, image: Array, features: DeviceFeatures, rows: slice, columns: slice) -> None:
        gpu, overlap = self._gpu, self._contract.encoder.receptive_field or 0
        seen_rows, seen_columns = widen(rows, overlap, image.shape[0]), widen(columns, overlap, image.shape[1])
        part = image[seen_rows, seen_columns]
        size = padded_size((part.shape[0], part.shape[1]), self._contract.encoder.size_multiple)
        asked = normalise(self._contract, mirror(part, size))
        slot = gpu.slots.take(asked.nbytes)
        with gpu.pool.lease() as take:
            answer = take((1, features.shape[0], *size), self._dtype)
            self._session.enqueue({"image": gpu.upload(asked, slot), "features": answer}, gpu.compute)
            gpu.device.record(slot.done, gpu.compute)
            features.put(answer, (within(rows, seen_rows), within(columns, seen_columns)), rows, columns)
        gpu.slots.give(slot)
