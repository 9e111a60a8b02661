"""`doctor`: a verdict, and what is optional apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from hiif_deploy.cli import doctor
from hiif_deploy.cli.doctor import Finding, examine, verdict


def test_this_installation_is_well_and_what_is_optional_says_so() -> None:
    findings = examine()
    assert verdict(findings).startswith("All is well")
    required = {finding.name for finding in findings if not finding.is_optional}
    assert {"numpy", "onnxruntime", "model hiif-compact"} <= required
    assert all(finding.status == "ok" for finding in findings if not finding.is_optional)
    assert {"provider cuda", "torch"} <= {finding.name for finding in findings if finding.is_optional}


def test_what_is_broken_is_named_with_its_cure() -> None:
    findings = [Finding("numpy", "ok", "2"), Finding("rich", "broken", "not installed", "pip install rich")]
    assert verdict(findings) == "Broken: rich. First: pip install rich"


def test_absent_options_are_counted() -> None:
    findings = [Finding("numpy", "ok", "2"), Finding("torch", "absent", "not installed", is_optional=True)]
    assert "1 optional parts are absent" in verdict(findings)


def test_what_is_broken_and_optional_does_not_spoil_the_verdict() -> None:
    findings = [
        Finding("numpy", "ok", "2"),
        Finding("torch", "absent", "not installed", is_optional=True),
        Finding("ray", "broken", "no module named grpc", is_optional=True),
    ]
    assert verdict(findings) == (
        "All is well: pictures can be upscaled. 1 optional parts are broken (ray); 1 optional parts are absent; add "
        "what you need."
    )


def test_a_damaged_shipped_model_is_mended_from_the_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bundle.json").write_text("{")
    monkeypatch.setattr(doctor, "shipped_models", lambda: {str(tmp_path): tmp_path})
    (model,) = [finding for finding in examine() if finding.name == f"model {tmp_path}"]
    assert model.status == "broken"
    assert model.advice.startswith("git checkout -- hiif_deploy/models && pip install")
