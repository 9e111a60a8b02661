"""Tiles are parts of the whole picture, made once, and whatever is malformed is refused."""

from __future__ import annotations

import io
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hiif_deploy import Upscaler
from hiif_deploy.images.decode import decode
from hiif_deploy.images.io import Picture, read_image, write_image
from hiif_deploy.server import studio
from hiif_deploy.server.iiif import routes
from hiif_deploy.server.iiif.info import info
from hiif_deploy.server.iiif.request import Crop, parse_region, parse_size
from hiif_deploy.server.iiif.view import view_of
from hiif_deploy.server.options import Limits, ServeOptions
from hiif_deploy.server.studio import bicubic
from hiif_deploy.server.web import RequestError
from server_client import running

HEIGHT, WIDTH = 90, 130


def pixels(response: Any) -> NDArray[Any]:
    """The picture in a response."""
    assert response.status_code == 200, response.text
    return decode(response.content, 1 << 26).pixels


def assert_equal_but_for_rounding(part: NDArray[Any], whole: NDArray[Any]) -> None:
    """Float32 sums of a tile may have another order than those of the whole: a value that lies within 1e-5 of an edge
    between two levels of 8 bits (one in 200) may then be rounded to the other one."""
    assert part.shape == whole.shape
    difference = np.abs(part.astype(int) - whole)
    assert difference.max() <= 1
    assert np.count_nonzero(difference) <= 2 * 255 * 1e-5 * difference.size


@pytest.mark.parametrize(("model", "factor"), [("hiif-live", 8), ("hiif-live", 16), ("hiif-attention", 4)])
def test_every_tile_equals_that_part_of_the_whole_picture(site: Any, folder: Path, model: str, factor: int) -> None:
    frame = read_image(folder / "waves.png").pixels
    whole = site.server.studio.models.own(model).upscaler.upscale(frame, scale=factor)
    described = site.get(f"/iiif/waves@{factor}x@{model}/info.json").json()
    assert (described["height"], described["width"]) == whole.shape[:2]
    side = described["tiles"][0]["width"]
    for top in range(0, described["height"], side):
        for left in range(0, described["width"], side):
            region = f"{left},{top},{min(side, described['width'] - left)},{min(side, described['height'] - top)}"
            tile = pixels(site.get(f"/iiif/waves@{factor}x@{model}/{region}/max/0/default.png"))
            assert_equal_but_for_rounding(tile, whole[top : top + side, left : left + side])


def test_a_scale_factor_is_the_picture_upscaled_less_or_the_source_itself(site: Any, folder: Path) -> None:
    frame = read_image(folder / "waves.png").pixels
    half = pixels(site.get("/iiif/waves@8x/full/520,360/0/default.png"))
    assert_equal_but_for_rounding(half, site.server.studio.models.own("hiif-live").upscaler.upscale(frame, scale=4))
    np.testing.assert_array_equal(pixels(site.get("/iiif/waves@8x/full/130,90/0/default.png")), frame)
    np.testing.assert_array_equal(pixels(site.get("/iiif/waves/8,16,32,24/max/0/default.png")), frame[16:40, 8:40])
    small = pixels(site.get("/iiif/waves@2x/full/65,45/0/default.png"))
    mean = frame.reshape(45, 2, 65, 2, 3).mean(axis=(1, 3))
    assert np.abs(small - mean).max() <= 0.5


def test_each_axis_has_its_own_scale(site: Any, folder: Path) -> None:
    frame = read_image(folder / "waves.png").pixels
    wide = pixels(site.get("/iiif/waves/full/^390,90/0/default.png"))
    assert_equal_but_for_rounding(
        wide, site.server.studio.models.own("hiif-live").upscaler.upscale(frame, size=(90, 390))
    )
    flat = pixels(site.get("/iiif/waves/full/^390,45/0/default.png"))
    assert np.abs(flat - wide.reshape(45, 2, 390, 3).mean(axis=1)).max() <= 0.5


def test_pictures_keep_their_depth_and_transparent_ones_lie_over_white(site: Any, folder: Path) -> None:
    deep = read_image(folder / "deep" / "grey 16.png").pixels
    np.testing.assert_array_equal(pixels(site.get("/iiif/deep-grey-16/full/max/0/default.png")), deep)
    assert pixels(site.get("/iiif/deep-grey-16/full/max/0/default.jpg")).dtype == np.uint8
    clear = read_image(folder / "clear.png")
    shown = pixels(site.get("/iiif/clear/full/max/0/default.png"))
    assert clear.alpha is not None
    share = clear.alpha[..., None] / 255
    assert np.abs(shown - (clear.pixels * share + 255 * (1 - share))).max() <= 0.51


