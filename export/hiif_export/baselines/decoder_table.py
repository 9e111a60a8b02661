"""Measures every decoder with every encoder: size, multiplications before and after, time, parity. Prints Markdown.

Weights are random, as neither size nor time depends on them. A row that fails is reported with its reason and the
others go on. Rows that a file keeps from an earlier run are not measured again. Each decoder is timed once per run and
width of features.
"""

import copy
import json
import logging
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from hiif_deploy.bench.case import BenchModel, picture
from hiif_deploy.bench.work import count_upscale
from hiif_deploy.bundle.loader import open_bundle
from hiif_deploy.errors import HiifError, OptionError
from hiif_deploy.geometry.sizes import Size, output_size, padded_size
from hiif_deploy.support.files import write_file
from hiif_deploy.upscaler import RenderOptions
from hiif_export.baselines.decoder_times import CHUNK, DecoderTimer, Seconds, TableSetting, queries_per_call
from hiif_export.baselines.plain_memory import check_memory
from hiif_export.export import export_bundle
from hiif_export.graphs.exporter import make_exporter
from hiif_export.parity.parity import SCALES, cases
from hiif_training.checkpoints.checkpoint import save_checkpoint
from hiif_training.models.implicit import ImplicitModel
from hiif_training.models.registry import make_model

logger = logging.getLogger(__name__)
_CLIT: dict[str, Any] = {
    "base_dim": 256, "head": 8, "r": 3,
    "pb_spec": {"name": "posenc", "args": {"enc_dims": 64, "posenc_scale": 10}},
    "imnet_spec": {"name": "mlp", "args": {"out_dim": 3, "hidden_list": [256] * 4, "act": "gelu"}},
}  # fmt: skip
DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "metasr": ("metasr", {}),
    "liif": ("liif", {}),
    "lte": ("lte", {}),
    "lte-plus": ("lte-plus", {}),
    "srno": ("sronet", {}),
    "ciaosr": ("ciaosr", {}),
    "clit-1": ("clit", {**_CLIT, "imnet_num": 1, "conv_num": 1}),
    "clit-3": ("clit", {**_CLIT, "imnet_num": 3, "conv_num": 3}),
    "hiif": ("hiif", {}),
}
"""Row of the table → name and arguments of the published model."""
ENCODERS = {name: {"no_upsampling": True} for name in ("edsr-baseline", "rdn", "swinir")}
"""Row of the table → arguments of the published encoder."""
COUNTED: Size = (48, 48)
"""Source pixels of the picture whose multiplications are counted."""


@dataclass(frozen=True)
class Row:
    """Figures of one decoder around one encoder."""

    decoder: str
    """Key of `DECODERS` for this row."""
    encoder: str
    """Key of `ENCODERS`, which is the encoder's name in checkpoints."""
    parameters: int
    """Number of the decoder's parameters, without the encoder's."""
    macs_before: float
    """Multiplications per query of the plain module, including its share of the work per source pixel, without the
    encoder."""
    macs_after: float
    """Multiplications per query of the graphs as ONNX Runtime executes them, statistics passes included."""
    size: int
    """Bytes of the bundle in fp32."""
    encoding: Seconds
    """Seconds of the work that needs no query: in PyTorch the encoder and `query_maps`, in the bundle the encoder
    graph."""
    decoding: Seconds
    """Seconds of the rest, as measured with this encoder or an earlier one of the run."""
    error: float
    """Largest difference from PyTorch over the export's suite, 1 being white."""


def pair(text: str) -> tuple[str, str]:
    """Parse `DECODER:ENCODER`; OptionError where one of them is unknown."""
    decoder, _, encoder = text.partition(":")
    if decoder not in DECODERS or encoder not in ENCODERS:
        raise OptionError(
            f"{text!r} is no row of the table: expected DECODER:ENCODER, of {', '.join(DECODERS)} and "
            f"{', '.join(ENCODERS)}"
        )
    return decoder, encoder


def spec(decoder: str, encoder: str) -> dict[str, Any]:
    """Return the spec of a pair as its published checkpoint stores it."""
    name, args = DECODERS[decoder]
    # The published CiaoSR around SwinIR has one more argument of its encoder.
    more = {"num_feat": 0} if (decoder, encoder) == ("ciaosr", "swinir") else {}
    encoder_spec = {"name": encoder, "args": {**ENCODERS[encoder], **more}}
    return {"name": name, "args": {"encoder_spec": encoder_spec, **args}}


