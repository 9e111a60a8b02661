"""Degradations of training inputs: what cameras, scalers and JPEG do to pictures before they are upscaled."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hiif_deploy.errors import OptionError
from hiif_deploy.support.extras import require_extra

Pixels = NDArray[np.uint8]
Range = tuple[float, float]

PROBABILITIES = ("resample", "blur", "chroma", "noise", "jpeg", "jpeg_twice", "h264")
FILTERS = (
    Image.Resampling.BOX, Image.Resampling.BILINEAR, Image.Resampling.HAMMING, Image.Resampling.LANCZOS,
)  # fmt: skip
"""Filters that downscale pictures elsewhere; bicubic is the rule here."""
JPEG_BLOCK = 8
CLIP_FRAMES, CLIP_MOTION = 3, 4
"""Frames of the clip that is compressed as H.264, and the largest motion between two of them in pixels."""
FULL_CHROMA, HALF_CHROMA = 0, 2
"""Pillow's numbers for 4:4:4 and 4:2:0."""


@dataclass(frozen=True)
class Degradations:
    """Probability of each degradation per sample, and its range, in the order of application; none by default."""

    resample: float = 0.0
    """Probability that another filter than bicubic downscales the crop: box, bilinear, Hamming or Lanczos."""
    blur: float = 0.0
    """Probability of Gaussian blur."""
    blur_sigma: Range = (0.2, 1.5)
    """Standard deviation of the blur in low-resolution pixels."""
    chroma: float = 0.0
    """Probability that chroma is halved and doubled again, as in video."""
    noise: float = 0.0
    """Probability of noise: Gaussian, Poisson, or Gaussian correlated between neighbours."""
    noise_sigma: Range = (1.0, 15.0)
    """Standard deviation of the noise in 8-bit levels; of Poisson noise at white."""
    jpeg: float = 0.0
    """Probability of JPEG compression, 4:2:0 or 4:4:4."""
    jpeg_quality: Range = (15, 95)
    """Range of the quality."""
    jpeg_twice: float = 0.0
    """Probability that a compressed crop is compressed again, on another grid of blocks."""

    h264: float = 0.0
    """Probability of H.264 compression, as the last frame of a short clip; needs PyAV (extra `video`)."""
    h264_crf: Range = (20, 35)
    """Range of x264's constant rate factor; larger is worse."""

    def __post_init__(self) -> None:
        for name in PROBABILITIES:
            if not 0 <= getattr(self, name) <= 1:
                raise OptionError(f"recipe: degrade.{name} is {getattr(self, name)}, expected a probability, 0 to 1")
        limits = {"blur_sigma": (0.0, 10.0), "noise_sigma": (0.0, 255.0), "jpeg_quality": (1, 100), "h264_crf": (0, 51)}
        for name, (least, most) in limits.items():
            low, high = getattr(self, name)
            if not least <= low <= high <= most:
                raise OptionError(
                    f"recipe: degrade.{name} is [{low}, {high}], expected {least:g} ≤ low ≤ high ≤ {most:g}"
                )

    def trained_for(self) -> dict[str, list[float]]:
        """Return what the runtime must know of a model trained with them: the ranges of `jpeg` and `noise`."""
        ranges = {"jpeg": (self.jpeg, self.jpeg_quality), "noise": (self.noise, self.noise_sigma)}
        return {name: list(limits) for name, (probability, limits) in ranges.items() if probability}


def downscale(high: Image.Image, side: int, chosen: Degradations, random: np.random.Generator) -> Pixels:
    """Downscale a square RGB crop to [side, side, 3] uint8 and degrade it; `random` alone decides how."""
    kernel = FILTERS[random.integers(len(FILTERS))] if random.random() < chosen.resample else Image.Resampling.BICUBIC
    pixels = np.asarray(high.resize((side, side), kernel))
    for name, change in STEPS.items():
        if random.random() < getattr(chosen, name):
            pixels = change(pixels, chosen, random)
    return pixels


def blur(pixels: Pixels, chosen: Degradations, random: np.random.Generator) -> Pixels:
    """Blur [h, w, 3] by a Gaussian of random width."""
    return _rounded(_gaussian(pixels.astype(np.float64), random.uniform(*chosen.blur_sigma)))


