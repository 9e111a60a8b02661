"""Decodes the bytes of a picture file to a `Picture`: one decoder per format.

Pillow's file classes are used directly: `Image.open` would apply Pillow's global size limit instead of ours, and try
formats that this project does not read.
"""

import contextlib
import ctypes
import functools
import io
import math
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageCms,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
    _imaging,
)

from hiif_deploy.errors import ImageError
from hiif_deploy.images import metadata as containers
from hiif_deploy.images.degradation import jpeg_quality
from hiif_deploy.images.picture import Picture, turn
from hiif_deploy.images.png_pixels import pixels_alone

COLOUR_CHUNKS = (b"cICP", b"sRGB", b"gAMA", b"cHRM")
FILLER = bytes(range(1, 255)) * 4
"""Arbitrary JPEG data without markers."""
DAMAGE: tuple[type[Exception], ...] = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, ArithmeticError, RuntimeError),
    *(struct.error, zlib.error, cv2.error, ImageCms.PyCMSError),
)
"""Exceptions that Pillow and OpenCV raise for damaged data."""


def decode(data: bytes, max_pixels: int) -> Picture:
    """Return the picture in the bytes of a file, upright; ImageError with one sentence where there is none."""
    kind, decoder = _decoder(data)
    try:
        return decoder(data, max_pixels)
    except Image.DecompressionBombError as error:
        raise ImageError(f"Pillow refuses a {kind} of this size ({error}); convert it to PNG") from error
    except MemoryError as error:
        raise ImageError(f"not enough memory to decode this {kind}") from error
    except DAMAGE as error:
        what = "damaged, truncated or of an unsupported kind"
        raise ImageError(f"the {kind} data is {what} ({error})") from error


def _decoder(data: bytes) -> tuple[str, Callable[[bytes, int], Picture]]:
    """Return name and decoder of the format, detected from the first bytes: suffixes may be wrong."""
    for at, marks, kind, decoder in _SIGNATURES:
        if data[at : at + 16].startswith(marks):
            return kind, decoder
    other = next((name for at, mark, name in _FOREIGN if data[at : at + len(mark)] == mark), None)
    known = ", ".join(dict.fromkeys(kind for _, _, kind, _ in _SIGNATURES))
    what = f"a {other} file, which is not supported" if other else "not a picture file of a known kind"
    raise ImageError(f"this is {what}; expected one of {known}")


_FOREIGN = (
    (4, b"ftyp", "video (MP4)"),
    (0, b"\x1aE\xdf\xa3", "video (Matroska)"),
    (0, b"%PDF", "PDF"),
    (0, b"8BPS", "Photoshop"),
    (0, b"\0\0\0\x0cjP", "JPEG 2000"),
    (0, b"\0\0\0\x0cJXL", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"v/1\x01", "OpenEXR"),
)


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise ImageError(f"the picture is {width}×{height}, which holds no pixels")
    if width * height > max_pixels:
        raise ImageError(
            f"{width}×{height} = {width * height} pixels, more than the limit of {max_pixels}; "
            "raise it with --max-pixels if you trust the file"
        )


def _check_single(count: int, what: str) -> None:
    if count > 1:
        raise ImageError(
            f"the file holds {count} {what}; expected a single picture: extract them to separate files, "
            "or use the video command for an animation"
        )


def _png(data: bytes, max_pixels: int) -> Picture:
    chunks = containers.png_chunks(data)
    width, height, depth, colour = struct.unpack_from(">IIBB", chunks[0][1])
    _check_size(width, height, max_pixels)
    found = dict(chunks)
    _check_single(int.from_bytes(found.get(b"acTL", b"")[:4], "big"), "frames")
    info = PngImagePlugin.PngImageFile(io.BytesIO(containers.png_front(chunks))).info
    pixels, alpha = (
        _deep(pixels_alone(data), (height, width)) if depth == 16 else _shallow_png(data, palette=colour == 3)
    )
    if colour in (0, 4) and pixels.ndim == 3:
        pixels = np.ascontiguousarray(pixels[..., 0])
    if colour in (0, 2):
        alpha = _keyed(pixels, found.get(b"tRNS"), depth)
    text = {str(key): value for key, value in info.items() if isinstance(value, str)}
    text.pop("XML:com.adobe.xmp", None)
    old_exif = text.pop("Raw profile type exif", None)
    if old_exif is not None:
        info.setdefault("exif", bytes.fromhex("".join(old_exif.split("\n")[3:])))
    colours = tuple(chunk for chunk in chunks if chunk[0] in COLOUR_CHUNKS)
    picture = Picture(pixels, alpha, text=tuple(text.items()), colour_chunks=colours, **_described(info))
    return _upright(picture)


