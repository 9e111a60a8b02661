"""The page in a real browser."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("av", reason="needs PyAV")

from clips import Video, plain
from hiif_deploy import Upscaler
from hiif_deploy.images.decode import decode
from hiif_deploy.images.io import read_image
from hiif_deploy.server.options import ServeOptions
from page_client import FOCUSED, LOADED, STATUS, choose, chromium
from server_client import opened, running

STORED = "JSON.parse(localStorage.getItem('hiif-deploy-clips'))"
ATTENTION = Path(__file__).resolve().parents[1] / "models" / "hiif-attention"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, without a window."""
    with chromium() as launched:
        yield launched


@pytest.fixture(scope="module")
def server(browser: Any, live: Upscaler, folder: Path) -> Iterator[Any]:
    del browser  # skips before anything is opened
    with (
        opened(ATTENTION) as attention,
        running({"hiif-live": live, "hiif-attention": attention}, [folder / "waves.png"]) as client,
    ):
        yield client


@pytest.fixture
def open_page(browser: Any, server: Any) -> Iterator[Callable[..., Any]]:
    """Settings of a browser → the page, with its tiles loaded. Its console has no errors at the end.

    A test names those it expects, as the console reports each response that has an error's status.
    """
    contexts, problems = [], []

    def open_(expected: str = "no error", **settings: Any) -> Any:
        def is_problem(message: Any) -> bool:
            return message.type == "error" and not re.search(expected, message.text)

        context = browser.new_context(**settings)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: problems.append(message.text) if is_problem(message) else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(str(server.base_url))
        page.wait_for_function(LOADED)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert problems == []


def test_zooming_shows_what_the_model_computes(open_page: Any, server: Any, live: Upscaler, folder: Path) -> None:
    page = open_page()
    with page.expect_response(re.compile(r"@16x@hiif-live/\d+,\d+,512,512/512,512/")) as caught:
        page.evaluate("OpenSeadragon.getViewer('viewer').viewport.zoomTo(4)")
    page.wait_for_function(LOADED)
    left, top = map(int, re.search(r"/(\d+),(\d+),512,512/", caught.value.url).groups())  # type: ignore[union-attr]
    tile = decode(caught.value.body(), 1 << 20).pixels
    whole = live.upscale(read_image(folder / "waves.png").pixels, scale=16)
    part = whole[top : top + 512, left : left + 512]
    assert np.abs(tile.astype(int) - part).mean() < 3  # a JPEG of quality 90
    png = server.get(f"/iiif/waves@16x/{left},{top},512,512/max/0/default.png").content
    assert np.abs(decode(png, 1 << 20).pixels.astype(int) - part).max() <= 1
    assert float(page.inner_text("#zoom").removeprefix("×")) > 4


def test_the_divider_follows_mouse_and_keyboard_and_stays_in_step(open_page: Any) -> None:
    page = open_page()
    box = page.locator("#stage").bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.75, middle, steps=5)
    page.mouse.up()
    divider = page.locator("#divider")
    assert divider.get_attribute("aria-valuenow") == "75"
    divider.press("ArrowLeft")
    assert divider.get_attribute("aria-valuenow") == "73"
    divider.press("Home")
    divider.press("PageUp")
    assert divider.get_attribute("aria-valuenow") == "10"
    for move in ("zoomTo(3, null, true)", "panBy(new OpenSeadragon.Point(0.1, 0), true)"):
        page.evaluate(f"OpenSeadragon.getViewer('viewer').viewport.{move}")
        page.wait_for_timeout(200)
        clipped = page.evaluate(
            "() => { const item = OpenSeadragon.getViewer('viewer').world.getItemAt(1);"
            "return item.imageToViewerElementCoordinates(item.getClip().getTopLeft()).x }"
        )
        assert abs(clipped - 0.1 * box["width"]) < 2


def test_two_models_are_compared(open_page: Any) -> None:
    page = open_page()
    with page.expect_response(re.compile("@16x@hiif-attention/.*jpg")) as tile:
        page.select_option("#other", "hiif-attention")
    assert tile.value.status == 200
    assert page.inner_text("#left-name") == "hiif-attention"
    page.wait_for_function(LOADED)


