"""The output size as the command line states it."""

import re
from dataclasses import dataclass
from typing import Literal

from hiif_deploy.errors import OptionError, ScaleError
from hiif_deploy.geometry.sizes import Scale, check_scale, output_size

Larger = Literal["skip", "copy", "error"]
"""Handling of a picture that is larger than the requested size."""


@dataclass(frozen=True)
class Target:
    """Output size, stated in exactly one way."""

    scale: Scale | None = None
    """Scale factor, or (vertical, horizontal) factors."""
    width: int | None = None
    """Output columns; alone, the height follows from the picture's shape."""
    height: int | None = None
    """Output rows; alone, the width follows from the picture's shape."""
    max_side: int | None = None
    """Length of the longer side in pixels."""

    def __post_init__(self) -> None:
        ways = [self.scale is not None, self.width is not None or self.height is not None, self.max_side is not None]
        if sum(ways) != 1:
            raise OptionError("give exactly one of --scale, --size, --width and/or --height, --max-side")
        if self.scale is not None:
            check_scale(self.scale)
        for name in ("width", "height", "max_side"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ScaleError(f"--{name.replace('_', '-')} {value}: expected at least 1")

    def shrinks(self, source: tuple[int, int]) -> bool:
        """Return whether a picture of that (height, width) is larger than the requested size."""
        return self.scale is None and any(
            requested < had for requested, had in zip(self._named(source), source, strict=True)
        )

    def size(self, source: tuple[int, int]) -> tuple[int, int]:
        """Return (height, width) for a picture of that (height, width); ScaleError where it would shrink."""
        if self.scale is not None:
            return output_size(source, scale=self.scale)
        return output_size(source, size=self._named(source))

    def _named(self, source: tuple[int, int]) -> tuple[int, int]:
        rows, columns = source
        width, height = self.width, self.height
        if self.max_side is not None:
            width, height = (self.max_side, None) if columns >= rows else (None, self.max_side)
        if width is not None and height is None:
            height = round(rows * width / columns)
        elif height is not None and width is None:
            width = round(columns * height / rows)
        assert width is not None
        assert height is not None
        return max(1, height), max(1, width)

    @property
    def label(self) -> str:
        """Short name for the names of output files."""
        if isinstance(self.scale, tuple):
            return f"x{self.scale[1]:g}x{self.scale[0]:g}"
        if self.scale is not None:
            return f"x{self.scale:g}"
        return f"{self.max_side}" if self.max_side else f"{self.width or ''}x{self.height or ''}"


def parse_target(
    scale: str | None, size: str | None, width: int | None, height: int | None, max_side: int | None
) -> Target:
    """Parse the command line's options: `--scale 3.3` or `--scale 2x3.5` (across x down), `--size 1920x1080`."""
    if size is not None and (width is not None or height is not None):
        raise OptionError("--size names width and height already; leave out --width and --height")
    if size is not None:
        height, width = parse_size("--size", size)
    return Target(None if scale is None else parse_scale(scale), width, height, max_side)


def parse_size(option: str, text: str) -> tuple[int, int]:
    """Parse `1920x1080` into (1080, 1920); ScaleError names the option."""
    found = re.fullmatch(r"([0-9]{1,9})[x×]([0-9]{1,9})", text)
    if not found:
        raise ScaleError(f"{option} {text!r}: expected WIDTHxHEIGHT in pixels, for example 1920x1080")
    return int(found[2]), int(found[1])


def parse_scale(text: str) -> Scale:
    """Parse `3.3`, `3.3x`, `x3.3` or `330%`, or `2x3.5` for 2 across and 3.5 down."""
    # Python's float reads more than people write: 1_0 is 10 for it, and digits of all scripts are numbers.
    words = re.fullmatch(r"[x×]?([0-9a-z.%×-]+?)[x×]?", text.lower())
    try:
        parts = re.split("[x×]", words[1]) if words else []
        factors = [float(part[:-1]) / 100 if part.endswith("%") else float(part) for part in parts]
    except ValueError:
        factors = []
    if len(factors) not in (1, 2):
        raise ScaleError(
            f"--scale {text!r}: expected a number such as 3.3, 4x or 250%, or two such as 2x3.5 (across x down)"
        )
    return factors[0] if len(factors) == 1 else (factors[1], factors[0])
