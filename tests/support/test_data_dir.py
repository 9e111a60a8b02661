"""Where added models lie."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hiif_deploy.support.data_dir import models_root


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in ("HIIF_DEPLOY_MODELS", "XDG_DATA_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_the_variable_comes_before_the_data_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert models_root() == home / ".local" / "share" / "hiif-deploy" / "models"
    monkeypatch.setenv("XDG_DATA_HOME", str(home / "data"))
    assert models_root() == home / "data" / "hiif-deploy" / "models"
    monkeypatch.setenv("HIIF_DEPLOY_MODELS", "~/mine")
    assert models_root() == home / "mine"


def test_a_relative_folder_of_the_variable_becomes_absolute(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setenv("HIIF_DEPLOY_MODELS", "mine")
    assert models_root() == home / "mine"


def test_on_windows_it_is_below_the_local_application_data(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(home / "local"))
    assert models_root() == home / "local" / "hiif-deploy" / "models"


def test_a_user_without_a_home_folder_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    assert models_root() is None
