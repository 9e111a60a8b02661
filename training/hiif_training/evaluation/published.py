"""A published checkpoint against the figures of the HIIF paper's tables, measured as its authors measured it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hiif_deploy.errors import CheckpointError, OptionError, ParityError
from hiif_training.checkpoints.checkpoint import load_checkpoint
from hiif_training.evaluation.evaluate import Measure, evaluate
from hiif_training.evaluation.options import EvaluatorOptions
from hiif_training.evaluation.overlapping import Tiles
from hiif_training.evaluation.paper import ENCODERS, figure, known_set
from hiif_training.pictures.picture_sets import PictureSet

TOLERANCE = 0.05
"""dB between a measured and a printed figure. Printed ones are rounded to 0.01, and the same weights differ by some
hundredths where small pictures were made by another library or the large ones cropped otherwise."""


@dataclass(frozen=True)
class Protocol:
    """How a decoder's authors measured it, where that is not the same for all."""

    group_rows: int | None = None
    """Output rows per group of statistics; None takes all of a picture."""
    tiles: Tiles | None = None
    """Up to ×4 pictures are cut, and the answers averaged where tiles overlap."""
    rounded: bool = False
    """Answers are rounded to 8 bits."""


@dataclass(frozen=True)
class Decoder:
    """One row of the paper's tables."""

    models: tuple[str, ...]
    """Names that its checkpoints give their model."""
    method: str
    """Name in the paper's tables."""
    protocol: Protocol
    """How it was measured."""


DECODERS = {
    "metasr": Decoder(("metasr",), "MetaSR", Protocol()),
    "liif": Decoder(("liif",), "LIIF", Protocol()),
    "lte": Decoder(("lte", "lte-plus"), "LTE", Protocol()),
    "clit": Decoder(("clit",), "CLIT", Protocol()),
    "ciaosr": Decoder(("ciaosr",), "CiaoSR", Protocol(tiles=Tiles(192, 32), rounded=True)),
    "srno": Decoder(("sronet",), "SRNO", Protocol()),
    "hiif": Decoder(("hiif", "hiifv3"), "HIIF", Protocol(group_rows=300)),
}
PUBLISHED_ENCODERS = ("edsr-baseline", "rdn", "swinir")
PUBLISHED = {f"{name}-{encoder}": (name, encoder) for name in DECODERS for encoder in PUBLISHED_ENCODERS}
"""Name of a published checkpoint → its decoder and its encoder."""


@dataclass(frozen=True)
class Compared:
    """One set at one scale."""

    set: str
    """Name of the folder."""
    scale: float
    """Factor."""
    measured: float
    """PSNR in dB."""
    printed: float
    """The same in the paper."""


def verify_published(
    name: str,
    checkpoint: Path,
    sets: Sequence[PictureSet],
    scales: Sequence[float],
    *,
    provider: str = "cpu",
    advance: Callable[[int], None] = lambda _: None,
) -> list[Compared]:
    """Measure a checkpoint on `sets` at `scales`; `advance(1)` is told of every picture.

    OptionError where the name is unknown or the paper has no figure to compare with; CheckpointError where the file
    holds another model. What is asked for is checked before anything is measured.
    """
    if name not in PUBLISHED:
        raise OptionError(f"--published {name!r}: unknown; known: {', '.join(PUBLISHED)}")
    decoder, encoder = DECODERS[PUBLISHED[name][0]], PUBLISHED[name][1]
    printed = {(part.name, scale): _printed(decoder, encoder, part.name, scale) for part in sets for scale in scales}
    _check_model(name, checkpoint, decoder, encoder)
    found = []
    for part in sets:
        for scale in scales:
            measured = _measure(checkpoint, decoder.protocol, part, scale, provider, advance)
            found.append(Compared(part.name, scale, measured, printed[part.name, scale]))
    return found


def check_published(found: Sequence[Compared], tolerance: float = TOLERANCE) -> None:
    """ParityError naming the first figure that is off by more."""
    for row in found:
        if not abs(row.measured - row.printed) <= tolerance:
            raise ParityError(
                f"{row.set} ×{row.scale:g}: {row.measured:.3f} dB, published {row.printed:.2f} dB, allowed "
                f"±{tolerance:g} dB; is the whole set there, with small pictures made as published?"
            )


def _printed(decoder: Decoder, encoder: str, set_name: str, scale: float) -> float:
    value = figure(ENCODERS[encoder], decoder.method, set_name, scale)
    if value is None:
        raise OptionError(
            f"the paper has no figure of {decoder.method} with {ENCODERS[encoder]} on {set_name} ×{scale:g}: name "
            "folders Set5, Set14, BSD100, Urban100 or DIV2K and choose --scales among 2, 3, 4, 6, 8, 12"
        )
    return value


def _check_model(name: str, checkpoint: Path, decoder: Decoder, encoder: str) -> None:
    spec = load_checkpoint(checkpoint).spec
    held = (spec["name"], spec["args"]["encoder_spec"]["name"])
    if held[0] not in decoder.models or held[1] != encoder:
        raise CheckpointError(f"{checkpoint} holds {held[0]} on {held[1]}, and --published {name} is another model")


def _measure(
    checkpoint: Path,
    protocol: Protocol,
    pictures: PictureSet,
    scale: float,
    provider: str,
    advance: Callable[[int], None],
) -> float:
    is_div2k = known_set(pictures.name) == "DIV2K"
    options = EvaluatorOptions(
        engine="torch",
        group_rows=protocol.group_rows,
        provider=provider,
        tiles=protocol.tiles,
    )
    measure = Measure("div2k" if is_div2k else "benchmark", with_ssim=False, rounded=protocol.rounded)
    found = evaluate(str(checkpoint), [pictures], [scale], measure, options, advance=advance)
    mean = found.results[0].mean("psnr")
    assert mean is not None
    return mean
