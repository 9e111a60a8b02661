"""Training pictures: which are found, which are refused, which are kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from hiif_deploy.errors import ImageError
from hiif_training.pictures.store import PictureStore, check_sizes, find_pictures


def test_pictures_are_found_in_sub_folders_in_a_fixed_order(tmp_path: Path) -> None:
    for name in ("b/2.JPG", "b/1.png", "a.webp", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in find_pictures((str(tmp_path),))]
    assert found == ["a.webp", "b/1.png", "b/2.JPG"]


def test_no_folder_at_all_is_refused() -> None:
    with pytest.raises(ImageError, match="no training pictures: name at least one folder with --data"):
        find_pictures(())


@pytest.mark.parametrize("name", ["empty", "missing"])
def test_a_folder_without_pictures_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.png").touch()
    with pytest.raises(ImageError, match=rf"{name}: no pictures found; expected files ending in \.bmp, "):
        find_pictures((str(tmp_path / "full"), str(tmp_path / name)))


def test_of_div2k_only_the_training_pictures_are_taken(tmp_path: Path) -> None:
    for name in ("DIV2K_train_HR/0001.png", "DIV2K_valid_HR/0801.png", "DIV2K_train_LR_bicubic/X2/0001x2.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    assert [path.name for path in find_pictures((str(tmp_path),))] == ["0001.png"]


def test_grey_and_transparent_pictures_become_rgb(tmp_path: Path) -> None:
    Image.new("L", (9, 9), 100).save(tmp_path / "grey.png")
    Image.new("RGBA", (9, 9), (1, 2, 3, 128)).save(tmp_path / "clear.png")
    store = PictureStore(find_pictures((str(tmp_path),)), 1000)
    found = [store.get(0), store.get(1)]
    assert [picture.getpixel((3, 3)) for picture in found if picture] == [(1, 2, 3), (100, 100, 100)]


@pytest.mark.parametrize("content", [b"", b"not a picture", "half"])
def test_a_damaged_picture_is_none(tmp_path: Path, content: bytes | str) -> None:
    path = tmp_path / "a.png"
    Image.effect_noise((40, 40), 90).save(path)
    path.write_bytes(content if isinstance(content, bytes) else path.read_bytes()[:600])
    assert PictureStore([path], 1000).get(0) is None


def test_decoded_pictures_are_kept_until_the_budget_is_full(tmp_path: Path) -> None:
    for n in range(3):
        Image.new("RGB", (10, 10)).save(tmp_path / f"{n}.png")
    store = PictureStore(find_pictures((str(tmp_path),)), budget=2 * 400)
    first = [store.get(n) for n in range(3)]
    again = [store.get(n) for n in range(3)]
    assert [a is b for a, b in zip(first, again, strict=True)] == [True, True, False]


def test_pictures_smaller_than_a_crop_are_all_named(tmp_path: Path) -> None:
    for name, size in (("narrow", (30, 7)), ("flat", (7, 30)), ("fits", (8, 8))):
        Image.new("RGB", size).save(tmp_path / f"{name}.png")
    paths = find_pictures((str(tmp_path),))
    message = r"2 pictures are smaller than a 8-pixel crop: .*flat\.png \(7x30\), .*narrow\.png \(30x7\); remove them"
    with pytest.raises(ImageError, match=message):
        check_sizes(paths, 8)
    assert check_sizes(paths, 7) == 30 * 7 * 2 + 64


def test_a_file_that_is_no_picture_does_not_stop_the_check(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"not a picture")
    assert check_sizes([tmp_path / "a.png"], 8) == 0
