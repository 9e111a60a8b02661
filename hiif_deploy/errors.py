"""Everything this project raises on purpose.

    HiifError                     exit code 1
    ├── UsageError                exit code 2: the request cannot be carried out
    │   ├── ScaleError            a scale, size or region
    │   ├── EngineAbsentError     an inference engine that is not installed
    │   ├── MissingExtraError     an optional package that the requested work needs
    │   └── OptionError           any other option or argument
    ├── FrameError                an array handed to the upscaler
    ├── ImageError                a picture file: unreadable, truncated, too large, unwritable
    ├── VideoError                a video file: unreadable, damaged, interlaced, unwritable, or another than begun
    ├── BundleError               a bundle: missing, tampered, newer, foreign
    ├── CheckpointError           a checkpoint: wrong keys, shapes, names, truncated
    ├── DownloadError             a model that cannot be downloaded, or is another file than expected
    ├── EngineError               an inference engine: unusable, failed, or not the one requested
    │   └── EngineLoadError       a stored engine that the library does not take
    ├── ClusterError              a cluster: not reached, without workers, or losing them too often
    ├── WorkInterruptedError      exit code 130, 143 after SIGTERM: a command ended early and its work is kept
    └── ParityError               two implementations disagree beyond tolerance

A message names the thing, what arrived, what was expected and what to do.
"""

import signal

TERMINATED = 128 + signal.SIGTERM
"""Exit code after SIGTERM, as shells give it."""


class Terminated(KeyboardInterrupt):
    """SIGTERM; whoever handles Ctrl-C handles it."""


class HiifError(Exception):
    """Base of all errors raised on purpose."""

    exit_code = 1


class UsageError(HiifError):
    """The request cannot be carried out, whatever the data."""

    exit_code = 2


class ScaleError(UsageError):
    """A scale, an output size or a region is out of range."""


class EngineAbsentError(UsageError):
    """The requested inference engine is not installed."""


class OptionError(UsageError):
    """An option or argument is out of range or contradicts another."""


class FrameError(HiifError):
    """An array is not a picture: shape, dtype or values."""


class ImageError(HiifError):
    """A picture file cannot be read or written."""


class VideoError(HiifError):
    """A video file cannot be read or written, or its unfinished work belongs to something else."""


class BundleError(HiifError):
    """A bundle is missing, damaged, foreign, or of a newer format."""


class CheckpointError(HiifError):
    """A checkpoint does not hold what its name and arguments promise."""


class DownloadError(HiifError):
    """A model cannot be downloaded, or what was downloaded is not the file that was expected."""


class EngineError(HiifError):
    """An inference engine is unusable, failed, or is not the one requested."""


class EngineLoadError(EngineError):
    """A stored engine that the library does not take, or that is not of its graph."""

    def __init__(self, graph: str, message: str) -> None:
        self.graph = graph
        """Name of the graph."""
        super().__init__(message)


class ClusterError(HiifError):
    """A cluster cannot be reached, has no worker to give, or loses them too often."""


class WorkInterruptedError(HiifError):
    """Ctrl-C or SIGTERM ended a command whose work is kept; says how to go on. Raised by commands only."""

    exit_code = 130

    def __init__(self, stop: KeyboardInterrupt) -> None:
        """`stop` says how to go on."""
        super().__init__(str(stop))
        if isinstance(stop, Terminated):
            self.exit_code = TERMINATED


class ParityError(HiifError):
    """Two implementations of the same function disagree beyond tolerance."""


class MissingExtraError(UsageError):
    """An optional package is not installed."""

    def __init__(self, package: str, extra: str, command: str) -> None:
        """`command` adds the extra (`support.extras.missing_extra` knows it)."""
        self.package = package
        self.extra = extra
        super().__init__(f"{package} is not installed; add it with: {command}")
