"""Which inputs become which outputs, and pictures that are larger already."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hiif_deploy import OptionError, Upscaler
from hiif_deploy.cli import main
from hiif_deploy.geometry.target import Target
from hiif_deploy.images.io import STREAM, read_image
from hiif_deploy.pictures.batch import WriteOptions, exit_code, plan_batch, run_batch
from hiif_deploy.pictures.items import Item, left_out, list_items, usual_larger

MODEL = "hiif-video"


@pytest.fixture(scope="module")
def upscaler() -> Any:
    with Upscaler(MODEL) as opened:
        yield opened


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return picture(tmp_path / "photo.jpg", (12, 8))


def picture(path: Path, size: tuple[int, int]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(2).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize(
    ("inputs", "output", "message"),
    [
        (["photo.jpg", "other.jpg"], "out.png", "names one file, and there are 2 inputs: name a folder"),
        (["photo.jpg", "other.jpg"], "-", "names one file, and there are 2 inputs"),
        (["folder"], "out.png", "names one file, and .*folder is a folder"),
        (["photo.jpg"], "out.xyz", "out.xyz: cannot write pictures of type .xyz; use one of .png"),
        (["photo.jpg"], "photo.jpg/x.png", "photo.jpg is a file, not a folder"),
        (["photo.jpg"], "photo.jpg/deep/er/x.png", "photo.jpg is a file, not a folder"),
        (["photo.jpg"], "notes", "is a file, and not a picture of a known kind"),
    ],
)
def test_an_output_that_cannot_be_what_it_is_named_is_refused(
    inputs: list[str], output: str, message: str, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(photo.with_name("other.jpg"), (5, 5))
    picture(photo.parent / "folder" / "a.png", (5, 5))
    (photo.parent / "notes").write_text("mine")
    monkeypatch.chdir(photo.parent)
    before = sorted(photo.parent.rglob("*"))
    with pytest.raises(OptionError, match=message):
        list_items([Path(name) for name in inputs], Path(output), "x2")
    assert sorted(photo.parent.rglob("*")) == before


def test_a_folder_may_be_named_like_a_picture_where_it_exists(photo: Path, tmp_path: Path) -> None:
    (tmp_path / "out.png").mkdir()
    (item,) = list_items([photo], tmp_path / "out.png", "x2")
    assert item.target == tmp_path / "out.png" / "photo.jpg"


def test_a_folder_of_folders_goes_to_a_new_folder_of_any_name(tmp_path: Path) -> None:
    picture(tmp_path / "in" / "deep" / "a.png", (5, 5))
    (item,) = list_items([tmp_path / "in"], tmp_path / "large.v2", "x2")
    assert item.target == tmp_path / "large.v2" / "deep" / "a.png"


@pytest.mark.parametrize(
    ("output", "suffix", "message"),
    [
        (None, "xyz", "--format xyz: cannot be written; use one of png"),
        ("out.png", "webp", "--format webp and out.png name two formats"),
        ("-", "xyz", "--format xyz: cannot be written"),
    ],
)
def test_a_format_that_cannot_be_meant_is_refused_before_the_work(
    output: str | None, suffix: str, message: str, photo: Path
) -> None:
    with pytest.raises(OptionError, match=message):
        list_items([photo], None if output is None else Path(output), "x2", suffix)


def test_two_suffixes_of_one_format_agree(photo: Path) -> None:
    (item,) = list_items([photo], Path("out.jpeg"), "x2", "jpg")
    assert item.target == Path("out.jpeg")


def test_a_gif_may_lie_beside_a_png_of_its_name(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", (5, 5))
    Image.new("RGB", (6, 5)).save(tmp_path / "a.gif")
    assert {item.target.name for item in list_items([tmp_path], None, "x2")} == {"a_x2.png", "a.gif_x2.png"}


def test_what_pillow_cannot_read_is_left_out_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hiif_deploy.images.io.find_spec", lambda _: None)
    picture(tmp_path / "a.png", (5, 5))
    (tmp_path / "b.heic").write_bytes(b"photo")
    assert [item.source.name for item in list_items([tmp_path], None, "x2")] == ["a.png"]
    assert left_out([tmp_path]) == {".heic": 1}


def test_a_size_that_the_streams_format_cannot_hold_is_refused_before_the_work(photo: Path, upscaler: Upscaler) -> None:
    items = [Item(photo, STREAM, ".webp")]
    (outcome,) = run_batch(upscaler, items, Target(width=20000), WriteOptions(), show_progress=False)
    assert outcome.error == "standard output: 20000×13333 pixels; WebP holds at most 16383 on a side: write PNG"


def test_a_picture_that_fails_in_an_unexpected_way_has_a_traceback_for_debug(
    photo: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("surprise")

    monkeypatch.setattr("hiif_deploy.pictures.batch.read_image", fail)
    with caplog.at_level("DEBUG", "hiif_deploy"):
        (outcome,) = run_batch(None, [Item(photo, tmp_path / "o.png")], Target(scale=2.0), WriteOptions())  # type: ignore[arg-type]
    assert (outcome.status, outcome.exit_code) == ("failed", 1)
    assert "RuntimeError: surprise" in caplog.text


@pytest.mark.parametrize("kind", ["gif", "avif"])
def test_a_format_that_is_only_read_is_written_as_png(kind: str, tmp_path: Path) -> None:
    source = tmp_path / f"small.{kind}"
    Image.new("RGB", (6, 5), (200, 10, 30)).save(source)
    (item,) = list_items([source], None, "x2")
    assert item.target.suffix == ".png"
    found = read_image(source).pixels
    assert np.abs(found.astype(int) - (200, 10, 30)).max() <= 16  # palette and chroma of a lossy format


def test_the_first_frame_of_a_gif_is_read_and_the_others_reported(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (6, 5), colour) for colour in ("red", "blue", "lime")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    found = read_image(tmp_path / "a.gif")
    assert found.notes == ("the first of 3 frames; the others are left out",)
    np.testing.assert_array_equal(found.pixels[0, 0], (255, 0, 0))


def test_heic_is_read_or_the_package_that_reads_it_is_named(tmp_path: Path) -> None:
    try:
        from pillow_heif import from_pillow
    except ImportError:
        (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
        with pytest.raises(Exception, match="pip install pillow-heif"):
            read_image(tmp_path / "a.heic")
        return
    from_pillow(Image.new("RGB", (64, 64), "red")).save(tmp_path / "a.heic")
    assert read_image(tmp_path / "a.heic").size == (64, 64)


def test_videos_in_a_folder_are_reported_as_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture(tmp_path / "in" / "a.png", (5, 5))
    for name in ("b.mp4", "c.mp4", "d.mkv"):
        (tmp_path / "in" / name).write_bytes(b"film")
    words = ["upscale", tmp_path / "in", "-o", tmp_path / "out", "-b", MODEL, "--scale", "2", "--dry-run"]
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    assert not stop.value.code
    assert "left out of the folders, being videos or unreadable: 1 .mkv, 2 .mp4" in capsys.readouterr().err


def test_a_folder_of_videos_alone_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.mov").write_bytes(b"film")
    with pytest.raises(Exception, match=r"no pictures in this folder.*name what it holds \(1 .mov\) one by one"):
        list_items([tmp_path], None, "x2")


def test_what_is_larger_already_is_skipped_copied_or_refused(upscaler: Upscaler, tmp_path: Path) -> None:
    small, large = picture(tmp_path / "small.png", (8, 6)), picture(tmp_path / "large.png", (40, 30))
    items = [Item(path, tmp_path / "out" / path.name) for path in (small, large)]
    target = Target(max_side=16)
    statuses = {}
    for larger in ("skip", "copy", "error"):
        options = WriteOptions(larger=larger, overwrite=True)
        statuses[larger] = list(run_batch(upscaler, items, target, options, show_progress=False))
    assert [[o.status for o in found] for found in statuses.values()] == [
        ["done", "skipped"], ["done", "copied"], ["done", "failed"],
    ]  # fmt: skip
    assert "40x30 is larger already; --larger copy" in statuses["skip"][1].notes[0]
    assert [exit_code(found) for found in statuses.values()] == [0, 0, 2]
    assert (tmp_path / "out" / "large.png").read_bytes() == large.read_bytes()
    converted = [Item(large, tmp_path / "out" / "large.bmp")]
    (outcome,) = run_batch(upscaler, converted, target, WriteOptions(larger="copy"), show_progress=False)
    assert outcome.notes[0] == "converted to another format, not upscaled"
    np.testing.assert_array_equal(read_image(tmp_path / "out" / "large.bmp").pixels, read_image(large).pixels)
    plans = list(plan_batch(upscaler, items, target, WriteOptions(larger="skip", overwrite=True)))
    assert [plan.status for plan in plans] == ["planned", "skipped"]


def test_one_named_picture_is_refused_and_among_many_it_is_skipped(tmp_path: Path) -> None:
    one, other = picture(tmp_path / "a.png", (5, 5)), picture(tmp_path / "b.png", (5, 5))
    assert usual_larger([one]) == "error"
    assert usual_larger([one, other]) == usual_larger([tmp_path]) == "skip"


def test_a_picture_goes_from_stdin_to_stdout(photo: Path, upscaler: Upscaler) -> None:
    words = ["upscale", "-", "-o", "-", "--format", "png", "-b", MODEL, "--scale", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "hiif_deploy.cli", *words], input=photo.read_bytes(), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with Image.open(io.BytesIO(done.stdout)) as made:
        assert (made.format, made.size) == ("PNG", (24, 16))
        np.testing.assert_array_equal(np.asarray(made), upscaler.upscale(read_image(photo).pixels, scale=2))


def test_a_report_and_a_picture_do_not_share_stdout(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["upscale", str(photo), "-o", "-", "-b", MODEL, "--scale", "2", "--json"])
    assert stop.value.code == 2
    assert "--json: for reports on stdout, where the picture goes" in capsys.readouterr().err


def test_stdin_that_is_empty_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hiif_deploy.cli", "upscale", "-", "-b", MODEL, "--scale", "2"],
        input=b"", capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert b"standard input is empty" in done.stderr
    assert done.stdout == b""


def test_a_stream_is_never_taken_for_a_file_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-").write_text("mine")
    (item,) = list_items([STREAM], None, "x2")
    assert (item.source, item.target, item.suffix) == (STREAM, STREAM, ".png")


def test_json_counts_what_was_copied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    large = picture(tmp_path / "large.png", (40, 30))
    words = ["upscale", large, "-o", tmp_path / "o.png", "-b", MODEL, "--max-side", "16", "--larger", "copy", "--json"]
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    assert not stop.value.code
    assert json.loads(capsys.readouterr().out)["copied"] == 1
