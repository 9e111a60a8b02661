"""Derives the spec of a checkpoint that names no model from the names and shapes of its tensors.

Parameters that no tensor reveals have the value of the published models: EDSR's residual scale, CLIT's activation,
LIIF's ensemble.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, TypeAlias

from torch import Tensor

from hiif_deploy.errors import CheckpointError
from hiif_training.checkpoints.fixed_scale_format import value_range

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
"""Key of the state dict → shape of its tensor."""
Described: TypeAlias = tuple[str, dict[str, Any]]
"""Name and args of a spec."""
Describe: TypeAlias = Callable[[Shapes], Described]
Table: TypeAlias = Mapping[str, Describe]
"""Tensor that no earlier entry has → function that derives name and args from the shapes."""

EDSR_NAMES = {64: "edsr-baseline", 256: "edsr", 16: "edsr-mini"}
"""Channels → the published EDSR with that width, which determines its residual scale."""


def detect_spec(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Return `{name, args}` for `make_model`; CheckpointError where the names fit no known model."""
    shapes = {key: tuple(value.shape) for key, value in tensors.items() if isinstance(value, Tensor)}
    describe, describe_encoder = _lookup(shapes, DECODERS, "model"), _lookup(shapes, ENCODERS, "encoder")
    try:
        (name, args), (encoder_name, encoder_args) = describe(shapes), describe_encoder(shapes)
        if describe is _fixed_scale:
            args |= value_range(tensors)
    except (KeyError, IndexError, ValueError, ArithmeticError) as error:
        raise CheckpointError(
            f"the checkpoint names no model, and its tensors do not tell it either ({type(error).__name__}: {error})"
        ) from error
    return {"name": name, "args": {"encoder_spec": {"name": encoder_name, "args": encoder_args}, **args}}


def _lookup(shapes: Shapes, table: Table, kind: str) -> Describe:
    for key, describe in table.items():
        if key in shapes:
            return describe
    raise CheckpointError(
        f"the checkpoint names no model, and its tensors are those of no known {kind}: "
        f"expected one of {', '.join(table)}"
    )


def _edsr(shapes: Shapes) -> Described:
    features, colours = shapes["encoder.head.0.weight"][:2]
    if features not in EDSR_NAMES:
        raise CheckpointError(
            f"an EDSR of {features} channels: its residual scale is in no tensor; write the checkpoint with its name "
            "and args"
        )
    blocks = _count(shapes, r"encoder\.body\.(\d+)\.body\.0\.weight")
    return EDSR_NAMES[features], {"n_resblocks": blocks, "n_feats": features, "n_colors": colours}


def _rdn(shapes: Shapes) -> Described:
    features, colours, kernel, _ = shapes["encoder.SFENet1.weight"]
    args = {
        "G0": features,
        "RDNkSize": kernel,
        "D": _count(shapes, r"encoder\.RDBs\.(\d+)\.LFF\.weight"),
        "C": _count(shapes, r"encoder\.RDBs\.0\.convs\.(\d+)\.conv\.0\.weight"),
        "G": shapes["encoder.RDBs.0.convs.0.conv.0.weight"][0],
        "n_colors": colours,
    }
    return "rdn", args


def _swinir(shapes: Shapes) -> Described:
    embed, colours = shapes["encoder.conv_first.weight"][:2]
    block = "encoder.layers.{}.residual_group.blocks.0."
    groups = range(_count(shapes, r"encoder\.layers\.(\d+)\.conv\.weight"))
    tables = [shapes[block.format(n) + "attn.relative_position_bias_table"] for n in groups]
    depths = [_count(shapes, rf"encoder\.layers\.{n}\.residual_group\.blocks\.(\d+)\.norm1\.weight") for n in groups]
    last = shapes.get("encoder.conv_before_upsample.0.weight")
    args = {
        "embed_dim": embed,
        "depths": depths,
        "num_heads": [table[1] for table in tables],
        "window_size": (math.isqrt(tables[0][0]) + 1) // 2,
        "mlp_ratio": shapes[block.format(0) + "mlp.fc1.weight"][0] / embed,
        "num_feat": last[0] if last else 0,
        "n_colors": colours,
    }
    return "swinir", args


def _span(shapes: Shapes) -> Described:
    features, colours = shapes["encoder.conv_1.weight"][:2]
    blocks = _count(shapes, r"encoder\.block_(\d+)\.c1_r\.weight")
    return "span", {"num_blocks": blocks, "feature_channels": features, "num_in_ch": colours}


def _hiif(shapes: Shapes) -> Described:
    width = shapes["freq.weight"][0]
    inputs = shapes["fc_layers.0.norm.weight"][0]
    levels = _count(shapes, r"fc_layers\.(\d+)\.norm\.weight")
    args = {
        "hidden_dim": width,
        "mlp_dim": shapes["fc_layers.0.fc1.weight"][0],
        "levels": levels,
        "attention_blocks": _count(shapes, r"conv(\d+)\.qkv_proj\.weight"),
        "hierarchy": "once" if inputs == 4 * width + 2 + 2 * levels else "levels",
    }
    if args["attention_blocks"]:
        args["blocks"] = width // shapes["conv0.kln.weight"][0]
        args["projections"] = 2 if "conv0.proj2.weight" in shapes else 1
    return "hiif", args


