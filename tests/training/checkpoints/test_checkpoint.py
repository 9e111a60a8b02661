"""Checkpoint files: what is read, what is refused and how, and that saving is all or nothing."""

from __future__ import annotations

import json
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import safetensors.torch
import torch

from checkpoint_files import SPEC, public, refusal, saved, weights
from hiif_deploy.errors import CheckpointError
from hiif_training.checkpoints.checkpoint import load_checkpoint, load_weights, read_file, save_checkpoint, write_whole
from hiif_training.models.hiif import HiifConfig
from hiif_training.models.registry import make_encoder, make_model

GOLDEN = Path(__file__).parents[3] / ".." / "shared" / "data" / "golden"


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("model", ["hiif-edsr"])
def test_the_public_checkpoint_loads_with_its_own_weights(model: str) -> None:
    path = GOLDEN / model / "checkpoint.pth"
    if not path.exists():
        pytest.skip("the golden data is not part of the repository")
    loaded = load_checkpoint(path)
    stored = torch.load(path, weights_only=True)["model"]["sd"]
    assert loaded.spec["name"] == "hiif"
    assert loaded.metadata == {"epoch": 1}
    assert loaded.model.config == HiifConfig(bits="reference")
    assert not loaded.model.training
    for key, value in loaded.model.state_dict().items():
        assert value.dtype == torch.float32
        assert value.equal(stored[key].float()), key


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_of_the_public_trainer_loads(tmp_path: Path, legacy: bool) -> None:
    sd = weights()
    options = {"_use_new_zipfile_serialization": not legacy}
    loaded = load_checkpoint(saved(tmp_path / "m.pth", public(sd), **options))
    assert loaded.spec == SPEC
    assert loaded.metadata == {"epoch": 7}
    assert all(value.equal(sd[key]) for key, value in loaded.model.state_dict().items())


def test_the_name_hiifv3_is_the_same_model(tmp_path: Path) -> None:
    assert load_checkpoint(saved(tmp_path / "m.pth", public(weights(), name="hiifv3"))).spec["name"] == "hiifv3"


def test_module_prefixes_are_stripped(tmp_path: Path) -> None:
    sd = weights()
    loaded = load_checkpoint(saved(tmp_path / "m.pth", public({f"module.{k}": v for k, v in sd.items()})))
    assert loaded.model.state_dict()["freq.bias"].equal(sd["freq.bias"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_floating_type_becomes_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    sd = {key: value.to(dtype) for key, value in weights().items()}
    state = load_checkpoint(saved(tmp_path / "m.pth", public(sd))).model.state_dict()
    assert {value.dtype for value in state.values()} == {torch.float32}
    assert state["freq.weight"].equal(sd["freq.weight"].float())


@pytest.mark.parametrize("shape", [(36, 64, 64), (64, 64, 64), None])
def test_masks_of_any_size_are_ignored(shape: tuple[int, ...] | None) -> None:
    spec = {"name": "swinir", "args": {"embed_dim": 12, "depths": [2], "num_heads": [2]}}
    encoder, mask = make_encoder(spec), "layers.0.residual_group.blocks.1.attn_mask"
    own = encoder.get_buffer(mask).clone()
    sd = dict(encoder.state_dict())
    for key in [key for key in sd if key.endswith(("attn_mask", "relative_position_index"))]:
        del sd[key]
        if shape:
            sd[key] = torch.full(shape, 5.0)
    load_weights(encoder, sd)
    assert encoder.get_buffer(mask).equal(own)


@pytest.mark.parametrize("name", ["m.pth", "m.pt", "m.safetensors", "new/folder/m.pth"])
def test_what_was_saved_is_loaded(tmp_path: Path, name: str) -> None:
    model = make_model(SPEC)
    save_checkpoint(tmp_path / name, model, SPEC, {"epoch": 3, "data": ["DIV2K"], "loss": 0.5})
    loaded = load_checkpoint(tmp_path / name)
    assert loaded.spec == SPEC
    assert loaded.metadata == {"epoch": 3, "data": ["DIV2K"], "loss": 0.5}
    assert loaded.model.config == model.config
    assert all(value.equal(model.state_dict()[key]) for key, value in loaded.model.state_dict().items())


def test_a_saved_pth_has_the_layout_of_the_public_trainer(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "m.pth", make_model(SPEC), SPEC, {"epoch": 3})
    content = torch.load(tmp_path / "m.pth", weights_only=True)
    assert set(content) == {"model", "epoch"}
    assert set(content["model"]) == {"name", "args", "sd"}
    assert isinstance(content["model"]["sd"], OrderedDict)


def test_a_saved_safetensors_has_its_spec_in_the_json_beside_it(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "m.safetensors", make_model(SPEC), SPEC, {"epoch": 3})
    assert json.loads((tmp_path / "m.json").read_text()) == {"model": SPEC, "metadata": {"epoch": 3}}
    assert set(safetensors.torch.load_file(tmp_path / "m.safetensors")) == set(weights())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.json", "m.safetensors"]


def test_an_unknown_suffix_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"m\.onnx: unknown .*one of \.pth, \.pt, \.safetensors"):
        save_checkpoint(tmp_path / "m.onnx", make_model(SPEC), SPEC)
    assert not list(tmp_path.iterdir())


def test_only_plain_metadata_is_written(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"metadata\.loss is a Tensor: expected a number, text, list"):
        save_checkpoint(tmp_path / "m.pth", make_model(SPEC), SPEC, {"loss": torch.zeros(1)})


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    path.write_bytes(b"old")

    def half(file: BinaryIO) -> None:
        file.write(b"ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, half)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_reported_with_the_path(tmp_path: Path) -> None:
    def full(_: BinaryIO) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(CheckpointError, match=r"m\.pth: cannot be written: No space left on device"):
        write_whole(tmp_path / "m.pth", full)
    assert not list(tmp_path.iterdir())


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path / "m.pth").endswith("m.pth: no such file")


def test_a_folder_is_not_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "m.pth").mkdir()
    assert refusal(tmp_path / "m.pth").endswith("m.pth: not a file")


