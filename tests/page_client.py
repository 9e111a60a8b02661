"""A browser for the tests of the page: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hiif_deploy.server.viewer import INSTALL, viewer_script

STATUS = "() => document.getElementById('status').textContent"
FOCUSED = "document.activeElement.id"
LOADED = "() => [0, 1].every((n) => OpenSeadragon.getViewer('viewer')?.world.getItemAt(n)?.getFullyLoaded())"


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """Playwright's browser, without a window. The test is skipped where a part of it is missing."""
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    if viewer_script() is None:
        pytest.skip(f"needs the viewer: {INSTALL}")
    with api.sync_playwright() as playwright:
        # Its sandbox needs rights that containers do not give.
        launched = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield launched
        launched.close()


def choose(page: Any, path: Path) -> str:
    """Choose a file, and return its id once it is shown.

    As for users, the same file again is no change; Playwright's own method always reports one.
    """
    before = page.input_value("#picture")
    session = page.context.new_cdp_session(page)
    root = session.send("DOM.getDocument")["root"]["nodeId"]
    found = session.send("DOM.querySelector", {"nodeId": root, "selector": "#file"})
    session.send("DOM.setFileInputFiles", {"files": [str(path)], **found})
    page.wait_for_function("(before) => document.getElementById('picture').value !== before", arg=before)
    page.wait_for_function(LOADED)
    return page.input_value("#picture")
