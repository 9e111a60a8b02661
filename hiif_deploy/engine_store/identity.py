"""What an engine depends on, what the machine at hand is, and in words why the one does not fit the other."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from hiif_deploy.backends.options import LibraryName
from hiif_deploy.bundle.contract import Precision, to_json
from hiif_deploy.errors import EngineError

Shape = tuple[int, ...]
Range = tuple[Shape, Shape, Shape]
"""(min, opt, max) shapes of one input."""

TITLES: Mapping[str, str] = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}
VERSION_COMPATIBLE = "version_compatible"
"""Flag, true or false: the engine also runs in newer versions of its library."""
HARDWARE_COMPATIBILITY = "hardware_compatibility"
"""Flag, one of `HARDWARE_LEVELS`: on which other GPUs the engine runs."""
HARDWARE_LEVELS = ("none", "ampere_plus", "same_compute_capability")
AMPERE = (8, 0)

MOST_TEXT = 200
"""Characters of a name; these and the next ones bound what a damaged or hostile file can make us hold."""
MOST_INPUTS = 256
MOST_AXES = 8
MOST_FLAGS = 64
MOST_NUMBER = 1 << 53
"""Whole numbers beyond it do not survive every JSON reader."""


@dataclass(frozen=True)
class EngineEnvironment:
    """A machine as far as engines care: the library and the GPU. EngineError for values that no machine has."""

    library: LibraryName
    """Which of the two libraries."""
    library_version: str
    """As the library tells it, such as `10.13.3.9`."""
    gpu: str
    """Name as the driver tells it."""
    capability: str
    """Compute capability, such as `8.9`."""
    driver: str
    """CUDA version of the driver, such as `13.0`."""

    def __post_init__(self) -> None:
        check_choice("library", self.library, get_args(LibraryName))
        check_text("library version", self.library_version)
        check_text("GPU", self.gpu)
        check_text("driver", self.driver)
        if not re.fullmatch(r"\d{1,3}\.\d{1,3}", str(self.capability), re.ASCII):
            raise EngineError(f"compute capability is {shorten(self.capability)}: expected a number such as 8.9")

    def __str__(self) -> str:
        title = f"{TITLES[self.library]} {self.library_version}"
        return f"{title} for {self.gpu} ({self.capability}), driver {self.driver}"

    def misfit(self, identity: EngineIdentity) -> str | None:
        """Why an engine does not run here, as one sentence; None where it does."""
        built = identity.environment
        found = (
            _library_misfit(built, self, identity.is_version_compatible),
            _gpu_misfit(built, self, identity.hardware_level),
            _driver_misfit(built, self, identity.is_portable),
        )
        reasons = [reason for reason in found if reason is not None]
        return f"built by {built}; here is {self}: {'; '.join(reasons)}" if reasons else None


@dataclass(frozen=True)
class EngineIdentity:
    """Everything an engine depends on. Validated, because it is also read from files that anyone may have changed."""

    bundle: str
    """Name of the bundle, for people; may be empty, may hold anything printable."""
    graph: str
    """encoder, maps, statistics_0, …, decoder."""
    precision: Precision
    """Of the weights and the large products."""
    onnx_sha256: str
    """Of the graph's ONNX file, hexadecimal."""
    library: LibraryName
    """What built it."""
    library_version: str
    """As the library tells it."""
    gpu: str
    """Name of the GPU that it was built for."""
    capability: str
    """Compute capability of that GPU, such as `8.9`."""
    driver: str
    """CUDA version of the driver there."""
    profiles: Mapping[str, Range]
    """Input name → (min, opt, max) shapes; min ≤ opt ≤ max on every axis."""
    flags: Mapping[str, Any]
    """Everything else that was asked of the builder, by name: truth values, numbers, texts, None."""

    def __post_init__(self) -> None:
        check_text("bundle", self.bundle, least=0)
        check_text("graph", self.graph)
        check_choice("precision", self.precision, get_args(Precision))
        check_sha256("ONNX sha256", self.onnx_sha256)
        _ = self.environment
        _check_profiles(self.profiles)
        _check_flags(self.flags)

    @property
    def environment(self) -> EngineEnvironment:
        """Where it was built."""
        return EngineEnvironment(self.library, self.library_version, self.gpu, self.capability, self.driver)

    @property
    def key(self) -> str:
        """sha256 of the whole identity, hexadecimal: equal for equal identities, on every machine."""
        return hashlib.sha256(canonical(to_json(self))).hexdigest()

    @property
    def is_version_compatible(self) -> bool:
        """Whether newer versions of the library run it. TensorRT-RTX has no such engines."""
        return self.library == "tensorrt" and self.flags.get(VERSION_COMPATIBLE) is True

    @property
    def hardware_level(self) -> str:
        """One of `HARDWARE_LEVELS`."""
        return str(self.flags.get(HARDWARE_COMPATIBILITY, HARDWARE_LEVELS[0]))

    @property
    def is_portable(self) -> bool:
        """Whether it was built to run on other machines too."""
        return self.is_version_compatible or self.hardware_level != HARDWARE_LEVELS[0]


