"""What cannot be read or written is told in one sentence; losses are told; nothing half-written stays."""

from __future__ import annotations

import contextlib
import errno
import io
import re
import struct
import threading
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from hiif_deploy.errors import FrameError, ImageError
from hiif_deploy.images.io import Picture, read_image, write_image
from hiif_deploy.images.metadata import PNG_SIGNATURE, png_chunk
from hiif_deploy.images.samples import sample
from noise_pictures import SRGB, noise


def fails_to_read(path: Path, message: str, **options: Any) -> None:
    with pytest.raises(ImageError, match=re.escape(message)) as caught:
        read_image(path, **options)
    assert "\n" not in str(caught.value)


def header_only_png(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0")
    return PNG_SIGNATURE + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", pixels) + png_chunk(b"IEND", b"")


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    fails_to_read(tmp_path / "a.png", f"{tmp_path / 'a.png'} does not exist")


def test_a_folder_is_reported(tmp_path: Path) -> None:
    fails_to_read(tmp_path, f"{tmp_path} is a folder; expected a picture file")


def test_an_empty_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    fails_to_read(tmp_path / "a.png", "a.png is empty (0 bytes)")


def test_a_file_without_permission_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied")

    (tmp_path / "a.png").touch()
    monkeypatch.setattr(Path, "read_bytes", refuse)
    fails_to_read(tmp_path / "a.png", "a.png cannot be read: Permission denied")


def test_a_file_that_is_no_picture_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("hello")
    fails_to_read(
        tmp_path / "a.png",
        "a.png: this is not a picture file of a known kind; expected one of PNG, JPEG, WebP, TIFF, BMP",
    )


@pytest.mark.parametrize(
    ("start", "name"),
    [
        (b"\0\0\0\x18ftypisom", "video (MP4)"),
        (b"%PDF-1.7", "PDF"),
    ],
)
def test_a_known_but_unsupported_kind_is_named(tmp_path: Path, start: bytes, name: str) -> None:
    (tmp_path / "a").write_bytes(start + bytes(40))
    fails_to_read(tmp_path / "a", f"this is a {name} file, which is not supported; expected one of PNG, JPEG")


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".bmp"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_truncated_file_is_reported(tmp_path: Path, suffix: str, dtype: str, kept: float) -> None:
    path = tmp_path / f"a{suffix}"
    write_image(path, Picture(noise((60, 70, 3), dtype)))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    fails_to_read(path, "truncated")


def test_a_png_with_a_wrong_checksum_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    write_image(path, Picture(noise((60, 70, 3), np.uint16)))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    fails_to_read(path, "the PNG data is damaged (checksum of chunk 'IDAT')")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".bmp"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_damage_gives_a_picture_or_an_image_error(tmp_path: Path, suffix: str, dtype: str) -> None:
    path, random = tmp_path / f"a{suffix}", np.random.default_rng(11)
    write_image(path, Picture(noise((12, 14, 3), dtype), icc=SRGB[:200], dpi=(72, 72)))
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    for _ in range(150):
        data = whole.copy()
        data[random.integers(0, min(len(data), 400), 3)] = random.integers(0, 256, 3)
        path.write_bytes(data.tobytes())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with contextlib.suppress(ImageError):
                assert read_image(path, max_pixels=10**6).pixels.size > 0


def test_too_many_pixels_are_refused_by_the_header_alone(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(header_only_png(60000, 50000))
    fails_to_read(
        tmp_path / "a.png",
        "60000×50000 = 3000000000 pixels, more than the limit of 268435456; raise it with --max-pixels",
    )


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".bmp"])
def test_the_limit_holds_for_every_format(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path / f"a{suffix}", Picture(noise((20, 30, 3))))
    assert read_image(tmp_path / f"a{suffix}", max_pixels=600).size == (20, 30)
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("decoded before the size was checked"))
    fails_to_read(tmp_path / f"a{suffix}", "30×20 = 600 pixels, more than the limit of 599", max_pixels=599)


def test_the_limit_of_pillow_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for suffix in (".png", ".jpg", ".tif", ".bmp"):
        write_image(tmp_path / f"a{suffix}", Picture(noise((20, 30, 3))))
        with monkeypatch.context() as patch:
            patch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
            assert read_image(tmp_path / f"a{suffix}").size == (20, 30)