def _shallow_png(data: bytes, *, palette: bool) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Return pixels and alpha of up to 8 bits, with a palette's transparency applied, but not a transparent colour."""
    image = PngImagePlugin.PngImageFile(io.BytesIO(data))
    image.load()
    if not palette:
        image.info.pop("transparency", None)
    return _planes(image)


def _keyed(pixels: NDArray[Any], key: bytes | None, depth: int) -> NDArray[Any] | None:
    """Return the alpha of a PNG that names one colour as transparent (Pillow does not scale it below 8 bits)."""
    if key is None:
        return None
    top = np.iinfo(pixels.dtype).max
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    levels = np.frombuffer(key[: 2 * channels], dtype=">u2").astype(np.int64) * top // (2**depth - 1)
    hit = pixels == levels
    return np.where(hit if pixels.ndim == 2 else hit.all(axis=2), 0, top).astype(pixels.dtype)


def _jpeg(data: bytes, max_pixels: int) -> Picture:
    image = JpegImagePlugin.JpegImageFile(io.BytesIO(data))
    _check_size(*image.size, max_pixels)
    notes = []
    if "mp" in image.info:
        notes.append("the file's further pictures (gain map, depth or stereo) are left out")
    if "photoshop" in image.info:
        notes.append("the Photoshop and IPTC block is left out")
    if "comment" in image.info:
        notes.append("the JPEG comment is left out")
    picture = replace(_by_pillow(image, tuple(notes)), jpeg_quality=jpeg_quality(image.quantization))
    if "mp" not in image.info and _ends_early(data, image):
        picture = replace(picture, notes=(*picture.notes, "the JPEG data ends early: a part of the picture is missing"))
    return _upright(picture)


def _ends_early(data: bytes, image: Image.Image) -> bool:
    """Return whether the data ended early and libjpeg made up the rest, which it does without an error.

    More data before the end marker changes the picture only where some was missing.
    """
    end = data.rfind(b"\xff\xd9")
    longer = JpegImagePlugin.JpegImageFile(io.BytesIO(data[:end] + FILLER + data[end:]))
    try:
        return not np.array_equal(np.asarray(image), np.asarray(longer))
    except DAMAGE:
        return True


def _webp(data: bytes, max_pixels: int) -> Picture:
    # Pillow allocates the canvas when it opens the file.
    _check_size(*containers.webp_size(data), max_pixels)
    image = WebPImagePlugin.WebPImageFile(io.BytesIO(data))
    _check_single(image.n_frames, "frames")
    return _upright(_by_pillow(image))


def _bmp(data: bytes, max_pixels: int) -> Picture:
    image = BmpImagePlugin.BmpImageFile(io.BytesIO(data))
    _check_size(*image.size, max_pixels)
    return _upright(_by_pillow(image))


def _gif(data: bytes, max_pixels: int) -> Picture:
    image = GifImagePlugin.GifImageFile(io.BytesIO(data))
    _check_size(*image.size, max_pixels)
    # The picture command wants one still picture; an animation is a clip.
    notes = (f"the first of {image.n_frames} frames; the others are left out",) if image.n_frames > 1 else ()
    return _by_pillow(image, notes)


def _avif(data: bytes, max_pixels: int) -> Picture:
    try:
        from PIL import AvifImagePlugin

        is_there = AvifImagePlugin.SUPPORTED
    except ImportError:
        is_there = False
    if not is_there:
        raise ImageError("this Pillow reads no AVIF; install a newer one: pip install -U Pillow")
    image = AvifImagePlugin.AvifImageFile(io.BytesIO(data))
    _check_size(*image.size, max_pixels)
    _check_single(getattr(image, "n_frames", 1), "frames")
    return _upright(_by_pillow(image))


