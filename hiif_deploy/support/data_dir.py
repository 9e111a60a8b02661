"""The folder of the models that the user added."""

import os
from pathlib import Path

from hiif_deploy.support.cache_dir import NAME, user_folder

VARIABLE = "HIIF_DEPLOY_MODELS"
"""Environment variable that sets the folder."""


def models_root() -> Path | None:
    """Return the folder of added models, absolute: `$HIIF_DEPLOY_MODELS`, else below the user's data folder.

    None where that would be below a home folder and this user has none.
    """
    try:
        if chosen := os.environ.get(VARIABLE):
            return Path(chosen).expanduser().absolute()
        return user_folder("XDG_DATA_HOME", ".local", "share") / NAME / "models"
    except RuntimeError:
        return None
