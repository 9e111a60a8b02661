"""Sample pictures that ship with the package."""

from importlib.resources import as_file, files

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.images.io import read_image

Pixels = NDArray[np.uint8]
SAMPLES = {"astronaut": (0.5, 0.45), "coffee": (0.7, 0.5), "chelsea": (0.3, 0.25)}
"""Picture → centre (down, across) of the part that the demo sheet shows, as shares of its sides."""


def sample(name: str) -> Pixels:
    """Return a shipped picture, RGB [h, w, 3] uint8."""
    with as_file(files("hiif_deploy") / "samples" / f"{name}.png") as path:
        return np.asarray(read_image(path).pixels, dtype=np.uint8)
