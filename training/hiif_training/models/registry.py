"""Names and arguments of published checkpoints → models.

A spec is `{"name": str, "args": {...}}`, as the LIIF family writes it. It means the same wherever it stands:
what it leaves out has the value of the public code, and what it says has an effect or is refused.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from hiif_deploy.errors import CheckpointError
from hiif_training.models.ciaosr import Ciaosr, CiaosrConfig
from hiif_training.models.clit import Clit, ClitConfig
from hiif_training.models.edsr import Edsr, EdsrConfig
from hiif_training.models.hiif import Hiif, HiifConfig
from hiif_training.models.rdn import RDN_CONFIGS, Rdn
from hiif_training.models.swinir import Swinir, SwinirConfig

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from hiif_training.models.encoder import Encoder

    Config = TypeVar("Config", bound=DataclassInstance)

Arguments = Mapping[str, Any]
"""The `args` of a spec."""
Accepted = Mapping[str, tuple[Any, ...] | None]
"""Public arguments that set nothing here → the values they may have; None where no value has an effect."""

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
_HIIF_FIELDS = {("blocks" if f.name == "heads" else f.name): f.name for f in fields(HiifConfig)}

_CIAOSR_FIELDS = {"hidden_list": "hidden", "non_local_attn": "non_local"}
_CIAOSR_FIXED: Accepted = {
    "local_size": (2,),
    "feat_unfold": (True,),
    "multi_scale": ([2],),
    "softmax_scale": (1,),
    "eval_bsize": None,
}
_CLIT_FIELDS = {"base_dim": "width", "head": "heads", "r": "reach", "imnet_num": "stages"}
_CLIT_FIXED: Accepted = {"is_cell": (True,), "local_attn": (True,)}
_CODE_FIELDS = {"enc_dims": "frequencies", "posenc_scale": "octaves"}
_CODE_FIXED: Accepted = {"posenc_type": ("sinusoid",), "gamma": (1,), "hidden_dims": None}

_WITHOUT_UPSAMPLING: Accepted = {"no_upsampling": (True,), "scale": None, "rgb_range": None}
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


def make_encoder(spec: Mapping[str, Any]) -> Encoder:
    """The encoder that `spec` describes, freshly initialised; CheckpointError names what is unknown in it."""
    name, args = _read_spec(spec, "encoder")
    return _look_up(name, ENCODERS, "encoder")(args)


def make_model(spec: Mapping[str, Any]) -> Any:
    """The decoder that `spec` describes, around the encoder of its `encoder_spec`, freshly initialised."""
    name, args = _read_spec(spec, "model")
    return _look_up(name, DECODERS, "model")(args)


def _edsr(name: str, base: EdsrConfig, args: Arguments) -> Encoder:
    return Edsr(_configure(name, base, args, _EDSR_FIELDS, _WITHOUT_UPSAMPLING))


def _rdn(args: Arguments) -> Encoder:
    args = dict(args)
    config = _look_up(args.pop("RDNconfig", "B"), RDN_CONFIGS, "RDNconfig of rdn")
    return Rdn(_configure("rdn", config, args, _RDN_FIELDS, _WITHOUT_UPSAMPLING))


def _swinir(args: Arguments) -> Encoder:
    return Swinir(_configure("swinir", SwinirConfig(), args, _SWINIR_FIELDS, _SWINIR_FIXED))


def _hiif(name: str, args: Arguments) -> Hiif:
    encoder_spec, args = _encoder_spec(name, args)
    # The public code knows no other bits: a spec that does not name them was written for these.
    config = _configure(name, HiifConfig(bits="reference"), args, _HIIF_FIELDS, {})
    return Hiif(make_encoder(encoder_spec), config)


def _ciaosr(args: Arguments) -> Ciaosr:
    encoder_spec, args = _encoder_spec("ciaosr", args)
    config = _configure("ciaosr", CiaosrConfig(), args, _CIAOSR_FIELDS, _CIAOSR_FIXED)
    return Ciaosr(make_encoder(encoder_spec), config)


def _clit(args: Arguments) -> Clit:
    encoder_spec, args = _encoder_spec("clit", args)
    code = _part("clit", args.pop("pb_spec", None), "posenc")
    network = _part("clit", args.pop("imnet_spec", None), "mlp")
    # The public class has base_dim 192 where its arguments say nothing.
    base = ClitConfig(width=192)
    if args.pop("conv_num", args.get("imnet_num", base.stages)) != args.get("imnet_num", base.stages):
        raise CheckpointError("clit: conv_num and imnet_num differ: expected one network and one convolution per stage")
    base = _configure("clit", base, args, _CLIT_FIELDS, _CLIT_FIXED)
    if isinstance(waves := code.get("enc_dims"), int):
        code["enc_dims"] = waves // 4
    base = _configure("pb_spec of clit", base, code, _CODE_FIELDS, _CODE_FIXED)
    fields = {"hidden_list": "hidden", "act": "activation"}
    return Clit(make_encoder(encoder_spec), _configure("imnet_spec of clit", base, network, fields, {"out_dim": (3,)}))


def _encoder_spec(name: str, args: Arguments) -> tuple[Mapping[str, Any], dict[str, Any]]:
    """The argument that every decoder needs, and the others."""
    rest = dict(args)
    encoder_spec = rest.pop("encoder_spec", None)
    if encoder_spec is None:
        raise CheckpointError(f"{name}: the argument encoder_spec is missing: expected {{'name': text, 'args': {{…}}}}")
    return encoder_spec, rest


def _part(model: str, spec: Any, expected: str) -> dict[str, Any]:
    """Arguments of a part that can only be one thing; none where the spec leaves the part out."""
    if spec is None:
        return {}
    name, args = _read_spec(spec, f"{expected} of {model}")
    if name != expected:
        raise CheckpointError(f"{model}: {name!r} is not what this project reads: expected {expected!r}")
    return dict(args)


ENCODERS: dict[str, Callable[[Arguments], Encoder]] = {
    "edsr-baseline": partial(_edsr, "edsr-baseline", EdsrConfig()),
    "edsr": partial(_edsr, "edsr", EdsrConfig(blocks=32, features=256, residual_scale=0.1)),
    "edsr-mini": partial(_edsr, "edsr-mini", EdsrConfig(blocks=4, features=16, residual_scale=2.0)),
    "rdn": _rdn,
    "swinir": _swinir,
}
"""Every encoder name of a published checkpoint that this project reads."""

DECODERS: dict[str, Callable[[Arguments], Any]] = {
    "hiif": partial(_hiif, "hiif"),
    "hiifv3": partial(_hiif, "hiifv3"),
    "ciaosr": _ciaosr,
    "clit": _clit,
}
"""Every model name of a published checkpoint that this project reads."""


def _configure(model: str, base: Config, args: Arguments, names: Mapping[str, str], accepted: Accepted) -> Config:
    """`base` with the arguments put into the fields that `names` gives them."""
    for name, value in args.items():
        _look_up(name, {**names, **accepted}, f"argument of {model}")
        allowed = accepted.get(name)
        if allowed is not None and value not in allowed:
            raise CheckpointError(f"{model}: {name} is {value!r}: expected {' or '.join(map(repr, allowed))}")
    values = {
        field: _typed(f"{model}: {name}", args[name], getattr(base, field))
        for name, field in names.items()
        if name in args
    }
    return replace(base, **values)


def _typed(what: str, value: Any, example: Any) -> Any:
    """`value` where it has the type of `example`, a list as a tuple; CheckpointError otherwise."""
    if isinstance(example, tuple) and isinstance(value, list | tuple):
        return tuple(_typed(f"{what}[{n}]", entry, example[0]) for n, entry in enumerate(value))
    if isinstance(example, float) and type(value) is int:
        return float(value)
    if type(value) is not type(example):
        kind = "list" if isinstance(example, tuple) else type(example).__name__
        raise CheckpointError(f"{what} is {value!r}: expected {kind}")
    return value


def _read_spec(spec: Mapping[str, Any], kind: str) -> tuple[str, Arguments]:
    """Name and arguments of a spec, which may come from a file and be anything."""
    rest = dict(spec) if isinstance(spec, Mapping) else {}
    name, args = rest.pop("name", None), rest.pop("args", None)
    args = {} if args is None else args
    if rest or not isinstance(name, str) or not isinstance(args, Mapping):
        raise CheckpointError(f"{kind} spec is {spec!r}: expected {{'name': text, 'args': {{…}}}}")
    return name, args


Value = TypeVar("Value")


def _look_up(name: Any, table: Mapping[str, Value], kind: str) -> Value:
    if isinstance(name, str) and name in table:
        return table[name]
    raise CheckpointError(f"unknown {kind} {name!r}{_nearest(name, table)}; known: {', '.join(table)}")


def _nearest(name: Any, known: Collection[str]) -> str:
    near = difflib.get_close_matches(str(name).lower(), known, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
