"""What an engine depends on, and why it does not run on a given machine."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from hiif_deploy.backends.options import LibraryName
from hiif_deploy.bundle.contract import Precision, from_json, to_json
from hiif_deploy.errors import BundleError, EngineError
from hiif_deploy.support.messages import shortened

Shape = tuple[int, ...]
Range = tuple[Shape, Shape, Shape]
"""(min, opt, max) shapes of one input."""
Flag = bool | int | float | str | None

TITLES: Mapping[str, str] = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}
TARGET = "target"
"""Flag: compute capability for which the engine was built without a GPU, or None."""
MAX_TEXT = 200
"""Characters of a name."""


@dataclass(frozen=True)
class EngineEnvironment:
    """A machine as far as engines depend on it. EngineError for values that no machine has."""

    library: LibraryName
    """Which of the two libraries."""
    library_version: str
    """As the library reports it, such as `10.13.3.9`."""
    gpu: str
    """Name as the driver reports it."""
    capability: str
    """Compute capability, such as `8.9`."""
    driver: str
    """CUDA version of the driver, such as `13.0`."""

    def __post_init__(self) -> None:
        check_fields(self)
        is_capability = re.fullmatch(r"\d{1,3}\.\d{1,3}", self.capability, re.ASCII) is not None
        check("capability", self.capability, is_capability, "a number such as 8.9")

    def __str__(self) -> str:
        title = f"{TITLES[self.library]} {self.library_version}"
        return f"{title} for {self.gpu} ({self.capability}), driver {self.driver}"


@dataclass(frozen=True)
class EngineIdentity(EngineEnvironment):
    """Everything an engine depends on: where it was built, from what, and how. EngineError for impossible values."""

    bundle: str
    """Name of the bundle, for people; may be empty, may hold anything printable."""
    graph: str
    """encoder, maps, statistics_0, …, decoder."""
    precision: Precision
    """Of the weights and the large products."""
    onnx_sha256: str
    """Of the graph's ONNX file, hexadecimal."""
    profiles: Mapping[str, Range]
    """Input name → (min, opt, max) shapes; min ≤ opt ≤ max on every axis."""
    flags: Mapping[str, Flag]
    """All other options of the builder by name."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sha256("onnx_sha256", self.onnx_sha256)
        for name, shapes in self.profiles.items():
            _check_text("input", name)
            check(f"profile of {name}", shapes, _is_ordered(shapes), "1 ≤ min ≤ opt ≤ max on the same axes")
        for name, value in self.flags.items():
            _check_text("flag", name)
            if isinstance(value, str):
                _check_text(f"flag {name}", value, least=0)

    @property
    def key(self) -> str:
        """sha256 of the whole identity, hexadecimal: equal for equal identities, on every machine."""
        return json_sha256(to_json(self))

    def incompatibility(self, here: EngineEnvironment) -> str | None:
        """Why the engine does not run in the environment `here`, as one sentence; None where it does."""
        any_gpu = self.flags.get(TARGET) is not None
        reasons = {
            "the libraries do not run each other's engines": self.library != here.library,
            "an engine runs in the version that built it": self.library_version != here.library_version,
            "an engine runs on the GPU it was built for": not any_gpu and self.gpu != here.gpu,
            "an engine runs on the compute capability it was built for": self.capability != here.capability,
            # An older driver may lack what the kernels were compiled for; a newer one runs them by CUDA's promise.
            "it was built under a newer driver": _numbers(self.driver) > _numbers(here.driver),
        }
        found = [reason for reason, is_one in reasons.items() if is_one]
        return f"built by {self}; here is {here}: {'; '.join(found)}" if found else None


def json_sha256(value: Any) -> str:
    """sha256 of parsed JSON, hexadecimal, whatever the order of its keys. ValueError for NaN and infinity."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def check(name: str, value: Any, is_valid: bool, expected: str) -> None:
    """EngineError that shows the value, unless it is valid."""
    if not is_valid:
        raise EngineError(f"{name} is {shortened(value)}: expected {expected}")


def check_fields(instance: Any) -> None:
    """EngineError unless every field of a dataclass has the annotated type, and texts are short and printable."""
    for name, kind in get_type_hints(type(instance)).items():
        value = getattr(instance, name)
        try:
            from_json(kind, to_json(value), name)
        except BundleError as error:
            raise EngineError(str(error)) from error
        if isinstance(value, str):
            _check_text(name, value, least=0 if name == "bundle" else 1)


def check_sha256(name: str, value: str) -> None:
    """EngineError unless it is a sha256 in lower-case hexadecimal."""
    check(name, value, re.fullmatch(r"[0-9a-f]{64}", value) is not None, "64 hexadecimal digits")


def _check_text(name: str, value: str, least: int = 1) -> None:
    is_valid = least <= len(value) <= MAX_TEXT and value.isprintable()
    check(name, value, is_valid, f"{least} to {MAX_TEXT} printable characters")


def _is_ordered(shapes: Range) -> bool:
    is_aligned = len({len(shape) for shape in shapes}) == 1
    return is_aligned and all(1 <= low <= best <= high for low, best, high in zip(*shapes, strict=True))


def _numbers(version: str) -> tuple[int, ...]:
    """`10.13.3.9` → (10, 13, 3, 9); anything after the leading numbers is ignored."""
    found = re.match(r"\d+(\.\d+)*", version, re.ASCII)
    return tuple(int(part) for part in found[0].split(".")) if found else ()
