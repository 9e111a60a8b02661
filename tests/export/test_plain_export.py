"""Fixed-scale networks as plain ONNX files: any size and batch, and the pictures that `evaluate` measures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from hiif_deploy.cli import app as cli
from hiif_deploy.images.samples import sample
from hiif_deploy.pixels import to_unit
from hiif_export import plain_export
from hiif_training.checkpoints.checkpoint import save_checkpoint
from hiif_training.evaluation.options import group_rows
from hiif_training.models.reference import upscale
from hiif_training.models.registry import make_model

torch.set_num_threads(1)

ENCODERS: dict[str, dict[str, Any]] = {
    "edsr-baseline": {"n_resblocks": 1, "n_feats": 4},
    "rdn": {"G0": 4, "D": 1, "C": 1, "G": 3},
    "span": {"num_blocks": 2, "feature_channels": 4},
    "swinir": {"embed_dim": 4, "depths": [2], "num_heads": [2], "num_feat": 4, "window_size": 4, "img_size": 8},
}
SCALES = {"edsr-baseline": 4, "rdn": 3, "span": 2, "swinir": 2}


def spec(encoder: str) -> dict[str, Any]:
    args = {"scale": SCALES[encoder], "rgb_range": 1 if encoder == "swinir" else 255, "direct": encoder == "span"}
    return {"name": "pixelshuffle", "args": {**args, "encoder_spec": {"name": encoder, "args": ENCODERS[encoder]}}}


def checkpoint(folder: Path, encoder: str) -> Path:
    torch.manual_seed(0)
    save_checkpoint(folder / "m.pth", make_model(spec(encoder)), spec(encoder), {"epoch": 7})
    return folder / "m.pth"


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main([str(word) for word in words])
    return int(stop.value.code or 0)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_file_takes_any_size_and_batch_and_gives_pytorchs_pictures(
    encoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, scale = tmp_path / "new" / "plain.onnx", SCALES[encoder]
    assert run("export", checkpoint(tmp_path, encoder), "-o", path) == 0
    assert "plain.onnx: written, equal to PyTorch within" in capsys.readouterr().err
    session = onnxruntime.InferenceSession(path)
    (given,), (made,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape) == ("input", "tensor(float)", ["batch", 3, "height", "width"])
    assert (made.name, made.shape) == ("output", ["batch", 3, f"{scale}*height", f"{scale}*width"])
    torch.manual_seed(0)
    model = make_model(spec(encoder)).eval()
    for count, height, width in ((3, 9, 14), (1, 2, 5)):
        frames = [np.ascontiguousarray(sample("coffee")[n : n + height, n : n + width]) for n in range(count)]
        unit = np.stack([to_unit(frame).transpose(2, 0, 1) for frame in frames])
        (found,) = session.run(None, {"input": unit})
        rows = group_rows(None, model.encoder.size_multiple, scale)
        expected = [upscale(model, frame, (height * scale, width * scale), group_rows=rows) for frame in frames]
        np.testing.assert_allclose(found.transpose(0, 2, 3, 1), np.stack(expected), rtol=0, atol=1e-5)
        assert found.std() > 1e-3


def test_a_file_names_its_model_and_holds_no_other_files(tmp_path: Path) -> None:
    assert run("export", checkpoint(tmp_path, "rdn"), "-o", tmp_path / "plain.onnx", "-q") == 0
    metadata = {entry.key: entry.value for entry in onnx.load(tmp_path / "plain.onnx").metadata_props}
    assert json.loads(metadata["model"]) == spec("rdn")
    assert (metadata["scale"], metadata["epoch"], metadata["checkpoint"]) == ("3", "7", "m.pth")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.pth", "plain.onnx"]


def test_values_are_kept_between_black_and_white(tmp_path: Path) -> None:
    model = make_model(spec("edsr-baseline"))
    with torch.no_grad():
        model.upsampler[-1].bias.copy_(torch.tensor([900.0, 0.0, -900.0]))  # type: ignore[index,union-attr,operator]
    plain_export.export_plain(model, tmp_path / "plain.onnx", {})  # type: ignore[arg-type]
    session = onnxruntime.InferenceSession(tmp_path / "plain.onnx")
    (found,) = session.run(None, {"input": np.full((1, 3, 4, 4), 0.5, np.float32)})
    assert (found[0, 0] == 1).all()
    assert (found[0, 2] == 0).all()
    assert 0 < found[0, 1].mean() < 1


def test_a_graph_that_deviates_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forward = plain_export.PlainNetwork.forward
    monkeypatch.setattr(plain_export.PlainNetwork, "forward", lambda self, image: forward(self, image) * 0.999)
    assert run("export", checkpoint(tmp_path, "rdn"), "-o", tmp_path / "plain.onnx") == 1
    assert "1x1: the colours differ from PyTorch by" in capsys.readouterr().err
    assert not (tmp_path / "plain.onnx").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["-o", "bundle"],
            "a model of one scale becomes one graph, not a bundle: hiif-deploy export CHECKPOINT -o NAME.",
        ),
        (
            ["-o", "m.onnx", "--precision", "fp32"],
            "--precision: for bundles, and m.onnx is one ONNX file; leave it out",
        ),
        (["-o", "m.onnx", "--name", "a", "--scales", "1-4"], "--name, --scales: for bundles"),
        (["-o", "there.onnx"], "there.onnx exists already; choose another name or add --overwrite"),
    ],
)
def test_what_does_not_fit_a_plain_file_is_refused(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.onnx").touch()
    assert run("export", checkpoint(tmp_path, "rdn"), *words) == 2
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.pth", "there.onnx"]


def test_a_model_of_any_scale_is_no_plain_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    liif = {"name": "liif", "args": {"encoder_spec": {"name": "rdn", "args": ENCODERS["rdn"]}}}
    save_checkpoint(tmp_path / "l.pth", make_model(liif), liif)
    assert run("export", tmp_path / "l.pth", "-o", tmp_path / "l.onnx") == 2
    assert "l.onnx: liif upscales by any factor and becomes a bundle, which is a folder" in capsys.readouterr().err


def test_a_bundle_is_not_compared_with_a_fixed_scale_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("verify", "hiif-live", "--checkpoint", checkpoint(tmp_path, "edsr-baseline")) == 2
    assert "m.pth: a network of a fixed scale, and bundles are of any; export compares it" in capsys.readouterr().err