def test_images_are_turned_mirrored_and_recoloured(site: Any, folder: Path) -> None:
    frame = read_image(folder / "waves.png").pixels
    np.testing.assert_array_equal(pixels(site.get("/iiif/waves/full/max/90/default.png")), np.rot90(frame, -1))
    mirrored = pixels(site.get("/iiif/waves/full/max/!180/default.tif"))
    np.testing.assert_array_equal(mirrored, frame[::-1])
    grey = pixels(site.get("/iiif/waves/full/max/0/gray.png"))
    assert grey.ndim == 2
    assert np.abs(grey - frame @ [0.299, 0.587, 0.114]).max() <= 1
    assert set(np.unique(pixels(site.get("/iiif/waves/full/max/0/bitonal.png")))) == {0, 255}
    assert site.get("/iiif/waves/full/max/0/color.webp").headers["content-type"] == "image/webp"


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of 2x3 cells of features, the last ones narrow."""
    folder = tmp_path_factory.mktemp("wide")
    noise = np.random.default_rng(5).integers(0, 255, (30, 55, 3), dtype=np.uint8)
    write_image(folder / "wide.png", Picture(bicubic(noise, (300, 550), (0, 0, 300, 550))))
    return folder


def test_a_part_of_a_large_picture_needs_the_features_around_it_alone(live: Upscaler, wide: Path) -> None:
    frame = read_image(wide / "wide.png").pixels
    whole = live.upscale(frame, scale=2)
    with running({"hiif-live": live}, [wide]) as client:
        first = pixels(client.get("/iiif/wide@2x/0,0,500,500/max/0/default.png"))
        assert 'hiif_stage_seconds_count{stage="encode"} 1.0' in client.get("/metrics").text
        assert_equal_but_for_rounding(first, whole[:500, :500])
        across = pixels(client.get("/iiif/wide@2x/300,400,700,200/max/0/default.png"))
        assert_equal_but_for_rounding(across, whole[400:, 300:1000])
        assert 'hiif_stage_seconds_count{stage="encode"} 4.0' in client.get("/metrics").text
        assert_equal_but_for_rounding(pixels(client.get("/iiif/wide@2x/full/max/0/default.png")), whole)
        assert 'hiif_stage_seconds_count{stage="encode"} 6.0' in client.get("/metrics").text
        odd = pixels(client.get("/iiif/wide/full/^711,333/0/default.png"))
        assert_equal_but_for_rounding(odd, live.upscale(frame, size=(333, 711)))


def test_features_beyond_the_memory_for_them_are_refused(live: Upscaler, wide: Path) -> None:
    limits = Limits(features_bytes=30 << 20)
    with running({"hiif-live": live}, [wide], ServeOptions(port=0, limits=limits)) as client:
        answer = client.get("/iiif/wide@2x/full/max/0/default.png")
        assert (answer.status_code, "ask for smaller tiles" in answer.json()["error"]) == (413, True)
        assert client.get("/iiif/wide@2x/0,0,256,256/max/0/default.png").status_code == 200


def test_bicubic_parts_equal_those_of_the_whole() -> None:
    frame = np.random.default_rng(1).integers(0, 255, (40, 53, 3), dtype=np.uint8)
    whole = bicubic(frame, (320, 424), (0, 0, 320, 424))
    np.testing.assert_array_equal(bicubic(frame, (320, 424), (100, 200, 50, 60)), whole[100:150, 200:260])
    ramp = np.tile(np.arange(0, 200, 4, dtype=np.uint8), (8, 1))
    wide = bicubic(ramp, (32, 200), (0, 0, 32, 200)).astype(float)
    expected = (np.arange(200) + 0.5) - 2
    assert np.abs(wide[16, 20:180] - expected[20:180]).max() <= 1


def test_fifty_clients_at_once_have_a_tile_rendered_once(live: Upscaler, folder: Path) -> None:
    with running({"hiif-live": live}, [folder]) as client:
        path = "/iiif/waves@8x/512,0,512,512/max/0/default.png"
        with ThreadPoolExecutor(50) as pool:
            answers = list(pool.map(lambda _: client.get(path).content, range(50)))
        assert len(set(answers)) == 1
        text = client.get("/metrics").text
    assert 'hiif_stage_seconds_count{stage="render"} 1.0' in text
    assert 'hiif_stage_seconds_count{stage="encode"} 1.0' in text
    assert 'hiif_stage_seconds_count{stage="decode"} 1.0' in text


def test_what_a_client_holds_is_not_sent_again(site: Any) -> None:
    for path in ("/iiif/waves/info.json", "/iiif/waves@4x/0,0,64,64/max/0/default.jpg"):
        first = site.get(path)
        again = site.get(path, headers={"If-None-Match": first.headers["etag"]})
        assert (first.status_code, again.status_code, again.content) == (200, 304, b"")
        assert site.get(path, headers={"If-None-Match": '"another"'}).status_code == 200
    tags = {site.get(f"/iiif/waves{end}").headers["etag"] for end in ("/info.json", "@2x/info.json", "@4x/info.json")}
    assert len(tags) == 3


def test_pages_of_other_origins_may_read_descriptions_alone(site: Any) -> None:
    origin = {"Origin": "https://viewer.example"}
    assert site.get("/iiif/waves/info.json", headers=origin).headers["access-control-allow-origin"] == "*"
    image = site.get("/iiif/waves/full/max/0/default.jpg", headers=origin)
    assert "access-control-allow-origin" not in image.headers


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/iiif/nothing/info.json", 404),
        ("/iiif/waves@hiif-none/info.json", 404),
        ("/iiif/..%2F..%2Fetc%2Fpasswd/info.json", 400),
        ("/iiif/broken/info.json", 415),
        ("/iiif/waves@17x/info.json", 400),
        ("/iiif/waves/full/131,/0/default.jpg", 400),
        ("/iiif/waves/full/^9000000,/0/default.jpg", 400),
        ("/iiif/waves/0,0,1,1/^65,65/0/default.jpg", 400),
        ("/iiif/waves/full/^1,40000000/0/default.jpg", 400),
        ("/iiif/waves/130,0,5,5/max/0/default.jpg", 400),
        ("/iiif/waves/full/max/45/default.jpg", 400),
    ],
)
def test_what_cannot_be_given_is_refused_with_a_reason(site: Any, path: str, status: int) -> None:
    answer = site.get(path)
    assert (answer.status_code, set(answer.json())) == (status, {"error"})
    assert "/tmp" not in answer.json()["error"]


def test_five_hundred_malformed_requests_are_refused(site: Any) -> None:
    rng = random.Random(7)
    good = ["full", "max", "0", "default.jpg"]
    alphabet = "0123456789,.^!:-+e%x fulmaxpctsq²٣"
    for _ in range(500):
        parts = list(good)
        place = rng.randrange(4)
        parts[place] = "".join(rng.choices(alphabet, k=rng.randint(2, 9))) + rng.choice("x!^²")
        answer = site.get("/iiif/waves/" + "/".join(part.replace("%", "%25") for part in parts))
        assert answer.status_code == 400, parts


def test_regions_and_sizes_are_those_of_the_standard() -> None:
    image = (600, 1000)
    assert parse_region("square", image) == Crop(200, 0, 600, 600)
    assert parse_region("pct:50,50,50,50", image) == Crop(500, 300, 500, 300)
    assert parse_region("900,500,500,500", image) == Crop(900, 500, 100, 100)
    crop, limit = Crop(0, 0, 300, 200), 10**6
    sizes = {"150,": (100, 150), ",100": (100, 150), "pct:50": (100, 150), "!100,100": (67, 100), "30,40": (40, 30)}
    assert {text: parse_size(text, crop, None, limit) for text in sizes} == sizes
    assert parse_size("^!600,600", crop, None, limit) == (400, 600)
    assert parse_size("max", crop, 15_000, limit) == (100, 150)
    assert parse_size("^max", crop, 240_000, limit) == (400, 600)
    assert parse_size("^!90000,90000", crop, None, 240_000) == (400, 600)
    assert parse_size("!100,100", Crop(0, 0, 1200, 4), None, limit) == (1, 100)
    assert parse_size("pct:5", Crop(0, 0, 1200, 4), None, limit) == (1, 60)
    for text in ("301,", "pct:101", "!400,400", "!0,100", "0,0", "pct:0", "max,", "^", "1,2,3"):
        with pytest.raises(RequestError) as caught:
            parse_size(text, crop, None, limit)
        assert caught.value.status == 400


@pytest.mark.parametrize(
    ("asked", "canonical"),
    [
        ("full/max/0/color.png", "full/max/0/default.png"),
        ("0,0,130,90/pct:50/360/default.png", "full/65,45/0/default.png"),
        ("full/^!260,400/!90/gray.jpg", "full/^260,180/!90/gray.jpg"),
    ],
)
def test_an_image_names_its_canonical_address(site: Any, asked: str, canonical: str) -> None:
    link = site.get(f"/iiif/waves@bicubic/{asked}").headers["link"]
    assert f'/iiif/waves@bicubic/{canonical}>;rel="canonical"' in link


def test_long_pictures_are_given_in_formats_that_hold_them(live: Upscaler, tmp_path: Path) -> None:
    frame = np.random.default_rng(1).integers(0, 256, (8, 4000, 3), np.uint8)
    write_image(tmp_path / "long.png", Picture(frame))
    with running({"hiif-live": live}, [tmp_path]) as client:
        assert pixels(client.get("/iiif/long@10x@bicubic/full/max/0/default.png")).shape == (80, 40_000, 3)
        answer = client.get("/iiif/long@10x@bicubic/full/max/0/default.webp")
    assert (answer.status_code, "webp has at most 16,383 pixels" in answer.json()["error"]) == (400, True)
    whole = bicubic(frame, (80, 40_000), (0, 0, 80, 40_000))
    assert np.array_equal(whole[:, 20_000:20_500], bicubic(frame, (80, 40_000), (0, 20_000, 80, 500)))


def test_a_file_that_changes_while_it_is_read_is_not_kept_as_the_new_one(
    live: Upscaler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replaced_afterwards(entry: Any, max_pixels: int) -> Any:
        monkeypatch.undo()
        picture = studio.read_entry(entry, max_pixels)
        write_image(tmp_path / "p.png", Picture(np.full((20, 24, 3), 99, np.uint8)))
        return picture

    write_image(tmp_path / "p.png", Picture(np.zeros((20, 24, 3), np.uint8)))
    monkeypatch.setattr(studio, "read_entry", replaced_afterwards)
    with running({"hiif-live": live}, [tmp_path]) as client:
        path = "/iiif/p/full/max/0/default.png"
        assert [pixels(client.get(path)).max() for _ in range(2)] == [0, 99]


def test_requests_for_source_pixels_wait_in_a_queue(
    live: Upscaler, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, goes_on, draw = threading.Event(), threading.Event(), routes.draw

    def held(*words: Any) -> bytes:
        begun.set()
        goes_on.wait(60)
        return draw(*words)

    monkeypatch.setattr(routes, "draw", held)
    with (
        running({"hiif-live": live}, [folder], ServeOptions(port=0, limits=Limits(queue=0))) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        first = pool.submit(client.get, "/iiif/waves/0,0,60,60/max/90/default.png")
        assert begun.wait(60)
        refused = client.get("/iiif/waves/1,0,60,60/max/90/default.png")
        goes_on.set()
        assert (first.result().status_code, refused.status_code) == (200, 503)


def test_tiles_at_the_edge_belong_to_the_level_of_the_others() -> None:
    source, image = (75, 101), (600, 808)
    inner = view_of(source, image, Crop(0, 0, 512, 512), (128, 128))
    edge = view_of(source, image, Crop(512, 512, 296, 88), (22, 74))
    assert inner.level == edge.level == (150, 202)
    assert (inner.region, edge.region) == ((0, 0, 128, 128), (128, 128, 22, 74))


def test_an_image_beyond_the_limit_names_the_largest_area() -> None:
    assert "maxArea" not in info("http://h/iiif/a", (1000, 1000), 1_000_000)
    assert info("http://h/iiif/a", (1000, 1001), 1_000_000)["maxArea"] == 1_000_000
    assert info("http://h/iiif/a", (1000, 1000), 10**6)["tiles"][0]["scaleFactors"] == [1, 2, 4, 8, 16]
    assert info("http://h/iiif/a", (100, 20000), 10**8)["tiles"][0]["scaleFactors"][-1] == 64


def test_colour_profiles_are_kept_and_other_metadata_is_not(live: Upscaler, tmp_path: Path) -> None:
    from PIL import Image, ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x013B] = "Ada"
    Image.new("RGB", (20, 10), "teal").save(tmp_path / "a.jpg", icc_profile=profile, exif=exif)
    with running({"hiif-live": live}, [tmp_path]) as client:
        shown = Image.open(io.BytesIO(client.get("/iiif/a@2x/full/max/0/default.jpg").content))
    assert shown.info["icc_profile"] == profile
    assert "exif" not in shown.info
