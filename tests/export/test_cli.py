"""`export` and `verify` as a user runs them."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from conftest import TINY_SPEC
from hiif_deploy.cli import app as cli
from hiif_deploy.support import extras
from hiif_deploy.support.install import install_command
from hiif_export import export as export_module
from hiif_export.export_command import every_precision, parse_scales
from hiif_training.checkpoints.checkpoint import save_checkpoint
from hiif_training.models.registry import DECODERS, make_model


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main([str(word) for word in words])
    return int(stop.value.code or 0)


@pytest.fixture(scope="module")
def checkpoint(tiny_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.pth"
    save_checkpoint(path, tiny_model, TINY_SPEC, {"epoch": 5})
    return path


def test_a_checkpoint_becomes_a_bundle_that_upscales(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = {**TINY_SPEC, "args": {**TINY_SPEC["args"], "attention_blocks": 0, "levels": 2}}
    save_checkpoint(tmp_path / "small.safetensors", make_model(spec), spec, {"epoch": 5})
    bundle = tmp_path / "bundle"
    assert run("export", tmp_path / "small.safetensors", "-o", bundle, "--name", "small", "--scales", "1-3") == 0
    said = capsys.readouterr()
    assert said.out == ""
    lines = [line for line in said.err.splitlines() if "ETA" not in line]
    assert re.fullmatch(r"exported \d+ graphs, [\d.]+ MB", lines[0])
    assert [line[:13] for line in lines[1:3]] == ["verified fp32", "verified fp16"]
    assert re.search(r"written, equal to PyTorch within \d\.\de-\d\d .*; try: hiif-deploy upscale", lines[3])
    assert len(lines) == 4
    contract = json.loads((bundle / "bundle.json").read_text())
    assert (contract["name"], contract["training_scales"]) == ("small", [1.0, 3.0])
    assert contract["provenance"]["checkpoint"] == "small.safetensors"
    assert contract["provenance"]["epoch"] == 5
    assert {graph["precision"] for graph in contract["graphs"]} == {"fp32", "fp16"}
    sample = Path(cli.__file__).parents[1] / "samples" / "coffee.png"
    assert run("upscale", sample, "-b", bundle, "--scale", "1.5", "-o", tmp_path / "out.png") == 0
    assert (tmp_path / "out.png").stat().st_size > 0


def test_sigterm_leaves_no_hidden_folder(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The signal comes while the first graph is written into the folder that is not yet the bundle."""
    real, seen = export_module.to_onnx, []

    def terminated(graph: Any) -> Any:
        seen[:] = [path.name for path in tmp_path.iterdir()]
        os.kill(os.getpid(), signal.SIGTERM)
        return real(graph)

    monkeypatch.setattr(export_module, "to_onnx", terminated)
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        assert run("export", checkpoint, "-o", tmp_path / "b") == 143
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "terminated; no half-written file was left" in capsys.readouterr().err
    assert [name[:3] for name in seen] == [".b-"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", sorted(name for name, entry in DECODERS.items() if entry.exporter))
def test_export_writes_every_precision_of_the_decoder_and_says_which_it_lacks(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    precisions = every_precision({"name": name, "args": {}})
    if name in ("ciaosr", "clit"):
        assert precisions == ("fp32",)
        assert caplog.messages == [f"{name} supports fp32 only: it cannot be exported in fp16"]
    else:
        assert (precisions, caplog.messages) == (("fp32", "fp16"), [])


def test_a_precision_that_is_requested_and_lacking_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = {"name": "ciaosr", "args": {"encoder_spec": TINY_SPEC["args"]["encoder_spec"], "hidden_list": [16]}}
    save_checkpoint(tmp_path / "c.pth", make_model(spec), spec)
    assert run("export", tmp_path / "c.pth", "-o", tmp_path / "b", "--precision", "fp32,fp16") == 2
    assert "cannot be exported in fp16, only in fp32" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def test_verify_compares_with_the_checkpoint(
    tiny_bundle: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from hiif_export.parity import parity

    few = parity.cases(sizes=((5, 7),), scales=(2.0, 3.3))
    monkeypatch.setattr(parity, "cases", lambda: few)
    assert run("verify", tiny_bundle, "--checkpoint", checkpoint) == 0
    said = capsys.readouterr()
    assert "each graph by itself" in said.out
    assert "run by PyTorch within 1.0e-04" in said.err


def test_verify_refuses_another_models_checkpoint(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_checkpoint(tmp_path / "other.pth", make_model(TINY_SPEC), TINY_SPEC)
    assert run("verify", tiny_bundle, "--checkpoint", tmp_path / "other.pth") == 1
    assert "graph encoder: output features differs from PyTorch" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--scales", "2"), "--scales: for --published NAME"),
        (("--data", "x"), "--data: for --published NAME"),
        (("--published", "liif-edsr-baseline", "--engine", "native"), "--engine: for bundles"),
        (("--published", "liif-edsr-baseline", "--tolerance", "1"), "--tolerance: for bundles"),
    ],
)
def test_options_of_the_other_kind_of_verification_are_refused(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("verify", "hiif-video", *words) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", ["export", "verify"])
def test_a_missing_checkpoint_is_reported(
    command: str, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = tmp_path / "absent.pth"
    words = {"export": [absent, "-o", tmp_path / "b"], "verify": [tiny_bundle, "--checkpoint", absent]}
    assert run(command, *words[command]) == 1
    error = capsys.readouterr().err
    assert "absent.pth" in error
    assert "Traceback" not in error


def test_without_pytorch_the_command_names_the_extra(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    assert run("export", checkpoint, "-o", tmp_path / "b") == 2
    assert f"torch is not installed; add it with: {install_command('export')}" in capsys.readouterr().err


def test_scales_are_two_numbers() -> None:
    assert parse_scales("1-4") == (1.0, 4.0)


@pytest.mark.parametrize("text", ["4", "1-2-3", "a-b"])
def test_malformed_scales_are_a_usage_error(text: str, checkpoint: Path, tmp_path: Path) -> None:
    assert run("export", checkpoint, "-o", tmp_path / "b", "--scales", text) == 2
