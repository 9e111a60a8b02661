"""Names and arguments of published checkpoints become models, or are refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from hiif_deploy.errors import CheckpointError
from hiif_training.models.encoders.edsr import Edsr, EdsrConfig
from hiif_training.models.encoders.rdn import Rdn, RdnConfig
from hiif_training.models.encoders.swinir import Swinir, SwinirConfig
from hiif_training.models.hiif import Hiif, HiifConfig
from hiif_training.models.registry import DECODERS, ENCODERS, make_encoder, make_model

MINI = {"name": "edsr-mini", "args": {"no_upsampling": True}}
TINY_SWINIR = {"embed_dim": 12, "depths": [2, 2], "num_heads": [2, 3]}


def hiif(**args: Any) -> dict[str, Any]:
    return {"name": "hiif", "args": {"encoder_spec": MINI, "blocks": 2, "hidden_dim": 8, **args}}


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("edsr-baseline", EdsrConfig(blocks=16, features=64, residual_scale=1.0)),
        ("edsr-mini", EdsrConfig(blocks=4, features=16, residual_scale=2.0)),
    ],
)
def test_the_edsr_names_have_the_published_sizes(name: str, config: EdsrConfig) -> None:
    encoder = make_encoder({"name": name, "args": {"no_upsampling": True}})
    assert isinstance(encoder, Edsr)
    assert encoder.config == config


def test_edsr_is_the_large_model_unless_arguments_say_otherwise() -> None:
    encoder = make_encoder({"name": "edsr", "args": {"n_resblocks": 2, "n_feats": 8, "n_colors": 3}})
    assert encoder.config == EdsrConfig(blocks=2, features=8, residual_scale=0.1)
    encoder = make_encoder({"name": "edsr", "args": {"n_resblocks": 1, "res_scale": 1}})
    assert encoder.config == EdsrConfig(blocks=1, features=256, residual_scale=1.0)


def test_rdn_without_arguments_is_configuration_b() -> None:
    encoder = make_encoder({"name": "rdn", "args": {"no_upsampling": True}})
    assert isinstance(encoder, Rdn)
    assert encoder.config == RdnConfig()


def test_rdn_arguments_have_the_public_names() -> None:
    encoder = make_encoder({"name": "rdn", "args": {"G0": 8, "RDNkSize": 5, "RDNconfig": "A", "D": 2, "G": 4}})
    assert encoder.config == RdnConfig(blocks=2, layers=6, growth=4, features=8, kernel=5)


def test_swinir_arguments_have_the_public_names() -> None:
    args = {**TINY_SWINIR, "no_upsampling": True, "upsampler": "none", "n_colors": 3, "mlp_ratio": 4}
    encoder = make_encoder({"name": "swinir", "args": {**args, "img_size": 64, "window_size": 4}})
    assert isinstance(encoder, Swinir)
    assert encoder.config == SwinirConfig(window=4, embed=12, depths=(2, 2), heads=(2, 3), mlp_ratio=4.0, image_size=64)


@pytest.mark.parametrize("args", [{}, None])
def test_a_spec_without_arguments_has_the_published_values(args: dict[str, Any] | None) -> None:
    assert make_encoder({"name": "edsr-mini", "args": args}).config == EdsrConfig(4, 16, 2.0)
    assert make_encoder({"name": "edsr-mini"}).config == EdsrConfig(4, 16, 2.0)


@pytest.mark.parametrize("name", ["hiif", "hiifv3"])
def test_both_public_names_build_hiif_around_its_encoder(name: str) -> None:
    model = make_model({**hiif(), "name": name})
    assert isinstance(model, Hiif)
    assert isinstance(model.encoder, Edsr)
    assert (model.config.heads, model.config.hidden_dim) == (2, 8)


def test_a_hiif_spec_means_the_public_code_where_it_says_nothing() -> None:
    model = make_model({"name": "hiif", "args": {"encoder_spec": MINI}})
    assert model.config == HiifConfig(heads=16, hidden_dim=256, bits="reference")


def test_our_own_hiif_arguments_are_the_fields_of_its_configuration() -> None:
    own = {"levels": 4, "attention_blocks": 1, "projections": 1, "hierarchy": "once", "bits": "exact"}
    config = make_model(hiif(**own, mlp_dim=16)).config
    assert config == HiifConfig(2, 8, 16, 4, 1, 1, "once", "exact")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"name": "edsr-baselin"},
            "unknown encoder 'edsr-baselin' (did you mean 'edsr-baseline'?); known: edsr-b",
        ),
        ({"name": "vgg"}, "unknown encoder 'vgg'; known: edsr-baseline, edsr, edsr-mini, rdn, span, swinir"),
        ({"name": "rdn", "args": {"RDNconfig": "C"}}, "unknown RDNconfig of rdn 'C'; known: A, B"),
        ({"name": "rdn", "args": {"RDNconfg": "B"}}, "unknown argument of rdn 'RDNconfg'"),
        (
            {"name": "edsr", "args": {"n_resblock": 2}},
            "'n_resblock' (did you mean 'n_resblocks'?); known: n_res",
        ),
        ({"name": "edsr", "args": {"no_upsampling": False}}, "edsr: no_upsampling is False: expected True"),
        (
            {"name": "swinir", "args": {"no_upsampling": False}},
            "swinir: no_upsampling is False: expected True",
        ),
        ({"name": "swinir", "args": {"upsampler": "nearest+conv"}}, "expected 'none' or 'pixelshuffle'"),
        ({"name": "swinir", "args": {"resi_connection": "3conv"}}, "is '3conv': expected '1conv'"),
        ({"name": "swinir", "args": {"depths": 6}}, "swinir: depths is 6: expected list"),
        ({"name": "swinir", "args": {"depths": [2, "2"]}}, "swinir: depths[1] is '2': expected int"),
        ({"name": "edsr", "args": {"n_feats": "64"}}, "edsr: n_feats is '64': expected int"),
        ({"name": "edsr", "args": {"n_feats": True}}, "edsr: n_feats is True: expected int"),
        ({"name": "edsr", "args": {"n_feats": 0}}, "EDSR features is 0: expected at least 1"),
        ({"name": "edsr", "args": []}, "expected {'name': text, 'args': {…}}"),
        ({"name": "edsr", "arg": {}}, "expected {'name': text, 'args': {…}}"),
        ({"args": {}}, "expected {'name': text, 'args': {…}}"),
        ("edsr", "encoder spec is 'edsr': expected"),
    ],
)
def test_what_is_wrong_with_an_encoder_spec_is_named(spec: Any, message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        make_encoder(spec)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "hif", "args": {}}, "unknown model 'hif' (did you mean 'hiif'?); known: hiif, hiifv3, liif"),
        ({"name": "hiif", "args": {}}, "hiif: the argument encoder_spec is missing"),
        (hiif(heads=4), "unknown argument of hiif 'heads'"),
        (hiif(level=4), "'level' (did you mean 'levels'?)"),
        (hiif(blocks=3), "8 is not a multiple of 3 heads"),
        (hiif(bits="rounded"), "bits 'rounded'"),
        (hiif(encoder_spec={"name": "resnet"}), "unknown encoder 'resnet'"),
    ],
)
def test_what_is_wrong_with_a_model_spec_is_named(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        make_model(spec)
    assert message in str(caught.value)


def test_a_spec_is_not_changed_by_building_from_it() -> None:
    spec = hiif()
    make_model(spec)
    assert spec == hiif()


def test_the_tables_name_every_published_encoder_and_model() -> None:
    assert list(ENCODERS) == ["edsr-baseline", "edsr", "edsr-mini", "rdn", "span", "swinir"]
    assert set(DECODERS) >= {"hiif", "hiifv3"}


@pytest.mark.parametrize("spec", [MINI, {"name": "swinir", "args": TINY_SWINIR}])
def test_every_encoder_says_what_a_decoder_needs_to_know(spec: dict[str, Any]) -> None:
    encoder = make_encoder(spec)
    assert encoder.out_channels >= 1
    assert encoder.size_multiple >= 1
    assert encoder.receptive_field is None or encoder.receptive_field >= 1
