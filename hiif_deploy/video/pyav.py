"""Loads PyAV on first use."""

import os
from typing import Any

from hiif_deploy.support.extras import require_extra


def pyav() -> Any:
    """Return the module `av`. MissingExtraError, which says how to install it, where it is missing."""
    require_extra("video")
    # SVT-AV1 prints its settings on stderr, past FFmpeg's log. 1: errors only; read when the library is first used.
    os.environ.setdefault("SVT_LOG", "1")
    import av

    return av
