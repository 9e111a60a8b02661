"""Compares a published checkpoint with the figures of the HIIF paper's tables, measured as its authors did."""

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
"""Allowed difference in dB between a measured and a printed figure. Printed figures are rounded to 0.01, and equal
weights differ by some hundredths where small pictures were made by another library or large ones cropped differently.
"""


@dataclass(frozen=True)
class MeasurementProtocol:
    """Details in which the authors' evaluations of their decoders differ."""

    group_rows: int | None = None
    """Output rows per statistics group; None for the whole picture."""
    tiles: Tiles | None = None
    """Up to ×4, pictures are split into tiles whose outputs are averaged where they overlap."""
    rounded: bool = False
    """Outputs are rounded to 8 bits."""


@dataclass(frozen=True)
class PublishedDecoder:
    """One row of the paper's tables."""

    models: tuple[str, ...]
    """Model names in its checkpoints."""
    method: str
    """Name in the paper's tables."""
    protocol: MeasurementProtocol
    """Protocol of the authors' evaluation."""


DECODERS = {
    "metasr": PublishedDecoder(("metasr",), "MetaSR", MeasurementProtocol()),
    "liif": PublishedDecoder(("liif",), "LIIF", MeasurementProtocol()),
    "lte": PublishedDecoder(("lte", "lte-plus"), "LTE", MeasurementProtocol()),
    "clit": PublishedDecoder(("clit",), "CLIT", MeasurementProtocol()),
    "ciaosr": PublishedDecoder(("ciaosr",), "CiaoSR", MeasurementProtocol(tiles=Tiles(192, 32), rounded=True)),
    "srno": PublishedDecoder(("sronet",), "SRNO", MeasurementProtocol()),
    "pixelshuffle": PublishedDecoder(("pixelshuffle",), "encoder only", MeasurementProtocol(rounded=True)),
    "hiif": PublishedDecoder(("hiif", "hiifv3"), "HIIF", MeasurementProtocol(group_rows=300)),
}
PUBLISHED_ENCODERS = ("edsr-baseline", "rdn", "swinir")
PUBLISHED = {f"{name}-{encoder}": (name, encoder) for name in DECODERS for encoder in PUBLISHED_ENCODERS}
"""Name of a published checkpoint → its decoder and its encoder."""


@dataclass(frozen=True)
class Compared:
    """Measured and printed PSNR of one set at one scale."""

    set: str
    """Name of the set's folder."""
    scale: float
    """Scale factor of the measurement."""
    measured: float
    """PSNR in dB that was measured."""
    printed: float
    """PSNR in dB that the paper prints."""


def verify_published(
    name: str,
    checkpoint: Path,
    sets: Sequence[PictureSet],
    scales: Sequence[float],
    *,
    provider: str = "cpu",
    advance: Callable[[int], None] = lambda _: None,
) -> list[Compared]:
    """Measure a checkpoint on `sets` at `scales`; `advance(1)` is called after every picture.

    OptionError where the name is unknown or the paper has no figure to compare with; CheckpointError where the file
    holds another model. All arguments are checked before anything is measured.
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
    """Raise ParityError naming the first figure that differs by more than the tolerance."""
    for row in found:
        if not abs(row.measured - row.printed) <= tolerance:
            raise ParityError(
                f"{row.set} ×{row.scale:g}: {row.measured:.3f} dB, published {row.printed:.2f} dB, allowed "
                f"±{tolerance:g} dB; is the whole set there, with small pictures made as published?"
            )


def _printed(decoder: PublishedDecoder, encoder: str, set_name: str, scale: float) -> float:
    value = figure(ENCODERS[encoder], decoder.method, set_name, scale)
    if value is None:
        raise OptionError(
            f"the paper has no figure of {decoder.method} with {ENCODERS[encoder]} on {set_name} ×{scale:g}: name "
            "folders Set5, Set14, BSD100, Urban100 or DIV2K and choose --scales among 2, 3, 4, 6, 8, 12"
        )
    return value


def _check_model(name: str, checkpoint: Path, decoder: PublishedDecoder, encoder: str) -> None:
    spec = load_checkpoint(checkpoint).spec
    held = (spec["name"], spec["args"]["encoder_spec"]["name"])
    if held[0] not in decoder.models or held[1] != encoder:
        raise CheckpointError(f"{checkpoint} holds {held[0]} on {held[1]}, and --published {name} is another model")


def _measure(
    checkpoint: Path,
    protocol: MeasurementProtocol,
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
