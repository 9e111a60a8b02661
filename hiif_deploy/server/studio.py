"""The core of a server: decoded pictures, features and statistics in memory; parts of pictures rendered from them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from hiif_deploy.decoding.job import Statistics
from hiif_deploy.errors import ImageError
from hiif_deploy.geometry.sizes import Region, Size
from hiif_deploy.images.degradation import Degradation, measure
from hiif_deploy.images.encode import over_white
from hiif_deploy.images.io import read_image
from hiif_deploy.images.metadata import Chunk
from hiif_deploy.images.picture import Picture
from hiif_deploy.pictures.suitability import untrained
from hiif_deploy.pixels import Frame, FrameFormat
from hiif_deploy.server.caches.byte_cache import ByteCache
from hiif_deploy.server.collection import Entry
from hiif_deploy.server.feature_cells import CELL, FeatureWindow, encode_cell, needed_cells
from hiif_deploy.server.metrics import Metrics
from hiif_deploy.server.models import Model, Models
from hiif_deploy.server.options import Limits
from hiif_deploy.server.web import RequestError
from hiif_deploy.upscaler import Features, Upscaler

MAX_LEVELS = 64
"""Sizes of a picture whose statistics are kept."""
REMAP_SIDE = 1 << 14
"""Rows and columns that OpenCV resamples in one call; it takes no more than 32,766."""
MARGIN = 4
"""Source pixels around a part that bicubic interpolation may read."""

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Shown:
    """A decoded picture as it is shown: transparent parts over white, and no metadata beside colours."""

    key: tuple[str, str]
    """Id, and the version of the file before it was read."""
    pixels: Frame
    """[H, W] or [H, W, 3], uint8 or uint16."""
    icc: bytes | None
    """Colour profile."""
    colour_chunks: tuple[Chunk, ...]
    """Colour chunks of a PNG."""
    degradation: Degradation
    """What a camera or a compression left in it."""

    @property
    def size(self) -> Size:
        """(height, width)."""
        return self.pixels.shape[0], self.pixels.shape[1]


@dataclass
class Encoded:
    """A picture's features, and the statistics of the sizes at which it was rendered."""

    features: Features
    statistics: OrderedDict[Size, Statistics] = field(default_factory=OrderedDict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def bytes(self) -> int:
        """Memory of the features and of the frame that the decoder's skip reads."""
        return features_bytes(self.features.encoded.shape[0], self.features.size) + int(self.features.frame.nbytes)


class Studio:
    """Pictures at any size, from features that are computed once. Methods block; call them in a thread."""

    def __init__(self, models: Models, limits: Limits, metrics: Metrics) -> None:
        """A picture has the first model that was trained for its degradations, else the first."""
        self.models = models
        self._limits = limits
        self._metrics = metrics
        self._pictures: ByteCache[Shown] = ByteCache(limits.pictures_bytes, lambda shown: int(shown.pixels.nbytes))
        self._encoded: ByteCache[Encoded] = ByteCache(limits.features_bytes // 2, lambda encoded: encoded.bytes)
        self._cells: ByteCache[NDArray[np.float32]] = ByteCache(limits.features_bytes // 2, lambda cell: cell.nbytes)

    def kept(self, entry: Entry) -> Shown | None:
        """Return a picture that is decoded already; does not block."""
        shown = self._pictures.get((entry.id, entry.version))
        self._metrics.cache("pictures", hit=shown is not None)
        return shown

    def picture(self, entry: Entry) -> Shown:
        """Return a picture, decoded once while it is kept. ImageError as `read_image`."""
        key = entry.id, entry.version
        shown = self._pictures.get(key)
        if shown is None:
            with self._metrics.stage("decode"):
                picture = read_entry(entry, self._limits.input_pixels)
                pixels = picture.pixels if picture.alpha is None else over_white(picture.pixels, picture.alpha)
            shown = Shown(key, pixels, picture.icc, picture.colour_chunks, measure(picture))
            self._pictures.put(key, shown)
        return shown

    def suited(self, found: Degradation) -> str:
        """Return the name of the model for a picture with these degradations, where a client names none."""
        contracts = ((name, self.models.own(name).upscaler.contract) for name in self.models.names)
        trained = (name for name, contract in contracts if untrained(found, contract.trained_for) is None)
        return next(trained, self.models.names[0])

    def render(self, shown: Shown, model: Model | None, level: Size, region: Region, advance: Advance) -> Frame:
        """Return `region` of the picture upscaled to `level` (height, width): equal to that part of the whole.

        Without a model by bicubic interpolation. RequestError 413 where the picture's features exceed the server's
        memory for them.
        """
        if model is None:
            return bicubic(shown.pixels, level, region)
        upscaler = model.upscaler
        if model.has_local_features:
            features, statistics = self._window(model, shown, level, region, advance), None
        else:
            encoded = self._features(model, shown, advance)
            features = encoded.features
            with encoded.lock:  # All regions of a level share its statistics.
                statistics = self._statistics(upscaler, encoded, level, advance)
        with self._metrics.stage("render"):
            part = upscaler.render(features, size=level, region=region, statistics=statistics, advance=advance)
        self._metrics.megapixels(region[2] * region[3])
        return part

    def _check_memory(self, upscaler: Upscaler, pixels: int) -> None:
        """Raise RequestError 413 where the features of so many pixels would not be kept."""
        channels, kept = upscaler.contract.encoder.channels, self._limits.features_bytes // 2
        needed = pixels * (4 * channels + 12)
        if needed > kept:
            raise RequestError(
                413,
                f"features of {pixels / 1e6:.1f} megapixels take {needed >> 20} MiB; this server keeps {kept >> 20}: "
                "ask for smaller tiles, or upscale the whole picture (/v1/upscale)",
            )

    def _window(self, model: Model, shown: Shown, level: Size, region: Region, advance: Advance) -> Features:
        """Features of the cells that the region needs; each is encoded once while it is kept."""
        upscaler, found = model.upscaler, {}
        cells = needed_cells(shown.size, level, region)
        self._check_memory(upscaler, len(cells) * CELL * CELL)
        for cell in cells:
            key = *shown.key, model.key, cell
            kept = self._cells.get(key)
            self._metrics.cache("features", hit=kept is not None)
            if kept is None:
                with self._metrics.stage("encode"):
                    kept = encode_cell(upscaler, shown.pixels, cell, advance)
                self._cells.put(key, kept)
            found[cell] = kept
        window = FeatureWindow((upscaler.contract.encoder.channels, *shown.size), found)
        frame = shown.pixels if shown.pixels.ndim == 3 else shown.pixels[..., None]
        return Features(window, frame, FrameFormat.of(shown.pixels))

    def _features(self, model: Model, shown: Shown, advance: Advance) -> Encoded:
        key = *shown.key, model.key
        encoded = self._encoded.get(key)
        self._metrics.cache("features", hit=encoded is not None)
        if encoded is None:
            self._check_memory(model.upscaler, shown.size[0] * shown.size[1])
            with self._metrics.stage("encode"):
                encoded = Encoded(model.upscaler.encode(shown.pixels, advance=advance))
            self._encoded.put(key, encoded)
        return encoded

    def _statistics(self, upscaler: Upscaler, encoded: Encoded, level: Size, advance: Advance) -> Statistics:
        found = encoded.statistics.get(level)
        if found is None:
            with self._metrics.stage("statistics"):
                found = upscaler.statistics(encoded.features, level, advance=advance)
            while len(encoded.statistics) >= MAX_LEVELS:
                encoded.statistics.popitem(last=False)
            encoded.statistics[level] = found
        encoded.statistics.move_to_end(level)
        return found


def read_entry(entry: Entry, max_pixels: int) -> Picture:
    """Return a picture as `read_image`; an ImageError names it as clients do, not by its path."""
    try:
        return read_image(entry.path, max_pixels=max_pixels)
    except ImageError as error:
        raise ImageError(str(error).replace(str(entry.path), entry.name)) from error


def features_bytes(channels: int, size: Size) -> int:
    """Return the bytes of float32 features."""
    return 4 * channels * size[0] * size[1]


def bicubic(pixels: Frame, level: Size, region: Region) -> Frame:
    """Return `region` (top, left, height, width) of pixels [H, W] or [H, W, 3] resized to `level` by bicubic
    interpolation, in the same dtype. Equal to that part of the whole: each pixel is interpolated by itself."""
    top, left, height, width = region
    if max(height, width) > REMAP_SIDE:
        if height >= width:
            half = height // 2
            parts = (top, left, half, width), (top + half, left, height - half, width)
        else:
            half = width // 2
            parts = (top, left, height, half), (top, left + half, height, width - half)
        return np.concatenate([bicubic(pixels, level, part) for part in parts], axis=int(width > height))
    rows, first_row, last_row = _positions(top, height, pixels.shape[0], level[0])
    columns, first_column, last_column = _positions(left, width, pixels.shape[1], level[1])
    part = pixels[first_row:last_row, first_column:last_column]
    across, down = np.meshgrid(columns, rows)
    result: Frame = cv2.remap(part, across, down, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return result


def _positions(start: int, count: int, source: int, level: int) -> tuple[NDArray[np.float32], int, int]:
    """Where output pixels lie in the source pixels [first, last) that their interpolation reads, and those two."""
    position = (np.arange(start, start + count) + 0.5) * (source / level) - 0.5
    first = max(0, int(position[0]) - MARGIN)
    return (position - first).astype(np.float32), first, min(source, int(position[-1]) + MARGIN)
