# ruff: noqa: ARG002
"""Loggers, error recorders, progress monitors: what a program may implement, and how the library talks to it."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from typing import Any, ClassVar, NoReturn

from ._base import CLASSES, Held, api
from ._enums import Enumeration, ErrorCodeTRT
from ._testing import CrashError


class ILogger:
    """To be derived from. Any attribute may be set, as on every Python class."""

    class Severity(Enumeration, numbers={"INTERNAL_ERROR": 0, "ERROR": 1, "WARNING": 2, "INFO": 3, "VERBOSE": 4}):
        pass

    INTERNAL_ERROR: Severity
    ERROR: Severity
    WARNING: Severity
    INFO: Severity
    VERBOSE: Severity

    def __init__(self) -> None:
        pass

    def log(self, severity: Severity, msg: str) -> None:
        _not_overridden("ILogger::log")


for _name, _value in ILogger.Severity.__members__.items():
    setattr(ILogger, _name, _value)


class Logger(ILogger):
    """Prints from a severity upward."""

    @api
    def __init__(self, min_severity: ILogger.Severity = ILogger.Severity.WARNING) -> None:  # type: ignore[attr-defined]
        self.min_severity = min_severity

    def log(self, severity: ILogger.Severity, msg: str) -> None:
        if severity.value <= self.min_severity.value:
            print(f"[TRT] [{severity.name[0]}] {msg}", file=sys.stderr)


class IErrorRecorder:
    """To be derived from. Once set it gets the errors, and the logger no longer does."""

    def __init__(self) -> None:
        pass

    def num_errors(self) -> int:
        _not_overridden("IErrorRecorder::getNbErrors")

    def get_error_code(self, arg0: int) -> ErrorCodeTRT:
        _not_overridden("IErrorRecorder::getErrorCode")

    def get_error_desc(self, arg0: int) -> str:
        _not_overridden("IErrorRecorder::getErrorDesc")

    def has_overflowed(self) -> bool:
        _not_overridden("IErrorRecorder::hasOverflowed")

    def clear(self) -> None:
        _not_overridden("IErrorRecorder::clear")

    def report_error(self, arg0: ErrorCodeTRT, arg1: str) -> bool:
        _not_overridden("IErrorRecorder::reportError")


class IProgressMonitor:
    """To be derived from."""

    def __init__(self) -> None:
        pass

    def phase_start(self, phase_name: str, parent_phase: str, num_steps: int) -> None:
        _not_overridden("IProgressMonitor::phaseStart")

    def step_complete(self, phase_name: str, step: int) -> bool:
        _not_overridden("IProgressMonitor::stepComplete")

    def phase_finish(self, phase_name: str) -> None:
        _not_overridden("IProgressMonitor::phaseFinish")


CLASSES.update({kind.__name__: kind for kind in (ILogger, IErrorRecorder, IProgressMonitor)})


class Voice:
    """Where an object's messages go."""

    registered: ClassVar[weakref.WeakSet[Voice]] = weakref.WeakSet()
    """Those of the builders and runtimes that are alive."""

    def __init__(self, logger: ILogger, call: str = "") -> None:
        self.logger = Held(logger, "the logger")
        if call and any(other.logger() is not logger for other in self.registered):
            self.log("WARNING", f"The logger passed into {call} differs from one already registered")
        if call:
            self.registered.add(self)

    def error(self, recorder: IErrorRecorder | None, code: str, text: str) -> None:
        """To the recorder, or where there is none to the logger."""
        if recorder is not None:
            guarded(recorder.report_error, getattr(ErrorCodeTRT, code), text)
        else:
            self.log("ERROR", text)

    def log(self, severity: str, text: str) -> None:
        """To the logger."""
        logger: Any = self.logger()
        guarded(logger.log, ILogger.Severity.__members__[severity], text)


def guarded(callback: Callable[..., Any], *arguments: Any) -> Any:
    """Call back into the program. Whatever is raised there is printed and lost, a KeyboardInterrupt too."""
    try:
        return callback(*arguments)
    except CrashError:
        raise
    except BaseException as error:  # measured with TensorRT-RTX 1.7
        print(f"[ERROR] Exception caught in {callback.__name__}(): {type(error).__name__}: {error}", file=sys.stderr)
        return None


def _not_overridden(name: str) -> NoReturn:
    raise RuntimeError(f'Tried to call pure virtual function "{name}"')
