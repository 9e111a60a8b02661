"""Frames to the encoder's input and decoded colours to colours of a picture, in numpy: the reference that the shared
graphs are held to, bit for bit (`pixels.to_unit` and `from_unit` are the rest of it)."""

import numpy as np

from hiif_deploy.bundle.contract import Contract
from hiif_deploy.decoding.job import Array
from hiif_deploy.geometry.grid import Axis


def normalise(contract: Contract, image: Array) -> Array:
    """Unit picture [h, w, 3] → network input [1, 3, h, w]."""
    mean = np.array(contract.normalisation.mean, dtype=np.float32)
    std = np.array(contract.normalisation.std, dtype=np.float32)
    return np.ascontiguousarray(((image - mean) / std).transpose(2, 0, 1)[None])


def finish(contract: Contract, colours: Array, image: Array, rows: Axis, columns: Axis) -> Array:
    """Decoder outputs [R, W, 3] → de-normalised colours, the skip added (in place). Nothing is clamped."""
    colours *= np.array(contract.normalisation.std, dtype=np.float32)
    if contract.decoder.skip == "bilinear":
        colours += bilinear(image, rows, columns)
    else:
        colours += np.array(contract.normalisation.mean, dtype=np.float32)
    return colours


def bilinear(image: Array, rows: Axis, columns: Axis) -> Array:
    """Half-pixel bilinear sample [R, W, 3] of a picture [h, w, 3], the border replicated."""
    first, last = int(columns.skip_taps.min()), int(columns.skip_taps.max()) + 1
    upper, lower = image[rows.skip_taps[0], first:last], image[rows.skip_taps[1], first:last]
    lines = upper + (lower - upper) * rows.skip_weight[:, None, None]
    left, right = lines[:, columns.skip_taps[0] - first], lines[:, columns.skip_taps[1] - first]
    sample: Array = left + (right - left) * columns.skip_weight[None, :, None]
    return sample
