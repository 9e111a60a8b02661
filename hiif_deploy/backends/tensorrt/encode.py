"""Picture → features on the GPU, whole or in tiles with exact overlap."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hiif_deploy.backends.cuda.streams import Gpu
from hiif_deploy.backends.tensorrt.features import TrtFeatures
from hiif_deploy.backends.tensorrt.session import TrtSession
from hiif_deploy.bundle.contract import Contract
from hiif_deploy.decoding.conversion import FrameConverter
from hiif_deploy.decoding.encode import padded_frame, widen, within
from hiif_deploy.decoding.plan import Plan
from hiif_deploy.geometry.tiling import steps
from hiif_deploy.pixels import Frame


class TrtEncoder:
    """Runs the encoder's engine over a picture, whole or in tiles."""

    def __init__(self, gpu: Gpu, contract: Contract, session: TrtSession, converter: FrameConverter) -> None:
        self._gpu, self._contract, self._session, self._converter = gpu, contract, session, converter
        self._dtype = np.dtype(session.graph.outputs[0].dtype)

    def encode(self, frame: Frame, plan: Plan, advance: Callable[[int], None]) -> TrtFeatures:
        """Frame [h, w, 1 or 3] → features. Returns as soon as the work is queued."""
        size = (frame.shape[0], frame.shape[1])
        gpu, shape = self._gpu, (self._contract.encoder.channels, *size)
        with gpu.lock:
            features = TrtFeatures(gpu.device, gpu.pool, gpu.compute, shape, self._dtype, self._contract.decoder.halo)
            for rows in steps(size[0], plan.encoder_tile[0]):
                for columns in steps(size[1], plan.encoder_tile[1]):
                    self._encode_tile(frame, features, rows, columns, plan.overlap)
                    advance(1)
        return features

    def _encode_tile(self, frame: Frame, features: TrtFeatures, rows: slice, columns: slice, overlap: int) -> None:
        gpu = self._gpu
        seen_rows, seen_columns = widen(rows, overlap, frame.shape[0]), widen(columns, overlap, frame.shape[1])
        image = self._converter.image(padded_frame(self._contract, frame[seen_rows, seen_columns]))
        slot = gpu.slots.take(image.nbytes)
        with gpu.pool.lease() as take:
            output = take((1, features.shape[0], *image.shape[2:]), self._dtype)
            self._session.enqueue({"image": gpu.upload(image, slot), "features": output}, gpu.compute)
            gpu.device.record(slot.done, gpu.compute)
            features.put(output, (within(rows, seen_rows), within(columns, seen_columns)), rows, columns)
        gpu.slots.give(slot)
