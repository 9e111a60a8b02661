"""Picture → features on the GPU, whole or in tiles with exact overlap."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from hiif_deploy.backends.cuda.streams import Gpu
from hiif_deploy.backends.tensorrt.features import TrtFeatures
from hiif_deploy.backends.tensorrt.session import TrtSession
from hiif_deploy.bundle.contract import Contract
from hiif_deploy.decoding.conversion import prepare_vectors
from hiif_deploy.decoding.encode import padded_frame, widen
from hiif_deploy.decoding.plan import Plan
from hiif_deploy.decoding.shared_graphs import without_uint16
from hiif_deploy.geometry.tiling import length, steps, within
from hiif_deploy.pixels import Frame


class TrtEncoder:
    """Runs a `prepare` engine and the encoder's over a picture, whole or in tiles."""

    def __init__(self, gpu: Gpu, contract: Contract, sessions: Mapping[str, TrtSession]) -> None:
        self._gpu, self._contract, self._sessions = gpu, contract, sessions
        self._dtype = np.dtype(sessions["encoder"].graph.outputs[0].dtype)
        vectors = prepare_vectors(contract)
        self._vectors = {name: gpu.upload(vector, vector.dtype) for name, vector in vectors.items()}

    def encode(self, frame: Frame, plan: Plan, advance: Callable[[int], None]) -> TrtFeatures:
        """Frame [h, w, 1 or 3] → features. Returns as soon as the work is queued."""
        size = (frame.shape[0], frame.shape[1])
        gpu, shape = self._gpu, (self._contract.encoder.channels, *size)
        with gpu.turn():
            features = TrtFeatures(gpu, shape, self._dtype, self._contract.decoder.halo)
            for rows in steps(size[0], plan.encoder_tile[0]):
                for columns in steps(size[1], plan.encoder_tile[1]):
                    self._encode_tile(frame, features, rows, columns, plan.overlap)
                    advance(1)
        return features

    def _encode_tile(self, frame: Frame, features: TrtFeatures, rows: slice, columns: slice, overlap: int) -> None:
        gpu = self._gpu
        seen_rows, seen_columns = widen(rows, overlap, frame.shape[0]), widen(columns, overlap, frame.shape[1])
        seen = padded_frame(self._contract, frame[seen_rows, seen_columns])
        pixels = gpu.upload(seen, without_uint16(seen.dtype))
        image = gpu.pool.take((1, 3, *seen.shape[:2]), np.float32)
        output = gpu.pool.take((1, features.shape[0], *seen.shape[:2]), self._dtype)
        self._sessions[f"prepare-{pixels.dtype}"].enqueue({"frame": pixels, **self._vectors, "image": image})
        self._sessions["encoder"].enqueue({"image": image, "features": output})
        features.put(output, (within(rows, seen_rows), within(columns, seen_columns)), rows, columns)
        if (length(rows), length(columns)) == frame.shape[:2]:
            features.keep_frame(frame, pixels)
