"""Clients choose a model's precision: the bytes of the command line, and caches that keep precisions apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hiif_deploy import EngineOptions, Upscaler, open_bundle
from hiif_deploy.cli import main
from hiif_deploy.images.decode import decode
from hiif_deploy.images.io import read_image
from hiif_deploy.server.options import Limits, ServeOptions
from server_client import running

QUERY = "scale=2.5&picture=waves&model=hiif-live"


@pytest.fixture(scope="module")
def listed(site: Any) -> list[str]:
    """The precisions of the first model, its own first."""
    found = site.get("/v1/models").json()["models"][0]["precisions"]
    assert found[0] == "fp32"
    assert len(found) > 1
    return list(found)


def commanded(source: Path, output: Path, engine: str, precision: str) -> bytes | None:
    """What the command line makes; None where this processor does not compute in that precision."""
    words = ["--bundle", "hiif-live", "--scale", "2.5", "--threads", "1", "--engine", engine, "--precision", precision]
    with pytest.raises(SystemExit) as done:
        main(["upscale", str(source), "-o", str(output), "-q", *words])
    return output.read_bytes() if done.value.code == 0 else None


def test_a_result_has_the_bytes_of_the_command_line(
    site: Any, live: Upscaler, folder: Path, listed: list[str], tmp_path: Path
) -> None:
    made = set()
    for precision in listed:
        wanted = commanded(folder / "waves.png", tmp_path / f"{precision}.png", live.engine.engine, precision)
        answer = site.post(f"/v1/upscale?{QUERY}&precision={precision}")
        if wanted is None:
            assert answer.status_code == 400
            assert "hiif-live has fp32" in answer.json()["error"]
            continue
        assert answer.content == wanted
        assert site.get(f"/v1/plan?{QUERY}&precision={precision}").json()["precision"] == precision
        made.add(wanted)
    assert len(made) > 1
    assert site.post(f"/v1/upscale?{QUERY}").content == site.post(f"/v1/upscale?{QUERY}&precision=fp32").content


def test_tiles_and_their_tags_differ_by_precision(site: Any, folder: Path, listed: list[str]) -> None:
    paths = {name: f"/iiif/waves@4x@hiif-live@{name}/0,0,512,360/max/0/default.png" for name in listed}
    answers = {name: site.get(path) for name, path in paths.items()}
    given = {name: answer for name, answer in answers.items() if answer.status_code == 200}
    assert len(given) > 1
    assert len({answer.headers["etag"] for answer in given.values()}) == len(given)
    source = read_image(folder / "waves.png").pixels
    for name, answer in given.items():
        model = site.server.studio.models.open("hiif-live", name)
        assert model is site.server.studio.models.open("hiif-live", name)
        whole = model.upscaler.upscale(source, scale=4)[:, :512].astype(int)
        assert np.abs(decode(answer.content, 1 << 20).pixels - whole).max() <= 1
    own = site.get(paths["fp32"].replace("@fp32", ""))
    assert own.headers["etag"] == answers["fp32"].headers["etag"]


@pytest.mark.parametrize("path", [f"/v1/plan?{QUERY}&precision=", "/iiif/waves@hiif-live@"])
def test_a_precision_that_is_not_there_is_refused(site: Any, path: str) -> None:
    absent = next(name for name in ("fp16", "bf16") if name not in site.server.studio.models.precisions("hiif-live"))
    end = "" if path.endswith("=") else "/info.json"
    refused = site.get(f"{path}{absent}{end}")
    assert refused.status_code == 400
    assert "hiif-live has fp32" in refused.json()["error"]
    unknown = site.get(f"{path}int9{end}")
    assert (unknown.status_code, unknown.json()["error"]) == (400, "precision: expected one of fp32, fp16, bf16, int8")


def test_interpolation_has_no_precision(site: Any) -> None:
    refused = site.get("/iiif/waves@2x@bicubic@int8/info.json")
    assert (refused.status_code, refused.json()["error"]) == (400, "bicubic has no precision")


def test_weights_of_other_precisions_are_bounded(live: Upscaler, folder: Path, listed: list[str]) -> None:
    options = ServeOptions(port=0, limits=Limits(weights_bytes=1000))
    with running({"hiif-live": live}, [folder / "waves.png"], options) as client:
        answer = client.post(f"/v1/upscale?{QUERY}&precision={listed[1]}")
        assert (answer.status_code, "MiB of weights" in answer.text) == (413, True)
        assert client.post(f"/v1/upscale?{QUERY}&precision=fp32").status_code == 200


def test_a_precision_that_cannot_be_opened_is_refused_without_paths(folder: Path) -> None:
    bundle = open_bundle("hiif-live")
    broken = replace(bundle, graphs={name: b"" if "fp16" in name else data for name, data in bundle.graphs.items()})
    with (
        Upscaler(broken, engine=EngineOptions(engine="onnxruntime", threads=1)) as upscaler,
        running({"hiif-live": upscaler}, [folder / "waves.png"]) as client,
    ):
        answers = [client.get(f"/v1/plan?{QUERY}&precision=fp16"), client.get("/iiif/waves@hiif-live@fp16/info.json")]
        # What the engine says may name folders: it stays in the log.
        assert answers[0].json()["error"] == "precision fp16 cannot be opened; hiif-live has fp32 here"
        assert [answer.status_code for answer in answers] == [400, 400]
        assert client.get("/v1/models").json()["models"][0]["precisions"] == ["fp32"]
