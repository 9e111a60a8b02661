"""Added models lie in one folder, are found by name, and can be removed again."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from hiif_deploy import open_bundle, shipped_models
from hiif_deploy.bundle import added
from hiif_deploy.bundle.added import add_bundle, new_folder, remove_model
from hiif_deploy.bundle.loader import added_models
from hiif_deploy.errors import BundleError, OptionError

VIDEO = shipped_models()["hiif-video"]


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of added models, which does not exist yet."""
    monkeypatch.setenv("HIIF_DEPLOY_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


def test_a_bundle_is_copied_and_opens_by_its_new_name(root: Path) -> None:
    assert add_bundle(VIDEO, "mine") == root / "mine"
    assert added_models() == {"mine": root / "mine"}
    assert open_bundle("mine").graphs == open_bundle(VIDEO).graphs
    assert {path.name for path in (root / "mine").iterdir()} == {path.name for path in VIDEO.iterdir()}


def test_only_the_bundles_own_files_are_copied(root: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(VIDEO, tmp_path / "copy"))
    (copy / "secret.txt").write_text("no file of a bundle")
    (copy / "CARD.md").unlink()
    (copy / "LICENSE.txt").write_text("MIT License")
    add_bundle(copy, "mine")
    assert not (root / "mine" / "secret.txt").exists()
    assert (root / "mine" / "LICENSE.txt").read_text() == "MIT License"
    assert (root / "mine" / "CARD.md").read_text().startswith("# mine\n\nAdded from hiif-video.pth")


@pytest.mark.parametrize("file", ["encoder.onnx", "reference.npz"])
def test_a_damaged_bundle_is_refused_and_leaves_nothing(file: str, root: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(VIDEO, tmp_path / "copy"))
    (copy / file).write_bytes(b"damaged")
    with pytest.raises(BundleError, match=rf"{file}: sha256 is"):
        add_bundle(copy, "mine")
    assert not root.exists() or list(root.iterdir()) == []


def test_a_folder_with_the_name_of_a_model_is_still_that_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hiif-video").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError, match=r"holds no bundle\.json"):
        add_bundle(Path("hiif-video"), "mine")


def test_a_model_is_replaced_only_with_overwrite(root: Path) -> None:
    add_bundle(VIDEO, "mine")
    with pytest.raises(OptionError, match=r"mine was added before .*--overwrite replaces it"):
        add_bundle(VIDEO, "mine")
    add_bundle(shipped_models()["hiif-compact"], "mine", overwrite=True)
    assert open_bundle("mine").contract.name == "hiif-compact"
    assert [path.name for path in root.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "a\\b", "/x", "a b", "-x", ".x", "a.b", "ä", "x" * 65, "add", "Full", "a\n"]
)
def test_a_name_that_could_leave_the_folder_or_is_a_word_of_a_command_is_refused(name: str) -> None:
    with pytest.raises(OptionError, match="cannot be the name of a model"):
        new_folder(name)


@pytest.mark.parametrize("name", ["hiif-compact", "HIIF-Compact"])
def test_an_added_model_cannot_have_the_name_of_a_shipped_one(name: str) -> None:
    with pytest.raises(OptionError, match="ships with hiif-deploy: choose another --name"):
        new_folder(name)


def test_a_folder_that_shadows_a_shipped_model_is_ignored(root: Path) -> None:
    shutil.copytree(VIDEO, root / "hiif-compact")
    assert added_models() == {}
    assert open_bundle("hiif-compact").contract.name == "hiif-compact"


def test_folders_without_a_contract_or_with_another_name_are_no_models(root: Path) -> None:
    (root / "empty").mkdir(parents=True)
    shutil.copytree(VIDEO, root / ".mine-x1y2z3")
    assert added_models() == {}


def test_a_model_is_removed(root: Path) -> None:
    add_bundle(VIDEO, "mine")
    assert remove_model("mine") == root / "mine"
    assert list(root.iterdir()) == []


def test_a_damaged_model_is_removed_and_a_link_does_not_lead_anywhere(root: Path, tmp_path: Path) -> None:
    (root / "empty").mkdir(parents=True)
    remove_model("empty")
    (tmp_path / "elsewhere").mkdir()
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    remove_model("linked")
    assert list(root.iterdir()) == []
    assert (tmp_path / "elsewhere").is_dir()


@pytest.mark.parametrize("name", ["absent", "..", "", "."])
def test_what_is_no_added_model_is_not_removed(name: str, root: Path) -> None:
    add_bundle(VIDEO, "mine")
    with pytest.raises(OptionError, match=rf"{re.escape(repr(name))} is no added model \(added: mine\)"):
        remove_model(name)
    assert added_models() == {"mine": root / "mine"}


def test_a_shipped_model_is_not_removed() -> None:
    with pytest.raises(OptionError, match="ships with hiif-deploy and cannot be removed"):
        remove_model("hiif-video")


def test_a_folder_that_cannot_be_written_is_named(root: Path) -> None:
    root.write_text("a file")
    with pytest.raises(BundleError, match=r"mine: cannot be written .*HIIF_DEPLOY_MODELS names another folder"):
        add_bundle(VIDEO, "mine")


def test_a_user_without_a_home_folder_is_told_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(added, "models_root", lambda: None)
    with pytest.raises(OptionError, match="name a folder with HIIF_DEPLOY_MODELS"):
        new_folder("mine")