def _srno(shapes: Shapes) -> Described:
    return "sronet", {"width": shapes["conv00.weight"][0], "blocks": shapes["conv0.kln.weight"][0]}


def _clit(shapes: Shapes) -> Described:
    width = shapes["conv_ch.weight"][0]
    heads, code = shapes["pb_encoder.proj.weight"]
    tokens = (shapes["imnets.0.layers.0.weight"][1] - 2) // width
    stages = _count(shapes, r"imnets\.(\d+)\.layers\.0\.weight")
    return "clit", {
        "base_dim": width,
        "head": heads,
        "r": (math.isqrt(tokens) - 1) // 2,
        "imnet_num": stages,
        "conv_num": stages,
        "pb_spec": {"name": "posenc", "args": {"enc_dims": code, "posenc_scale": 10}},
        "imnet_spec": _mlp_spec(shapes, "imnets.0.layers", act="gelu"),
    }


def _ciaosr(shapes: Shapes) -> Described:
    return "ciaosr", {
        "hidden_list": _hidden(shapes, "imnet_q.layers"),
        "non_local_attn": "cs_attn.down.weight" in shapes,
    }


def _lte(shapes: Shapes) -> Described:
    return "lte", {"hidden_dim": shapes["coef.weight"][0], "imnet_spec": _mlp_spec(shapes, "imnet.layers")}


def _lte_plus(shapes: Shapes) -> Described:
    return "lte-plus", {"hidden_dim": shapes["coef.weight"][0]}


def _liif_or_metasr(shapes: Shapes) -> Described:
    """Tell LIIF, which reads features (3×3 or not) and position (with the cell or not), from MetaSR, which reads three
    values."""
    channels = _channels(shapes)
    inputs = shapes["imnet.layers.0.weight"][1]
    if inputs == 3:
        return "metasr", {}
    for unfold in (True, False):
        for cell in (True, False):
            if inputs == channels * (9 if unfold else 1) + (4 if cell else 2):
                return "liif", {
                    "imnet_spec": _mlp_spec(shapes, "imnet.layers"),
                    "feat_unfold": unfold,
                    "cell_decode": cell,
                }
    raise CheckpointError(
        f"imnet.layers.0.weight reads {inputs} values: a LIIF on {channels} channels would read {9 * channels + 4}"
    )


def _fixed_scale(shapes: Shapes) -> Described:
    """Each pixel shuffle by r leaves a convolution's outputs over r² to the next one, or to the three colours."""
    layers = [shapes[f"upsampler.{2 * n}.weight"] for n in range(_count(shapes, r"upsampler\.(\d+)\.weight"))]
    if len(layers) == 1:
        return "pixelshuffle", {"scale": math.isqrt(layers[0][0] // 3), "direct": True}
    shuffled = math.prod(before[0] // after[1] for before, after in pairwise(layers))
    return "pixelshuffle", {"scale": math.isqrt(shuffled)}


def _channels(shapes: Shapes) -> int:
    """Return the channels of the encoder's features: the outputs of its last layer."""
    last = ("conv_before_upsample.0", "conv_after_body", "GFF.1", "head.0")
    widths = [shapes[f"encoder.{name}.weight"][0] for name in last if f"encoder.{name}.weight" in shapes]
    return widths[0] if widths else 0


def _mlp_spec(shapes: Shapes, prefix: str, **more: Any) -> dict[str, Any]:
    hidden = _hidden(shapes, prefix)
    outputs = shapes[f"{prefix}.{2 * len(hidden)}.weight"][0]
    return {"name": "mlp", "args": {"out_dim": outputs, "hidden_list": hidden, **more}}


def _hidden(shapes: Shapes, prefix: str) -> list[int]:
    """Return the widths between the layers of a network whose layers have even numbers."""
    count = _count(shapes, rf"{re.escape(prefix)}\.(\d+)\.weight")
    return [shapes[f"{prefix}.{2 * n}.weight"][0] for n in range(count - 1)]


def _count(shapes: Shapes, pattern: str) -> int:
    """Count the different numbers that match the pattern's group."""
    return len({found[1] for key in shapes if (found := re.fullmatch(pattern, key))})


DECODERS: Table = {
    "imnet_q.layers.0.weight": _ciaosr,
    "conv_ch.weight": _clit,
    "fc_layers.0.norm.weight": _hiif,
    "conv00.weight": _srno,
    "layers.0.weight": _lte_plus,
    "phase.weight": _lte,
    "imnet.layers.0.weight": _liif_or_metasr,
    "upsampler.0.weight": _fixed_scale,
}

ENCODERS: Table = {
    "encoder.head.0.weight": _edsr,
    "encoder.SFENet1.weight": _rdn,
    "encoder.conv_first.weight": _swinir,
    "encoder.conv_cat.weight": _span,
}
