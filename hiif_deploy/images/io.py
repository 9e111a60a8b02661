"""Reads picture files with all their metadata, and writes them atomically.

Read and written: PNG, JPEG, WebP, TIFF and BMP; read only: GIF (its first frame), and AVIF and HEIC where Pillow can. 8
and 16 bits (16 in PNG and TIFF); grey, palette, RGB, alpha, CMYK (converted to RGB). Metadata that the output format
cannot store or this project cannot keep is reported in notes, never lost silently. No global setting of Pillow or
OpenCV that affects pixels is changed, so this may run in several threads.
"""

import errno
import os
import stat
import sys
from importlib.util import find_spec
from pathlib import Path

from PIL import features

from hiif_deploy.errors import ImageError, OptionError
from hiif_deploy.images.decode import DAMAGE, decode
from hiif_deploy.images.encode import SUFFIXES, Format, encode, format_of
from hiif_deploy.images.picture import Picture
from hiif_deploy.support.files import write_file

__all__ = [
    "MAX_PIXELS", "READABLE", "STREAM", "SUFFIXES", "VIDEO_SUFFIXES", "Picture", "check_stream", "check_target",
    "copy_image", "format_of", "read_image", "readable_suffixes", "write_image",
]  # fmt: skip

READABLE = (*SUFFIXES, ".gif", ".avif", ".heic", ".heif")
"""Lower-case suffixes of every format that is read."""
VIDEO_SUFFIXES = (
    ".mkv", ".mp4", ".mov", ".webm", ".m4v", ".avi", ".ts", ".m2ts", ".mts", ".mpg", ".mpeg", ".wmv", ".flv", ".mxf",
    ".ogv", ".y4m", ".nut", ".3gp",
)  # fmt: skip
"""Lower-case suffixes of video files."""
STREAM = Path("-")
"""Path of the standard input and output."""
STREAM_LIMIT = 1 << 30
"""Largest number of bytes that are read from the standard input."""

MAX_PIXELS = 2**28
"""Default limit of `read_image`: 16384×16384 pixels."""
_UNWRITABLE: tuple[type[Exception], ...] = (ImageError, MemoryError, *DAMAGE)


def read_image(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> Picture:
    """Return the picture in a file, upright.

    Raises ImageError with one sentence for a file that is missing, empty, no picture of a supported kind, damaged,
    truncated, of more than `max_pixels` pixels (checked in its header before decoding), or that contains several frames
    or pages: those are for the video command, or must be extracted first.
    """
    path = Path(path)
    data = _contents(path)
    try:
        return decode(data, max_pixels)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error


def check_target(path: str | os.PathLike[str], size: tuple[int, int] | None = None) -> None:
    """Raise ImageError if writing a picture to `path` would fail for a reason known beforehand.

    That is an unsupported suffix, a missing folder, no permission, or, where `size` = (height, width) is given, more
    pixels on a side than the format can store. Call this before hours of work.
    """
    path = Path(path)
    target = format_of(path)
    if size is not None:
        _check_side(str(path), target, size)
    if path.is_dir():
        raise ImageError(f"{path} is a folder; expected the name of a picture file")
    if not path.parent.is_dir():
        raise ImageError(f"{path}: the folder {path.parent} does not exist; create it first")
    if not os.access(path.parent, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        what = f"{path} is read-only" if path.exists() else f"{path}: no permission to write in {path.parent}"
        raise ImageError(f"{what}; change its permissions or choose another place")


def check_stream(suffix: str, size: tuple[int, int]) -> None:
    """Raise ImageError where a picture of `size` cannot be written to the standard output in the format of `suffix`."""
    _check_side("standard output", format_of(Path(f"picture{suffix}")), size)


def _check_side(name: str, target: Format, size: tuple[int, int]) -> None:
    if max(size) > target.side:
        arrived = f"{size[1]}×{size[0]} pixels"
        raise ImageError(f"{name}: {arrived}; {target.name} holds at most {target.side} on a side: write PNG")


def readable_suffixes() -> tuple[str, ...]:
    """Return those of `READABLE` that this installation of Pillow can read."""
    lacking = {".avif"} if not features.check("avif") else set()
    lacking |= {".heic", ".heif"} if find_spec("pillow_heif") is None else set()
    return tuple(suffix for suffix in READABLE if suffix not in lacking)


def copy_image(source: Path, target: Path) -> None:
    """Copy a picture file unchanged, atomically. Raises ImageError."""
    _write_file(target, _contents(source))


def write_image(
    path: str | os.PathLike[str], picture: Picture, *, quality: int = 95, lossless: bool = False,
    suffix: str | None = None,
) -> tuple[str, ...]:  # fmt: skip
    """Write a picture in the format of `suffix` (by default the path's); return a sentence for everything lost.

    `quality` 1–100 is for JPEG (without chroma subsampling) and WebP; `lossless` for WebP. The file is replaced
    atomically: on any failure an older one is untouched. The path `-` is the standard output. Raises ImageError (as
    `check_target`, and for a full disk) and OptionError.
    """
    path = Path(path)
    if not 1 <= quality <= 100:
        raise OptionError(f"quality {quality}: expected 1 to 100")
    if path != STREAM:
        check_target(path, picture.size)
    target = format_of(path if suffix is None else Path(f"picture{suffix}"))
    try:
        data, notes = encode(picture, target, quality=quality, lossless=lossless)
    except _UNWRITABLE as error:
        raise ImageError(f"{path}: the picture could not be encoded as {target.name} ({error})") from error
    if path == STREAM:
        _write_stream(data)
        return notes
    _write_file(path, data)
    return notes


def _write_file(path: Path, data: bytes) -> None:
    try:
        write_file(path, data)
    except OSError as error:
        raise ImageError(f"{path}: {_reason(error, len(data))}; what was there before is untouched") from error


def _write_stream(data: bytes) -> None:
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError as error:
        raise ImageError(f"standard output: writing failed ({error.strerror or error})") from error


def _read_stream() -> bytes:
    if sys.stdin is None:
        raise ImageError("standard input is closed")
    data = sys.stdin.buffer.read(STREAM_LIMIT + 1)
    if len(data) > STREAM_LIMIT:
        raise ImageError(f"standard input: more than {STREAM_LIMIT >> 20} MiB; expected one picture")
    if not data:
        raise ImageError("standard input is empty (0 bytes)")
    return data


def _contents(path: Path) -> bytes:
    if path == STREAM:
        return _read_stream()
    try:
        # Before it is opened: a pipe waits for a writer, and some devices never end.
        kind = path.stat().st_mode
        if stat.S_ISDIR(kind):
            raise ImageError(f"{path} is a folder; expected a picture file")
        if not stat.S_ISREG(kind):
            raise ImageError(f"{path} is {_KINDS.get(stat.S_IFMT(kind), 'no regular file')}; expected a picture file")
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise ImageError(f"{path} does not exist") from error
    except (OSError, ValueError) as error:
        raise ImageError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not data:
        raise ImageError(f"{path} is empty (0 bytes)")
    return data


_KINDS = {stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}


def _reason(error: OSError, size: int) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full ({size / 1e6:.1f} MB were to be written)"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "no permission to write there"
    if error.errno == errno.EROFS:
        return "the file system is read-only"
    return f"writing failed: {error.strerror or error}"
