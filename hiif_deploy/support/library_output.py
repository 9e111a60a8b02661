"""Silences lines that libraries print on stderr, past the log."""

import os
import sys
import warnings


def silence_libraries() -> None:
    """Silence OpenCV and Pillow on damaged files, which this package raises or notes itself. For commands.

    Where OpenCV's own variable is set, it is unchanged.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")
    if "OPENCV_LOG_LEVEL" in os.environ:
        return
    # OpenCV reads it when it is loaded, which may be later.
    os.environ["OPENCV_LOG_LEVEL"] = "SILENT"
    if cv2 := sys.modules.get("cv2"):
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