def canonical(value: Any) -> bytes:
    """JSON text that is the same for the same parsed JSON."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def check_text(name: str, value: Any, least: int = 1) -> None:
    """EngineError unless it is a text of `least` to `MOST_TEXT` printable characters."""
    if type(value) is not str or not least <= len(value) <= MOST_TEXT or not value.isprintable():
        raise EngineError(f"{name} is {shorten(value)}: expected {least} to {MOST_TEXT} printable characters")


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """EngineError unless it is one of the choices."""
    if value not in choices:
        raise EngineError(f"{name} is {shorten(value)}: expected {' or '.join(choices)}")


def check_sha256(name: str, value: Any) -> None:
    """EngineError unless it is a sha256 in lower-case hexadecimal."""
    if type(value) is not str or not re.fullmatch(r"[0-9a-f]{64}", value):
        raise EngineError(f"{name} is {shorten(value)}: expected 64 hexadecimal digits")


def shorten(value: Any, limit: int = 60) -> str:
    """One line of at most `limit` characters that shows the value."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _library_misfit(built: EngineEnvironment, here: EngineEnvironment, is_compatible: bool) -> str | None:
    if built.library != here.library:
        return "the libraries do not run each other's engines"
    if built.library_version == here.library_version:
        return None
    if not is_compatible:
        return "an engine runs in the version that built it, unless it was built version-compatible"
    if _numbers(built.library_version) < _numbers(here.library_version):
        return None
    return "a version-compatible engine runs in newer versions only"


def _gpu_misfit(built: EngineEnvironment, here: EngineEnvironment, level: str) -> str | None:
    same_capability = _numbers(built.capability) == _numbers(here.capability)
    if level == "same_compute_capability":
        return None if same_capability else "it was built for GPUs of the same compute capability only"
    if level == "ampere_plus":
        oldest = min(_numbers(built.capability), _numbers(here.capability))
        return None if oldest >= AMPERE else "it was built for GPUs of compute capability 8.0 and newer"
    if same_capability and built.gpu == here.gpu:
        return None
    return "an engine runs on the GPU it was built for, unless it was built hardware-compatible"


def _driver_misfit(built: EngineEnvironment, here: EngineEnvironment, is_portable: bool) -> str | None:
    if built.driver == here.driver:
        return None
    if not is_portable:
        return "it was tuned under another driver"
    # An older driver may lack what the kernels were compiled for; a newer one runs older kernels by CUDA's promise.
    return None if _numbers(built.driver) < _numbers(here.driver) else "it was built under a newer driver"


def _numbers(version: str) -> tuple[int, ...]:
    """`10.13.3.9` → (10, 13, 3, 9); what follows the leading numbers is left out."""
    found = re.match(r"\d+(\.\d+)*", version, re.ASCII)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def _check_profiles(profiles: Mapping[str, Range]) -> None:
    if len(profiles) > MOST_INPUTS:
        raise EngineError(f"profiles name {len(profiles)} inputs: expected at most {MOST_INPUTS}")
    for name, shapes in profiles.items():
        check_text("input", name)
        axes = len(shapes[0]) if shapes else 0
        if len(shapes) != 3 or axes > MOST_AXES or any(len(shape) != axes for shape in shapes):
            raise EngineError(f"profile of {name} is {shorten(shapes)}: expected (min, opt, max) of equal length")
        for sizes in zip(*shapes, strict=True):
            whole = all(type(size) is int for size in sizes)
            if not whole or not 1 <= sizes[0] <= sizes[1] <= sizes[2] <= MOST_NUMBER:
                raise EngineError(f"profile of {name} has sizes {shorten(sizes)}: expected 1 ≤ min ≤ opt ≤ max")


def _check_flags(flags: Mapping[str, Any]) -> None:
    if len(flags) > MOST_FLAGS:
        raise EngineError(f"there are {len(flags)} flags: expected at most {MOST_FLAGS}")
    for name, value in flags.items():
        check_text("flag", name)
        if type(value) is str:
            check_text(f"flag {name}", value, least=0)
        elif not _is_plain(value):
            raise EngineError(f"flag {name} is {shorten(value)}: expected a truth value, a finite number or a text")
    if type(flags.get(VERSION_COMPATIBLE, False)) is not bool:
        raise EngineError(f"flag {VERSION_COMPATIBLE} is {shorten(flags[VERSION_COMPATIBLE])}: expected true or false")
    check_choice(f"flag {HARDWARE_COMPATIBILITY}", flags.get(HARDWARE_COMPATIBILITY, "none"), HARDWARE_LEVELS)


def _is_plain(value: Any) -> bool:
    if type(value) is float:
        return math.isfinite(value)
    return value is None or type(value) is bool or (type(value) is int and abs(value) <= MOST_NUMBER)
