"""The models that the user added: a folder of bundles, each under its name."""

import secrets
import shutil
from pathlib import Path

from hiif_deploy.bundle.cards import CARD_FILE, LICENCE_FILE, plain_card
from hiif_deploy.bundle.known import MODEL_NAME
from hiif_deploy.bundle.loader import CONTRACT_FILE, Bundle, added_models, open_bundle, shipped_models
from hiif_deploy.errors import BundleError, OptionError
from hiif_deploy.support.data_dir import VARIABLE, models_root
from hiif_deploy.support.files import atomic_directory

RESERVED = ("add", "remove", "show", "bicubic", "full")
"""Words that commands take in the place of a model's name."""
MAX_TEXT = 1 << 20
"""Bytes of a card or a licence beyond which it is not copied."""


def new_folder(name: str, *, overwrite: bool = False) -> Path:
    """Return the folder of a model to be added under `name`. OptionError where the name cannot be taken."""
    if not MODEL_NAME.fullmatch(name) or name.lower() in RESERVED:
        raise OptionError(
            f"{name!r} cannot be the name of a model: expected up to 64 letters, digits, - and _, and none of "
            f"{', '.join(RESERVED)}; choose one with --name"
        )
    if name.lower() in shipped_models():
        raise OptionError(f"{name} ships with hiif-deploy: choose another --name")
    folder = _root() / name
    if folder.exists() and not overwrite:
        raise OptionError(f"{name} was added before ({folder}); --overwrite replaces it, --name takes another name")
    return folder


def add_bundle(source: Path, name: str, *, overwrite: bool = False) -> Path:
    """Check a bundle folder and copy it to the added models; return the copy. A failure changes nothing.

    Only the bundle's own files are copied, with its card and the text of its licence where it has them.
    """
    folder = new_folder(name, overwrite=overwrite)
    # A relative path could be read as a model's name.
    bundle = open_bundle(source.absolute())
    try:
        with atomic_directory(folder) as aside:
            _write_copy(bundle, name, aside)
            open_bundle(aside)
    except OSError as error:
        raise BundleError(f"{folder}: cannot be written ({error}); {VARIABLE} names another folder") from error
    return folder


def remove_model(name: str) -> Path:
    """Remove an added model, damaged or not, and return the folder that it had. OptionError for any other name."""
    if name in shipped_models():
        raise OptionError(f"{name} ships with hiif-deploy and cannot be removed")
    folder = _root() / name
    if not MODEL_NAME.fullmatch(name) or not folder.is_dir():
        raise OptionError(f"{name!r} is no added model (added: {', '.join(added_models()) or 'none'})")
    try:
        _remove(folder)
    except OSError as error:
        raise BundleError(f"{folder}: cannot be removed ({error.strerror})") from error
    return folder


def _remove(folder: Path) -> None:
    if folder.is_symlink():
        folder.unlink()
        return
    # Renamed first, so that a kill leaves no half of a model under its name.
    aside = folder.rename(folder.with_name(f".{folder.name}-{secrets.token_hex(4)}"))
    shutil.rmtree(aside)


def _write_copy(bundle: Bundle, name: str, folder: Path) -> None:
    contract = bundle.contract
    for graph in contract.graphs:
        (folder / graph.file).write_bytes(bundle.graphs[graph.key])
    if contract.reference:
        # Reading the stored outputs checks their hash, and that the name is that of a file in the bundle.
        bundle.reference()
        shutil.copyfile(bundle.folder / contract.reference["file"], folder / contract.reference["file"])
    shutil.copyfile(bundle.folder / CONTRACT_FILE, folder / CONTRACT_FILE)
    for text in (CARD_FILE, LICENCE_FILE):
        path = bundle.folder / text
        if path.is_file() and path.stat().st_size <= MAX_TEXT:
            shutil.copyfile(path, folder / text)
    if not (folder / CARD_FILE).exists():
        (folder / CARD_FILE).write_text(plain_card(name, contract), encoding="utf-8")


def _root() -> Path:
    root = models_root()
    if root is None:
        raise OptionError(f"this user has no home folder for models; name a folder with {VARIABLE}")
    return root
