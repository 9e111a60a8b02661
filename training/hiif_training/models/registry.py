"""Registry: names and arguments of published checkpoints → models.

A spec is `{"name": str, "args": {...}}`, as the LIIF family writes it, and has one meaning everywhere: an argument that
is left out has the value of the public code, and one that is given has an effect or is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from hiif_deploy.errors import CheckpointError
from hiif_training.models.arguments import Accepted, Arguments, configure, lookup, read_spec
from hiif_training.models.ciaosr import make_ciaosr
from hiif_training.models.clit import make_clit
from hiif_training.models.encoders.edsr import Edsr, EdsrConfig
from hiif_training.models.encoders.encoder import Encoder
from hiif_training.models.encoders.rdn import RDN_CONFIGS, Rdn
from hiif_training.models.encoders.span import Span, SpanConfig
from hiif_training.models.encoders.swinir import Swinir, SwinirConfig
from hiif_training.models.fixed_scale import make_fixed_scale
from hiif_training.models.hiif import make_hiif
from hiif_training.models.implicit import ImplicitModel
from hiif_training.models.liif import make_liif
from hiif_training.models.lte import make_lte, make_lte_plus
from hiif_training.models.metasr import make_metasr
from hiif_training.models.srno import make_srno

_EDSR_FIELDS = {
    "n_resblocks": "blocks",
    "n_feats": "features",
    "res_scale": "residual_scale",
    "n_colors": "colours",
}
_RDN_FIELDS = {
    "G0": "features",
    "RDNkSize": "kernel",
    "D": "blocks",
    "C": "layers",
    "G": "growth",
    "n_colors": "colours",
}
_SPAN_FIELDS = {"num_blocks": "blocks", "feature_channels": "features", "num_in_ch": "colours"}
_SWINIR_FIELDS = {
    "embed_dim": "embed",
    "depths": "depths",
    "num_heads": "heads",
    "window_size": "window",
    "mlp_ratio": "mlp_ratio",
    "img_size": "image_size",
    "num_feat": "features",
    "n_colors": "colours",
}

_WITHOUT_UPSAMPLING: Accepted = {"no_upsampling": (True,), "scale": None, "rgb_range": None}
_SPAN_FIXED: Accepted = {"no_upsampling": (True,)}
_SWINIR_FIXED: Accepted = {
    "no_upsampling": (True,),
    "upsampler": ("none", "pixelshuffle"),
    "resi_connection": ("1conv",),
    "patch_size": (1,),
    "qkv_bias": (True,),
    "qk_scale": (None,),
    "ape": (False,),
    "patch_norm": (True,),
    "upscale": None,
    "img_range": None,
    "drop_rate": None,
    "attn_drop_rate": None,
    "drop_path_rate": None,
    "use_checkpoint": None,
}


MAX_VALUES = 1 << 28
"""Largest allowed number of weights and buffers; the largest published model has 50 million."""


def make_encoder(spec: Mapping[str, Any]) -> Encoder:
    """Build the encoder that `spec` describes, freshly initialised; CheckpointError names what is unknown in it."""
    name, args = read_spec(spec, "encoder")
    return lookup(name, ENCODERS, "encoder")(args)


def make_model(spec: Mapping[str, Any]) -> ImplicitModel:
    """Build the decoder that `spec` describes, around the encoder of its `encoder_spec`, freshly initialised.

    CheckpointError names what is unknown, or too large, before anything is allocated.
    """
    # On the meta device tensors have shapes and no memory.
    with torch.device("meta"):
        values = sum(tensor.numel() for tensor in _make(spec).state_dict().values())
    if values > MAX_VALUES:
        raise CheckpointError(f"the model that is described has {values:,} weights: expected at most {MAX_VALUES:,}")
    return _make(spec)


def _make(spec: Mapping[str, Any]) -> ImplicitModel:
    decoder = decoder_named(spec)
    name, args = read_spec(spec, "model")
    rest = dict(args)
    encoder_spec = rest.pop("encoder_spec", None)
    if encoder_spec is None:
        raise CheckpointError(f"{name}: the argument encoder_spec is missing: expected {{'name': text, 'args': {{…}}}}")
    return decoder.make(make_encoder(encoder_spec), rest)


def decoder_named(spec: Mapping[str, Any]) -> DecoderEntry:
    """Return the registry's entry for a spec; CheckpointError with the list of known names."""
    return lookup(read_spec(spec, "model")[0], DECODERS, "model")


def _edsr(name: str, base: EdsrConfig, args: Arguments) -> Encoder:
    return Edsr(configure(name, base, args, _EDSR_FIELDS, _WITHOUT_UPSAMPLING))


def _rdn(args: Arguments) -> Encoder:
    args = dict(args)
    config = lookup(args.pop("RDNconfig", "B"), RDN_CONFIGS, "RDNconfig of rdn")
    return Rdn(configure("rdn", config, args, _RDN_FIELDS, _WITHOUT_UPSAMPLING))


def _span(args: Arguments) -> Encoder:
    return Span(configure("span", SpanConfig(), args, _SPAN_FIELDS, _SPAN_FIXED))


def _swinir(args: Arguments) -> Encoder:
    return Swinir(configure("swinir", SwinirConfig(), args, _SWINIR_FIELDS, _SWINIR_FIXED))


ENCODERS: dict[str, Callable[[Arguments], Encoder]] = {
    "edsr-baseline": partial(_edsr, "edsr-baseline", EdsrConfig()),
    "edsr": partial(_edsr, "edsr", EdsrConfig(blocks=32, features=256, residual_scale=0.1)),
    "edsr-mini": partial(_edsr, "edsr-mini", EdsrConfig(blocks=4, features=16, residual_scale=2.0)),
    "rdn": _rdn,
    "span": _span,
    "swinir": _swinir,
}
"""Name of an encoder in published checkpoints → function that builds it."""


@dataclass(frozen=True)
class DecoderEntry:
    """Functions and classes for one decoder name in checkpoints."""

    make: Callable[[Encoder, Arguments], ImplicitModel]
    """Builds the model from an encoder and the other arguments of the spec; CheckpointError for what is unknown."""
    exporter: str | None
    """`module:class` of its exporter (`hiif_export.graphs.exporter`), imported only when it is exported; None for
    fixed-scale networks, which become one graph and no bundle."""


DECODERS: dict[str, DecoderEntry] = {
    "hiif": DecoderEntry(make_hiif, "hiif_export.decoders.hiif_graphs:HiifExporter"),
    "hiifv3": DecoderEntry(make_hiif, "hiif_export.decoders.hiif_graphs:HiifExporter"),
    "liif": DecoderEntry(make_liif, "hiif_export.decoders.liif_export:LiifExporter"),
    "lte": DecoderEntry(make_lte, "hiif_export.decoders.lte_export:LteExporter"),
    "lte-plus": DecoderEntry(make_lte_plus, "hiif_export.decoders.lte_export:LteExporter"),
    "sronet": DecoderEntry(make_srno, "hiif_export.decoders.srno_export:SrnoExporter"),
    "metasr": DecoderEntry(make_metasr, "hiif_export.decoders.metasr_export:MetasrExporter"),
    "ciaosr": DecoderEntry(make_ciaosr, "hiif_export.decoders.ciaosr_export:CiaosrExporter"),
    "clit": DecoderEntry(make_clit, "hiif_export.decoders.clit_export:ClitExporter"),
    "pixelshuffle": DecoderEntry(make_fixed_scale, None),
}
"""Name of a model in published checkpoints → its entry."""
