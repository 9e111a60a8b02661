"""Estimates what degraded a picture before it was read: the quality of its JPEG, and the noise in its pixels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.images.picture import Picture

CLEAN_JPEG = 90
"""Lowest JPEG quality that counts as clean."""
NOISE_THRESHOLD = 4.0
"""Lowest standard deviation, in 8-bit levels, that counts as noise."""
MIN_WHITENESS = 0.65
"""Lowest share of diagonal detail that counts as noise; white noise has 1, texture mostly less than 0.6."""
TILE, TILES_PER_SIDE, MIN_TILES = 18, 16, 16
"""Side of the analysed squares in pixels; their largest number per side and their smallest number in all."""
LUMA_TABLE = np.array([
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
])  # fmt: skip
"""Luma quantisation table of Annex K of the JPEG standard, row by row: quality 50 of the IJG's library."""


@dataclass(frozen=True)
class Degradation:
    """Degradations of a picture; None for those that were not found."""

    jpeg: int | None = None
    """Quality of the JPEG, below `CLEAN_JPEG`."""
    noise: float | None = None
    """Standard deviation of the noise in 8-bit levels, `NOISE_THRESHOLD` or more."""


def measure(picture: Picture) -> Degradation:
    """Return the degradations of a picture as it was read."""
    quality, noise = picture.jpeg_quality, noise_level(picture.pixels)
    return Degradation(
        quality if quality is not None and quality < CLEAN_JPEG else None,
        round(noise, 1) if noise >= NOISE_THRESHOLD else None,
    )


def jpeg_quality(tables: Mapping[int, Sequence[int]]) -> int | None:
    """Return the IJG quality, 1 to 100, whose luma table is nearest to that of a JPEG.

    `tables` are Pillow's `quantization`: 64 numbers each, row by row. None where they lack a luma table.
    """
    luma = np.array(tables.get(0, ()), dtype=np.float64)
    if luma.shape != (64,):
        return None
    return 1 + int(np.abs(_IJG_TABLES - luma).sum(axis=1).argmin())


def _ijg_tables() -> NDArray[np.int64]:
    """Return the luma tables [100, 64] of the IJG's qualities 1 to 100."""
    quality = np.arange(1, 101)[:, None]
    percent = np.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    tables: NDArray[np.int64] = np.clip((LUMA_TABLE * percent + 50) // 100, 1, 255)
    return tables


_IJG_TABLES = _ijg_tables()


def noise_level(pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> float:
    """Return the standard deviation of the noise in [H, W] or [H, W, 3], uint8 or uint16, in 8-bit levels.

    Immerkær's operator (1996) is applied to the flattest tenth of up to 256 squares of the grey or green plane. The
    result is 0 where the detail of those squares is less diagonal than that of noise, where the picture is smaller
    than 72×72 pixels or so, and where nearly all of it is black or white.

    Measured with both thresholds on clean photographs, taken for noisy: 0 of 25 (gb82), 0 of 165 crops of 512×512
    (CLIC 2025 and others), 0 of 50 (BSDS400), 1 of 14 (Set14: baboon) and 0 of 42 reduced ones (Set14). With Gaussian
    noise in the colours of gb82, found: σ = 3 none, σ = 4 4 of 25, σ = 5 23, and σ = 10, 15 and 25 all. Without
    `MIN_WHITENESS` 11 clean ones are taken for noisy. Where Immerkær's mean over all pixels, or Donoho's median of
    diagonal Haar detail, finds as many at σ = 5, 44 and 41 of 186 clean ones are. The estimate is low
    (20 for σ = 25 in the middle) where the flattest squares are dark or bright, because clipping reduces the noise.
    """
    tiles = _tiles(pixels if pixels.ndim == 2 else pixels[..., 1])
    if len(tiles) < MIN_TILES:
        return 0.0
    # Every divisor is the filter's energy, so that white noise of variance 1 has 1 in all three.
    gradient = (_energy(np.diff(tiles, axis=1)) + _energy(np.diff(tiles, axis=2))) / 4
    flattest = np.argsort(gradient)[: max(4, len(tiles) // 10)]
    diagonal = np.diff(np.diff(tiles[flattest], axis=1), axis=2)
    if _energy(diagonal).mean() / 4 <= MIN_WHITENESS * gradient[flattest].mean():
        return 0.0
    curvature = np.diff(np.diff(diagonal, axis=1), axis=2)
    return float(np.sqrt(_energy(curvature).mean() / 36))


def _tiles(plane: NDArray[np.uint8] | NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return squares [N, TILE, TILE] spread over a plane [H, W], in 8-bit levels, without black and white ones."""
    if min(plane.shape) < TILE:
        return np.empty((0, TILE, TILE), np.float32)
    starts = (np.linspace(0, side - TILE, min(TILES_PER_SIDE, side // TILE)).astype(np.intp) for side in plane.shape)
    windows = np.lib.stride_tricks.sliding_window_view(plane, (TILE, TILE))[np.ix_(*starts)]
    tiles = windows.reshape(-1, TILE, TILE).astype(np.float32)
    if plane.dtype == np.uint16:
        tiles /= 257
    mean = tiles.mean(axis=(1, 2))
    # Clipping removes noise from black and white squares.
    kept: NDArray[np.float32] = tiles[(mean > 6) & (mean < 249)]
    return kept


def _energy(tiles: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mean square [N] of tiles [N, H, W]."""
    energy: NDArray[np.float32] = np.einsum("nij,nij->n", tiles, tiles) / tiles[0].size
    return energy
