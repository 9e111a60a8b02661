"""The IIIF validator finds nothing to object to: level 2, upscaling, and all other features that info.json names."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hiif_deploy import Upscaler
from hiif_deploy.server.options import ServeOptions
from server_client import running

validator = pytest.importorskip("iiif_validator.tests.test", reason="needs iiif-validator-ng", exc_type=ImportError)
ID = "67352ccc-d1b0-11e1-89ae-279075081939"


def applies(test: Any, features: Any) -> bool:
    """Whether the server claims what a test is for. (The validator's own runner needs Python 3.12.)"""
    level = test.compliance_level
    level = level[features.version] if isinstance(level, dict) else level
    names = [test.extra_name] if isinstance(test.extra_name, str) else test.extra_name or []
    claimed = {*features.extra_formats, *features.extra_qualities, *features.extra_features}
    return level <= features.compliance_level or bool(claimed & set(names)) or test.__name__ == "HttpCachingTest"


@pytest.mark.early
def test_the_validator_finds_no_fault(live: Upscaler, tmp_path: Path) -> None:
    picture = Path(validator.__file__).parents[1] / "validation_image.png"
    shutil.copy(picture, tmp_path / f"{ID}.png")
    with running({"hiif-live": live}, [tmp_path], ServeOptions(port=0, cors=("*",))) as client:
        version = validator.IIIFVersion.V3
        target = validator.TargetServer(f"{str(client.base_url).rstrip('/')}/iiif", ID, version)
        features = target.feature_set()
        assert features.compliance_level == validator.ComplianceLevel.LEVEL_2
        tests = [test for test in validator.get_tests(version) if applies(test, features)]
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(lambda test: test.run(target), tests))
    names = {test.__module__.rpartition(".")[2] for test in tests}
    assert {"size_up", "size_noup", "rot_mirror", "info_json", "http_cors", "format_webp", "quality_bitonal"} <= names
    flat = [result for found in results for result in (found if isinstance(found, list) else [found])]
    assert len(flat) > 100
    assert [result for result in flat if not result.success] == []
