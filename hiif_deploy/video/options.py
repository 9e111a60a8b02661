"""Options of a video beside its size, and the choice of the encoder and its settings."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from hiif_deploy.errors import OptionError, VideoError
from hiif_deploy.geometry.sizes import Size
from hiif_deploy.video.convert import RGB_MATRIX, likely_matrix
from hiif_deploy.video.mux import FORMATS
from hiif_deploy.video.probe import UNSPECIFIED, Clip
from hiif_deploy.video.pyav import pyav
from hiif_deploy.video.task import SEGMENT_FRAMES, Encoding, FrameStatistics, OnError

MATRICES = (RGB_MATRIX, 1, UNSPECIFIED, 4, 5, 6, 7, 9)
"""H.273's numbers of the matrices that colours are converted with."""


@dataclass(frozen=True)
class VideoOptions:
    """How a video is read, split and written."""

    codec: str | None = None
    """FFmpeg's encoder; None selects it by container and depth."""
    crf: int | None = None
    """Constant quality of the encoder, lower is better; None for the default in `RULES`."""
    preset: str | None = None
    """Speed preset of the encoder; None for the default in `RULES`."""
    pixel_format: str | None = None
    """FFmpeg's name of the pixel format; None for the clip's."""
    encoder_options: tuple[tuple[str, str], ...] = ()
    """Further options of the encoder."""
    frames: tuple[int, int | None] | None = None
    """First frame, and one past the last; None for all."""
    seconds: tuple[Fraction | None, Fraction | None] = (None, None)
    """Frames shown from this time on and before that one, in seconds after the first frame of the clip."""
    on_error: OnError = "stop"
    """Reaction to a frame that cannot be decoded."""
    statistics: FrameStatistics = "exact"
    """Source of the decoder's statistics."""
    segment_frames: int = SEGMENT_FRAMES
    """Approximate number of frames that are computed, and saved, together."""
    restart: bool = False
    """Discard unfinished work of another run."""

    def __post_init__(self) -> None:
        if self.segment_frames < 1:
            raise OptionError(f"--segment-frames {self.segment_frames}: expected at least 1")
        if self.frames is not None and self.seconds != (None, None):
            raise OptionError("--frames and --from/--to both name the part to make; give one of them")


@dataclass(frozen=True)
class Rule:
    """Default options of one encoder."""

    quality: str
    """Name of its option for constant quality."""
    level: int
    """Default value of that option."""
    preset: str
    """Default of its option `preset`; empty where it has none."""
    fixed: tuple[tuple[str, str], ...] = ()
    """Further options that are always set."""


RULES = {
    # x264's macroblock tree gives other bytes from one run to the next (seen at 64x64 and 320x180).
    "libx264": Rule("crf", 18, "medium", (("mbtree", "0"),)),
    "libx265": Rule("crf", 20, "medium"),
    "libsvtav1": Rule("crf", 28, "8"),
    "libvpx-vp9": Rule("crf", 24, "", (("b", "0"), ("row-mt", "1"), ("cpu-used", "2"))),
    "ffv1": Rule("", 0, "", (("slicecrc", "1"), ("g", "1"))),
    "h264_nvenc": Rule("cq", 19, "p5", (("rc", "vbr"),)),
    "hevc_nvenc": Rule("cq", 21, "p5", (("rc", "vbr"),)),
    "av1_nvenc": Rule("cq", 25, "p5", (("rc", "vbr"),)),
    "h264_qsv": Rule("global_quality", 20, "medium"),
    "hevc_qsv": Rule("global_quality", 22, "medium"),
    "av1_qsv": Rule("global_quality", 24, "medium"),
}
"""Encoders with defaults; any other encoder of FFmpeg may be named, and uses FFmpeg's defaults."""


def default_codec(suffix: str, bits: int) -> str:
    """Return AV1 for WebM, elsewhere H.264 for 8 bits and H.265 for more."""
    if suffix == ".webm":
        return "libsvtav1"
    return "libx264" if bits <= 8 else "libx265"


