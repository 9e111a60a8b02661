"""What Python hands over: paths, Pillow's pictures, numbers of any type, and an upscaler that was closed or forked."""

from __future__ import annotations

import os
import pydoc
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hiif_deploy import (
    EngineError,
    EngineOptions,
    FrameError,
    ImageError,
    OptionError,
    RenderOptions,
    ScaleError,
    Upscaler,
)
from hiif_deploy.backends.sessions.openvino import require_instructions
from hiif_deploy.images.samples import sample
from hiif_deploy.images.source import as_frame

Work = Callable[[Upscaler], object]


@pytest.fixture(scope="module")
def upscaler() -> Iterator[Upscaler]:
    with Upscaler("hiif-video", engine=EngineOptions(threads=1)) as opened:
        yield opened


@pytest.fixture
def frame() -> Any:
    return sample("chelsea")[:9, :8].copy()


def test_a_path_and_a_pillow_picture_are_taken_as_arrays_are(upscaler: Upscaler, frame: Any, tmp_path: Path) -> None:
    expected = upscaler.upscale(frame, scale=2)
    path = tmp_path / "a.png"
    Image.fromarray(frame).save(path)
    for source in (path, str(path), Image.fromarray(frame)):
        np.testing.assert_array_equal(upscaler.upscale(source, scale=2), expected)
        np.testing.assert_array_equal(upscaler.render(upscaler.encode(source), scale=2), expected)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "I;16", "RGBX"])
def test_every_opaque_kind_of_pillow_picture_is_taken(upscaler: Upscaler, frame: Any, mode: str) -> None:
    image = Image.fromarray(frame)
    image = Image.fromarray(frame[..., 0].astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
    made = upscaler.upscale(image, scale=2)
    assert made.shape == ((18, 16) if mode in ("1", "L", "I;16") else (18, 16, 3))
    assert made.dtype == (np.uint16 if mode == "I;16" else np.uint8)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_is_not_dropped_silently(upscaler: Upscaler, frame: Any, mode: str, tmp_path: Path) -> None:
    image = Image.fromarray(frame).convert("RGBA" if mode != "LA" else "LA")
    with pytest.raises(FrameError, match="transparency, which an array of colours cannot hold"):
        upscaler.upscale(image.convert(mode), scale=2)
    image.save(tmp_path / "a.png")
    with pytest.raises(FrameError, match=r"a\.png: has transparency"):
        upscaler.upscale(tmp_path / "a.png", scale=2)


def test_pillow_pictures_of_16_bits_keep_them_in_any_byte_order() -> None:
    deep = np.array([[0, 1, 257], [256, 40_000, 65_535]], np.uint16)
    big = Image.frombytes("I;16B", (3, 2), deep.astype(">u2").tobytes())
    for image in (Image.fromarray(deep), big):
        found = as_frame(image)
        assert found.dtype == np.uint16
        assert found.dtype.isnative
        np.testing.assert_array_equal(found, deep)


@pytest.mark.parametrize("mode", ["I", "F", "LAB"])
def test_a_pillow_picture_of_no_known_range_is_refused_by_its_mode(mode: str) -> None:
    with pytest.raises(FrameError, match=f"mode '{mode}' are of no known range; expected 8 or 16 bits"):
        as_frame(Image.new(mode, (3, 2)))


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_truncated_pillow_picture_is_an_image_error(frame: Any, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.tile(frame, (9, 9, 1))).save(path)
    path.write_bytes(path.read_bytes()[:-200])
    with Image.open(path) as image, pytest.raises(ImageError, match="this RGB picture of Pillow cannot be read"):
        as_frame(image)


@pytest.mark.parametrize("orientation", range(1, 10))
def test_the_orientation_of_exif_is_applied_to_paths_and_pillow_pictures_alike(
    frame: Any, orientation: int, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    for suffix in ("png", "tif"):
        path = tmp_path / f"a.{suffix}"
        Image.fromarray(frame).save(path, exif=exif)
        with Image.open(path) as image:
            np.testing.assert_array_equal(as_frame(image), as_frame(path))
    assert as_frame(path).shape == ((9, 8, 3) if orientation not in (5, 6, 7, 8) else (8, 9, 3))


def test_a_missing_file_and_what_is_no_picture_are_errors_of_ours(upscaler: Upscaler, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="does not exist"):
        upscaler.upscale(tmp_path / "absent.png", scale=2)
    with pytest.raises(FrameError, match="frame is a list"):
        upscaler.upscale([[1]], scale=2)  # type: ignore[arg-type]


NAN = float("nan")
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"scale": "2"}, "scale '2': expected a number"),
    ({"scale": True}, "scale True: expected a number"),
    ({"scale": (2, 2, 2)}, r"scale \(2, 2, 2\): expected a number, or two"),
    ({"scale": NAN}, "scale nan: expected a finite number"),
    ({"scale": -2}, "scale -2: expected a finite number"),
    ({"scale": 1e308}, r"scale 1e\+308: expected a finite number"),
    ({"scale": 10**400}, "scale 1000.*…: expected a finite number"),
    ({"size": 18}, "size 18: expected 2 whole numbers"),
    ({"size": "18x16"}, "size '18x16': expected 2 whole numbers"),
    ({"size": (18, 16, 3)}, "expected 2 whole numbers"),
    ({"size": (18, "16")}, "expected 2 whole numbers"),
    ({"size": (18, NAN)}, "expected 2 whole numbers"),
    ({"size": (18, 10**5000)}, "expected 2 whole numbers"),
    ({"size": (-18, 16)}, "both sizes must be at least 1"),
    ({"scale": 2, "region": (0, 0, 3)}, "expected 4 whole numbers"),
    ({"scale": 2, "region": (0, 0, 3, 3.5)}, "expected 4 whole numbers"),
    ({"scale": 2, "region": (0, 0, 3, NAN)}, "expected 4 whole numbers"),
    ({"scale": 2, "region": (-1, 0, 3, 3)}, "does not lie inside the output"),
    ({"scale": 2, "region": 7}, "expected 4 whole numbers"),
]


