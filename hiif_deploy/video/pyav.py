"""PyAV, loaded when video is first worked on."""

from __future__ import annotations

from typing import Any

from hiif_deploy.extras import require_extra


def pyav() -> Any:
    """The module `av`. MissingExtraError, which says how to install it, where it is absent."""
    require_extra("video")
    import av

    return av
