"""A quiet command prints its own errors alone: nothing of the libraries that read and write the files."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from hiif_deploy.cli import app as cli
from hiif_deploy.errors import ImageError
from hiif_deploy.images.metadata import png_chunk, png_with
from hiif_deploy.images.png_pixels import pixels_alone

DEEP = np.random.default_rng(0).integers(0, 65535, (20, 24, 3), dtype=np.uint16)


def png(pixels: bytes) -> bytes:
    """A 16-bit PNG of `DEEP`'s size with these bytes for its rows."""
    whole = cv2.imencode(".png", DEEP)[1].tobytes()
    return whole[:33] + png_chunk(b"IDAT", pixels) + png_chunk(b"IEND", b"")


def rows(filter_kind: int = 0) -> bytes:
    """The rows of `DEEP`, red first, all with one filter."""
    lines = DEEP[..., ::-1].astype(">u2")
    return b"".join(bytes([filter_kind]) + line.tobytes() for line in lines)


def tiff(compression: str, dtype: str) -> bytes:
    """A TIFF whose pixels are noise where they should be compressed."""
    if dtype == "uint16":
        data = bytearray(cv2.imencode(".tif", DEEP)[1].tobytes())
    else:
        file = io.BytesIO()
        Image.fromarray((DEEP >> 8).astype(np.uint8)).save(file, "tiff", compression=compression)
        data = bytearray(file.getvalue())
    data[300:400] = bytes(range(155, 255))
    return bytes(data)


PROFILE = png_with(png(zlib.compress(rows())), [(b"iCCP", b"odd\0\0junk"), (b"eXIf", b"junk")])
DAMAGED = {
    "short.png": png(zlib.compress(rows()[:-100])),
    "junk.png": png(zlib.compress(rows())[:-40] + bytes(40)),
    "filter.png": png(zlib.compress(rows(9))),
    "deep.tif": tiff("", "uint16"),
    "lzw.tif": tiff("tiff_lzw", "uint8"),
    "deflate.tif": tiff("tiff_deflate", "uint8"),
}


def test_of_damaged_pictures_only_our_own_errors_are_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name, data in {**DAMAGED, "profile.png": PROFILE, "long.png": png(zlib.compress(rows() + b"more"))}.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(SystemExit) as end:
        cli.main(["upscale", str(tmp_path), "-o", str(tmp_path / "large"), "--scale", "1", "-q", "--threads", "1"])
    assert end.value.code == 1
    lines = capfd.readouterr().err.splitlines()
    assert [line for line in lines if not line.startswith(f"hiif-deploy: error: {tmp_path}")] == []
    assert len(lines) == len(DAMAGED)
    assert sorted(path.name for path in (tmp_path / "large").iterdir()) == ["long.png", "profile.png"]


@pytest.mark.parametrize("kind", [16, 8])
@pytest.mark.parametrize("interlace", [False, True])
def test_a_png_packed_anew_has_the_same_pixels(kind: int, interlace: bool) -> None:
    """Seven passes of an interlaced one, the smallest of which are empty in a picture of 3x5."""
    for height, width in ((20, 24), (5, 3), (1, 1)):
        samples = DEEP[:height, :width] if kind == 16 else (DEEP[:height, :width] >> 8).astype(np.uint8)
        data = interlaced(samples) if interlace else cv2.imencode(".png", samples)[1].tobytes()
        again = cv2.imdecode(np.frombuffer(pixels_alone(data), np.uint8), cv2.IMREAD_UNCHANGED)
        assert again.dtype == samples.dtype
        assert (again == samples).all()


def interlaced(samples: np.ndarray) -> bytes:
    """A PNG in the seven passes of its specification, written out here from its table."""
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    red_first = samples[..., ::-1].astype(">u2" if samples.dtype == np.uint16 else np.uint8)
    data = b""
    for row, column, down, across in passes:
        part = red_first[row::down, column::across]
        data += b"".join(b"\0" + line.tobytes() for line in part if line.size)
    whole = cv2.imencode(".png", samples)[1].tobytes()
    header = whole[16:28] + b"\1"
    body = [(b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    return whole[:8] + b"".join(png_chunk(*chunk) for chunk in body)


@pytest.mark.parametrize(
    ("name", "told"),
    [("short.png", "truncated"), ("filter.png", "a row has filter 9"), ("junk.png", "check|truncated|decompressing")],
)
def test_damaged_pixels_of_a_png_are_refused(name: str, told: str) -> None:
    with pytest.raises((ImageError, zlib.error), match=told):
        pixels_alone(DAMAGED[name])


def test_a_wrong_checksum_of_whole_pixels_is_refused() -> None:
    packed = zlib.compress(rows())
    with pytest.raises(zlib.error, match="incorrect data check"):
        pixels_alone(png(packed[:-4] + bytes(4)))


def test_svt_av1_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("av", reason="needs PyAV")
    from clips import Video, plain

    source = tmp_path / "clip.mkv"
    plain(source, Video(frames=2, size=(64, 64)))
    with pytest.raises(SystemExit) as end:
        cli.main(["upscale", str(source), "-o", str(tmp_path / "large.webm"), "-b", "hiif-video", "--scale", "1", "-q"])
    assert not end.value.code
    assert capfd.readouterr().err == ""