def test_the_download_has_the_bytes_of_the_service(open_page: Any, server: Any) -> None:
    page = open_page()
    page.fill("#scale", "2.5")
    page.wait_for_function(f"{STATUS}.includes('130×90 → 325×225: about')")
    page.focus("#scale")
    page.keyboard.press("Enter")
    with page.expect_download() as download:
        page.click("#download")
    made = Path(download.value.path()).read_bytes()
    assert download.value.suggested_filename == "waves_x2.5.png"
    assert made == server.post("/v1/upscale?picture=waves&scale=2.5&format=png").content
    assert "325×225 in" in page.inner_text("#status")


def test_an_order_is_sent_once_and_leaves_the_focus_where_the_user_types(open_page: Any) -> None:
    page, orders = open_page(expected="status of 503"), []
    page.route("**/v1/jobs?*", lambda route: orders.append(route))

    def submit(times: int = 1) -> None:
        with page.expect_request("**/v1/jobs?*"):
            for _ in range(times):
                page.keyboard.press("Enter")
        page.wait_for_timeout(200)  # Another order would arrive meanwhile.

    page.fill("#scale", "2")
    page.focus("#scale")
    submit(times=2)
    page.focus("#size")
    orders[0].continue_()
    page.wait_for_selector("#download")
    assert (len(orders), page.evaluate(FOCUSED)) == (1, "size")
    page.focus("#start")
    submit()
    orders[1].fulfill(status=503, json={"error": "try again later"})
    page.wait_for_function(f"{STATUS} === 'try again later'")
    assert page.evaluate(FOCUSED) == "start"
    submit()
    orders[2].continue_()
    page.wait_for_function(f"() => {FOCUSED} === 'download'")


def test_another_precision_of_a_model_is_shown_and_upscaled(open_page: Any, server: Any) -> None:
    page, other = open_page(), server.get("/v1/models").json()["models"][0]["precisions"][-1]
    if server.get(f"/iiif/waves@hiif-live@{other}/info.json").status_code != 200:
        pytest.skip(f"this processor does not compute in {other}")
    with page.expect_response(re.compile(f"@16x@hiif-live@{other}/.*jpg")) as tile:
        page.select_option("#precision", other)
    assert tile.value.status == 200
    assert page.inner_text("#right-name") == f"hiif-live {other}"
    page.wait_for_function(LOADED)
    page.fill("#scale", "3")
    page.click("#start")
    with page.expect_download() as download:
        page.click("#download")
    made = Path(download.value.path()).read_bytes()
    query = "picture=waves&scale=3&format=png&model=hiif-live&precision"
    assert made == server.post(f"/v1/upscale?{query}={other}").content
    assert made != server.post(f"/v1/upscale?{query}=fp32").content


def test_a_size_takes_the_place_of_the_scale(open_page: Any) -> None:
    page = open_page()
    page.fill("#size", "260x200")
    page.wait_for_function(f"{STATUS}.includes('130×90 → 260×200: about')")
    page.press("#scale", "ArrowUp")
    assert page.input_value("#size") == ""
    page.wait_for_function(f"{STATUS}.includes('130×90 → 533×369: about')")


def test_work_can_be_cancelled(open_page: Any, server: Any) -> None:
    page = open_page()
    page.select_option("#model", "hiif-attention")
    page.fill("#scale", "14")
    page.click("#start")
    page.wait_for_function("() => document.getElementById('progress').value > 0")
    assert page.is_visible("#progress")
    page.keyboard.press("Enter")  # The button to cancel has the focus.
    page.wait_for_function(f"{STATUS} === 'Cancelled.'")
    assert page.is_visible("#start")
    assert page.evaluate(FOCUSED) == "start"
    other = server.post("/v1/jobs?picture=waves&scale=14&model=hiif-attention").json()["id"]
    page.keyboard.press("Enter")
    page.wait_for_function(f"{STATUS} === 'queued: 0 %'")
    page.keyboard.press("Enter")
    assert page.inner_text("#status") in ("Cancelling…", "Cancelled.")  # at once, though another job runs
    server.delete(f"/v1/jobs/{other}")
    page.wait_for_function(f"{STATUS} === 'Cancelled.'")
    assert page.evaluate(FOCUSED) == "start"
    until = time.monotonic() + 10
    while "hiif_job_queue 0.0" not in server.get("/metrics").text and time.monotonic() < until:
        time.sleep(0.05)
    assert "hiif_job_queue 0.0" in server.get("/metrics").text


