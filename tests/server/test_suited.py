"""A picture that was compressed or is noisy has the model that was trained for such, unless a client names another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hiif_deploy import Upscaler
from hiif_deploy.images.io import Picture, write_image
from hiif_deploy.images.samples import sample
from server_client import opened, running

TILE = "/0,0,64,64/128,/0/default.png"


@pytest.fixture(scope="module")
def pictures(live: Upscaler, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The client of a server of the picture `clean`, and of the same as a JPEG of quality 40, `coarse`."""
    root: Path = tmp_path_factory.mktemp("pictures")
    frame = sample("coffee")[:96, :96]
    write_image(root / "clean.png", Picture(frame))
    write_image(root / "coarse.jpg", Picture(frame), quality=40)
    with opened("hiif-photo") as photo, running({"hiif-live": live, "hiif-photo": photo}, [root]) as client:
        yield client


@pytest.mark.parametrize(("name", "model", "jpeg"), [("clean", "hiif-live", None), ("coarse", "hiif-photo", 40)])
def test_a_picture_has_the_model_that_suits_it(pictures: Any, name: str, model: str, jpeg: int | None) -> None:
    found = pictures.get(f"/v1/pictures/{name}").json()
    assert (found["model"], found["jpeg"], found["width"]) == (model, jpeg, 96)
    assert pictures.get(f"/v1/plan?picture={name}&scale=2").json()["model"] == model
    assert pictures.get(f"/iiif/{name}{TILE}".replace("/128", "/^128")).content == shown(pictures, name, model)


def test_a_model_that_is_named_is_taken(pictures: Any) -> None:
    assert pictures.get("/v1/plan?picture=coarse&scale=2&model=hiif-live").json()["model"] == "hiif-live"
    assert shown(pictures, "coarse", "hiif-live") != shown(pictures, "coarse", "hiif-photo")


def shown(client: Any, name: str, model: str) -> bytes:
    """A part of the picture, upscaled by two."""
    answer = client.get(f"/iiif/{name}@2x@{model}/0,0,128,128/128,/0/default.png")
    assert answer.status_code == 200
    content: bytes = answer.content
    return content
