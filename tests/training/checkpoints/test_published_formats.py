"""Every published checkpoint format loads unchanged, and its tensors alone tell the model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hiif_deploy.errors import CheckpointError
from hiif_training.checkpoints.checkpoint import load_checkpoint
from hiif_training.checkpoints.detect import detect_spec
from hiif_training.checkpoints.mmcv_format import family_tensors
from hiif_training.models.registry import DECODERS, make_model
from published_format import (
    BUFFERS,
    ENCODERS,
    FAMILY_ARGS,
    FOLDER,
    NAMES,
    expanded,
    family_file,
    mmcv_file,
    parameters,
    shapes,
    tensors,
)

FAMILY = [decoder for decoder in FAMILY_ARGS if NAMES.get(decoder, decoder) in DECODERS]


def is_buffer(key: str) -> bool:
    return key.endswith(BUFFERS)


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def uniform(state: dict[str, Tensor]) -> dict[str, float]:
    """Key → the one value that a tensor is full of; NaN where there are several."""
    return {key: float(v.flatten()[0]) if (v == v.flatten()[0]).all() else math.nan for key, v in state.items()}


def trained(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if not key.endswith(("attn_mask", "relative_position_index"))}


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.json")))
def test_a_list_has_the_published_number_of_parameters(name: str) -> None:
    counted = sum(math.prod(shape) for key, shape in shapes(name).items() if not is_buffer(key))
    assert counted == parameters(name)


def test_a_pattern_stands_for_every_choice() -> None:
    assert expanded("a.{0..2}.{w,b}") == ["a.0.w", "a.0.b", "a.1.w", "a.1.b", "a.2.w", "a.2.b"]


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("decoder", FAMILY)
def test_a_file_of_the_family_loads_unchanged(decoder: str, encoder: str, tmp_path: Path) -> None:
    content = family_file(decoder, encoder)
    loaded = load_checkpoint(saved(tmp_path / "published.pth", content))
    assert loaded.spec == {"name": content["model"]["name"], "args": content["model"]["args"]}
    assert loaded.metadata == {"epoch": 1000}
    stored = trained(content["model"]["sd"])
    assert uniform(trained(loaded.model.state_dict())) == uniform(stored)
    assert {key: tuple(v.shape) for key, v in loaded.model.state_dict().items()} == {
        **shapes(f"encoder-{encoder}"), **shapes(decoder)
    }  # fmt: skip


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_file_of_ciaosr_loads_unchanged(encoder: str, tmp_path: Path) -> None:
    content = mmcv_file(encoder)
    loaded = load_checkpoint(saved(tmp_path / "published.pth", content))
    assert loaded.spec["name"] == "ciaosr"
    assert loaded.spec["args"]["encoder_spec"]["name"] == encoder
    assert loaded.metadata == {"meta": content["meta"]}
    state = trained(loaded.model.state_dict())
    means = {key for key in state if "_mean." in key}
    found = uniform({key: value for key, value in state.items() if key not in means})
    assert sorted(found.values()) == sorted(uniform(trained(content["state_dict"])).values())
    for key, value in content["state_dict"].items():
        if key.startswith(("generator.imnet_", "generator.cs_attn.")):
            assert found[key.removeprefix("generator.")] == float(value.flatten()[0])


@pytest.mark.parametrize(
    ("encoder", "published", "family"),
    [
        ("edsr-baseline", "conv_first.weight", "head.0.weight"),
        ("edsr-baseline", "body.3.conv1.bias", "body.3.body.0.bias"),
        ("edsr-baseline", "body.15.conv2.weight", "body.15.body.2.weight"),
        ("edsr-baseline", "conv_after_body.weight", "body.16.weight"),
        ("rdn", "sfe1.weight", "SFENet1.weight"),
        ("rdn", "sfe2.bias", "SFENet2.bias"),
        ("rdn", "rdbs.7.layers.5.conv.weight", "RDBs.7.convs.5.conv.0.weight"),
        ("rdn", "rdbs.15.lff.bias", "RDBs.15.LFF.bias"),
        ("rdn", "gff.1.weight", "GFF.1.weight"),
        ("swinir", "conv_after_body.weight", "conv_after_body.weight"),
        ("swinir", "layers.2.residual_group.blocks.3.norm1.bias", "layers.2.residual_group.blocks.3.norm1.bias"),
    ],
)
def test_mmeditings_names_become_the_familys(encoder: str, published: str, family: str) -> None:
    stored = mmcv_file(encoder)["state_dict"]
    assert family_tensors(stored)[f"encoder.{family}"] is stored[f"generator.{published}"]


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("decoder", FAMILY)
def test_without_a_name_the_tensors_tell_the_model(decoder: str, encoder: str) -> None:
    content = family_file(decoder, encoder)["model"]
    spec = detect_spec(content["sd"])
    assert spec["name"] == content["name"]
    assert spec["args"]["encoder_spec"]["name"] == encoder
    named, told = (make_model({"name": one["name"], "args": one["args"]}) for one in (content, spec))
    assert told.config == named.config
    assert told.encoder.config == named.encoder.config


@pytest.mark.parametrize("wrapped", ["sd", "state_dict", "bare", "module"])
def test_a_state_dict_loads_in_whatever_it_is_wrapped(wrapped: str, tmp_path: Path) -> None:
    sd = tensors("encoder-edsr-baseline", "hiif")
    content: dict[str, Any] = {
        "sd": {"model": {"sd": sd}},
        "state_dict": {"state_dict": sd, "epoch": 3},
        "bare": sd,
        "module": {f"module.{key}": value for key, value in sd.items()},
    }[wrapped]
    loaded = load_checkpoint(saved(tmp_path / "m.pth", content))
    assert loaded.spec["name"] == "hiif"
    assert uniform(loaded.model.state_dict()) == uniform(sd)


def test_the_random_state_in_a_file_of_clit_is_left_alone(tmp_path: Path) -> None:
    content = {**family_file("clit-1", "edsr-baseline"), "state": torch.get_rng_state()}
    assert load_checkpoint(saved(tmp_path / "m.pth", content)).metadata == {"epoch": 1000}


def test_what_does_not_belong_to_the_generator_is_left_out(tmp_path: Path) -> None:
    content = mmcv_file("edsr-baseline")
    content["state_dict"]["pixel_loss.weight"] = torch.ones(1)
    assert load_checkpoint(saved(tmp_path / "m.pth", content)).spec["name"] == "ciaosr"


@pytest.mark.parametrize(
    ("sd", "message"),
    [
        ({"tail.weight": torch.zeros(1)}, "and its tensors are those of no known model: expected one of imnet_q.l"),
        ({"conv_ch.weight": torch.zeros(1)}, "are those of no known encoder: expected one of encoder.head.0.weight"),
        ({"conv_ch.weight": torch.zeros(1), "encoder.head.0.weight": torch.zeros(1)}, "KeyError: 'pb_encoder.proj.w"),
        ({"phase.weight": torch.zeros(1), "encoder.head.0.weight": torch.zeros(1)}, "do not tell it either"),
    ],
)
def test_tensors_of_no_known_model_are_refused(sd: dict[str, Tensor], message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(saved(tmp_path / "m.pth", sd))
    assert message in str(caught.value)


def test_an_edsr_of_unknown_residual_scale_is_refused_without_a_name() -> None:
    sd = {**tensors("hiif"), "encoder.head.0.weight": torch.zeros(32, 3, 3, 3)}
    with pytest.raises(CheckpointError, match="an EDSR of 32 channels: its residual scale is in no tensor"):
        detect_spec(sd)


def test_a_generator_with_another_encoder_is_refused(tmp_path: Path) -> None:
    content = {"state_dict": {"generator.first.weight": torch.zeros(1)}}
    with pytest.raises(CheckpointError, match="the generator's encoder is unknown: expected one of the tensors sfe1"):
        load_checkpoint(saved(tmp_path / "m.pth", content))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"base": 256}, "unknown argument of clit 'base'"),
        ({"conv_num": 2, "imnet_num": 1}, "conv_num and imnet_num differ"),
        ({"pb_spec": {"name": "fourier"}}, "'fourier' is not what this project reads: expected 'posenc'"),
        ({"pb_spec": {"name": "posenc", "args": {"posenc_type": "ipe"}}}, "posenc_type is 'ipe': expected 'sinusoid'"),
        ({"imnet_spec": {"name": "mlp", "args": {"out_dim": 4}}}, "out_dim is 4: expected 3"),
        ({"is_cell": False}, "clit: is_cell is False: expected True"),
    ],
)
def test_arguments_of_clit_that_cannot_be_followed_are_refused(args: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        make_model({"name": "clit", "args": {"encoder_spec": {"name": "edsr-mini"}, **args}})
    assert message in str(caught.value)


def test_clit_without_arguments_is_the_public_class() -> None:
    config = make_model({"name": "clit", "args": {"encoder_spec": {"name": "edsr-mini"}}}).config
    assert (config.width, config.activation) == (192, "relu")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"multi_scale": [2, 3]}, "ciaosr: multi_scale is [2, 3]: expected [2]"),
        ({"hidden_list": "256"}, "ciaosr: hidden_list is '256': expected list"),
    ],
)
def test_arguments_of_ciaosr_that_cannot_be_followed_are_refused(args: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        make_model({"name": "ciaosr", "args": {"encoder_spec": {"name": "edsr-mini"}, **args}})
    assert message in str(caught.value)
