"""What is missing is named with the command that adds it."""

from __future__ import annotations

import re

import pytest

from hiif_deploy import MissingExtraError
from hiif_deploy.support import extras
from hiif_deploy.support.install import install_command


def test_a_missing_package_is_named_with_the_command_that_adds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "onnx" else name)
    message = re.escape(f"onnx is not installed; add it with: {install_command('export')}")
    with pytest.raises(MissingExtraError, match=message):
        extras.require_extra("export")
    extras.require_extra("train")


def test_the_version_of_an_absent_distribution_is_none() -> None:
    assert extras.installed_version("no-such-distribution") is None
    assert extras.installed_version("numpy") is not None
