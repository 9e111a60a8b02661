"""Repacks the pixels of a PNG, so that libpng has nothing to print.

libpng prints its warnings and errors on stderr, past any log: about profiles and EXIF, and about data that is too short
or too long. This cannot be switched off, so it receives the pixels alone, and only where they are complete.
"""

import struct
import zlib

import numpy as np

from hiif_deploy.errors import ImageError
from hiif_deploy.images.metadata import PNG_SIGNATURE, png_chunk

SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Colour type of a PNG → samples per pixel."""
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First column and row, and steps across and down, of each pass of an interlaced PNG."""
FILTERS = 5
"""Number of row filters, which are numbered from 0."""


def pixels_alone(data: bytes) -> bytes:
    """Return a PNG with the same pixels and nothing else. ImageError where they are damaged or truncated.

    `data` has passed `metadata.png_chunks`, so that all its chunks are complete.
    """
    header, packed = b"", []
    at = len(PNG_SIGNATURE)
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"IHDR":
            header = data[at + 8 : at + 8 + length]
        elif kind == b"IDAT":
            packed.append(data[at + 8 : at + 8 + length])
        elif kind == b"IEND":
            break
        at += 12 + length
    rows = _rows(header)
    expected = sum(count * length for count, length in rows)
    unpacking = zlib.decompressobj()
    pixels = unpacking.decompress(b"".join(packed), expected) if expected else b""
    # Read one byte more, so that zlib compares its checksum; data after the pixels is ignored.
    unpacking.decompress(unpacking.unconsumed_tail, 1)
    if len(pixels) < expected:
        raise ImageError(f"the PNG data is truncated ({len(pixels)} of {expected} bytes of pixels)")
    _check_filters(pixels, rows)
    # Level 1: packing takes less time than decoding does.
    return PNG_SIGNATURE + b"".join(
        png_chunk(*chunk) for chunk in ((b"IHDR", header), (b"IDAT", zlib.compress(pixels, 1)), (b"IEND", b""))
    )


def _rows(header: bytes) -> list[tuple[int, int]]:
    """(count, bytes each) of the rows of each pass; the first byte of a row is its filter."""
    width, height, depth, colour, _, _, is_interlaced = struct.unpack(">IIBBBBB", header)
    if colour not in SAMPLES:
        raise ImageError(f"the PNG data is damaged (colour type {colour})")
    passes = ADAM7 if is_interlaced else ((0, 0, 1, 1),)
    sizes = ((-(-(width - x) // across), -(-(height - y) // down)) for x, y, across, down in passes)
    return [(rows, 1 + -(-columns * depth * SAMPLES[colour] // 8)) for columns, rows in sizes if columns > 0 < rows]


def _check_filters(pixels: bytes, rows: list[tuple[int, int]]) -> None:
    at = 0
    for count, length in rows:
        filters = np.frombuffer(pixels, np.uint8, count * length, at)[::length]
        if filters.max() >= FILTERS:
            raise ImageError(f"the PNG data is damaged (a row has filter {filters.max()})")
        at += count * length