def choose_encoding(clip: Clip, size: Size, suffix: str, options: VideoOptions) -> tuple[Encoding, tuple[str, ...]]:
    """Return the encoding at about `size`, and a sentence for everything that differs from the request.

    OptionError for an encoder or format that is missing; VideoError for colours that cannot be converted.
    """
    if suffix not in FORMATS:
        raise OptionError(
            f"a video cannot be written as {suffix or 'a file without suffix'}: expected {', '.join(FORMATS)}"
        )
    name = options.codec or default_codec(suffix, clip.bits)
    codec = _codec(name)
    pixel_format = options.pixel_format or _pixel_format(clip, codec)
    if codec.video_formats and pixel_format not in [known.name for known in codec.video_formats]:
        known = ", ".join(f.name for f in codec.video_formats)
        raise OptionError(f"--pixel-format {pixel_format}: {name} takes {known}")
    even, notes = _even(size, pixel_format)
    if any(part.is_alpha for part in pyav().VideoFormat(clip.pixel_format, 16, 16).components):
        notes += ("lost: transparency, which is not upscaled",)
    aspect, aspect_notes = _aspect(clip, even)
    matrix, matrix_notes = _matrix(clip, even, pixel_format)
    given, hdr_notes = _encoder_options(clip, even, name, options)
    rate = clip.rate.limit_denominator(1_000_000)
    encoding = Encoding(
        name, even, pixel_format, (rate.numerator, rate.denominator),
        (clip.time_base.numerator, clip.time_base.denominator), given, aspect, matrix,
        clip.colours.is_full_range, clip.colours.primaries, clip.colours.transfer,
    )  # fmt: skip
    return encoding, (*notes, *aspect_notes, *matrix_notes, *hdr_notes)


def _codec(name: str) -> Any:
    av = pyav()
    try:
        codec = av.Codec(name, "w")
    except ValueError as error:  # FFmpeg's unknown codecs
        raise OptionError(f"--codec {name}: FFmpeg has no such encoder; with defaults: {', '.join(RULES)}") from error
    if codec.type != "video":
        raise OptionError(f"--codec {name}: encodes {codec.type}; expected an encoder of video")
    return codec


def _pixel_format(clip: Clip, codec: Any) -> str:
    """Return the clip's pixel format, or the nearest that the encoder accepts without losing bits or chroma."""
    known: list[str] = [f.name for f in codec.video_formats or ()]
    plain: str = clip.pixel_format.replace("yuvj", "yuv").replace("yuva", "yuv")
    if not known or plain in known:
        return plain
    kind = pyav().VideoFormat(plain, 16, 16)
    chroma = "444" if kind.is_rgb or kind.chroma_width(16) == 16 else "420" if kind.chroma_height(16) == 8 else "422"
    same = f"yuv{chroma}p" + (f"{clip.bits}le" if clip.bits > 8 else "")
    # GPU encoders have names of their own for 4:2:0.
    alike = ["p010le"] if same == "yuv420p10le" else ["nv12"] if same == "yuv420p" else []
    for name in [same, *alike]:
        if name in known:
            return name
    raise OptionError(
        f"{clip.path}: {codec.name} takes neither {plain} nor {same}; choose another --codec, or name a "
        f"--pixel-format that loses something: {', '.join(known)}"
    )


