"""Names of files neither steer the terminal nor break a report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hiif_deploy.errors import ImageError
from hiif_deploy.images.io import Picture, read_image, write_image
from hiif_deploy.images.samples import sample
from hiif_deploy.pictures.batch import Outcome, WriteOptions, _each, exit_code
from hiif_deploy.pictures.items import Item
from hiif_deploy.support.messages import json_text, printable

STEERING = "a\x1b]0;owned\x07\x1b[2J\u202eb\x9b.png"
SHOWN = r"a\x1b]0;owned\x07\x1b[2J\u202eb\x9b.png"


def test_control_characters_are_shown_as_escapes() -> None:
    assert printable(STEERING) == SHOWN
    assert printable("Grüße 写真　\n\tx") == "Grüße 写真　\n\tx"
    assert printable(os.fsdecode(b"gr\xfc\xdfe.png")) == r"gr\xfc\xdfe.png"


def test_json_with_a_name_that_is_no_utf8_is_read_back_as_the_same_name() -> None:
    name = os.fsdecode(b"gr\xfc\xdfe\x9b\x7f.png")
    text = json_text({"file": name, "other": "写真"})
    assert text.encode()
    assert "写真" in text
    assert os.fsencode(json.loads(text)["file"]) == b"gr\xfc\xdfe\x9b\x7f.png"


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux")
def test_a_picture_whose_name_is_no_utf8_is_reported(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path)
    write_image(tmp_path / "a.png", Picture(sample("chelsea")[:6, :6].copy()))
    os.rename(folder + b"/a.png", folder + b"/gr\xfc\xdfe.png")  # noqa: PTH104
    command = [sys.executable, "-m", "hiif_deploy.cli", "upscale", folder + b"/gr\xfc\xdfe.png", "--scale=2"]
    done = subprocess.run(
        [*command, "--bundle=hiif-video", "--json", "-o", str(tmp_path / "b.png")], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (file,) = json.loads(done.stdout)["files"]
    assert os.fsencode(file["source"]) == folder + b"/gr\xfc\xdfe.png"


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX files")
def test_what_is_no_regular_file_is_refused_unopened(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    for path, kind in ((pipe, "a pipe"), (Path("/dev/zero"), "a device"), (tmp_path, "a folder")):
        with pytest.raises(ImageError, match=f"^{path} is {kind}; expected a picture file"):
            read_image(path)
    (tmp_path / "link.png").symlink_to("/dev/zero")
    with pytest.raises(ImageError, match="a device"):
        read_image(tmp_path / "link.png")


@pytest.mark.parametrize("error", [MemoryError("Unable to allocate 9 TiB"), RuntimeError("odd"), KeyError("x")])
def test_one_picture_that_fails_in_any_way_does_not_take_the_others_with_it(tmp_path: Path, error: Exception) -> None:
    items = [Item(tmp_path / f"{n}.png", tmp_path / f"{n}_x2.png") for n in range(3)]

    def work(number: int, item: Item) -> Outcome:
        if number == 2:
            raise error
        return Outcome(str(item.source), str(item.target), "done")

    found: list[Any] = list(_each(items, WriteOptions(), work))
    assert [outcome.status for outcome in found] == ["done", "failed", "done"]
    assert exit_code(found) == 1
    assert str(items[1].source) in found[1].error
    assert ("out of memory" if isinstance(error, MemoryError) else type(error).__name__) in found[1].error
