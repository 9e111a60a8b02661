"""Every upscaled frame is looked at; statistics may be reused within a scene."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("av", reason="needs PyAV")

import av

from attention_model import ATTENTION_MODEL
from clips import Video, picture
from hiif_deploy.backends.host import HostBackend
from hiif_deploy.backends.options import EngineOptions
from hiif_deploy.bundle.loader import open_bundle
from hiif_deploy.decoding.executor import DecodedBlock
from hiif_deploy.decoding.output_check import ColourRange
from hiif_deploy.errors import EngineError
from hiif_deploy.upscaler import Upscaler
from hiif_deploy.video.run import VideoResult

Clip = Callable[[str], Path]
Upscale = Callable[..., tuple[Path, VideoResult]]


class Faulty(HostBackend):
    """The real engine, whose answers to some frames are spoiled."""

    def __init__(self, value: float, frames: set[int], precision: str) -> None:
        super().__init__(open_bundle("hiif-video"), EngineOptions(engine="onnxruntime", threads=1))
        self.precision = precision  # type: ignore[assignment]
        self.value, self.numbers, self.count = value, frames, -1
        self.sound_block = self._converter.block
        self._converter.block = self.block  # type: ignore[method-assign]

    def frames(self, *arguments: Any) -> Iterator[Any]:
        """The next frame."""
        self.count += 1
        return super().frames(*arguments)

    def block(self, *arguments: Any) -> DecodedBlock:
        """Values of a block, those of some frames black, from colours that all were `value`."""
        block = self.sound_block(*arguments)
        if self.count not in self.numbers:
            return block
        return DecodedBlock(block.window, block.values * 0, ColourRange.of(np.array([self.value])))


def frames_of(path: Path) -> list[Any]:
    """Of the video stream, as 8-bit RGB."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0])
def test_a_frame_that_half_precision_spoils_is_made_again_in_fp32(
    clip: Clip, upscale: Upscale, tmp_path: Path, value: float
) -> None:
    sound, _ = upscale(clip("constant"))
    sound = sound.rename(tmp_path / "sound.mkv")
    with Upscaler(
        "hiif-video", backend=Faulty(value, {7}, "fp16"), engine=EngineOptions(engine="onnxruntime", threads=1)
    ) as upscaler:
        output, result = upscale(clip("constant"), upscaler=upscaler)
    assert result.fallback_blocks == 1
    assert output.read_bytes() == sound.read_bytes()


def test_a_frame_that_fp32_spoils_is_an_error(clip: Clip, upscale: Upscale) -> None:
    with (
        Upscaler("hiif-video", backend=Faulty(np.nan, {3}, "fp32")) as upscaler,
        pytest.raises(EngineError, match=r"frame 3: the engine gave no numbers \(NaN or infinite\) in fp32"),
    ):
        upscale(clip("constant"), upscaler=upscaler)


def test_or_it_is_repeated_and_reported(clip: Clip, upscale: Upscale) -> None:
    with Upscaler("hiif-video", backend=Faulty(np.nan, {3}, "fp32")) as upscaler:
        output, result = upscale(clip("constant"), upscaler=upscaler, on_error="repeat", codec="ffv1")
    assert (result.frames, result.damaged) == (12, (3,))
    frames = frames_of(output)
    assert np.array_equal(frames[2], frames[3])


def test_a_damaged_frame_is_listed_once_though_its_neighbour_is_spoiled(clip: Clip, upscale: Upscale) -> None:
    """Frames 5 and 6 cannot be decoded and show frame 4, which never becomes a picture."""
    with Upscaler("hiif-video", backend=Faulty(np.nan, {1, 2, 3}, "fp32")) as upscaler:
        _, result = upscale(clip("damaged"), upscaler=upscaler, frames=(3, 9), on_error="repeat")
    assert (result.frames, result.damaged) == (6, (4, 5, 6))


def two_scenes(path: Path) -> Path:
    """Six frames of one scene, six of its negative; lossless."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = *Video().size, "yuv444p"
        for number in range(12):
            values = picture(number, Video().size)
            frame = av.VideoFrame.from_ndarray(values if number < 6 else 65535 - values, format="rgb48le")
            container.mux(stream.encode(frame.reformat(format="yuv444p")))
        container.mux(stream.encode(None))
    return path


def test_reused_statistics_are_renewed_at_a_cut_and_their_deviation_is_measured(
    upscale: Upscale, tmp_path: Path
) -> None:
    source = two_scenes(tmp_path / "scenes.mkv")
    with Upscaler(ATTENTION_MODEL, engine=EngineOptions(engine="onnxruntime", threads=1)) as upscaler:
        output, exact = upscale(source, upscaler=upscaler, codec="ffv1")
        own = frames_of(output)
        output, result = upscale(source, upscaler=upscaler, codec="ffv1", statistics="reuse")
        reused = frames_of(output)
    assert exact.deviation_db is None
    assert result.deviation_db is not None
    # Segments begin at 0, 5 and 10, and the cut is at 6: there statistics are the frame's own.
    same = [number for number in range(12) if np.array_equal(own[number], reused[number])]
    assert {0, 5, 6, 10} <= set(same)
    worst = min(psnr(one, other) for one, other in zip(own, reused, strict=True))
    assert worst > 35
    # Measured on some frames only, and before encoding.
    assert result.deviation_db >= worst - 1


def psnr(one: Any, other: Any) -> float:
    """In dB of white, 100 for equal pictures."""
    error = float(((one / 255.0 - other / 255.0) ** 2).mean())
    return 100.0 if error == 0 else float(-10 * np.log10(error))
