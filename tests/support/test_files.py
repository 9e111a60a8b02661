"""Files that appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from hiif_deploy.support.files import atomic_directory, atomic_write, remove_temporary_files, temporary_files


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    path.chmod(0o640)
    with atomic_write(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def write_half() -> None:
        with atomic_write(path) as file:
            file.write(b"ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    kept = {".hidden", "a.pt", ".a.pt.0123.tmp", ".0123abcd.tmp", ".a.pt.0123abcd.tmp.txt", "b.pt.0123abcd.tmp"}
    for name in {*kept, ".a.pt.0123abcd.tmp", ".a b\n.0123abcd.tmp"}:
        (tmp_path / name).touch()
    remove_temporary_files(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_temporary_files_of_one_stem_are_removed(tmp_path: Path) -> None:
    for name in (".a.pt.0123abcd.tmp", ".a.json.4567abcd.tmp", ".b.pt.0123abcd.tmp"):
        (tmp_path / name).touch()
    remove_temporary_files(tmp_path, "a")
    assert temporary_files(tmp_path) == {tmp_path / ".b.pt.0123abcd.tmp": "b"}


@pytest.mark.parametrize("name", ["x" * 255, "名" * 85, "x" * 240 + ".png"])
def test_a_name_of_the_greatest_length_can_be_written(tmp_path: Path, name: str) -> None:
    with atomic_write(tmp_path / name) as file:
        (temporary,) = temporary_files(tmp_path)
        file.write(b"new")
    assert not temporary.exists()
    assert (tmp_path / name).read_bytes() == b"new"


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    for text in ("old", "new"):
        with atomic_directory(folder) as temporary:
            (temporary / text).touch()
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [folder]


def test_a_failure_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()

    def write_half() -> None:
        with atomic_directory(tmp_path / "a") as temporary:
            (temporary / "new").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert list(tmp_path.rglob("*")) == [tmp_path / "a"]