@pytest.mark.parametrize(("values", "message"), WRONG, ids=map(str, range(len(WRONG))))
def test_a_wrong_scale_size_or_region_is_a_scale_error(
    upscaler: Upscaler, frame: Any, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ScaleError, match=message) as caught:
        upscaler.upscale(frame, **values)
    assert len(str(caught.value)) < 300


def test_numbers_of_numpy_are_numbers(upscaler: Upscaler, frame: Any) -> None:
    expected = upscaler.upscale(frame, scale=2)
    for values in ({"scale": np.float32(2)}, {"scale": [2, 2.0]}, {"size": [np.int64(18), 16.0]}):
        np.testing.assert_array_equal(upscaler.upscale(frame, **values), expected)  # type: ignore[arg-type]


def test_whole_numbers_with_a_point_are_pixels_of_a_region_and_a_plan(upscaler: Upscaler, frame: Any) -> None:
    whole = upscaler.upscale(frame, scale=2)
    region: Any = (2.0, np.float64(1), 8, np.int16(4))
    np.testing.assert_array_equal(upscaler.upscale(frame, scale=2, region=region), whole[2:10, 1:5])
    assert upscaler.plan((9.0, 8)) == upscaler.plan((9, 8))  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(16.0, "a"), (16, 8.5), 16, (0, 4)])
def test_a_plan_of_no_size_is_a_scale_error(upscaler: Upscaler, size: Any) -> None:
    with pytest.raises(ScaleError, match="size"):
        upscaler.plan(size)


@pytest.mark.parametrize("name", ["memory", "query_block", "tile_rows", "max_output_pixels", "group_rows", "samples"])
@pytest.mark.parametrize("value", ["1", NAN, -1, 1.5, True])
def test_a_wrong_number_among_the_options_is_an_option_error(name: str, value: Any) -> None:
    with pytest.raises(OptionError, match=f"{name.replace('_', ' ')} is {value!r}: expected a whole number"):
        RenderOptions(**{name: value})


@pytest.mark.parametrize(
    "work",
    [
        lambda: EngineOptions(threads=1.5),  # type: ignore[arg-type]
        lambda: EngineOptions(threads="2"),  # type: ignore[arg-type]
        lambda: Upscaler(engine=7),  # type: ignore[arg-type]
        lambda: Upscaler(engine="cuda"),  # type: ignore[arg-type]
        lambda: Upscaler(precision="int4"),  # type: ignore[arg-type]
        lambda: Upscaler(options=1 << 30),  # type: ignore[arg-type]
        lambda: Upscaler(precision="fp16", engine=EngineOptions()),
    ],
)
def test_wrong_engines_and_options_are_option_errors(work: Callable[[], object]) -> None:
    with pytest.raises(OptionError):
        work()


def test_a_precision_alone_takes_an_engine_that_has_it(frame: Any) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    try:
        require_instructions("int8")
    except EngineError as error:
        pytest.skip(str(error))
    with Upscaler(precision="int8") as upscaler:
        assert upscaler.precision == "int8"
        assert upscaler.upscale(frame, scale=2).shape == (18, 16, 3)


EVERYTHING: dict[str, Work] = {
    "upscale": lambda u: u.upscale(np.zeros((4, 4), np.uint8), scale=2),
    "encode": lambda u: u.encode(np.zeros((4, 4), np.uint8)),
    "render": lambda u: u.render(None, scale=2),  # type: ignore[arg-type]
    "render_unclamped": lambda u: u.render_unclamped(None, size=(8, 8)),  # type: ignore[arg-type]
    "statistics": lambda u: u.statistics(None, (8, 8)),  # type: ignore[arg-type]
    "plan": lambda u: u.plan((4, 4)),
    "steps": lambda u: u.steps((4, 4), (8, 8)),
    "description": lambda u: u.description,
    "fallback_blocks": lambda u: u.fallback_blocks,
    "memory_bytes": lambda u: u.memory_bytes,
}


def test_after_close_every_method_raises_one_clear_error() -> None:
    upscaler = Upscaler("hiif-video", engine=EngineOptions(engine="onnxruntime", threads=1))
    upscaler.close()
    upscaler.close()
    for name, work in EVERYTHING.items():
        with pytest.raises(EngineError, match="this upscaler of hiif-video is closed: open another one"):
            work(upscaler)
        assert hasattr(Upscaler, name)
    assert repr(upscaler) == "<Upscaler 'hiif-video': ONNX Runtime, cpu, fp32, 1 threads, closed>"


FORKED = """
import os, sys
import numpy as np
from hiif_deploy import EngineError, EngineOptions, Upscaler
upscaler = Upscaler("hiif-video", engine=EngineOptions(threads=1))
frame = np.full((4, 4, 3), 99, np.uint8)
upscaler.upscale(frame, scale=2)
child = os.fork()
if child == 0:
    try:
        upscaler.upscale(frame, scale=2)
    except EngineError as error:
        upscaler.close()
        os.write(1, str(error).encode())
    os._exit(0)
os.waitpid(child, 0)
assert upscaler.upscale(frame, scale=2).shape == (8, 8, 3)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_an_upscaler_in_a_forked_child_is_an_error_and_no_hang() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "do not live on in a forked child: open another one in the child" in done.stdout


def test_help_shows_no_function_of_ours_as_a_default() -> None:
    text = pydoc.plain(pydoc.render_doc(Upscaler))
    assert "upscale(self, frame" in text
    assert "<function" not in text
