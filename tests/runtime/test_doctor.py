"""`doctor`: a verdict, and what is optional apart."""

from __future__ import annotations

from hiif_deploy.doctor import Finding, examine, verdict


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