def halve_chroma(pixels: Pixels, chosen: Degradations, random: np.random.Generator) -> Pixels:
    """Halve the chroma planes of [h, w, 3] by averaging, and double them by pixels or bilinearly."""
    del chosen
    luma, *chroma = Image.fromarray(pixels).convert("YCbCr").split()
    half = (-(-luma.width // 2), -(-luma.height // 2))
    larger = (Image.Resampling.NEAREST, Image.Resampling.BILINEAR)[random.integers(2)]
    planes = [plane.resize(half, Image.Resampling.BOX).resize(luma.size, larger) for plane in chroma]
    return np.asarray(Image.merge("YCbCr", (luma, *planes)).convert("RGB"))


def add_noise(pixels: Pixels, chosen: Degradations, random: np.random.Generator) -> Pixels:
    """Add noise of a random kind and strength to [h, w, 3]; half of the Gaussian noise is grey."""
    sigma, kind = random.uniform(*chosen.noise_sigma), random.integers(3)
    values = pixels.astype(np.float64)
    if kind == 0:
        photons = 255 / max(sigma, 1e-3) ** 2
        return _rounded(random.poisson(values * photons) / photons)
    noise = random.normal(size=(*pixels.shape[:2], 3 if random.random() < 0.5 else 1))
    if kind == 1:
        noise = _gaussian(noise, random.uniform(0.5, 1.5))
        noise /= noise.std()
    return _rounded(values + sigma * noise)


def compress(pixels: Pixels, chosen: Degradations, random: np.random.Generator) -> Pixels:
    """Compress [h, w, 3] as JPEG once or twice, on blocks that begin anywhere."""
    low, high = (round(quality) for quality in chosen.jpeg_quality)
    for _ in range(2 if random.random() < chosen.jpeg_twice else 1):
        quality = int(random.integers(low, high, endpoint=True))
        subsampling = (FULL_CHROMA, HALF_CHROMA)[random.integers(2)]
        top, left = (int(shift) for shift in random.integers(0, 2 * JPEG_BLOCK, 2))
        whole = np.pad(pixels, ((top, 0), (left, 0), (0, 0)), "symmetric")
        pixels = through_jpeg(whole, quality, subsampling)[top:, left:]
    return pixels


def through_jpeg(pixels: Pixels, quality: int, subsampling: int) -> Pixels:
    """Return [h, w, 3] as it is after JPEG compression."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=subsampling)
    with Image.open(file) as picture:
        return np.asarray(picture.convert("RGB"))


def compress_clip(pixels: Pixels, chosen: Degradations, random: np.random.Generator) -> Pixels:
    """Return the last frame of a clip of H.264 that moves towards [h, w, 3] by whole pixels."""
    crf = round(random.uniform(*chosen.h264_crf))
    moves = random.integers(-CLIP_MOTION, CLIP_MOTION, (CLIP_FRAMES, 2), endpoint=True)
    moves[-1] = 0
    margin = CLIP_FRAMES * CLIP_MOTION
    wide = np.pad(pixels, ((margin, margin), (margin, margin), (0, 0)), "symmetric")
    size = tuple(length + length % 2 for length in pixels.shape[:2])  # x264 takes even sides
    frames = [
        wide[margin + y : margin + y + size[0], margin + x : margin + x + size[1]]
        for y, x in np.cumsum(moves[::-1], axis=0)[::-1]
    ]
    return through_h264(frames, crf)[: pixels.shape[0], : pixels.shape[1]]


def through_h264(frames: Sequence[Pixels], crf: int) -> Pixels:
    """Return the last of the frames [h, w, 3], whose sides are even, after H.264 compression in 4:2:0."""
    require_extra("video")
    import av

    height, width = frames[0].shape[:2]
    # One thread, so that the result does not depend on the machine.
    options = {"crf": str(crf), "preset": "veryfast", "tune": "zerolatency", "threads": "1"}
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.time_base, encoder.options = Fraction(1, 25), options
    packets = [
        packet
        for pixels in frames
        for packet in encoder.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24"))
    ]
    decoder = av.CodecContext.create("h264", "r")
    decoded = [frame for packet in [*packets, *encoder.encode(None), None] for frame in decoder.decode(packet)]
    return np.asarray(decoded[-1].to_ndarray(format="rgb24"), np.uint8)


STEPS: dict[str, Callable[[Pixels, Degradations, np.random.Generator], Pixels]] = {
    "blur": blur, "chroma": halve_chroma, "noise": add_noise, "jpeg": compress, "h264": compress_clip,
}  # fmt: skip
"""Field with the probability → the degradation, in the order in which they are applied."""


def _gaussian(values: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """Convolve rows and columns of [h, w, C] with a Gaussian, borders mirrored."""
    reach = max(1, round(3 * sigma))
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / max(sigma, 1e-3)) ** 2)
    taps /= taps.sum()
    for axis in (0, 1):
        margins = [(reach, reach) if n == axis else (0, 0) for n in range(3)]
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(values, margins, "symmetric"), len(taps), axis)
        values = windows @ taps
    return values


def _rounded(values: NDArray[np.float64]) -> Pixels:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