def _heic(data: bytes, max_pixels: int) -> Picture:
    if b"avif" in data[8:64]:  # a compatible brand behind the general "mif1"
        return _avif(data, max_pixels)
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        raise ImageError("Pillow reads HEIC with a package of its own: pip install pillow-heif") from None
    image = HeifImageFile(io.BytesIO(data))
    _check_size(image.width, image.height, max_pixels)
    return _upright(_by_pillow(image))


class _TiffFile(TiffImagePlugin.TiffImageFile):
    """A TIFF decoded as stored: Pillow's own class would apply its global size limit, and turn the pixels."""

    def load_prepare(self) -> None:
        ImageFile.ImageFile.load_prepare(self)

    def load_end(self) -> None:
        ImageFile.ImageFile.load_end(self)


@functools.cache
def _silence_libtiff() -> None:
    """Stop libtiff from printing errors on stderr that Pillow raises as well."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)


def _tiff(data: bytes, max_pixels: int) -> Picture:
    _silence_libtiff()
    # OpenCV turns the pixels of a TIFF even with the flag against it, so it receives an upright one.
    own, data = containers.orientation(data), containers.upright(data)
    image = _TiffFile(io.BytesIO(data))
    _check_size(*image.size, max_pixels)
    _check_single(image.n_frames, "pages")
    tags = image.tag_v2
    notes_of_exif: tuple[str, ...] = ()
    try:
        exif = containers.exif_of_tiff(image.getexif())
    except containers.UNWRITABLE:
        exif, notes_of_exif = None, ("EXIF is left out: its values are damaged",)
    if set(tags.get(258, (1,))) == {16}:
        pixels, alpha, notes = _deep_tiff(data, (image.height, image.width), tags)
        picture = Picture(pixels, alpha, notes=notes, **_described(image.info))
    else:
        picture = _by_pillow(image)
    picture = replace(picture, exif=exif, dpi=picture.dpi if 282 in tags else None, notes=picture.notes + notes_of_exif)
    return _upright(picture, own or containers.orientation(None, picture.xmp) or 1)


def _deep_tiff(
    data: bytes, size: tuple[int, int], tags: Any
) -> tuple[NDArray[Any], NDArray[Any] | None, tuple[str, ...]]:
    """Return pixels, alpha and notes of a TIFF of 16 bits per sample."""
    samples, meaning = int(tags.get(277, 1)), int(tags.get(262, 1))
    layout = (meaning, samples) in ((0, 1), (1, 1), (2, 3), (2, 4))
    if not layout or set(tags.get(339, (1,))) != {1} or (samples > 1 and tags.get(284, 1) != 1):
        raise ImageError("16-bit TIFF of an unsupported layout; expected unsigned grey, RGB or RGBA, interleaved")
    pixels, alpha = _deep(data, size)
    extra = tags.get(338, (2,))[0]
    if meaning == 0:
        pixels = ~pixels
    if alpha is not None and extra == 1:
        return _unmultiplied(pixels, alpha), alpha, ()
    if alpha is not None and extra == 0:
        return pixels, None, ("a fourth channel of unstated meaning is left out",)
    return pixels, alpha, ()


def _unmultiplied(pixels: NDArray[Any], alpha: NDArray[Any]) -> NDArray[np.uint16]:
    cover = np.maximum(alpha, 1).astype(np.float64)[..., None] / 65535
    colours: NDArray[np.float64] = np.rint(pixels / cover)
    return np.minimum(colours, 65535).astype(np.uint16)


def _deep(data: bytes, size: tuple[int, int]) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Decode 16-bit grey or RGB, and alpha, by OpenCV; Pillow has no such colours."""
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None or decoded.dtype != np.uint16 or decoded.shape[:2] != size:
        raise ImageError("the 16-bit data is damaged or truncated")
    if decoded.ndim == 2:
        return decoded, None
    alpha = np.ascontiguousarray(decoded[..., 3]) if decoded.shape[2] == 4 else None
    return np.ascontiguousarray(decoded[..., 2::-1]), alpha