@pytest.mark.parametrize(("width", "height"), [(0, 5), (5, 0)])
def test_a_picture_without_pixels_is_reported(tmp_path: Path, width: int, height: int) -> None:
    (tmp_path / "a.png").write_bytes(header_only_png(width, height))
    fails_to_read(tmp_path / "a.png", f"the picture is {width}×{height}, which holds no pixels")


@pytest.mark.parametrize(("kind", "what"), [("PNG", "frames"), ("WEBP", "frames"), ("TIFF", "pages")])
def test_several_frames_or_pages_are_refused(tmp_path: Path, kind: str, what: str) -> None:
    first, *others = (Image.fromarray(noise((6, 8, 3)) // np.uint8(part)) for part in (1, 2, 3))
    first.save(tmp_path / "a", kind, save_all=True, append_images=others)
    fails_to_read(tmp_path / "a", f"a: the file holds 3 {what}; expected a single picture: extract them")


def test_other_sample_types_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 5), np.float32)).save(tmp_path / "a.tif")
    fails_to_read(tmp_path / "a.tif", "pixels of kind 'F' are not supported; expected 8 or 16 bits a sample")


def test_16_bit_cmyk_is_refused(tmp_path: Path) -> None:
    ifd = TiffImagePlugin.ImageFileDirectory_v2(ifh=b"II*\0\0\0\0\0")
    for tag, value in {
        256: 2,
        257: 2,
        258: (16,) * 4,
        259: 1,
        262: 5,
        273: 0,
        277: 4,
        278: 2,
        279: 32,
    }.items():
        ifd[tag] = value
    out = io.BytesIO()
    ifd.save(out)
    (tmp_path / "a.tif").write_bytes(out.getvalue() + bytes(32))
    fails_to_read(tmp_path / "a.tif", "16-bit TIFF of an unsupported layout; expected unsigned grey, RGB or RGBA")


def test_what_reading_a_jpeg_leaves_out_is_reported(tmp_path: Path) -> None:
    image = Image.fromarray(noise((6, 8, 3)))
    image.save(tmp_path / "a.jpg", comment=b"hello")
    assert read_image(tmp_path / "a.jpg").notes == ("the JPEG comment is left out",)
    image.save(tmp_path / "b.jpg", "MPO", save_all=True, append_images=[image])
    notes = ("the file's further pictures (gain map, depth or stereo) are left out",)
    assert read_image(tmp_path / "b.jpg").notes == notes


@pytest.mark.parametrize(
    ("pixels", "alpha", "message"),
    [
        (np.zeros((4, 5, 3), np.float32), None, r"pixels are float32 \(4, 5, 3\); expected uint8 or uint16"),
        (np.zeros((4, 5, 1), np.uint8), None, r"pixels are uint8 \(4, 5, 1\); expected uint8 or uint16"),
        (
            np.zeros((4, 5), np.uint8),
            np.zeros((4, 5), np.uint16),
            r"alpha is uint16 \(4, 5\); expected uint8",
        ),
        (np.zeros((4, 5), np.uint8), np.zeros((4, 6), np.uint8), r"alpha is uint8 \(4, 6\); .* \(4, 5\)"),
    ],
)
def test_a_picture_refuses_arrays_that_no_file_holds(pixels: Any, alpha: Any, message: str) -> None:
    with pytest.raises(FrameError, match=message):
        Picture(pixels, alpha)


def test_reading_in_several_threads_gives_the_same_pictures(tmp_path: Path) -> None:
    pixels = noise((64, 64, 3), np.uint16)
    paths = [tmp_path / f"a{suffix}" for suffix in (".png", ".tif")]
    for path in paths:
        write_image(path, Picture(pixels))
    found: list[bool] = []

    def work() -> None:
        found.extend(np.array_equal(read_image(path).pixels, pixels) for path in paths * 5)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 40


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_jpeg_whose_data_ends_early_is_reported(tmp_path: Path, progressive: bool, mode: str) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(sample("chelsea")[:96, :96].copy()).convert(mode).save(path, quality=90, progressive=progressive)
    data = path.read_bytes()
    assert read_image(path).notes == ()
    start = data.rfind(b"\xff\xda")
    path.write_bytes(data[: (start + len(data)) // 2] + b"\xff\xd9")
    assert read_image(path).notes == ("the JPEG data ends early: a part of the picture is missing",)
    path.write_bytes(data[: (start + len(data)) // 2])
    with pytest.raises(ImageError, match="truncated"):
        read_image(path)
