"""Writing pictures: what a format cannot store is reported, and a failure leaves the older file."""

from __future__ import annotations

import errno
import os
import re
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hiif_deploy.errors import ImageError, OptionError
from hiif_deploy.images.io import Picture, check_target, read_image, write_image
from noise_pictures import SRGB, noise


@pytest.mark.parametrize(("suffix", "name"), [(".jpg", "JPEG"), (".webp", "WebP"), (".bmp", "BMP")])
def test_reduction_to_8_bits_is_reported_and_rounds(tmp_path: Path, suffix: str, name: str) -> None:
    levels = np.array([0, 128, 129, 385, 386, 65535], np.uint16)
    pixels = np.broadcast_to(levels[:, None], (6, 4)).repeat(8, axis=0)
    notes = write_image(tmp_path / f"a{suffix}", Picture(pixels), lossless=True)
    assert notes == (f"16-bit pixels were reduced to 8 bits: {name} holds no more",)
    if suffix == ".bmp":
        assert read_image(tmp_path / "a.bmp").pixels[::8, 0].tolist() == [0, 0, 1, 1, 2, 255]


@pytest.mark.parametrize("channels", [(), (3,)])
def test_alpha_is_laid_over_white_and_reported_where_the_format_has_none(
    tmp_path: Path, channels: tuple[int, ...]
) -> None:
    alpha = np.array([[0, 51, 255]], np.uint8)
    notes = write_image(tmp_path / "a.bmp", Picture(np.full((1, 3, *channels), 100, np.uint8), alpha))
    assert notes == ("transparent pixels were laid over white: BMP holds no alpha",)
    pixels = read_image(tmp_path / "a.bmp").pixels.reshape(3, -1)
    assert pixels[:, 0].tolist() == [255, 224, 100]


def test_metadata_that_the_format_cannot_hold_is_reported(tmp_path: Path) -> None:
    picture = Picture(noise((4, 5, 3)), icc=SRGB, exif=b"II*\0" + bytes(20), xmp=b"<x/>", dpi=(72, 72))
    wanted = "left out because BMP does not hold it: the colour profile, EXIF, XMP"
    assert write_image(tmp_path / "a.bmp", picture) == (wanted,)


def test_png_text_and_colour_chunks_lost_elsewhere_are_reported(tmp_path: Path) -> None:
    gamma = (b"gAMA", struct.pack(">I", 100000))
    picture = Picture(noise((4, 5, 3)), text=(("Title", "x"),), colour_chunks=(gamma,))
    wanted = "left out because TIFF does not hold it: text entries, colour chunks"
    assert write_image(tmp_path / "a.tif", picture) == (wanted,)
    plain = Picture(noise((4, 5, 3)), colour_chunks=((b"sRGB", b"\0"), gamma))
    assert write_image(tmp_path / "a.tif", plain) == ()


def test_a_profile_for_other_pixels_is_left_out_and_reported(tmp_path: Path) -> None:
    notes = write_image(tmp_path / "a.png", Picture(noise((4, 5)), icc=SRGB))
    assert notes == ("the colour profile was left out: it is for RGB pixels, not for those written",)
    assert read_image(tmp_path / "a.png").icc is None


