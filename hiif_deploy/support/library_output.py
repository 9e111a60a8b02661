"""Lines that libraries print on stderr by themselves, beside what this project reports."""

from __future__ import annotations

import os
import sys
import warnings


def silence_libraries() -> None:
    """For a command: what OpenCV and Pillow print about damaged files is raised or noted by us as well.

    Where OpenCV's own variable is set, it stays as it is.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")
    if "OPENCV_LOG_LEVEL" in os.environ:
        return
    # OpenCV reads it when it is loaded, which may be later.
    os.environ["OPENCV_LOG_LEVEL"] = "SILENT"
    if cv2 := sys.modules.get("cv2"):
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