def test_a_picture_that_is_opened_or_dropped_zooms(open_page: Any, folder: Path) -> None:
    page = open_page()
    assert choose(page, folder / "clear.png").startswith("u")
    assert page.inner_text("#picture option:checked") == "clear.png"
    page.evaluate(
        "async () => { const blob = await (await fetch('/iiif/waves/full/max/0/default.png')).blob();"
        "const data = new DataTransfer(); data.items.add(new File([blob], 'dropped.png', { type: 'image/png' }));"
        "document.dispatchEvent(new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true })) }"
    )
    page.wait_for_function("() => document.querySelector('#picture option:checked').textContent === 'dropped.png'")
    page.wait_for_function(LOADED)


def test_a_clip_is_played_compared_upscaled_and_found_again(open_page: Any, server: Any, tmp_path: Path) -> None:
    clip = tmp_path / "bars.mp4"
    plain(clip, Video(frames=40, size=(72, 128)), audio_ms=400)
    page = open_page()
    with page.expect_response(re.compile(r"-000000@16x@hiif-live/.*jpg")):
        page.set_input_files("#file", clip)
        page.wait_for_function("() => document.getElementById('player').readyState >= 2")  # from the file itself
    page.wait_for_function(LOADED)
    assert page.input_value("#container") == "mp4"
    assert not page.is_visible("#player")
    with page.expect_response(re.compile(r"-000038@16x@hiif-live/.*jpg")) as tile:
        page.focus("#frame")
        page.keyboard.press("End")
    assert tile.value.status == 200
    assert page.inner_text("#frame-name") == "12 of 12"
    page.fill("#scale", "3")
    page.wait_for_function(f"{STATUS}.startsWith('128×72 → 384×216, 40 frames: about')")
    page.click("#start")
    page.wait_for_function("() => document.getElementById('progress').value > 0")
    page.reload()
    page.wait_for_function(f"{STATUS}.includes(' left')")
    page.wait_for_function(LOADED)
    with page.expect_download() as download:
        page.click("#download")
    made = Path(download.value.path()).read_bytes()
    assert download.value.suggested_filename == "bars_x3.mp4"
    page.click("#play")
    page.wait_for_function("() => document.getElementById('player').readyState >= 2")  # from the server
    sent = server.post("/v1/clips?scale=3&name=bars.mp4", content=clip.read_bytes()).headers["location"]
    server.get(f"{sent}/events")
    assert made == server.get(f"{sent}/result").content


def test_clips_of_several_tabs_are_kept_until_the_server_has_them_no_more(
    open_page: Any, server: Any, tmp_path: Path
) -> None:
    page, ids = open_page(expected="status of (404|503)"), []
    second = page.context.new_page()
    second.goto(str(server.base_url))
    second.wait_for_function(f"{STATUS}.includes('about')")
    for tab in (second, page):
        plain(tmp_path / "bars.mp4", Video(frames=4, size=(72, 128)))
        ids.append(choose(tab, tmp_path / "bars.mp4").removeprefix("clip:"))
        second.close()
    assert page.evaluate(STORED) == ids

    def offered() -> list[str]:
        page.reload()
        page.wait_for_function(f"{STATUS}.includes('about')")
        options = "[...document.getElementById('picture').options].map(({ value }) => value)"
        return [value.removeprefix("clip:") for value in page.evaluate(options)[1:]]

    address = f"**/v1/clips/{ids[0]}"
    page.route(address, lambda route: route.fulfill(status=503, json={"error": "try again later"}))
    assert (offered(), page.evaluate(STORED)) == (ids[1:], ids)
    page.unroute(address)
    assert (offered(), page.evaluate(STORED)) == (ids, ids)
    server.delete(f"/v1/clips/{ids[0]}")
    assert (offered(), page.evaluate(STORED)) == (ids[1:], ids[1:])


def test_a_clip_is_still_played_after_another_upload_failed(open_page: Any, tmp_path: Path) -> None:
    plain(tmp_path / "bars.mp4", Video(frames=4, size=(72, 128)))
    (tmp_path / "bad.mp4").write_bytes(b"no clip")
    page, source = open_page(expected="status of 415"), "document.getElementById('player').src"
    page.evaluate(
        "() => { const revoke = URL.revokeObjectURL; window.revoked = [];"
        "URL.revokeObjectURL = (url) => { revoked.push(url); revoke.call(URL, url) } }"
    )
    choose(page, tmp_path / "bars.mp4")
    good = page.evaluate(source)
    page.press("#frame", "End")
    with page.expect_response(lambda response: response.status == 415):
        page.set_input_files("#file", tmp_path / "bad.mp4")
    page.wait_for_selector("#player", state="hidden")
    assert (page.evaluate(source), page.inner_text("#frame-name")) == (good, "4 of 4")
    [bad] = page.evaluate("revoked")
    assert bad != good
    page.click("#play")
    page.wait_for_function("() => document.getElementById('player').readyState >= 2")


