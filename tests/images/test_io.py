"""Picture files of every kind are read and written with what they hold."""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, PngImagePlugin, TiffImagePlugin

from hiif_deploy.images.io import Picture, read_image, write_image
from hiif_deploy.images.metadata import PNG_SIGNATURE, png_chunk

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREY_PROFILE = SRGB[:16] + b"GRAY" + SRGB[20:]
XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="1"/></x:xmpmeta>'


def noise(shape: tuple[int, ...], dtype: Any = np.uint8) -> NDArray[Any]:
    return np.random.default_rng(5).integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


def smooth(channels: int | None) -> NDArray[np.uint8]:
    rows, columns = np.mgrid[:40, :56]
    planes = [rows * 6, columns * 4, (rows + columns) * 2][: channels or 1]
    return (np.dstack(planes) if channels else planes[0]).astype(np.uint8)


def exif_block(orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x010F], exif[0x0112], exif[0x0131] = "Maker", orientation, "Camera 1.0"
    exif.get_ifd(0x8769).update({0xA002: 56, 0xA003: 40, 0x927C: b"maker note bytes"})
    return exif.tobytes().removeprefix(b"Exif\0\0")


def png(samples: NDArray[Any], colour: int, depth: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of rows of bytes already packed."""
    width = samples.shape[1] * 8 // depth if samples.ndim == 2 and depth < 16 else samples.shape[1]
    header = struct.pack(">IIBBBBB", width, samples.shape[0], depth, colour, 0, 0, 0)
    rows = samples.astype(samples.dtype.newbyteorder(">"))
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", pixels), (b"IEND", b"")]
    return PNG_SIGNATURE + b"".join(png_chunk(*part) for part in parts)


def tiff(samples: NDArray[Any], **tags: int) -> bytes:
    """A little-endian TIFF in one uncompressed strip; tags by number, as t262=1."""
    height, width = samples.shape[:2]
    channels = samples.shape[2] if samples.ndim == 3 else 1
    ifd = TiffImagePlugin.ImageFileDirectory_v2(ifh=b"II*\0\0\0\0\0")
    layout = {
        256: width,
        257: height,
        258: (samples.itemsize * 8,) * channels,
        259: 1,
        277: channels,
        278: height,
    }
    layout |= {262: 2 if channels > 2 else 1, 284: 1}
    for tag, value in (layout | {int(name[1:]): value for name, value in tags.items()}).items():
        ifd[tag] = value
    ifd.tagtype[273] = ifd.tagtype[279] = 4
    ifd[273], ifd[279] = 0, samples.nbytes
    out = io.BytesIO()
    ifd.save(out)
    return out.getvalue() + samples.tobytes()


def read(tmp_path: Path, data: bytes) -> Picture:
    (tmp_path / "file").write_bytes(data)
    return read_image(tmp_path / "file")


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


# ---- round trips

LOSSLESS = [
    (suffix, dtype, channels, alpha)
    for suffix, dtype, channels, alpha in itertools.product(
        (".png", ".tif", ".tiff", ".bmp", ".webp"), ("uint8", "uint16"), (None, 3), (False, True)
    )
    if not (suffix in (".bmp", ".webp") and dtype == "uint16")
    and not (suffix == ".bmp" and alpha)
    and not (suffix == ".webp" and channels is None)
    and not (suffix.startswith(".tif") and dtype == "uint16" and channels is None and alpha)
]


@pytest.mark.parametrize(("suffix", "dtype", "channels", "alpha"), LOSSLESS)
def test_pixels_and_alpha_come_back_exactly(
    tmp_path: Path, suffix: str, dtype: str, channels: int | None, alpha: bool
) -> None:
    pixels = noise((37, 53, 3) if channels else (37, 53), dtype)
    picture = Picture(pixels, noise((37, 53), dtype)[::-1] if alpha else None)
    assert write_image(tmp_path / f"a{suffix}", picture, lossless=True) == ()
    back = read_image(tmp_path / f"a{suffix}")
    assert back.notes == ()
    assert back.pixels.dtype == dtype
    np.testing.assert_array_equal(back.pixels, pixels)
    np.testing.assert_array_equal(back.alpha, picture.alpha)


@pytest.mark.parametrize(("suffix", "dtype"), [(".webp", "uint8"), (".tif", "uint16")])
def test_grey_where_the_format_has_none_becomes_three_equal_channels(tmp_path: Path, suffix: str, dtype: str) -> None:
    pixels, alpha = smooth(None).astype(dtype), noise((40, 56), dtype)
    write_image(tmp_path / f"a{suffix}", Picture(pixels, alpha), lossless=True)
    back = read_image(tmp_path / f"a{suffix}")
    assert (back.pixels == pixels[..., None]).all()
    np.testing.assert_array_equal(back.alpha, alpha)


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".JPG", ".webp"])
@pytest.mark.parametrize("channels", [None, 3])
def test_lossy_formats_come_back_close(tmp_path: Path, suffix: str, channels: int | None) -> None:
    pixels = smooth(channels)
    assert write_image(tmp_path / f"a{suffix}", Picture(pixels)) == ()
    back = read_image(tmp_path / f"a{suffix}").pixels
    wanted = np.broadcast_to(pixels if back.ndim == pixels.ndim else pixels[..., None], back.shape)
    assert np.abs(back.astype(int) - wanted).mean() < 3


def test_a_higher_quality_gives_a_larger_file(tmp_path: Path) -> None:
    for suffix in (".jpg", ".webp"):
        for quality in (10, 95):
            write_image(tmp_path / f"{quality}{suffix}", Picture(noise((40, 50, 3))), quality=quality)
        assert (tmp_path / f"10{suffix}").stat().st_size < (tmp_path / f"95{suffix}").stat().st_size


def test_a_large_picture_spans_several_tiff_strips(tmp_path: Path) -> None:
    pixels = noise((700, 900, 3), np.uint16)
    write_image(tmp_path / "a.tif", Picture(pixels))
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").pixels, pixels)


def test_names_with_spaces_and_of_any_alphabet_work(tmp_path: Path) -> None:
    folder = tmp_path / "Фото 写真 é"
    folder.mkdir()
    for name, dtype in itertools.product(("мой кот.png", "ü 猫.tif"), ("uint8", "uint16")):
        pixels = noise((5, 6, 3), dtype)
        write_image(folder / name, Picture(pixels))
        np.testing.assert_array_equal(read_image(str(folder / name)).pixels, pixels)


def test_the_suffix_of_a_file_that_is_read_does_not_matter(tmp_path: Path) -> None:
    pixels = noise((5, 6, 3))
    write_image(tmp_path / "a.png", Picture(pixels))
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    np.testing.assert_array_equal(read_image(tmp_path / "a.jpg").pixels, pixels)


# ---- what other programs write


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    mask = noise((6, 16)) > 127
    for kind in ("PNG", "TIFF", "BMP"):
        picture = read(tmp_path, saved(Image.fromarray(mask), kind))
        np.testing.assert_array_equal(picture.pixels, mask * np.uint8(255))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_a_palette_becomes_rgb(tmp_path: Path, kind: str) -> None:
    image = Image.fromarray(noise((6, 8, 3))).quantize(7)
    picture = read(tmp_path, saved(image, kind))
    np.testing.assert_array_equal(picture.pixels, np.asarray(image.convert("RGB")))
    assert picture.alpha is None


@pytest.mark.parametrize("transparency", [2, bytes([0, 40, 200])])
def test_a_palette_with_transparency_becomes_rgb_and_alpha(tmp_path: Path, transparency: Any) -> None:
    image = Image.fromarray(noise((6, 8, 3))).quantize(7)
    data = saved(image, "PNG", transparency=transparency)
    wanted = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))
    picture = read(tmp_path, data)
    np.testing.assert_array_equal(picture.pixels, wanted[..., :3])
    np.testing.assert_array_equal(picture.alpha, wanted[..., 3])


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_grey_png_may_name_one_level_transparent(tmp_path: Path, depth: int) -> None:
    packed = noise((6, 8))
    levels = np.unpackbits(packed, axis=1).reshape(6, -1, depth) @ (1 << np.arange(depth)[::-1])
    key = int(levels[0, 0])
    picture = read(tmp_path, png(packed, 0, depth, (b"tRNS", struct.pack(">H", key))))
    np.testing.assert_array_equal(picture.pixels, levels * 255 // (2**depth - 1))
    np.testing.assert_array_equal(picture.alpha, np.where(levels == key, 0, 255))


@pytest.mark.parametrize("shape", [(6, 8), (6, 8, 3)])
def test_a_16_bit_png_may_name_one_colour_transparent(tmp_path: Path, shape: tuple[int, ...]) -> None:
    pixels = noise(shape, np.uint16)
    key = np.atleast_1d(pixels[2, 3]).astype(">u2").tobytes()
    picture = read(tmp_path, png(pixels, 2 if len(shape) == 3 else 0, 16, (b"tRNS", key)))
    np.testing.assert_array_equal(picture.pixels, pixels)
    assert picture.alpha is not None
    assert picture.alpha[2, 3] == 0
    assert (picture.alpha == 65535).sum() == 47


def test_cmyk_with_its_profile_becomes_srgb_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def convert(image: Image.Image, *_: Any, **__: Any) -> Image.Image:
        asked.append(image.mode)
        return Image.new("RGB", image.size, (1, 2, 3))

    monkeypatch.setattr(ImageCms, "profileToProfile", convert)
    picture = read(tmp_path, saved(Image.new("CMYK", (8, 6)), "JPEG", icc_profile=SRGB))
    assert asked == ["CMYK"]
    assert (picture.pixels == (1, 2, 3)).all()
    assert picture.icc is None
    assert picture.notes == ("CMYK pixels were converted to sRGB by the file's own profile",)


@pytest.mark.parametrize(("kind", "icc"), [("JPEG", None), ("TIFF", None), ("JPEG", SRGB)])
def test_cmyk_without_a_usable_profile_becomes_approximate_rgb_and_says_so(
    tmp_path: Path, kind: str, icc: bytes | None
) -> None:
    image = Image.new("CMYK", (8, 6), (255, 0, 0, 0))
    picture = read(tmp_path, saved(image, kind, icc_profile=icc))
    assert np.abs(picture.pixels.astype(int) - (0, 255, 255)).max() < 4
    assert picture.icc is None
    assert picture.notes == ("CMYK pixels became RGB without a usable profile: colours are approximate",)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_tiff_where_zero_is_white_is_inverted(tmp_path: Path, dtype: str) -> None:
    pixels = noise((6, 8), dtype)
    np.testing.assert_array_equal(read(tmp_path, tiff(pixels, t262=0)).pixels, np.iinfo(dtype).max - pixels)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_premultiplied_tiff_colours_are_divided_by_alpha(tmp_path: Path, dtype: str) -> None:
    top = np.iinfo(dtype).max
    samples = np.full((4, 5, 4), top // 2 // 3, dtype)
    samples[..., 3] = top // 2
    picture = read(tmp_path, tiff(samples, t338=1))
    assert np.abs(picture.pixels / top - 1 / 3).max() < 0.005
    np.testing.assert_array_equal(picture.alpha, np.full((4, 5), top // 2))


def test_a_fourth_tiff_channel_without_meaning_is_left_out_and_reported(tmp_path: Path) -> None:
    samples = noise((4, 5, 4), np.uint16)
    picture = read(tmp_path, tiff(samples, t338=0))
    np.testing.assert_array_equal(picture.pixels, samples[..., :3])
    assert picture.alpha is None
    assert picture.notes == ("a fourth channel of unstated meaning is left out",)


# ---- orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_is_applied_as_pillow_does_and_reset(tmp_path: Path, kind: str, orientation: int) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    data = saved(Image.fromarray(smooth(3)), kind, exif=b"Exif\0\0" + exif_block(orientation), **options)
    wanted = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    picture = read(tmp_path, data)
    np.testing.assert_array_equal(picture.pixels, wanted)
    write_image(tmp_path / "b.png", picture)
    with Image.open(tmp_path / "b.png") as image:
        assert image.getexif().get(0x0112, 1) == 1
    np.testing.assert_array_equal(read_image(tmp_path / "b.png").pixels, wanted)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_pictures_are_turned_alike(tmp_path: Path, kind: str, orientation: int) -> None:
    low = noise((40, 56, 4))
    deep = low.astype(np.uint16) * 257
    block = exif_block(orientation)
    data = png(deep, 6, 16, (b"eXIf", block)) if kind == "PNG" else tiff(deep, t274=orientation, t338=2)
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = Image.open(io.BytesIO(saved(Image.fromarray(low), "PNG", exif=exif)))
    wanted = np.asarray(ImageOps.exif_transpose(upright)).astype(np.uint16) * 257
    picture = read(tmp_path, data)
    assert picture.alpha is not None
    np.testing.assert_array_equal(np.dstack([picture.pixels, picture.alpha]), wanted)


@pytest.mark.parametrize("start", [b"II+\0", b"MM\0*"])
def test_big_tiffs_and_big_endian_ones_are_turned_too(tmp_path: Path, start: bytes) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    if start == b"II+\0":
        data = saved(Image.fromarray(smooth(3)), "TIFF", big_tiff=True, exif=exif)
    else:
        ifd = TiffImagePlugin.ImageFileDirectory_v2(ifh=b"MM\0*\0\0\0\0")
        layout = {256: 56, 257: 40, 258: (8,) * 3, 259: 1, 262: 2, 273: 0, 274: 6, 277: 3, 278: 40, 279: 6720}
        for tag, value in layout.items():
            ifd[tag] = value
        out = io.BytesIO()
        ifd.save(out)
        data = out.getvalue() + smooth(3).tobytes()
    assert data.startswith(start)
    np.testing.assert_array_equal(read(tmp_path, data).pixels, np.rot90(smooth(3), -1))


def test_orientation_in_xmp_counts_where_exif_has_none(tmp_path: Path) -> None:
    xmp = XMP.replace(b'"1"', b'"6"')
    picture = read(tmp_path, saved(Image.fromarray(smooth(3)), "JPEG", xmp=xmp))
    assert picture.size == (56, 40)
    assert picture.xmp == XMP


def test_turning_changes_nothing_else_in_exif_but_the_thumbnail_link(tmp_path: Path) -> None:
    data = saved(Image.fromarray(smooth(3)), "JPEG", exif=b"Exif\0\0" + exif_block(3), dpi=(100, 200))
    picture = read(tmp_path, data)
    assert picture.exif == exif_block(1)
    assert picture.dpi == (100, 200)


# ---- metadata


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".webp"])
def test_profile_exif_xmp_and_resolution_are_kept(tmp_path: Path, suffix: str, dtype: str) -> None:
    picture = Picture(
        smooth(3).astype(dtype),
        icc=SRGB,
        exif=exif_block(),
        xmp=XMP,
        dpi=None if suffix == ".webp" else (300, 150),
    )
    write_image(tmp_path / f"a{suffix}", picture)
    back = read_image(tmp_path / f"a{suffix}")
    assert back.icc == SRGB
    assert back.xmp == XMP
    assert back.dpi == (None if picture.dpi is None else pytest.approx(picture.dpi, rel=1e-4))
    tags = Image.Exif()
    tags.load(b"Exif\0\0" + (back.exif or b""))
    assert (tags[0x010F], tags[0x0131]) == ("Maker", "Camera 1.0")
    assert tags.get_ifd(0x8769)[0x927C] == b"maker note bytes"
    if suffix != ".tif":
        assert back.exif == exif_block()


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_pillow_finds_the_profile_and_the_size(tmp_path: Path, suffix: str, dtype: str) -> None:
    picture = Picture(noise((40, 56), dtype), icc=GREY_PROFILE, exif=exif_block())
    assert write_image(tmp_path / f"a{suffix}", picture) == ()
    with Image.open(tmp_path / f"a{suffix}") as image:
        image.load()
        assert (image.info["icc_profile"], image.size) == (GREY_PROFILE, (56, 40))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_the_size_that_exif_states_is_that_of_the_picture(tmp_path: Path, suffix: str) -> None:
    write_image(tmp_path / f"a{suffix}", Picture(smooth(3).repeat(2, axis=0), exif=exif_block()))
    with Image.open(tmp_path / f"a{suffix}") as image:
        stated = image.getexif().get_ifd(0x8769)
    assert (stated[0xA002], stated[0xA003]) == (56, 80)


def test_png_text_and_colour_chunks_are_kept(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Title", "Café")
    info.add_itxt("Comment", "写真")
    chunks = (b"gAMA", struct.pack(">I", 100000)), (b"cICP", bytes([9, 16, 0, 1]))
    data = saved(Image.new("RGB", (8, 6)), "PNG", pnginfo=info)
    data = data[:33] + b"".join(png_chunk(*chunk) for chunk in chunks) + data[33:]
    picture = read(tmp_path, data)
    for dtype in ("uint8", "uint16"):
        write_image(tmp_path / "b.png", Picture(noise((6, 8), dtype), text=picture.text, colour_chunks=chunks))
        back = read_image(tmp_path / "b.png")
        assert back.text == picture.text == (("Title", "Café"), ("Comment", "写真"))
        assert back.colour_chunks == picture.colour_chunks == chunks


def test_metadata_after_the_pixels_of_a_png_is_found(tmp_path: Path) -> None:
    data = png(noise((40, 56, 3), np.uint16), 2, 16)
    data = data[:-12] + png_chunk(b"eXIf", exif_block(6)) + data[-12:]
    picture = read(tmp_path, data)
    assert (picture.size, picture.exif) == ((56, 40), exif_block(1))
