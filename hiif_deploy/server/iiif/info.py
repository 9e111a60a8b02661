"""The description of an image, info.json."""

from typing import Any

from hiif_deploy.geometry.sizes import Size
from hiif_deploy.server.iiif.request import FORMATS, MAX_FACTOR, QUALITIES

TILE = 512
"""Pixels of a tile's sides."""
CONTEXT = "http://iiif.io/api/image/3/context.json"
PROFILE = "http://iiif.io/api/image/3/level2.json"
FEATURES = ("canonicalLinkHeader", "mirroring", "profileLinkHeader", "sizeUpscaling")
"""What is supported beyond level 2."""


def max_area(image: Size, limit: int) -> int | None:
    """Return what info.json names as the largest area: the limit of a response, where the image exceeds it.

    Nowhere else: with it, `^max` would mean to upscale every image to the limit.
    """
    return limit if image[0] * image[1] > limit else None


def scale_factors(image: Size) -> list[int]:
    """Return 1, 2, 4 … until the image fits a tile, and to 16 at least."""
    factors = [1 << power for power in range(MAX_FACTOR.bit_length())]
    while max(image) > TILE * factors[-1]:
        factors.append(2 * factors[-1])
    return factors


def info(url: str, image: Size, limit: int) -> dict[str, Any]:
    """Return the description of an image of (height, width) at `url`."""
    height, width = image
    factors = scale_factors(image)
    area = max_area(image, limit)
    sizes = dict.fromkeys((-(-width // factor), -(-height // factor)) for factor in reversed(factors))
    return {
        "@context": CONTEXT,
        "id": url,
        "type": "ImageService3",
        "protocol": "http://iiif.io/api/image",
        "profile": "level2",
        "width": width,
        "height": height,
        **({} if area is None else {"maxArea": area}),
        "sizes": [{"width": across, "height": down} for across, down in sizes if across * down <= limit],
        "tiles": [{"width": TILE, "height": TILE, "scaleFactors": factors}],
        "extraFormats": [name for name in FORMATS if name not in ("jpg", "png")],
        "extraQualities": [name for name in QUALITIES if name not in ("default",)],
        "extraFeatures": list(FEATURES),
    }
