"""An approximate run tells on demand how far it is from the exact one."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest

from hiif_deploy import OptionError, RenderOptions, Upscaler
from hiif_deploy.cli import app as cli
from hiif_deploy.images.samples import sample
from hiif_deploy.pictures.deviation import deviation, exact_reference


def test_the_exact_twin_differs_in_what_is_approximate_alone(tiny_bundle: Path) -> None:
    options = RenderOptions(statistics="sampled", samples=500, memory=1 << 28)
    with Upscaler(tiny_bundle, options=options) as upscaler, exact_reference(upscaler) as exact:
        assert exact.options == RenderOptions(memory=1 << 28, samples=500)
        found = deviation(upscaler, exact, sample("astronaut")[:40, :40], (80, 80))
        assert 20 < found.psnr < 150
        assert deviation(exact, exact, sample("astronaut")[:40, :40], (80, 80)).psnr == 200


def test_an_exact_run_has_none_to_report(tiny_bundle: Path) -> None:
    with Upscaler(tiny_bundle) as upscaler, pytest.raises(OptionError, match="nothing is approximate"):
        exact_reference(upscaler)


def test_the_command_reports_it_for_every_picture(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), sample("astronaut")[:96, :96])
    words = ["upscale", str(tmp_path / "a.png"), "-b", str(tiny_bundle), "--scale", "3", "--json", "-q"]
    with pytest.raises(SystemExit) as stop:
        cli.main([*words, "--statistics", "sampled", "--report-deviation"])
    assert not stop.value.code
    found = json.loads(capsys.readouterr().out)
    assert 20 < found["files"][0]["deviation_db"] < 150
    assert "sampled" in found["engine"]