def test_a_clip_whose_model_has_gone_is_shown_by_another(
    open_page: Any, server: Any, live: Upscaler, folder: Path, tmp_path: Path
) -> None:
    plain(tmp_path / "bars.mp4", Video(frames=4, size=(72, 128)))
    options = ServeOptions(port=0, cache=server.server.arriving.parent)
    with running({"gone": live}, [folder / "waves.png"], options) as before:
        sent = before.post("/v1/clips?scale=2&start=0&name=bars.mp4", content=(tmp_path / "bars.mp4").read_bytes())
    page, id_ = open_page(), sent.json()["id"]
    page.evaluate(
        "(id) => { localStorage.setItem('hiif-deploy-clips', JSON.stringify([id]));"
        "localStorage.setItem('hiif-deploy-shown', `clip:${id}`) }", id_
    )  # fmt: skip
    page.reload()
    page.wait_for_function(f"{STATUS}.startsWith('128×72 → ')")
    assert (page.input_value("#picture"), page.input_value("#model")) == (f"clip:{id_}", "hiif-live")


def test_uploads_are_removed_by_keyboard(open_page: Any, server: Any, folder: Path, tmp_path: Path) -> None:
    clip = tmp_path / "bars.mp4"
    plain(clip, Video(frames=40, size=(72, 128)), audio_ms=400)
    page = open_page()
    assert not page.is_visible("#remove")  # The server's own pictures stay.
    upload, sent = choose(page, folder / "clear.png"), choose(page, clip).removeprefix("clip:")
    page.fill("#scale", "4")
    page.focus("#scale")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.getElementById('progress').value > 0")
    assert not page.is_visible("#remove")
    page.keyboard.press("Enter")  # The button to cancel has the focus.
    page.wait_for_function(f"{STATUS} === 'Cancelled.'")
    page.focus("#file")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_function(f"{STATUS} === 'bars.mp4 was removed.'")
    assert server.get(f"/v1/clips/{sent}").status_code == 404
    assert page.evaluate(FOCUSED) == "picture"
    page.select_option("#picture", upload)
    page.wait_for_function(LOADED)
    page.focus("#remove")
    page.keyboard.press("Space")
    page.wait_for_function(f"{STATUS} === 'clear.png was removed.'")
    assert server.get(f"/v1/pictures/{upload}").status_code == 404
    assert page.locator("#picture option").all_inner_texts() == ["waves.png"]
    assert not page.is_visible("#remove")
    for _ in range(2):
        choose(page, folder / "clear.png")
        page.click("#remove")
        page.wait_for_function(f"{STATUS} === 'clear.png was removed.'")
    page.reload()
    page.wait_for_function(LOADED)
    assert page.locator("#picture option").all_inner_texts() == ["waves.png"]


def test_it_fits_a_phone_and_follows_its_colours(open_page: Any) -> None:
    grounds = set()
    for scheme in ("light", "dark"):
        page = open_page(viewport={"width": 390, "height": 700}, color_scheme=scheme, has_touch=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert page.evaluate("document.documentElement.scrollHeight") <= 700
        assert page.locator("#stage").bounding_box()["height"] > 250
        grounds.add(page.evaluate("getComputedStyle(document.querySelector('header')).backgroundColor"))
    assert len(grounds) == 2


def test_everything_has_a_name_for_screen_readers(open_page: Any) -> None:
    page = open_page()
    for role, name in [
        ("combobox", "Picture"), ("combobox", "Model"), ("combobox", "Format"), ("spinbutton", "Scale"),
        ("slider", "Scale, by slider"), ("slider", "Divider"), ("combobox", "Beside"), ("button", "Upscale"),
        ("status", ""), ("combobox", "Precision"),
    ]:  # fmt: skip
        assert page.get_by_role(role, name=name).first.is_visible(), name
