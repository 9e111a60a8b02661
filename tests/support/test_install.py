"""The commands that add what is missing."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from hiif_deploy.errors import UsageError
from hiif_deploy.support import install
from hiif_deploy.support.extras import EXTRAS, missing_extra

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def installed_from(monkeypatch: pytest.MonkeyPatch) -> Any:
    def choose(url: str | None, *, is_editable: bool = False) -> None:
        class Distribution:
            def read_text(self, name: str) -> str | None:
                assert name == "direct_url.json"
                return None if url is None else json.dumps({"url": url, "dir_info": {"editable": is_editable}})

        install._source.cache_clear()
        monkeypatch.setattr(install, "distribution", lambda _: Distribution())

    yield choose
    install._source.cache_clear()


def test_in_a_clone_the_hint_names_the_clone(installed_from: Any) -> None:
    installed_from("file:///home/me/my%20code/hiif-deploy")
    assert install.install_command("video") == "pip install '/home/me/my code/hiif-deploy[video]'"


def test_an_editable_clone_stays_editable(installed_from: Any) -> None:
    installed_from("file:///code", is_editable=True)
    assert install.install_command("ray") == "pip install -e '/code[ray]'"


@pytest.mark.parametrize("url", [None, "git+https://example.org/hiif-deploy"])
def test_elsewhere_it_names_the_distribution(installed_from: Any, url: str | None) -> None:
    installed_from(url)
    assert install.install_command("native") == "pip install 'hiif-deploy[native]'"


def test_pytorch_is_pinned_as_the_readme_has_it(installed_from: Any) -> None:
    installed_from(None)
    assert install.install_command("export") == f"pip install {install.TORCH} && pip install 'hiif-deploy[export]'"
    assert f"pip install {install.TORCH} && pip install '.[export]'" in (ROOT / "README.md").read_text("utf-8")
    assert f"TORCH ?= {install.TORCH}" in (ROOT / "Makefile").read_text("utf-8")
    assert {extra for extra, modules in EXTRAS.items() if "torch" in modules} == set(install.WITH_TORCH)


def test_without_the_distribution_the_hint_is_still_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_: str) -> Any:
        raise metadata.PackageNotFoundError

    install._source.cache_clear()
    monkeypatch.setattr(install, "distribution", absent)
    assert install.install_command("ray") == "pip install 'hiif-deploy[ray]'"
    install._source.cache_clear()


def test_a_missing_extra_is_wrong_usage() -> None:
    error = missing_extra("llvmlite", "native")
    assert isinstance(error, UsageError)
    assert error.exit_code == 2
    assert install.install_command("native") in str(error)
