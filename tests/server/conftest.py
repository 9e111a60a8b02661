"""Shared by the tests of the server: models, pictures, and a server that only answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hiif_deploy import Upscaler
from hiif_deploy.images.io import Picture, write_image
from server_client import opened, running

ATTENTION = Path(__file__).resolve().parents[1] / "models" / "hiif-attention"


@pytest.fixture(scope="session")
def live() -> Iterator[Upscaler]:
    """The fastest model that ships."""
    with opened("hiif-live") as upscaler:
        yield upscaler


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of several kinds."""
    root = tmp_path_factory.mktemp("pictures")
    y, x = np.mgrid[0:90, 0:130]
    colours = np.stack([y * 2, x * 1.9, 127 + 120 * np.sin(y * x / 90)], axis=-1).clip(0, 255).astype(np.uint8)
    (root / "deep").mkdir()
    write_image(root / "waves.png", Picture(colours))
    write_image(root / "deep" / "grey 16.png", Picture(colours[..., 2].astype(np.uint16) * 257))
    write_image(root / "clear.png", Picture(colours, alpha=colours[..., 1]))
    (root / "broken.png").write_bytes((root / "waves.png").read_bytes()[:300])
    return root


@pytest.fixture(scope="session")
def site(live: Upscaler, folder: Path) -> Iterator[Any]:
    """The client of a server of `folder`, with two models; tests only read."""
    with opened(ATTENTION) as attention, running({"hiif-live": live, "hiif-attention": attention}, [folder]) as client:
        yield client
