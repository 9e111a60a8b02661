"""Frames ↔ float tensors.

A *frame* is an array [H, W], [H, W, 1] or [H, W, 3] of uint8, uint16 or float16/32/64; floating values lie in
[0, 1], three channels are RGB. A *unit* array is what the models read and write: float32 [H, W, 3] in [0, 1].
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.errors import FrameError

Frame = NDArray[Any]
"""[H, W], [H, W, 1] or [H, W, 3]; uint8, uint16, or float16/32/64 in [0, 1]."""

INTEGERS = ("uint8", "uint16")
FLOATS = ("float16", "float32", "float64")
F32 = np.float32
LUMA_RED, LUMA_BLUE = F32(0.299), F32(0.114)
"""Rec. 601 weights; green carries the rest."""


@dataclass(frozen=True)
class FrameFormat:
    """What must be known of a frame to give back one of its kind."""

    dtype: np.dtype[Any]
    """uint8, uint16, float16, float32 or float64."""
    channels: int | None
    """1 or 3 for a frame with a channel axis, None for [H, W]."""

    @classmethod
    def of(cls, frame: Frame) -> Self:
        """Format of a frame that `check_frame` accepts."""
        return cls(frame.dtype, frame.shape[2] if frame.ndim == 3 else None)


def check_frame(frame: object) -> None:
    """Accept a frame, or raise FrameError naming what arrived and what was expected."""
    if not isinstance(frame, np.ndarray):
        raise FrameError(f"frame is a {type(frame).__name__}; expected a numpy array")
    _check_shape(frame.shape)
    if str(frame.dtype) not in INTEGERS + FLOATS:
        known = ", ".join(INTEGERS + FLOATS)
        raise FrameError(f"frame has dtype {frame.dtype}; expected one of {known} in native byte order")
    if frame.dtype.kind == "f":
        _check_range(frame)


def working_frame(frame: Frame) -> Frame:
    """A new array [H, W, 1 or 3] of uint8, uint16 or float32 from a checked frame: half and double precision are cast.

    It is in C order, which PyTorch needs, and stays as it is where the caller fills `frame` with the next picture.
    """
    channels = frame if frame.ndim == 3 else frame[..., None]
    return np.array(channels, dtype=F32 if channels.dtype.kind == "f" else channels.dtype, order="C")


def to_unit(frame: Frame) -> NDArray[np.float32]:
    """A new unit array [H, W, 3] from a checked frame or a block of its rows; grey fills all three channels.

    Integers are divided by their largest value with correct rounding. Checks nothing: see `check_frame`.
    """
    unit = np.empty((*frame.shape[:2], 3), dtype=F32)
    channels = frame if frame.ndim == 3 else frame[..., None]
    if frame.dtype.kind == "u":
        np.divide(channels, F32(np.iinfo(frame.dtype).max), out=unit, dtype=F32)
    else:
        np.copyto(unit, channels, casting="same_kind")
    return unit


def from_unit(unit: NDArray[np.float32], like: FrameFormat) -> Frame:
    """A new frame of format `like` from a float array [H, W, 3]; values outside [0, 1] are clamped.

    Integers round half to even. Grey is the Rec. 601 luma, which leaves three identical channels exactly as
    they are. `unit` is only read and must be finite.
    """
    colours = unit if like.channels == 3 else _luma(unit)
    if like.dtype.kind == "u":
        top = F32(np.iinfo(like.dtype).max)
        values = np.multiply(colours, top, dtype=F32)
        np.rint(values, out=values)
        np.clip(values, F32(0), top, out=values)
    else:
        values = np.clip(colours, F32(0), F32(1))
    frame = values.astype(like.dtype, copy=False)
    return frame[..., None] if like.channels == 1 else frame


def mirror(frame: Frame, size: tuple[int, int]) -> Frame:
    """`frame` continued below and to the right by its mirror image, up to `size` = (height, width)."""
    margins = ((0, size[0] - frame.shape[0]), (0, size[1] - frame.shape[1]), (0, 0))[: frame.ndim]
    mirrored: Frame = np.pad(frame, margins, mode="symmetric")
    return mirrored


def _luma(unit: NDArray[np.float32]) -> NDArray[np.float32]:
    red, green, blue = unit[..., 0], unit[..., 1], unit[..., 2]
    # Written as green plus differences: identical channels come back bit for bit.
    grey = (red - green) * LUMA_RED
    grey += (blue - green) * LUMA_BLUE
    grey += green
    return grey


def _check_shape(shape: tuple[int, ...]) -> None:
    layouts = "[H, W], [H, W, 1] or [H, W, 3]"
    if len(shape) == 3 and shape[2] == 4:
        raise FrameError(
            f"frame has shape {shape}, four channels; expected {layouts}: split alpha off and enlarge it by "
            "itself, as read_image and upscale_alpha do for picture files"
        )
    if len(shape) == 3 and shape[2] > 4 and shape[0] in (1, 3):
        raise FrameError(f"frame has shape {shape}, channels first; expected {layouts}: transpose(1, 2, 0)")
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (1, 3)):
        raise FrameError(f"frame has shape {shape}; expected {layouts}")
    if 0 in shape:
        raise FrameError(f"frame has shape {shape}, which holds no pixels; both sizes must be at least 1")


def _check_range(frame: Frame) -> None:
    low, high = float(frame.min()), float(frame.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        position = tuple(int(i) for i in np.argwhere(~np.isfinite(frame))[0])
        raise FrameError(f"frame is {frame[position]} at {position}; expected finite values in [0, 1]")
    wanted = "expected values in [0, 1]"
    if high > 1:
        how = "divide by 255 (or by the white level of your data), or clip an overshoot"
        raise FrameError(f"frame of {frame.dtype} reaches {high:.6g}; {wanted}: {how}")
    if low < 0:
        raise FrameError(f"frame of {frame.dtype} reaches {low:.6g}; {wanted}: shift or clip them")
