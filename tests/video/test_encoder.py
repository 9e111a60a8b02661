"""Equal frames and options give equal bytes, so that work may be split, repeated and resumed."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av", reason="needs PyAV")

from hiif_deploy.video.convert import Converter
from hiif_deploy.video.encoder import Encoder
from hiif_deploy.video.mux import decoding_times
from hiif_deploy.video.options import RULES, VideoOptions, choose_encoding, default_codec
from hiif_deploy.video.plan import segment_bounds
from hiif_deploy.video.probe import probe

Clip = Callable[[str], Path]


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libsvtav1", "ffv1"])
@pytest.mark.parametrize("size", [(64, 64), (96, 160)])
def test_encoding_twice_gives_the_same_bytes(clip: Clip, codec: str, size: tuple[int, int]) -> None:
    encoding, _ = choose_encoding(probe(clip("constant")), size, ".mkv", VideoOptions(codec=codec))
    noise = np.random.default_rng(0)
    base = noise.integers(0, 256, (*size, 3)).astype(np.uint8)
    frames = [np.roll(base // 4 * 3, 3 * number, axis=1) for number in range(5)]
    found = set()
    for count in range(4):
        # Memory that the encoder is given again should not be what it was.
        junk = [noise.bytes(50_000 + 1_000 * count) for _ in range(50)]
        del junk
        encoder, converter = Encoder(encoding), Converter()
        for number, frame in enumerate(frames):
            encoder.add(converter.from_rgb(frame, encoding), 40 * number)
        headers = encoder.finish()
        assert encoder.packets[0].is_key
        assert sorted(packet.time for packet in encoder.packets) == [0, 40, 80, 120, 160]
        found.add(headers + b"".join(packet.data for packet in encoder.packets))
    assert len(found) == 1


NARROW = """
import sys
from pathlib import Path
import numpy as np
from hiif_deploy.video.convert import Converter
from hiif_deploy.video.encoder import Encoder
from hiif_deploy.video.options import VideoOptions, choose_encoding
from hiif_deploy.video.probe import probe
clip, codec = probe(Path(sys.argv[1])), sys.argv[2]
for width in (16, 36, 48, 64):
    encoding, _ = choose_encoding(clip, (36, width), ".mkv", VideoOptions(codec=codec))
    encoder, converter = Encoder(encoding), Converter()
    for number in range(12):
        picture = np.random.default_rng(number).integers(0, 256, (36, width, 3), np.uint8)
        encoder.add(converter.from_rgb(picture, encoding), 40 * number)
    encoder.finish()
print("finished")
"""
"""Encodes narrow pictures of the codec that is named."""


@pytest.mark.parametrize("codec", ["libx264", "libx265", "ffv1"])
def test_narrow_pictures_are_encoded_within_the_encoders_memory(clip: Clip, codec: str) -> None:
    checker = ctypes.util.find_library("c_malloc_debug") or "libc_malloc_debug.so.0"
    try:
        ctypes.CDLL(checker)
    except OSError:
        pytest.skip(f"needs {checker}, which comes with glibc from 2.34 on")
    # glibc's checker ends a process that frees memory with bytes changed behind its end.
    environment = {**os.environ, "LD_PRELOAD": checker, "MALLOC_CHECK_": "3"}
    command = [sys.executable, "-c", NARROW, str(clip("constant")), codec]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout) == (0, "finished\n"), done.stderr[-2000:]


def test_decoding_times_ascend_and_come_before_showing() -> None:
    shown = [0, 57, 40, 131, 340, 200, 132, 333, 400]
    times = decoding_times(shown)
    assert times == sorted(set(times))
    assert all(one <= other for one, other in zip(times, shown, strict=True))
    # Two frames late: by the first two frames' own distance, then in their own times.
    assert times == [-57, -17, 0, 40, 57, 131, 132, 200, 333]
    assert decoding_times([5, 6, 7]) == [5, 6, 7]
    assert decoding_times([]) == []


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ((0,), [(0, 10), (10, 20), (20, 25)]),
        ((0, 8, 16, 24), [(0, 8), (8, 16), (16, 25)]),
        ((0, 3, 12), [(0, 10), (10, 20), (20, 25)]),
        (tuple(range(25)), [(0, 10), (10, 20), (20, 25)]),
    ],
)
def test_segments_begin_at_key_frames_where_one_is_near(keys: tuple[int, ...], expected: list[tuple[int, int]]) -> None:
    assert list(segment_bounds(keys, 0, 25, 10)) == expected


def test_defaults_by_container_and_depth() -> None:
    assert [default_codec(suffix, bits) for suffix, bits in ((".mkv", 8), (".mp4", 10), (".webm", 8))] == [
        "libx264", "libx265", "libsvtav1",
    ]  # fmt: skip
    assert set(RULES) >= {"libx264", "libx265", "libsvtav1", "hevc_nvenc", "h264_qsv"}


def test_the_command_line_does_it_all(clip: Clip, tmp_path: Path) -> None:
    output = tmp_path / "large.mkv"
    command = [sys.executable, "-m", "hiif_deploy.cli", "upscale", str(clip("constant")), "-o", str(output)]
    common = ["--bundle", "hiif-video", "--size", "64x48", "--frames", "2:6"]
    planned = subprocess.run([*command, *common, "--dry-run"], capture_output=True, text=True, check=True)
    assert "4 frames in 1 segments, libx264, yuv420p" in planned.stdout
    assert not output.exists()
    made = subprocess.run([*command, *common, "--json-progress", "--json"], capture_output=True, text=True, check=True)
    assert '"frames": 4' in made.stdout
    assert '"done": 4, "total": 4' in made.stderr
    again = subprocess.run([*command, *common], capture_output=True, text=True, check=True)
    assert "skipped" in again.stderr
    wrong = subprocess.run([*command, *common, "--overwrite", "--codec", "no"], capture_output=True, text=True)
    assert wrong.returncode == 2
    assert "--codec no: FFmpeg has no such encoder" in wrong.stderr
    assert "Traceback" not in wrong.stderr
