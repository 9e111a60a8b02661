"""Picture → features, whole or in tiles."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.bundle.contract import Contract
from hiif_deploy.decoding.conversion import FrameConverter
from hiif_deploy.decoding.output_check import check_values
from hiif_deploy.decoding.plan import Plan, tile_starts
from hiif_deploy.decoding.session import Session
from hiif_deploy.errors import BundleError
from hiif_deploy.geometry.sizes import padded_size
from hiif_deploy.geometry.tiling import steps, within
from hiif_deploy.pixels import Frame, mirror

Array = NDArray[np.float32]


def encode(
    run: Callable[[Frame], Array], contract: Contract, frame: Frame, plan: Plan, advance: Callable[[int], None]
) -> Array:
    """Frame [h, w, 1 or 3] → features [C, h, w] float32. `run` encodes a part of the frame whole.

    Tiles with the encoder's receptive field as overlap give the same features as the whole picture; where there is
    no such overlap the plan says `blended` or `averaged`. `advance` is called with 1 for each finished tile.
    """
    height, width = frame.shape[:2]
    if plan.encoder_tile[0] >= height and plan.encoder_tile[1] >= width:
        features = run(frame)
        advance(1)
        return features
    total = np.zeros((contract.encoder.channels, height, width), dtype=np.float32)
    weight = np.zeros((height, width), dtype=np.float32) if plan.blended or plan.averaged else None
    overlap = 0 if plan.averaged else plan.overlap
    for rows in _parts(height, plan.encoder_tile[0], plan):
        for columns in _parts(width, plan.encoder_tile[1], plan):
            seen_rows, seen_columns = widen(rows, overlap, height), widen(columns, overlap, width)
            features = run(frame[seen_rows, seen_columns])
            if weight is None:
                inner = (slice(None), within(rows, seen_rows), within(columns, seen_columns))
                total[:, rows, columns] = features[inner]
            else:
                ramp = _ramp(rows, seen_rows)[:, None] * _ramp(columns, seen_columns)
                total[:, seen_rows, seen_columns] += features * ramp
                weight[seen_rows, seen_columns] += ramp
            advance(1)
    return total if weight is None else np.divide(total, weight, out=total)


def encoder_calls(source: tuple[int, int], plan: Plan) -> int:
    """How many tiles `encode` runs."""
    rows, columns = (_parts(size, tile, plan) for size, tile in zip(source, plan.encoder_tile, strict=True))
    return len(rows) * len(columns)


def _parts(size: int, tile: int, plan: Plan) -> list[slice]:
    """Source pixels that each tile contributes along an axis."""
    if not plan.averaged:
        return steps(size, tile)
    return [slice(start, start + tile) for start in tile_starts(size, tile, plan.overlap)]


def padded_frame(contract: Contract, frame: Frame) -> Frame:
    """The frame continued by its mirror image, below and to the right, up to the encoder's multiple."""
    size = padded_size((frame.shape[0], frame.shape[1]), contract.encoder.size_multiple)
    return frame if size == frame.shape[:2] else mirror(frame, size)


def encode_whole(session: Session, contract: Contract, converter: FrameConverter, frame: Frame) -> Array:
    """Frame [h, w, 1 or 3] → features [C, h, w], in one call.

    BundleError where the encoder gives another shape, NotAPictureError where its values are NaN or infinite.
    """
    image = converter.image(padded_frame(contract, frame))
    features: Array = session.run({"image": image})["features"][0]
    if features.shape != (contract.encoder.channels, *image.shape[2:]):
        raise BundleError(
            f"graph encoder: it gave features of shape {list(features.shape)} for a picture of {image.shape[3]}x"
            f"{image.shape[2]}, the contract promises {contract.encoder.channels} channels; export the bundle again"
        )
    check_values(features, f"the encoder of bundle {contract.name}")
    return features[:, : frame.shape[0], : frame.shape[1]]


def widen(part: slice, overlap: int, size: int) -> slice:
    """The part and `overlap` pixels to both sides, as far as there are any."""
    return slice(max(0, part.start - overlap), min(size, part.stop + overlap))


def _ramp(part: slice, seen: slice) -> Array:
    """[seen] weights: 1 on the tile, falling linearly over the overlap, never 0."""
    position = np.arange(seen.start, seen.stop, dtype=np.float32)
    before = (position - seen.start + 1) / (part.start - seen.start + 1)
    after = (seen.stop - position) / (seen.stop - part.stop + 1)
    ramp: Array = np.minimum(np.minimum(before, after), np.float32(1))
    return ramp
