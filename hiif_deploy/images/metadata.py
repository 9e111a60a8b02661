"""Metadata as bytes: PNG chunks, EXIF and TIFF directories, XMP.

Pillow re-serialises EXIF, which breaks maker notes, and has no 16-bit colour; so everything that must be preserved byte
for byte is patched and inserted here.
"""

import io
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from hiif_deploy.errors import ImageError

Chunk = tuple[bytes, bytes]
"""Type (four letters) and data of a PNG chunk."""

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
EXIF_PREFIX = b"Exif\0\0"
ORIENTATION = 0x0112
EXIF_IFD, GPS_IFD, INTEROP_IFD = 0x8769, 0x8825, 0xA005
SIZE_TAGS = ((0x0100, 0x0101), (0xA002, 0xA003))
"""(width, height) tags in the first directory and in the EXIF directory."""
DESCRIPTIVE_TAGS = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x013C, 0x8298)
"""Tags that EXIF and TIFF share: description, make, model, software, time, artist, computer, copyright."""
UNWRITABLE = (AttributeError, ValueError, TypeError, LookupError, OSError, ArithmeticError, struct.error)
"""Exceptions that Pillow raises when it writes tags whose values have the wrong types."""
STRIP_BYTES = 1 << 20
TIFF_LIMIT = (1 << 32) - (1 << 20)
"""Bytes that 32-bit offsets reach, less room for the directory."""


def png_chunks(data: bytes) -> list[Chunk]:
    """Return all chunks up to IEND, those of the pixels without data; ImageError where truncated or damaged."""
    view, at = memoryview(data), len(PNG_SIGNATURE)
    chunks: list[Chunk] = []
    while not chunks or chunks[-1][0] != b"IEND":
        if at + 12 > len(data):
            raise ImageError("the PNG data is truncated")
        length, kind = struct.unpack_from(">I4s", data, at)
        if at + 12 + length > len(data):
            raise ImageError("the PNG data is truncated")
        (crc,) = struct.unpack_from(">I", data, at + 8 + length)
        if zlib.crc32(view[at + 4 : at + 8 + length]) != crc:
            raise ImageError(f"the PNG data is damaged (checksum of chunk {kind.decode('latin-1')!r})")
        chunks.append((kind, b"" if kind in (b"IDAT", b"fdAT") else data[at + 8 : at + 8 + length]))
        at += 12 + length
    if chunks[0][0] != b"IHDR" or len(chunks[0][1]) != 13:
        raise ImageError("the PNG data is damaged (it does not begin with its header)")
    return chunks


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """Return one chunk with its length and checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_front(chunks: list[Chunk]) -> bytes:
    """Return a PNG whose header and metadata, wherever they stood, come before an empty IDAT."""
    front = b"".join(png_chunk(*chunk) for chunk in chunks if chunk[0] not in (b"IDAT", b"IEND", b"fdAT"))
    return PNG_SIGNATURE + front + png_chunk(b"IDAT", b"")


def png_with(data: bytes, chunks: list[Chunk]) -> bytes:
    """Return a PNG with chunks inserted after its header."""
    header = len(PNG_SIGNATURE) + 25
    return b"".join([data[:header], *(png_chunk(*chunk) for chunk in chunks), data[header:]])


def png_text(key: str, text: str) -> Chunk:
    """Return a tEXt chunk where Latin-1 suffices, else iTXt."""
    name = key.encode("latin-1", "replace")[:79]
    try:
        return b"tEXt", name + b"\0" + text.encode("latin-1")
    except UnicodeEncodeError:
        return b"iTXt", name + b"\0\0\0\0\0" + text.encode()


def webp_size(data: bytes) -> tuple[int, int]:
    """Return (width, height) from the header of a WebP; ImageError where it has none."""
    kind, head = data[12:16], data[20:30]
    if len(head) == 10 and kind == b"VP8X":
        return int.from_bytes(head[4:7], "little") + 1, int.from_bytes(head[7:10], "little") + 1
    if len(head) == 10 and kind == b"VP8L":
        bits = int.from_bytes(head[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if len(head) == 10 and kind == b"VP8 ":
        width, height = struct.unpack("<HH", head[6:10])
        return width & 0x3FFF, height & 0x3FFF
    raise ImageError("the WebP data is truncated")


def orientation(exif: bytes | None, xmp: bytes | None = None) -> int:
    """Return the orientation in an EXIF block or a whole TIFF, else that in the XMP; 0 where none is valid."""
    order, values = _directory(exif or b"")
    if exif is not None and ORIENTATION in values:
        found = _number(exif, order, values[ORIENTATION])
        return found if 1 <= found <= 8 else 0
    match = _XMP_ORIENTATION.search(xmp or b"")
    return int(match[2]) if match else 0


def upright(exif: bytes) -> bytes:
    """Return an EXIF block or a whole TIFF with its orientation set to 1."""
    if orientation(exif) < 2:
        return exif
    order, values = _directory(exif)
    patched = bytearray(exif)
    _store(patched, order, values[ORIENTATION], 1)
    return bytes(patched)


def without_thumbnail(exif: bytes) -> bytes:
    """Return an EXIF block with its second directory, the thumbnail's, unlinked."""
    order = _order(exif)
    if order is None or len(exif) < 10:
        return exif
    (first,) = struct.unpack_from(order + "I", exif, 4)
    if first + 2 > len(exif):
        return exif
    link = first + 2 + 12 * struct.unpack_from(order + "H", exif, first)[0]
    return exif[:link] + bytes(4) + exif[link + 4 :] if link + 4 <= len(exif) else exif


