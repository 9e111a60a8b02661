"""TensorRT itself, loaded when it is needed: which library, which version, and what it says while it works.

Two products share one API: TensorRT (10.13 to 11) and TensorRT-RTX (1.x, with TensorRT 11's API). Enumerations are
used by name only, because their numbers moved between versions.
"""

from __future__ import annotations

import importlib
import re
from collections import deque
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, get_args

from hiif_deploy.backends.options import LibraryName
from hiif_deploy.errors import EngineAbsentError, EngineError, OptionError
from hiif_deploy.support.install import install_command

if TYPE_CHECKING:
    import tensorrt as trt  # noqa: TID251 (for the type checker alone)
MODULES: dict[LibraryName, tuple[str, ...]] = {
    "tensorrt": ("tensorrt",),
    "tensorrt-rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),
}
"""Names under which a library is imported, the first that is there."""
INSTALL: dict[LibraryName, str] = {
    "tensorrt": f"{install_command('tensorrt')} (or: pip install tensorrt-cu13 cuda-bindings)",
    "tensorrt-rtx": "pip install tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings cuda-bindings",
}
"""What adds a library."""
SUPPORTED: dict[LibraryName, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "tensorrt": ((10, 13), (12,)),
    "tensorrt-rtx": ((1, 4), (2,)),
}
"""Oldest version that is supported and the first that is not."""
TYPE_NAMES = {"float16": "HALF", "float32": "FLOAT", "float64": "FLOAT", "int32": "INT32", "uint8": "UINT8"}
"""The contract's types in TensorRT's words; its parser narrows float64, without a word."""
MOST_MESSAGES = 50
"""Errors that are kept, the latest ones."""


@dataclass(frozen=True)
class Library:
    """TensorRT or TensorRT-RTX, imported."""

    name: LibraryName
    """Which product."""
    version: str
    """As it tells, such as `11.4.0.106`."""
    module: ModuleType
    """The Python module."""


def load_library(name: LibraryName = "tensorrt") -> Library:
    """Import a library. EngineAbsentError where it is not installed, EngineError where it does not work or fit."""
    if name not in get_args(LibraryName):
        raise OptionError(f"library {name!r}: expected one of {', '.join(get_args(LibraryName))}")
    for module_name in MODULES[name]:
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name != module_name:
                raise EngineError(
                    f"{module_name} lacks the module {error.name}; add it with: {INSTALL[name]}"
                ) from error
            continue
        except (ImportError, OSError, RuntimeError) as error:
            raise EngineError(f"{module_name} is installed but does not load: {error}") from error
        return Library(name, check_version(name, str(module.__version__)), module)
    raise EngineAbsentError(f"{name} is not installed; add it with: {INSTALL[name]}")


def check_version(name: LibraryName, version: str) -> str:
    """The version, or EngineError where it is older or newer than what is supported."""
    numbers = tuple(int(part) for part in re.findall(r"\d+", version))
    low, high = SUPPORTED[name]
    if not low <= numbers < high:
        wanted = f"{'.'.join(map(str, low))} or newer, below {high[0]}"
        raise EngineError(f"{name} {version} is installed, and {wanted} is supported: pip install -U {name}")
    return version


def type_name(dtype: trt.DataType) -> str:
    """`HALF` of `DataType.HALF`: by name, because the numbers moved between versions."""
    return str(dtype).rpartition(".")[2]


class Messages:
    """The errors of a library, collected. Keep it as long as anything that was given its logger or its recorder.

    A process has one logger, the first; whoever comes later is heard through a recorder, which takes precedence.
    """

    def __init__(self, library: Library) -> None:
        self._lines: deque[str] = deque(maxlen=MOST_MESSAGES)
        self.logger = _make_logger(library, self._lines)
        """To be handed to the library."""
        self.recorder = _make_recorder(library, self._lines)
        """For the `error_recorder` of a runtime, and of a builder once it has made its network (before, it crashes)."""

    def reason(self, default: str = "the library gave no reason") -> str:
        """The errors so far in one line."""
        return "; ".join(dict.fromkeys(self._lines)) or default


def _make_logger(library: Library, lines: deque[str]) -> trt.ILogger:
    base = library.module.ILogger

    class Collector(base):  # type: ignore[misc, valid-type]
        """Called by the library, from its own threads too."""

        def __init__(self) -> None:
            base.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            """Keep messages of severity error."""
            if str(severity).rpartition(".")[2] in ("ERROR", "INTERNAL_ERROR"):
                lines.append(msg.strip())

    logger: trt.ILogger = Collector()
    return logger


def _make_recorder(library: Library, lines: deque[str]) -> trt.IErrorRecorder:
    base = library.module.IErrorRecorder

    class Recorder(base):  # type: ignore[misc, valid-type]
        """Called by the library, from its own threads too."""

        def __init__(self) -> None:
            base.__init__(self)

        def clear(self) -> None:
            """Errors are kept: they belong to one piece of work."""

        def report_error(self, arg0: Any, arg1: str) -> bool:
            """Keep it; it may be survived."""
            del arg0
            lines.append(arg1.strip())
            return False

        def has_overflowed(self) -> bool:
            """False: messages beyond the limit are dropped."""
            return False

        def num_errors(self) -> int:
            """Number of errors that were kept."""
            return len(lines)

        def get_error_code(self, arg0: int) -> Any:
            """The kind is in the text."""
            del arg0
            return library.module.ErrorCodeTRT.UNSPECIFIED_ERROR

        def get_error_desc(self, arg0: int) -> str:
            """Text of an error by its index."""
            return lines[arg0]

    recorder: trt.IErrorRecorder = Recorder()
    return recorder
