"""Encodes frames to packets, and stores the packets of one segment in a file."""

import base64
import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

from hiif_deploy.errors import VideoError
from hiif_deploy.video.convert import LIMITED_RANGE
from hiif_deploy.video.probe import FULL_RANGE
from hiif_deploy.video.pyav import pyav
from hiif_deploy.video.task import Encoding

MAGIC = b"hiifseg1"
"""First bytes of a segment's file, followed by the length of a JSON header (4 bytes, little-endian), the header, the
packets."""


@dataclass(frozen=True)
class EncodedFrame:
    """One packet from the encoder, which is one frame."""

    time: int
    """Presentation time in units of the stream's time base."""
    is_key: bool
    """Whether decoding may start here."""
    data: bytes
    """Compressed data of the packet."""


def configure(context: Any, encoding: Encoding) -> None:
    """Apply `encoding` to an encoder's context; it opens with the first frame or the container's header."""
    av = pyav()
    context.height, context.width = encoding.size
    context.pix_fmt = encoding.pixel_format
    context.time_base, context.framerate = Fraction(*encoding.time_base), Fraction(*encoding.rate)
    context.colorspace, context.color_primaries = encoding.matrix, encoding.primaries
    context.color_trc = encoding.transfer
    levels = {None: 0, False: LIMITED_RANGE, True: FULL_RANGE}
    context.color_range = levels[encoding.is_full_range]
    if encoding.aspect[0]:
        context.sample_aspect_ratio = Fraction(*encoding.aspect)
    context.options = dict(encoding.options)
    # All containers that are written expect the headers before the packets.
    context.flags |= av.codec.context.Flags.global_header


class Encoder:
    """Encoder of one segment: its first packet is a key frame, and no packet refers to other segments."""

    def __init__(self, encoding: Encoding) -> None:
        """VideoError where the codec does not accept such pictures or options."""
        self.encoding = encoding
        self.packets: list[EncodedFrame] = []
        self._context = pyav().CodecContext.create(encoding.codec, "w")
        configure(self._context, encoding)
        self._try(self._context.open)

    def add(self, frame: Any, time: int) -> None:
        """Encode a frame with presentation time `time`."""
        frame.pts, frame.time_base = time, Fraction(*self.encoding.time_base)
        frame.pict_type = 0
        self._take(frame)

    def finish(self) -> bytes:
        """Flush the encoder and return the codec's headers."""
        self._take(None)
        return bytes(self._context.extradata or b"")

    def _take(self, frame: Any) -> None:
        made = self._try(lambda: self._context.encode(frame))
        self.packets += [EncodedFrame(packet.pts, packet.is_keyframe, bytes(packet)) for packet in made]

    def _try(self, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except (pyav().FFmpegError, ValueError) as error:
            height, width = self.encoding.size
            raise VideoError(
                f"{self.encoding.codec} does not encode {width}x{height} {self.encoding.pixel_format} with "
                f"{dict(self.encoding.options)} ({error}); choose another --codec, --pixel-format or option"
            ) from error


def write_packets(file: BinaryIO, headers: bytes, packets: list[EncodedFrame]) -> None:
    """Write a segment's headers, table and packets to its file."""
    table = [[len(packet.data), packet.time, packet.is_key] for packet in packets]
    head = json.dumps({"headers": base64.b64encode(headers).decode(), "packets": table}).encode()
    file.write(MAGIC + struct.pack("<I", len(head)) + head)
    for packet in packets:
        file.write(packet.data)


def read_table(path: Path) -> tuple[bytes, list[int]]:
    """Return a segment's codec headers, and the times of its packets in decoding order."""
    with path.open("rb") as file:
        head = _head(file, path)
    return base64.b64decode(head["headers"]), [time for _, time, _ in head["packets"]]


def read_packets(path: Path) -> Iterator[EncodedFrame]:
    """Yield a segment's packets in decoding order."""
    with path.open("rb") as file:
        for size, time, is_key in _head(file, path)["packets"]:
            data = file.read(size)
            if len(data) != size:
                raise VideoError(f"{path}: is shorter than its header says; delete it and run the same command again")
            yield EncodedFrame(time, is_key, data)


def _head(file: BinaryIO, path: Path) -> Any:
    magic = file.read(len(MAGIC))
    if magic != MAGIC:
        raise VideoError(f"{path}: is no segment of this version; delete it and run the same command again")
    (length,) = struct.unpack("<I", file.read(4))
    return json.loads(file.read(length))