def measure_all(
    pairs: Sequence[tuple[str, str]],
    setting: TableSetting,
    keep: Path | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[list[Row], list[str]]:
    """Measure `pairs` in order; return the rows and the names of the pairs that failed, whose reasons are logged.

    `keep` is a file to which each row is written as soon as it is measured, and whose rows are not measured again.
    """
    known = {} if keep is None else read_rows(keep, setting)
    watch = DecoderTimer(setting)
    for decoder, encoder in pairs:
        if (decoder, encoder) not in known:
            try:
                known[decoder, encoder] = measure(decoder, encoder, setting, watch)
            except (HiifError, ImportError) as error:
                logger.warning("%s:%s: %s", decoder, encoder, error)
            if keep is not None:
                keep_rows(keep, known.values(), setting)
        advance(1)
    return [known[row] for row in pairs if row in known], [":".join(row) for row in pairs if row not in known]


def measure(decoder: str, encoder: str, setting: TableSetting, watch: DecoderTimer) -> Row:
    """Measure one row; raises whatever export and verification raise."""
    torch.manual_seed(0)
    described = spec(decoder, encoder)
    model = make_model(described).eval()
    size = output_size(setting.source, scale=setting.scale)
    check_memory(model, setting.source, size, queries_per_call(make_exporter(model, described).contract()))
    with tempfile.TemporaryDirectory(prefix="hiif-table-") as folder:
        checkpoint, bundle = Path(folder) / "model.pth", Path(folder) / "bundle"
        save_checkpoint(checkpoint, model, described)
        found = export_bundle(
            model, described, bundle, name=decoder, provenance={"weights": "random"},
            suite=cases(sizes=setting.suite, scales=SCALES),
        )  # fmt: skip
        opened = BenchModel(decoder, open_bundle(bundle), checkpoint)
        encoding, decoding = watch.take(decoder, opened)
        return Row(
            decoder, encoder,
            parameters=sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in model.encoder.parameters()),
            macs_before=plain_macs(model, setting.scale),
            macs_after=graph_macs(model, opened, setting),
            size=sum(file.stat().st_size for file in bundle.iterdir()),
            encoding=encoding, decoding=decoding, error=max(case.colours for case in found),
        )  # fmt: skip


def plain_macs(model: ImplicitModel, scale: float) -> float:
    """Return multiplications per query of the plain module without its encoder, counted on the meta device."""
    shapes, size = copy.deepcopy(model).to("meta"), output_size(COUNTED, scale=scale)
    queries = shapes.make_queries(COUNTED, size).to(torch.device("meta"))
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        features = shapes.encode(_image(model))[:, :, : COUNTED[0], : COUNTED[1]]
        shapes.decode(features, queries)
    return (float(counter.get_total_flops()) / 2 - _encoder_macs(model)) / (size[0] * size[1])


def graph_macs(model: ImplicitModel, opened: BenchModel, setting: TableSetting) -> float:
    """Return multiplications per query of the graphs, minus those of the plain encoder.

    An exporter may have moved work of the decoder into the encoder graph; that work is counted.
    """
    size = output_size(COUNTED, scale=setting.scale)
    whole = count_upscale(opened.bundle, RenderOptions(), setting.threads, picture(COUNTED), size)
    return (whole.macs - _encoder_macs(model)) / (size[0] * size[1])


def _encoder_macs(model: ImplicitModel) -> float:
    shapes = copy.deepcopy(model.encoder).to("meta")
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        shapes(_image(model))
    return float(counter.get_total_flops()) / 2


def _image(model: ImplicitModel) -> Tensor:
    """Return the counted picture on the meta device, padded to the encoder's multiple."""
    return torch.zeros(1, 3, *padded_size(COUNTED, model.encoder.size_multiple), device="meta")


def markdown(rows: Iterable[Row], setting: TableSetting) -> str:
    """Return the table in Markdown, below a line that explains its seconds."""
    lines = [
        caption(setting),
        "",
        "| decoder | encoder | parameters | MAC per query, before → after | bundle | PyTorch | here | ratio | error |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        change, both = f"{row.macs_before / 1e3:,.0f} k → {row.macs_after / 1e3:,.0f} k", row.encoding + row.decoding
        lines.append(
            f"| {row.decoder} | {row.encoder} | {row.parameters:,} | {change} | {row.size / 1e6:.1f} MB "
            f"| {row.encoding.plain:.2f} + {row.decoding.plain:.2f} s "
            f"| {row.encoding.deployed:.2f} + {row.decoding.deployed:.2f} s "
            f"| {both.plain / both.deployed:.1f} | {row.error:.1e} |"
        )
    return "\n".join(lines) + "\n"


def caption(setting: TableSetting) -> str:
    """Return the sentence that explains how the times were measured."""
    height, width = setting.source
    return (
        f"{width}x{height} at ×{setting.scale:g}, {setting.threads} threads, {setting.memory >> 20} MiB; encoding + "
        f"decoding, medians of {setting.rounds} in turns after a small picture. PyTorch decodes {CHUNK:,} queries at "
        "a time as in the published evaluations, all at once where they are coupled (SRNO, HIIF). Decoding is timed "
        "once per decoder and width of features, and that time stands around its other encoders."
    )


def read_rows(path: Path, setting: TableSetting) -> dict[tuple[str, str], Row]:
    """Return the rows that an earlier run kept, none where there is no file.

    OptionError for a file of another kind, or measured with another setting.
    """
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        rows, kept = [_row(**row) for row in content["rows"]], content["setting"]
    except (ValueError, KeyError, TypeError) as error:
        raise OptionError(f"{path} holds no rows of this table ({error}): name another file") from error
    if kept != _plain(setting):
        raise OptionError(f"{path} was measured with {kept}, not with {_plain(setting)}: name another file")
    return {(row.decoder, row.encoder): row for row in rows}


def keep_rows(path: Path, rows: Iterable[Row], setting: TableSetting) -> None:
    """Write all rows to `path` atomically."""
    content = {"setting": _plain(setting), "rows": [asdict(row) for row in rows]}
    write_file(path, (json.dumps(content, indent=1) + "\n").encode())


def _plain(setting: TableSetting) -> Any:
    return json.loads(json.dumps(asdict(setting)))


def _row(encoding: dict[str, float], decoding: dict[str, float], **rest: Any) -> Row:
    return Row(encoding=Seconds(**encoding), decoding=Seconds(**decoding), **rest)