def upright_xmp(xmp: bytes) -> bytes:
    """Return an XMP packet with its orientation set to 1."""
    return _XMP_ORIENTATION.sub(rb"\g<1>1", xmp)


def exif_sized(exif: bytes, width: int, height: int) -> bytes:
    """Return an EXIF block whose existing size tags are set to the picture's size."""
    order, first = _directory(exif)
    patched = bytearray(exif)
    second = _directory(exif, _number(exif, order, first.get(EXIF_IFD)))[1] if EXIF_IFD in first else {}
    for values, tags in zip((first, second), SIZE_TAGS, strict=True):
        for tag, size in zip(tags, (width, height), strict=True):
            if tag in values:
                _store(patched, order, values[tag], size)
    return bytes(patched)


def exif_of_tiff(tags: Image.Exif) -> bytes | None:
    """Return an EXIF block of the descriptive tags of a TIFF, or None; one of UNWRITABLE for damaged tags."""
    kept = Image.Exif()
    for tag in DESCRIPTIVE_TAGS:
        if tag in tags:
            kept[tag] = tags[tag]
    for group in (EXIF_IFD, GPS_IFD):
        if values := _plain_group(tags, group):
            kept[group] = values
    return kept.tobytes().removeprefix(EXIF_PREFIX) if len(kept) else None


def fits_tiff(exif: bytes) -> bool:
    """Return whether `tiff_bytes` can write the tags of an EXIF block."""
    ifd = TiffImagePlugin.ImageFileDirectory_v2(ifh=b"II*\0\0\0\0\0")
    try:
        for tag, value in _exif_tags(exif):
            ifd[tag] = value
        ifd.tobytes()
    except UNWRITABLE:
        return False
    return True