@pytest.mark.parametrize("name", ["m.pth", "m.safetensors"])
def test_an_empty_file_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert "the file is empty (0 bytes)" in refusal(tmp_path / name)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_truncated_file_is_refused(tmp_path: Path, legacy: bool, share: float) -> None:
    path = saved(tmp_path / "m.pth", public(weights()), _use_new_zipfile_serialization=not legacy)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert "truncated, damaged or not a checkpoint (" in refusal(path)


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.pth", public(weights()))
    content = bytearray(path.read_bytes())
    content[content.index(weights()["freq.weight"].numpy().tobytes())] ^= 1
    path.write_bytes(content)
    assert "damaged" in refusal(path)
    assert "Bad CRC-32" in refusal(path)


@pytest.mark.parametrize("content", [b"hello world", b"<html></html>", b"\x89PNG\r\n\x1a\n", bytes(range(256))])
def test_another_kind_of_file_is_not_a_checkpoint(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.pth"
    path.write_bytes(content)
    assert "not a checkpoint" in refusal(path)


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle"])
def test_a_file_that_would_run_code_is_refused_and_does_not_run_it(tmp_path: Path, how: str) -> None:
    path, mark = tmp_path / "m.pth", tmp_path / "mark"
    content = public(weights(), args=Trap(mark))
    if how == "pickle":
        path.write_bytes(pickle.dumps(Trap(mark), protocol=2))
    else:
        saved(path, content, _use_new_zipfile_serialization=how == "zip")
    message = refusal(path)
    assert not mark.exists()
    if how != "pickle":
        assert "executes code when it is loaded (" in message
        assert "mkdir); refused" in message
        assert "save it again with tensors, numbers, texts and dictionaries only" in message


def test_the_trap_would_have_run_without_the_safe_loader(tmp_path: Path) -> None:
    path, mark = saved(tmp_path / "m.pth", Trap(tmp_path / "mark")), tmp_path / "mark"
    torch.load(path, weights_only=False)
    assert mark.exists()


def test_a_pickled_module_is_refused_by_its_class(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.pth", {"model": torch.nn.Linear(1, 1)})
    assert "executes code when it is loaded (torch.nn.modules.linear.Linear); refused" in refusal(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list: expected a dictionary with 'model'"),
        (
            {"state_dict": {}, "meta": {}},
            "not a checkpoint of the LIIF family: expected {'model': {'name', 'args'",
        ),
        ({"state_dict": {}, "meta": {}}, "got keys state_dict, meta"),
        ({"model": {"freq.weight": torch.zeros(1)}}, "not a checkpoint of the LIIF family"),
        (
            {"model": {"sd": {}}},
            "names no model, and its tensors are those of no known model: expected one of imnet_q.l",
        ),
        ({"model": {"sd": {}, "args": {"width": 1}}}, "model spec is {'name': None, 'args': {'width': 1}}: expected"),
        ({"model": {"name": "upnet", "args": {}, "sd": {}}}, "unknown model 'upnet'; known: hiif, hiifv3, liif"),
        (public({}, args={"encoder_spec": {"name": "vgg"}}), "unknown encoder 'vgg'; known: edsr-baseline"),
        (public({}, args={**SPEC["args"], "width": 256}), "unknown argument of hiif 'width'"),
    ],
)
def test_a_dictionary_of_another_kind_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    assert message in refusal(saved(tmp_path / "m.pth", content))


def test_missing_and_unexpected_tensors_are_counted_and_the_first_ones_named(tmp_path: Path) -> None:
    sd = weights()
    count = len(sd)
    for key in [key for key in sd if key.startswith("freq.")]:
        del sd[key]
    sd |= {f"tail.{n}": torch.zeros(1) for n in range(5)}
    message = refusal(saved(tmp_path / "m.pth", public(sd)))
    assert "2 missing (freq.weight, freq.bias) and 5 unexpected (tail.0, tail.1, tail.2, …)" in message
    assert f"of {count}" in message


def test_a_wrong_shape_is_named_with_both_shapes(tmp_path: Path) -> None:
    sd = weights() | {"freq.weight": torch.zeros(8, 64, 3, 3)}
    message = refusal(saved(tmp_path / "m.pth", public(sd)))
    assert message.endswith("freq.weight has shape 8×64×3×3: expected 8×16×3×3")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_named(tmp_path: Path, value: float) -> None:
    sd = weights()
    sd["freq.bias"][[1, 3]] = value
    message = refusal(saved(tmp_path / "m.pth", public(sd)))
    assert message.endswith("freq.bias has 2 NaN or infinite values of 8")


@pytest.mark.parametrize(
    ("value", "kind"),
    [(torch.zeros(8, dtype=torch.int64), "torch.int64"), ([0.0] * 8, "list"), (None, "NoneType")],
)
def test_weights_that_are_not_floating_tensors_are_named(tmp_path: Path, value: Any, kind: str) -> None:
    message = refusal(saved(tmp_path / "m.pth", public({**weights(), "freq.bias": value})))
    assert message.endswith(f"freq.bias is {kind}: expected a floating-point tensor")


def test_a_safetensors_file_without_its_json_is_refused(tmp_path: Path) -> None:
    safetensors.torch.save_file(weights(), tmp_path / "m.safetensors")
    assert "m.json: missing; a safetensors checkpoint needs its name and args" in refusal(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "m.json: not a JSON file"),
        ("[]", 'm.json: expected {"model": {"name": …, "args": …}}'),
        ('{"model": {"name": "hif"}}', "unknown model 'hif' (did you mean 'hiif'?)"),
    ],
)
def test_a_wrong_json_is_refused(tmp_path: Path, text: str, message: str) -> None:
    safetensors.torch.save_file(weights(), tmp_path / "m.safetensors")
    (tmp_path / "m.json").write_text(text)
    assert message in refusal(tmp_path / "m.safetensors")


def test_a_truncated_safetensors_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_checkpoint(path, make_model(SPEC), SPEC)
    path.write_bytes(path.read_bytes()[:-100])
    assert "truncated or not a safetensors file" in refusal(path)


def test_any_plain_dictionary_can_be_read_for_resuming(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    write_whole(path, lambda file: torch.save({"step": 5, "average": None, "weights": weights()}, file))
    assert read_file(path)["step"] == 5
