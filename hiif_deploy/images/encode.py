"""Encodes a `Picture` as the bytes of a picture file, with a note for everything that the format cannot store."""

import io
import struct
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hiif_deploy.errors import ImageError
from hiif_deploy.images import metadata as containers
from hiif_deploy.images.picture import Picture

Kept = Literal["icc", "exif", "xmp", "dpi", "text", "colour_chunks"]
"""A part of a `Picture` beside its pixels."""

_NAMES: dict[Kept, str] = {
    "icc": "the colour profile",
    "exif": "EXIF",
    "xmp": "XMP",
    "dpi": "the resolution (dpi)",
    "text": "text entries",
    "colour_chunks": "colour chunks",
}
PNG_STRATEGY = zlib.Z_RLE
"""Of zlib: runs and Huffman codes alone. Filtered rows of upscaled pictures repeat little else: files are 2 % smaller
to 1 % larger than with the matches of level 4, which take twice the time; files of drawn text grow by a sixth."""
_SEGMENT = 65000
"""Bytes of EXIF or XMP that surely fit one JPEG segment."""


@dataclass(frozen=True)
class Format:
    """Capabilities of a picture file format."""

    name: str
    """Name in messages; in capitals it is Pillow's name."""
    suffixes: tuple[str, ...]
    """File name suffixes, in lower case."""
    side: int
    """Largest width and height in pixels."""
    kept: frozenset[Kept]
    """Metadata that the format can store."""
    deep: bool = False
    """Whether it can store 16 bits per sample."""
    alpha: bool = True
    """Whether it can store alpha."""


PNG = Format("PNG", (".png",), 2**31 - 1, frozenset(_NAMES), deep=True)
JPEG = Format("JPEG", (".jpg", ".jpeg"), 65500, frozenset({"icc", "exif", "xmp", "dpi"}), alpha=False)
WEBP = Format("WebP", (".webp",), 16383, frozenset({"icc", "exif", "xmp"}))
TIFF = Format("TIFF", (".tif", ".tiff"), 2**31 - 1, frozenset({"icc", "exif", "xmp", "dpi"}), deep=True)
BMP = Format("BMP", (".bmp",), 2**31 - 1, frozenset({"dpi"}), alpha=False)
FORMATS = (PNG, JPEG, WEBP, TIFF, BMP)
SUFFIXES = tuple(suffix for known in FORMATS for suffix in known.suffixes)
"""Lower-case suffixes of every format that is read and written."""


def format_of(path: Path) -> Format:
    """Return the format of the suffix; ImageError listing the supported suffixes for another."""
    for known in FORMATS:
        if path.suffix.lower() in known.suffixes:
            return known
    found = path.suffix or "(no suffix)"
    raise ImageError(f"{path}: cannot write pictures of type {found}; use one of {', '.join(SUFFIXES)}")


def encode(picture: Picture, target: Format, *, quality: int, lossless: bool) -> tuple[bytes, tuple[str, ...]]:
    """Return the file's bytes, and a sentence for each loss; `quality` is for JPEG and WebP, `lossless` for WebP."""
    fitted, notes = fit(picture, target)
    if target is PNG:
        return _png(fitted), notes
    if target is TIFF:
        return _tiff(fitted), notes
    return _by_pillow(fitted, target, quality, lossless), notes


def fit(picture: Picture, target: Format) -> tuple[Picture, tuple[str, ...]]:
    """Reduce the picture to what `target` can store; return it with one sentence for each loss."""
    notes = []
    if picture.pixels.dtype == np.uint16 and not target.deep:
        alpha = None if picture.alpha is None else _to_8_bit(picture.alpha)
        picture = replace(picture, pixels=_to_8_bit(picture.pixels), alpha=alpha)
        notes.append(f"16-bit pixels were reduced to 8 bits: {target.name} holds no more")
    if picture.alpha is not None and not target.alpha:
        picture = replace(picture, pixels=over_white(picture.pixels, picture.alpha), alpha=None)
        notes.append(f"transparent pixels were laid over white: {target.name} holds no alpha")
    if picture.icc is not None and not _profile_fits(picture, target):
        space = picture.icc[16:20].decode("latin-1").strip()
        picture = replace(picture, icc=None)
        notes.append(f"the colour profile was left out: it is for {space} pixels, not for those written")
    if target is JPEG:
        picture, dropped = _fit_segments(picture)
        notes += dropped
    if target is TIFF and picture.exif is not None and not containers.fits_tiff(picture.exif):
        picture = replace(picture, exif=None)
        notes.append("EXIF was left out: its values are damaged")
    lost = [name for part, name in _NAMES.items() if part not in target.kept and _matters(picture, part)]
    if lost:
        notes.append(f"left out because {target.name} does not hold it: {', '.join(lost)}")
    empty: dict[Kept, Any] = {"text": (), "colour_chunks": ()}
    nothing: dict[str, Any] = {part: empty.get(part) for part in _NAMES if part not in target.kept}
    return replace(picture, **nothing), tuple(notes)


def over_white(pixels: NDArray[Any], alpha: NDArray[Any]) -> NDArray[Any]:
    """Blend pixels [H, W] or [H, W, 3] over white by alpha [H, W]; uint8 or uint16, rounded to nearest."""
    top = np.uint32(np.iinfo(alpha.dtype).max)
    cover = alpha if pixels.ndim == 2 else alpha[..., None]
    mixed = pixels * cover.astype(np.uint32)
    mixed += (top - cover) * top
    mixed += top // 2
    mixed //= top
    return mixed.astype(pixels.dtype)