def _by_pillow(image: ImageFile.ImageFile, notes: tuple[str, ...] = ()) -> Picture:
    """Return the picture as stored, without applying its orientation."""
    described = _described(image.info)
    image.load()
    if image.mode == "CMYK":
        converted, note = _from_cmyk(image, described.pop("icc"))
        return Picture(*_planes(converted), notes=(*notes, note), **described)
    return Picture(*_planes(image), notes=notes, **described)


_MODES = {"1": "L", "P": "RGB", "PA": "RGBA", "RGBX": "RGB", "YCbCr": "RGB", "La": "LA", "RGBa": "RGBA"}


def _planes(image: Image.Image) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Return uint8 pixels and alpha of a decoded picture in any mode that has them."""
    mode = "RGBA" if "transparency" in image.info else _MODES.get(image.mode, image.mode)
    if mode not in ("L", "LA", "RGB", "RGBA"):
        raise ImageError(f"pixels of kind {image.mode!r} are not supported; expected 8 or 16 bits a sample")
    samples = np.asarray(image if mode == image.mode else image.convert(mode))
    if mode in ("L", "RGB"):
        return samples, None
    pixels = samples[..., 0] if mode == "LA" else samples[..., :3]
    return np.ascontiguousarray(pixels), np.ascontiguousarray(samples[..., -1])


def _from_cmyk(image: Image.Image, icc: bytes | None) -> tuple[Image.Image, str]:
    if icc is not None:
        with contextlib.suppress(ImageCms.PyCMSError, OSError):
            profile, srgb = ImageCms.ImageCmsProfile(io.BytesIO(icc)), ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(image, profile, srgb, outputMode="RGB")
            if converted is not None:
                return converted, "CMYK pixels were converted to sRGB by the file's own profile"
    return image.convert("RGB"), "CMYK pixels became RGB without a usable profile: colours are approximate"


def _described(info: dict[Any, Any]) -> dict[str, Any]:
    """Return the fields of a Picture that Pillow's `info` contains."""
    exif, dpi, xmp = info.get("exif"), info.get("dpi"), info.get("xmp")
    dpi = tuple(float(value) for value in dpi) if isinstance(dpi, tuple) and len(dpi) == 2 else None
    return {
        "icc": info.get("icc_profile") or None,
        "exif": exif.removeprefix(containers.EXIF_PREFIX) or None if exif else None,
        "xmp": xmp if isinstance(xmp, bytes) and xmp else None,
        "dpi": dpi if dpi and all(math.isfinite(value) and value > 0 for value in dpi) else None,
    }


def _upright(picture: Picture, stored: int | None = None) -> Picture:
    """Apply the stored orientation, by default that of EXIF or XMP, and set it to 1."""
    stored = stored or containers.orientation(picture.exif, picture.xmp) or 1
    if stored == 1:
        return picture
    exif, xmp = picture.exif, picture.xmp
    return replace(
        picture,
        pixels=np.ascontiguousarray(turn(picture.pixels, stored)),
        alpha=None if picture.alpha is None else np.ascontiguousarray(turn(picture.alpha, stored)),
        exif=None if exif is None else containers.without_thumbnail(containers.upright(exif)),
        xmp=None if xmp is None else containers.upright_xmp(xmp),
        dpi=picture.dpi if stored < 5 or picture.dpi is None else picture.dpi[::-1],
    )


_SIGNATURES: tuple[tuple[int, tuple[bytes, ...], str, Callable[[bytes, int], Picture]], ...] = (
    (0, (containers.PNG_SIGNATURE,), "PNG", _png),
    (0, (b"\xff\xd8\xff",), "JPEG", _jpeg),
    (8, (b"WEBP",), "WebP", _webp),
    (0, (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "TIFF", _tiff),
    (0, (b"BM",), "BMP", _bmp),
    (0, (b"GIF8",), "GIF", _gif),
    (4, (b"ftypavif", b"ftypavis"), "AVIF", _avif),
    (4, (b"ftyphei", b"ftyphev", b"ftypmif1", b"ftypmsf1"), "HEIC", _heic),
)
"""Position and value of a format's first bytes, its name and its decoder."""
