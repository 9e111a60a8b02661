"""What a clip is and takes, known before any of it is upscaled."""

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from hiif_deploy.errors import VideoError
from hiif_deploy.geometry.sizes import Size
from hiif_deploy.pictures.pace import Pace, measure_pace, probe_size
from hiif_deploy.server.clips.order import ClipOrder
from hiif_deploy.server.jobs import across
from hiif_deploy.server.models import Model
from hiif_deploy.server.options import Limits
from hiif_deploy.server.studio import Studio
from hiif_deploy.server.web import RequestError
from hiif_deploy.video.command import planned_bytes
from hiif_deploy.video.plan import VideoPlan, plan_video
from hiif_deploy.video.probe import main_stream
from hiif_deploy.video.pyav import pyav

CONTAINERS = "matroska,mov,avi,mpegts,mpeg,asf,flv,mxf,ogg,yuv4mpegpipe,nut"
"""FFmpeg's formats that are read: files that hold their streams themselves. Playlists name other files and addresses,
which FFmpeg would open."""
PIXELS_PER_BYTE = 16
"""Of the output, at a bit rate that few clips need."""


@dataclass(frozen=True)
class ClipPlan:
    """What an order takes."""

    video: VideoPlan
    model: Model
    seconds: float
    """Estimated time."""
    memory: int
    """Bytes."""
    disk: int
    """Bytes beside the clip itself: segments, and the file that they are joined to."""

    def describe(self) -> dict[str, Any]:
        """Return it as clients see it."""
        source, target = self.video.clip.size, self.video.encoding.size
        sizes = {"source": across(source), "target": across(target), "frames": self.video.frames}
        needs = {"memory_mib": self.memory >> 20, "disk_mib": self.disk >> 20}
        run = {"model": self.model.name, "precision": self.model.upscaler.precision}
        return {**run, **sizes, **needs, "seconds_planned": round(self.seconds, 2)}


class Planner:
    """Plans orders within the limits of a server. Methods block; for one thread at a time."""

    def __init__(self, studio: Studio, limits: Limits) -> None:
        self._studio = studio
        self._limits = limits
        self._paces: dict[tuple[str, Size], Pace] = {}

    def check(self, source: Path) -> None:
        """Refuse an upload before it is decoded: VideoError where it is no clip, RequestError 413 beyond a limit."""
        av, limits = pyav(), self._limits
        options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
        try:
            with av.open(str(source), container_options=options, metadata_errors="replace") as container:
                stream = main_stream(container, source)
                width, height = stream.codec_context.width, stream.codec_context.height
                if width * height > limits.input_pixels:
                    raise RequestError(413, f"{width}x{height} pixels; this server reads {limits.input_pixels:,}")
                frames = sum(1 for _ in islice(container.demux(stream), limits.clip_frames + 2))
        except av.FFmpegError as error:
            raise VideoError(f"{source}: cannot be read as a video ({error.strerror})") from error
        # The demuxer ends with an empty packet.
        if frames > limits.clip_frames + 1:
            raise RequestError(413, f"it has more than {limits.clip_frames:,} frames, the limit of this server")

    def plan(self, source: Path, order: ClipOrder) -> ClipPlan:
        """Return what an order takes. RequestError 413 beyond a limit; else as `Models.open` and
        `plan_video`."""
        model, limits = self._studio.models.open(order.model, order.precision), self._limits
        video = plan_video(source, source.with_name(f"result{order.suffix}"), order.target, order.options)
        size, target = video.clip.size, video.encoding.size
        pixels, memory = target[0] * target[1], planned_bytes(model.upscaler, video)
        disk = 2 * max(source.stat().st_size, video.frames * pixels // PIXELS_PER_BYTE)
        if pixels > limits.output_pixels:
            raise RequestError(
                413, f"{target[1]}x{target[0]} pixels would come out; this server makes {limits.output_pixels:,}"
            )
        for name, needed, given in (("memory", memory, limits.job_bytes), ("disk", disk, limits.clips_bytes)):
            if needed > given:
                raise RequestError(
                    413, f"it would take {needed >> 20} MiB of {name}; this server gives {given >> 20}"
                )  # fmt: skip
        key = model.key, probe_size(size, target)
        if key not in self._paces:
            self._paces[key] = measure_pace(model.upscaler, key[1])
        return ClipPlan(video, model, self._paces[key].seconds(size, target) * video.frames, memory, disk)
