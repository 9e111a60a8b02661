"""What a test sets and sees. None of it is TensorRT's."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray


class CrashError(BaseException):
    """Where the real library would end the process: no `except Exception` may survive it either."""


class MisuseError(AssertionError):
    """Undefined behaviour: with the real library the pixels would be wrong, sometimes."""


@dataclass(frozen=True)
class Call:
    """One call of the API."""

    name: str
    """Class and method, as in `IExecutionContext.set_input_shape`; `Builder.error_recorder=` for a property set."""
    arguments: dict[str, Any]
    """By the real parameters' names: shapes as tuples, of bytes their number, of objects the name of their class."""
    label: str = ""
    """Name of the engine (that is, of its network) where the object belongs to one."""


@dataclass(frozen=True)
class Poison:
    """A value that an output is to contain."""

    output: str
    call: int | None
    value: float


@dataclass
class Testing:
    """`tensorrt.testing`: set `device`, ask for failures, look at `calls`."""

    device: Any = None
    """The FakeDevice whose addresses and streams are used; also says which GPU this is."""
    gpu: str = "Fake GPU"
    """Where no device is set."""
    capability: str = "8.9"
    """Where no device is set."""
    calls: list[Call] = field(default_factory=list)
    """Everything that was called, in order; clear it as you like."""
    busy: set[int] = field(default_factory=set)
    """Streams on which an engine is half-way."""
    runs: Counter[str] = field(default_factory=Counter)
    """Output name → how often it was computed."""
    build_failures: list[str] = field(default_factory=list)
    deserialize_failures: list[str] = field(default_factory=list)
    poisons: list[Poison] = field(default_factory=list)

    def fail_build(self, reason: str) -> None:
        """The next build answers None and says `reason` to the recorder or the logger. Add more for more builds."""
        self.build_failures.append(reason)

    def fail_deserialize(self, reason: str) -> None:
        """The same for the next engine to be loaded."""
        self.deserialize_failures.append(reason)

    def poison(self, output: str, call: int | None = 0, value: float = float("nan")) -> None:
        """Put `value` into one element of `output` the `call`-th time (from 0) that it is computed; None: always."""
        self.poisons.append(Poison(output, call, value))

    def names(self, *only: str) -> list[str]:
        """Names of the calls in order, of the classes or calls in `only` where any are given."""
        wanted = set(only)
        return [c.name for c in self.calls if not wanted or wanted & {c.name, c.name.partition(".")[0]}]

    def facts(self) -> tuple[str, str]:
        """Name and compute capability of the GPU at hand."""
        if self.device is None:
            return self.gpu, self.capability
        facts = self.device.facts()
        return facts.gpu, facts.capability

    def run_rivals(self, stream_handle: int) -> None:
        """What other streams may do while an engine runs on this one, on a device whose schedule is `rivals`."""
        if getattr(self.device, "schedule", "") != "rivals":
            return
        self.busy.add(stream_handle)
        for handle, queue in list(self.device._queues.items()):
            while handle not in self.busy and self.device._run_rival(queue):
                pass
        self.busy.discard(stream_handle)

    def spoil(self, output: str, array: NDArray[Any]) -> None:
        """Count that `output` was computed, and put a value into it where one was asked for."""
        run = self.runs[output]
        self.runs[output] += 1
        for poison in self.poisons:
            if poison.output == output and poison.call in (None, run):
                array.reshape(-1)[array.size // 2] = np.asarray(poison.value).astype(array.dtype)


testing = Testing()
"""The one that `tensorrt.testing` is."""


def version() -> str:
    """`tensorrt.__version__`, which a test may set."""
    return str(vars(sys.modules[__package__])["__version__"])


def major() -> int:
    """10 or 11."""
    return int(version().partition(".")[0])


def crash(what: str) -> NoReturn:
    """The process would be gone."""
    raise CrashError(f"TensorRT would crash here: {what}")


def misuse(what: str) -> NoReturn:
    """Nothing would be told, and something would be wrong."""
    raise MisuseError(what)
