"""The viewer's script is the one that was checked, or is not given."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

from hiif_deploy import DownloadError
from hiif_deploy.server import viewer


def package(script: bytes) -> bytes:
    """An npm package with a script and a licence."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        for name, content in ((viewer.LICENCE, b"BSD"), (viewer.SCRIPT, script)):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return data.getvalue()


def test_another_script_is_neither_kept_nor_given(site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIIF_DEPLOY_STORE", str(tmp_path))
    assert site.get("/page/openseadragon.js").status_code == 404
    folder = tmp_path / "viewer"
    with pytest.raises(DownloadError, match=r"openseadragon\.min\.js: sha256 is"):
        viewer.unpack_viewer(package(b"alert(1)"), folder)
    assert list(folder.iterdir()) == []
    (folder / f"openseadragon-{viewer.VERSION}-openseadragon.min.js").write_bytes(b"alert(1)")
    assert site.get("/page/openseadragon.js").status_code == 404


def test_the_script_that_was_checked_is_given(site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib

    script = b"/* a viewer */"
    monkeypatch.setenv("HIIF_DEPLOY_STORE", str(tmp_path))
    monkeypatch.setattr(viewer, "SCRIPT_SHA256", hashlib.sha256(script).hexdigest())
    assert viewer.viewer_script() is None
    viewer.unpack_viewer(package(script), tmp_path / "viewer")
    answer = site.get("/page/openseadragon.js")
    assert (answer.content, answer.headers["content-type"]) == (script, "text/javascript; charset=utf-8")


def test_the_page_comes_from_the_server_alone(site: Any) -> None:
    page = site.get("/")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "http" not in page.text.replace("http-equiv", "")
    script = site.get("/page/app.js").text
    for path in ("/page/app.js", "/page/style.css", "/page/common.js", "/page/clips.js"):
        assert path in page.text + script
        first = site.get(path)
        assert first.status_code == 200
        assert site.get(path, headers={"If-None-Match": first.headers["etag"]}).status_code == 304