def tiff_bytes(
    samples: NDArray[Any], *, icc: bytes | None, exif: bytes | None, xmp: bytes | None, dpi: tuple[float, float] | None
) -> bytes:
    """Return a deflated TIFF of [H, W, C] uint8 or uint16: grey (C = 1), RGB (3), or these with alpha last (2, 4).

    Raises ImageError beyond 4 GB, the limit of the format's 32-bit offsets.
    """
    height, width, channels = samples.shape
    rows = max(1, STRIP_BYTES // (width * channels * samples.itemsize))
    strips = [_strip(samples[row : row + rows]) for row in range(0, height, rows)]
    if sum(map(len, strips)) > TIFF_LIMIT:
        raise ImageError("the picture needs more than the 4 GB that a TIFF holds; write PNG")
    ifd = TiffImagePlugin.ImageFileDirectory_v2(ifh=b"II*\0\0\0\0\0")
    for tag, value in _exif_tags(exif):
        ifd[tag] = value
    # Size, bits, deflate, colour model, samples, rows of a strip, interleaved, difference of columns, unsigned.
    layout: dict[int, Any] = {
        256: width, 257: height, 258: (samples.itemsize * 8,) * channels, 259: 8, 262: 2 if channels > 2 else 1,
        277: channels, 278: rows, 284: 1, 317: 2, 339: (1,) * channels,
    }  # fmt: skip
    if channels in (2, 4):
        layout[338] = 2  # alpha that is not premultiplied
    if dpi is not None:
        layout |= {282: dpi[0], 283: dpi[1], 296: 2}
    for number, entry in layout.items():
        ifd[number] = entry
    for number, block in ((700, xmp), (34675, icc)):
        if block is not None:
            ifd.tagtype[number] = 7 if number == 34675 else 1
            ifd[number] = block
    starts = np.cumsum([0, *map(len, strips[:-1])])
    ifd.tagtype[273] = ifd.tagtype[279] = 4
    ifd[273], ifd[279] = tuple(int(start) for start in starts), tuple(map(len, strips))
    out = io.BytesIO()
    ifd.save(out)
    return b"".join([out.getvalue(), *strips])


_XMP_ORIENTATION = re.compile(rb"""(tiff:Orientation\s*(?:=\s*["']|>)\s*)([1-8])""")
_Field = tuple[int, int]
"""Type and position of a single number in a directory."""


def _strip(rows: NDArray[Any]) -> bytes:
    difference = rows.copy()
    difference[:, 1:] -= rows[:, :-1]
    return zlib.compress(difference.astype(difference.dtype.newbyteorder("<"), copy=False).tobytes())


def _exif_tags(exif: bytes | None) -> Iterator[tuple[int, Any]]:
    if exif is None:
        return
    tags = Image.Exif()
    tags.load(EXIF_PREFIX + exif)
    yield from ((tag, tags[tag]) for tag in DESCRIPTIVE_TAGS if tag in tags)
    for group in (EXIF_IFD, GPS_IFD):
        if values := _plain_group(tags, group):
            yield group, values


def _plain_group(tags: Image.Exif, group: int) -> Mapping[int, Any]:
    """Return a directory of tags without its subdirectories."""
    return {tag: value for tag, value in tags.get_ifd(group).items() if tag != INTEROP_IFD}


def _order(data: bytes) -> str | None:
    return {b"II": "<", b"MM": ">"}.get(data[:2])


def _directory(data: bytes, at: int | None = None) -> tuple[str, dict[int, _Field]]:
    """Return the byte order, and tag → (type, position) of the single SHORT and LONG numbers of one directory."""
    order = _order(data)
    if order is None or len(data) < 16:
        return "<", {}
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    head, entry, size = ("Q", "HHQ", 20) if big else ("H", "HHI", 12)
    if at is None:
        at = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0]
    if at + struct.calcsize(order + head) > len(data):
        return order, {}
    (count,) = struct.unpack_from(order + head, data, at)
    at += struct.calcsize(order + head)
    fields = {}
    for position in range(at, min(at + count * size, len(data) - size + 1), size):
        tag, kind, number = struct.unpack_from(order + entry, data, position)
        if kind in _NUMBER and number == 1:
            fields[tag] = (kind, position + struct.calcsize(order + entry))
    return order, fields


_NUMBER = {3: "H", 4: "I"}


def _number(data: bytes, order: str, field: _Field | None) -> int:
    return 0 if field is None else int(struct.unpack_from(order + _NUMBER[field[0]], data, field[1])[0])


def _store(data: bytearray, order: str, field: _Field, value: int) -> None:
    kind, at = field
    if kind == 4 or value < 1 << 16:
        struct.pack_into(order + _NUMBER[kind], data, at, value)
