"""What is installed, what works, and the command that adds what is missing."""

import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import onnxruntime

from hiif_deploy.backends.cuda.open import LAYERS
from hiif_deploy.backends.options import EngineOptions, usable_cores
from hiif_deploy.backends.providers import INSTALL, PROVIDERS
from hiif_deploy.bundle.loader import open_bundle, shipped_models
from hiif_deploy.errors import HiifError
from hiif_deploy.rendering.tuned import stored
from hiif_deploy.support.extras import EXTRAS, OPTIONAL_PACKAGES, installed_version
from hiif_deploy.support.install import install_command
from hiif_deploy.support.version import __version__

RUNTIME_PACKAGES = ("numpy", "opencv-python", "Pillow", "typer", "rich")

RESTORE = (
    "git checkout -- hiif_deploy/models && pip install --force-reinstall --no-deps . (in the clone of hiif-deploy)"
)
"""Brings the shipped models back; no index has this package."""


@dataclass(frozen=True)
class Finding:
    """One thing that was examined."""

    name: str
    """What."""
    status: Literal["ok", "absent", "broken"]
    """`absent` things are optional."""
    found: str
    """Version, list or error."""
    advice: str = ""
    """Command that mends or adds it."""
    is_optional: bool = False
    """Whether pictures and the shipped models do without it."""


def examine() -> list[Finding]:
    """Look at everything; imports no optional package."""
    optional = [
        *(_provider(short, full) for short, full in PROVIDERS.items()),
        *_tunings(),
        *(_optional(name) for name in OPTIONAL_PACKAGES),
        *(_part(f"GPU layer {n}", installed_version(kind.distribution), kind.install) for n, kind in LAYERS.items()),
    ]
    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    return [
        Finding("hiif-deploy", "ok", f"{__version__} in {sys.prefix}"),
        Finding("system", "ok", f"{system}, {usable_cores()} usable cores"),
        *(_required(name) for name in RUNTIME_PACKAGES),
        _onnxruntime(),
        *(_model(name) for name in shipped_models()),
        *(replace(finding, is_optional=True) for finding in optional),
    ]


def verdict(findings: Sequence[Finding]) -> str:
    """One sentence: whether hiif-deploy works here, or what to mend first."""
    broken = [finding for finding in findings if finding.status == "broken"]
    required = [finding for finding in broken if not finding.is_optional]
    if required:
        names = ", ".join(finding.name for finding in required)
        return f"Broken: {names}. First: {required[0].advice or required[0].found}"
    absent = sum(finding.status == "absent" for finding in findings)
    counts = f"{absent} optional parts are absent; add what you need."
    if broken:
        counts = f"{len(broken)} optional parts are broken ({', '.join(finding.name for finding in broken)}); {counts}"
    return f"All is well: pictures can be upscaled. {counts}"


def _required(name: str) -> Finding:
    version = installed_version(name)
    if version is None and name == "opencv-python":
        version = installed_version("opencv-python-headless")
    if version is None:
        return Finding(name, "broken", "not installed", f"pip install {name}")
    return Finding(name, "ok", version)


def _onnxruntime() -> Finding:
    bases = [n for n in ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml") if installed_version(n)]
    if len(bases) > 1:
        advice = f"pip uninstall {' '.join(bases)}, then install one"
        return Finding("onnxruntime", "broken", f"{' and '.join(bases)} overwrite each other", advice)
    return Finding("onnxruntime", "ok", onnxruntime.__version__)


def _provider(short: str, full: str) -> Finding:
    if full in onnxruntime.get_available_providers():
        default = ", the default" if short == EngineOptions().provider else ""
        return Finding(f"provider {short}", "ok", f"{full}{default}")
    return Finding(f"provider {short}", "absent", f"{full} is not in this ONNX Runtime", INSTALL.get(full, ""))


def _model(name: str) -> Finding:
    try:
        contract = open_bundle(name).contract
    except HiifError as error:
        return Finding(f"model {name}", "broken", str(error), RESTORE)
    return Finding(f"model {name}", "ok", f"{contract.parameters:,} parameters")


def _part(name: str, version: str | None, install: str) -> Finding:
    if version is None:
        return Finding(name, "absent", "not installed", install)
    return Finding(name, "ok", version)


def _tunings() -> list[Finding]:
    found = [
        Finding(
            f"tuning {tuning.bundle}", "ok",
            f"{tuning.engine}: {tuning.call.query_block} queries per call, {tuning.call.call_threads} threads each "
            f"({tuning.processor})",
        )
        for tuning in stored()
    ]  # fmt: skip
    return found or [Finding("tuning", "absent", "blocks of 2,048 queries, one thread per call", "hiif-deploy tune")]


def _optional(name: str) -> Finding:
    extra = next((extra for extra, packages in EXTRAS.items() if name in packages), None)
    return _part(name, installed_version(name), install_command(extra) if extra else f"pip install {name}")