def test_exif_too_large_for_jpeg_is_left_out_and_reported(tmp_path: Path) -> None:
    notes = write_image(tmp_path / "a.jpg", Picture(noise((4, 5)), exif=b"II*\0" + bytes(70000)))
    assert notes == ("EXIF of 70004 bytes was left out: JPEG holds at most 65000",)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_damaged_exif_does_not_stop_the_picture(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", 1
    whole = np.frombuffer(exif.tobytes().removeprefix(b"Exif\0\0"), np.uint8)
    random = np.random.default_rng(2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(100):
            block = whole.copy()
            block[random.integers(4, len(block), 2)] = random.integers(0, 256, 2)
            notes = write_image(tmp_path / f"a{suffix}", Picture(noise((4, 5)), exif=block.tobytes()))
            assert set(notes) <= {"EXIF was left out: its values are damaged"}


def fails_to_write(path: Path, message: str, picture: Picture | None = None, **options: Any) -> None:
    with pytest.raises(ImageError, match=re.escape(message)):
        write_image(path, picture or Picture(noise((4, 5, 3))), **options)


def test_an_unsupported_suffix_is_reported_with_those_supported(tmp_path: Path) -> None:
    supported = "use one of .png, .jpg, .jpeg, .webp, .tif, .tiff, .bmp"
    fails_to_write(tmp_path / "a.gif", f"a.gif: cannot write pictures of type .gif; {supported}")
    fails_to_write(tmp_path / "a", f"a: cannot write pictures of type (no suffix); {supported}")


def test_a_missing_folder_is_reported(tmp_path: Path) -> None:
    fails_to_write(tmp_path / "b" / "a.png", f"the folder {tmp_path / 'b'} does not exist; create it first")


def test_a_folder_in_place_of_the_target_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    fails_to_write(tmp_path / "a.png", "a.png is a folder; expected the name of a picture file")


def test_a_read_only_target_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(b"old")
    monkeypatch.setattr(os, "access", lambda path, _: Path(path).is_dir())
    fails_to_write(tmp_path / "a.png", "a.png is read-only; change its permissions or choose another place")
    assert (tmp_path / "a.png").read_bytes() == b"old"


def test_a_read_only_folder_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    fails_to_write(tmp_path / "a.png", f"a.png: no permission to write in {tmp_path}")


@pytest.mark.parametrize(("suffix", "side"), [(".webp", 16383), (".jpg", 65500)])
def test_a_side_beyond_the_format_is_reported(tmp_path: Path, suffix: str, side: int) -> None:
    wide = Picture(np.zeros((1, side + 1), np.uint8))
    fails_to_write(tmp_path / f"a{suffix}", f"{side + 1}×1 pixels;", wide)
    with pytest.raises(ImageError, match=f"holds at most {side} on a side: write PNG"):
        check_target(tmp_path / f"a{suffix}", (side + 1, 1))


@pytest.mark.parametrize("quality", [0, 101])
def test_quality_out_of_range_is_reported(tmp_path: Path, quality: int) -> None:
    with pytest.raises(OptionError, match=f"quality {quality}: expected 1 to 100"):
        write_image(tmp_path / "a.jpg", Picture(noise((4, 5))), quality=quality)


FAILURES = [
    (OSError(errno.ENOSPC, "No space left on device"), "the disk is full (0.0 MB were to be written)"),
    (OSError(errno.EDQUOT, "Disk quota exceeded"), "the disk is full"),
    (PermissionError(errno.EACCES, "Permission denied"), "no permission to write there"),
    (OSError(errno.EROFS, "Read-only file system"), "the file system is read-only"),
    (OSError(errno.EIO, "Input/output error"), "writing failed: Input/output error"),
]


@pytest.mark.parametrize(("error", "message"), FAILURES)
@pytest.mark.parametrize("step", ["fsync", "replace", "open"])
def test_a_failure_while_writing_leaves_the_older_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: OSError, message: str
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise error

    (tmp_path / "a.png").write_bytes(b"old")
    monkeypatch.setattr(os if step == "fsync" else Path, step, refuse)
    fails_to_write(tmp_path / "a.png", f"a.png: {message}")
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == b"old"


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_an_interrupted_write_leaves_the_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    (tmp_path / "a.png").write_bytes(b"old")
    monkeypatch.setattr(os if step == "fsync" else Path, step, interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_image(tmp_path / "a.png", Picture(noise((4, 5))))
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == b"old"


@pytest.mark.skipif(os.name != "posix", reason="file modes and links")
def test_an_older_file_keeps_its_mode_and_a_link_its_target(tmp_path: Path) -> None:
    (tmp_path / "real.png").write_bytes(b"old")
    (tmp_path / "real.png").chmod(0o640)
    (tmp_path / "link.png").symlink_to("real.png")
    write_image(tmp_path / "link.png", Picture(noise((4, 5))))
    assert (tmp_path / "link.png").is_symlink()
    assert read_image(tmp_path / "real.png").size == (4, 5)
    assert (tmp_path / "real.png").stat().st_mode & 0o777 == 0o640
