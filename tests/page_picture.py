"""Makes the README's picture of the page: `python tests/page_picture.py .github/images/serve.jpg`.

Needs what the tests of the page need: Playwright, Chromium and the viewer.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from server_client import opened, running

SIZE = {"width": 1080, "height": 620}
SHOWN = "OpenSeadragon.getViewer('viewer')"
EYE = (0.04, 0.14, 0.54, 0.25)
"""Left, top, width and height of the part, in widths of the picture."""
LOADED = f"() => [0, 1].every((n) => {SHOWN}?.world.getItemAt(n)?.getFullyLoaded())"


def main(path: Path) -> None:
    """Write the picture: a part of a shipped sample, zoomed, bicubic left of the divider and the model right of it."""
    with opened("hiif-compact") as model, running({"hiif-compact": model}, []) as client, sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE, color_scheme="dark")  # type: ignore[arg-type]
        page.goto(str(client.base_url))
        page.select_option("#picture", "chelsea")
        page.wait_for_function(LOADED)
        page.evaluate(f"{SHOWN}.viewport.fitBounds(new OpenSeadragon.Rect{EYE}, true)")
        page.wait_for_timeout(500)  # until it has asked for the tiles of that part
        page.wait_for_function(LOADED, timeout=60_000)
        page.wait_for_function("() => document.getElementById('status').textContent.includes('about')")
        page.screenshot(path=path, type="jpeg", quality=82)
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