def _even(size: Size, pixel_format: str) -> tuple[Size, tuple[str, ...]]:
    """Round sides up to even where chroma is subsampled; nothing is cropped."""
    kind = pyav().VideoFormat(pixel_format, 16, 16)
    down, across = (
        1 if kind.is_rgb else 16 // side for side in (kind.chroma_height(16) or 16, kind.chroma_width(16) or 16)
    )
    even = -(-size[0] // down) * down, -(-size[1] // across) * across
    if even == size:
        return size, ()
    return even, (f"{size[1]}x{size[0]} becomes {even[1]}x{even[0]}: {pixel_format} needs even sides",)


def _aspect(clip: Clip, size: Size) -> tuple[tuple[int, int], tuple[str, ...]]:
    """Return the width to height of a pixel that preserves the picture's shape."""
    (height, width), (rows, columns) = clip.size, size
    if abs(rows - height * columns / width) < 2:
        own = clip.aspect or Fraction(0)
        return (own.numerator, own.denominator), ()
    shape = ((clip.aspect or 1) * Fraction(width * rows, height * columns)).limit_denominator(10_000)
    return (shape.numerator, shape.denominator), (
        f"pixels become {shape.numerator}:{shape.denominator}, so that the picture keeps its shape",
    )


def _matrix(clip: Clip, size: Size, pixel_format: str) -> tuple[int, tuple[str, ...]]:
    # Samples that are red, green and blue have no other matrix, whatever the file says.
    own = RGB_MATRIX if pyav().VideoFormat(clip.pixel_format, 16, 16).is_rgb else clip.colours.matrix
    if own not in MATRICES:
        raise VideoError(
            f"{clip.path}: its colour matrix (H.273 number {own}) is not supported; convert it with FFmpeg"
        )
    if pyav().VideoFormat(pixel_format, 16, 16).is_rgb:
        return RGB_MATRIX, ()
    if own == RGB_MATRIX:
        return likely_matrix(UNSPECIFIED, 1080), (f"RGB becomes {pixel_format}, BT.709",)
    found = likely_matrix(own, clip.size[0])
    if own == UNSPECIFIED and found != likely_matrix(own, size[0]):
        # Players guess by size, and the size changes: the output names the matrix that they would have guessed.
        return found, ("the clip names no colour matrix; the output names the one that players assume for its size",)
    return own, ()


def _encoder_options(
    clip: Clip, size: Size, name: str, options: VideoOptions
) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:  # fmt: skip
    rule = RULES.get(name)
    found = dict(rule.fixed) if rule else {}
    if rule and rule.quality:
        found[rule.quality] = str(rule.level if options.crf is None else options.crf)
    elif options.crf is not None:
        raise OptionError(f"--crf {options.crf}: {name} has no constant quality here; give its own options instead")
    preset = options.preset or (rule.preset if rule else "")
    if preset:
        found["preset"] = preset
    # An encoder's output may depend on its threads: their number follows from the size, on every machine.
    found["threads"] = str(min(8, max(1, size[0] * size[1] // 500_000)))
    own = dict(options.encoder_options)
    notes = _add_hdr(found, clip, size, name)
    for key, *_ in HDR_OPTIONS.values():
        if key in found and key in own:
            own[key] = f"{found[key]}:{own[key]}"
    return tuple(sorted({**found, **own}.items())), notes


HDR_OPTIONS = {
    "libx265": ("x265-params", "master-display", "max-cll={},{}", (1, 1)),
    "libx264": ("x264-params", "mastering-display", "cll={},{}", (1, 1)),
    "libsvtav1": ("svtav1-params", "mastering-display", "content-light={},{}", (50_000, 10_000)),
}
"""Encoder → its option, the keys of display and light levels in it, and its units of chromaticity and luminance."""


def _add_hdr(found: dict[str, str], clip: Clip, size: Size, name: str) -> tuple[str, ...]:
    """Set HDR10's display and light levels in the encoder's own syntax; return a note where it has none."""
    is_hdr, words = bool(clip.mastering or clip.light), list[str]()
    if name == "libx265":
        words = ["log-level=error", "frame-threads=2"]
        # x265's "cutree" writes 16 bytes beyond a row of one number per 16 columns that is shorter than they are.
        words += ["cutree=0"] if size[1] < 64 else []
    if is_hdr and name not in HDR_OPTIONS:
        return (f"lost: HDR10's mastering display and light levels, which {name} does not take",)
    if is_hdr:
        _, display, light, units = HDR_OPTIONS[name]
        words += [f"{display}={_display(clip.mastering, *units)}"] if clip.mastering else []
        words += [light.format(*clip.light)] if clip.light else []
        words += ["hdr10=1", "repeat-headers=1"] if name == "libx265" else []
    if words:
        found[HDR_OPTIONS[name][0]] = ":".join(words)
    return ()


def _display(values: tuple[int, ...], unit: int, light_unit: int) -> str:
    """Return x265's syntax: green, blue, red, white point, luminance from most to least."""
    rx, ry, gx, gy, bx, by, wx, wy = (value if unit == 1 else f"{value / unit:g}" for value in values[:8])
    least, most = (value if light_unit == 1 else value / light_unit for value in values[8:])
    return f"G({gx},{gy})B({bx},{by})R({rx},{ry})WP({wx},{wy})L({most},{least})"