def _to_8_bit(samples: NDArray[Any]) -> NDArray[np.uint8]:
    """Convert uint16 to uint8: v/257 rounded to nearest."""
    return ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _profile_fits(picture: Picture, target: Format) -> bool:
    space = (picture.icc or b"")[16:20]
    grey = picture.pixels.ndim == 2 and target is not WEBP
    return {b"GRAY": grey, b"RGB ": not grey, b"CMYK": False}.get(space, True)


def _fit_segments(picture: Picture) -> tuple[Picture, list[str]]:
    notes = []
    dropped: dict[str, Any] = {}
    for part in ("exif", "xmp"):
        block = getattr(picture, part)
        if block is not None and len(block) > _SEGMENT:
            dropped[part] = None
            notes.append(f"{part.upper()} of {len(block)} bytes was left out: JPEG holds at most {_SEGMENT}")
    return replace(picture, **dropped), notes


def _matters(picture: Picture, part: Kept) -> bool:
    if part == "colour_chunks":
        kinds = {kind for kind, _ in picture.colour_chunks}
        # An sRGB chunk states what readers assume anyway; the others then only repeat it.
        return bool(kinds) and (b"sRGB" not in kinds or b"cICP" in kinds)
    return bool(getattr(picture, part))


def _samples(picture: Picture) -> NDArray[Any]:
    """Return [H, W] or [H, W, C] with alpha last."""
    return picture.pixels if picture.alpha is None else np.dstack([picture.pixels, picture.alpha])


def _png(picture: Picture) -> bytes:
    samples = _samples(picture)
    if samples.dtype == np.uint8:
        data = _save_png(samples)
    elif samples.ndim == 3 and samples.shape[2] == 2:
        data = _png_deep_grey_alpha(samples)
    else:
        data = _png_deep(samples)
    return containers.png_with(data, _png_metadata(picture))


def _png_deep(samples: NDArray[Any]) -> bytes:
    swapped = samples if samples.ndim == 2 else samples[..., [2, 1, 0, 3][: samples.shape[2]]]
    done, data = cv2.imencode(".png", swapped, [cv2.IMWRITE_PNG_STRATEGY, PNG_STRATEGY])
    if not done:
        raise ImageError("the 16-bit PNG could not be encoded")
    return data.tobytes()


def _png_deep_grey_alpha(samples: NDArray[Any]) -> bytes:
    # 16-bit grey with alpha has the byte layout and filters of 8-bit RGBA: only the header differs.
    as_bytes = samples.astype(">u2").view(np.uint8).reshape(*samples.shape[:2], 4)
    data = _save_png(as_bytes)
    start = len(containers.PNG_SIGNATURE)
    width_height = data[start + 8 : start + 16]
    header = containers.png_chunk(b"IHDR", width_height + bytes([16, 4, 0, 0, 0]))
    return data[:start] + header + data[start + len(header) :]


def _png_metadata(picture: Picture) -> list[containers.Chunk]:
    chunks = list(picture.colour_chunks)
    if picture.icc is not None:
        chunks.append((b"iCCP", b"icc\0\0" + zlib.compress(picture.icc)))
    if picture.dpi is not None:
        metre = (max(1, round(value / 0.0254)) for value in picture.dpi)
        chunks.append((b"pHYs", struct.pack(">IIB", *metre, 1)))
    if picture.exif is not None:
        chunks.append((b"eXIf", _exif(picture)))
    if picture.xmp is not None:
        chunks.append((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + picture.xmp))
    return chunks + [containers.png_text(key, text) for key, text in picture.text]


def _tiff(picture: Picture) -> bytes:
    samples = _samples(picture)
    if samples.dtype == np.uint16 and samples.ndim == 3 and samples.shape[2] == 2:
        # Hardly any reader supports grey with alpha at 16 bits; three equal channels lose nothing.
        samples = samples[..., [0, 0, 0, 1]]
    layers = samples.reshape(*samples.shape[:2], -1)
    kept = {"icc": picture.icc, "exif": picture.exif, "xmp": picture.xmp}
    return containers.tiff_bytes(layers, **kept, dpi=picture.dpi)


def _by_pillow(picture: Picture, target: Format, quality: int, lossless: bool) -> bytes:
    options: dict[str, Any] = {"icc_profile": picture.icc, "xmp": picture.xmp, "dpi": picture.dpi}
    if picture.exif is not None:
        options["exif"] = containers.EXIF_PREFIX + _exif(picture)
    if target is JPEG:
        options |= {"quality": quality, "subsampling": 0}
    if target is WEBP:
        options |= {"quality": quality, "lossless": lossless, "exact": lossless}
    given = {name: value for name, value in options.items() if value is not None}
    samples = _samples(picture)
    if target is WEBP and picture.pixels.ndim == 2:
        samples = samples.reshape(*samples.shape[:2], -1)
        samples = samples[..., [0, 0, 0, 1][: samples.shape[2] + 2]]
    return _save(samples, format=target.name.upper(), **given)


def _exif(picture: Picture) -> bytes:
    height, width = picture.size
    return containers.exif_sized(picture.exif or b"", width, height)


def _save_png(samples: NDArray[np.uint8]) -> bytes:
    return _save(samples, format="PNG", compress_type=PNG_STRATEGY)


def _save(samples: NDArray[np.uint8], **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(samples)).save(out, **options)
    return out.getvalue()
