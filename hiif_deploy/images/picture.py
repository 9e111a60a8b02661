"""The picture class that files are read into and written from."""

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from hiif_deploy.errors import FrameError
from hiif_deploy.images.metadata import Chunk
from hiif_deploy.pixels import check_frame


@dataclass(frozen=True)
class Picture:
    """A picture with all metadata of its file. Upright: EXIF orientation is already applied."""

    pixels: NDArray[Any]
    """[H, W] grey or [H, W, 3] RGB, uint8 or uint16; never premultiplied."""
    alpha: NDArray[Any] | None = None
    """[H, W] of the same dtype, largest value opaque; None for a picture without alpha."""
    icc: bytes | None = None
    """ICC profile of the pixels, byte for byte."""
    exif: bytes | None = None
    """EXIF from its byte order mark on, byte for byte except orientation (1)."""
    xmp: bytes | None = None
    """XMP packet, byte for byte except orientation (1)."""
    dpi: tuple[float, float] | None = None
    """Horizontal and vertical pixels per inch, both positive."""
    text: tuple[tuple[str, str], ...] = ()
    """(keyword, text) entries of a PNG."""
    colour_chunks: tuple[Chunk, ...] = ()
    """The cICP, sRGB, gAMA and cHRM chunks of a PNG."""
    jpeg_quality: int | None = None
    """Quality of the JPEG that was read, estimated; None for other formats."""
    notes: tuple[str, ...] = ()
    """One sentence for everything that reading changed or left out."""

    def __post_init__(self) -> None:
        check_frame(self.pixels)
        if self.pixels.dtype.kind != "u" or self.pixels.shape[2:] == (1,):
            arrived = f"{self.pixels.dtype} {self.pixels.shape}"
            raise FrameError(f"pixels are {arrived}; expected uint8 or uint16 of shape [H, W] or [H, W, 3]")
        if self.alpha is not None and (self.alpha.dtype, self.alpha.shape) != (self.pixels.dtype, self.size):
            arrived = f"{self.alpha.dtype} {self.alpha.shape}"
            raise FrameError(f"alpha is {arrived}; expected {self.pixels.dtype} {self.size} as the pixels have")

    @property
    def size(self) -> tuple[int, int]:
        """Return (height, width) of the pixels."""
        return int(self.pixels.shape[0]), int(self.pixels.shape[1])


def turn(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Apply an EXIF orientation 1–8 to pixels [H, W] or [H, W, C], making them upright (a view)."""
    if orientation in (2, 3, 7, 8):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 6, 7):
        pixels = pixels[::-1]
    return pixels.swapaxes(0, 1) if orientation >= 5 else pixels
