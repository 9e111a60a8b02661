"""A bundle: a folder with ONNX files and `bundle.json`, their contract. Reading one validates all of it."""

import difflib
import errno
import hashlib
import io
import json
import stat
import zipfile
import zlib
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.bundle.contract import FORMAT, VERSION, Contract, from_json
from hiif_deploy.bundle.known import KNOWN_MODELS, MODEL_NAME
from hiif_deploy.bundle.onnx_check import check_model
from hiif_deploy.errors import BundleError
from hiif_deploy.support.data_dir import models_root
from hiif_deploy.support.files import list_folder

CONTRACT_FILE = "bundle.json"
CONTRACT_LIMIT = 4 << 20
"""Bytes of bundle.json beyond which it is refused unread."""
REFERENCE_LIMIT = 1 << 28
"""Bytes of the stored outputs, unpacked, beyond which they are refused."""
DEFAULT_MODEL, VIDEO_MODEL, LIVE_MODEL = "hiif-compact", "hiif-video", "hiif-live"
"""The shipped models that pictures, videos and live frames take where no other is named."""
PHOTO_MODEL = "hiif-photo"
"""The model for compressed and noisy pictures where no other is named."""


@dataclass(frozen=True)
class Bundle:
    """A validated bundle; the files were hashed when it was opened."""

    folder: Path
    """Where it lies."""
    contract: Contract
    """What it promises."""
    graphs: dict[str, bytes] = field(repr=False)
    """Graph key (`decoder`, `decoder.fp16`) → the ONNX file's bytes, whose hash was checked."""

    def reference(self) -> dict[str, NDArray[Any]]:
        """Stored pictures and PyTorch's outputs for them (see `hiif_export.parity.parity`)."""
        entry = self.contract.reference
        if not {"file", "sha256"} <= entry.keys():
            raise BundleError(f"{self.folder / CONTRACT_FILE} names no reference: export the bundle again")
        data = _checked_bytes(self.folder, entry["file"], entry["sha256"])
        try:
            _check_unpacked(self.folder / entry["file"], data)
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise BundleError(f"{self.folder / entry['file']}: not readable reference tensors ({error})") from error


def open_bundle(location: str | Path = DEFAULT_MODEL) -> Bundle:
    """Open a bundle folder, or a shipped or added model by name. BundleError says in one sentence what is wrong."""
    folder = find_bundle(location)
    contract = read_contract(folder)
    graphs = {g.key: _checked_bytes(folder, g.file, g.sha256) for g in contract.graphs}
    for key, model in graphs.items():
        check_model(key, model)
    return Bundle(folder, contract, graphs)


def shipped_models() -> dict[str, Path]:
    """Names and folders of the models inside the package."""
    with as_file(files("hiif_deploy") / "models") as root:
        return {p.name: p for p in sorted(root.iterdir()) if (p / CONTRACT_FILE).is_file()} if root.is_dir() else {}


def added_models() -> dict[str, Path]:
    """Return names and folders of the models that the user added, none of which has a shipped model's name."""
    root, shipped = models_root(), shipped_models()
    found = {path.name: path for path in (list_folder(root) if root else ()) if (path / CONTRACT_FILE).is_file()}
    return {name: path for name, path in found.items() if MODEL_NAME.fullmatch(name) and name not in shipped}


def find_bundle(location: str | Path) -> Path:
    """Folder of a bundle given by folder, or by name: shipped models come before added ones."""
    folder = Path(location)
    if (folder / CONTRACT_FILE).is_file():
        return folder
    if named := {**added_models(), **shipped_models()}.get(str(location)):
        return named
    if folder.is_file():
        raise BundleError(
            f"{folder} is a file; a bundle is a folder: make one from a checkpoint with "
            f"hiif-deploy export {folder} -o DIR"
        )
    if folder.is_dir():
        raise BundleError(f"{folder} holds no {CONTRACT_FILE}, so it is not a bundle")
    raise BundleError(f"{location}: no such folder, and {unknown_model(str(location))}")


def unknown_model(name: str) -> str:
    """`no model of that name` with those that there are, or the command that adds a known model."""
    if name in KNOWN_MODELS:
        return f"this model is not installed; add it with: hiif-deploy models add {name}"
    shipped, added = list(shipped_models()), list(added_models())
    absent = [known for known in KNOWN_MODELS if known not in added]
    kinds = {"shipped": shipped or ["none"], "added": added, "can be added": absent}
    listed = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in kinds.items() if names)
    meant = difflib.get_close_matches(name, [*shipped, *added, *absent], n=1)
    guess = f"; did you mean {meant[0]}?" if meant else ""
    return f"no model of that name ({listed}){guess}"


def read_contract(folder: Path) -> Contract:
    """Parse and validate bundle.json alone."""
    path = folder / CONTRACT_FILE
    try:
        if path.stat().st_size > CONTRACT_LIMIT:
            raise BundleError(f"{path}: larger than {CONTRACT_LIMIT} bytes, so it is not a contract")
        value = json.loads(_read_regular(path).decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path}: damaged or not JSON ({error})") from error
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise BundleError(f"{path}: not a {FORMAT}")
    version = value.get("version")
    if type(version) is not int or version < 1:
        raise BundleError(f"{path}: version is {version!r}, expected {VERSION}")
    if version > VERSION:
        raise BundleError(
            f"{path}: format version {version} is newer than this program reads ({VERSION}); "
            "update hiif-deploy, in its clone: git pull && pip install ."
        )
    try:
        contract = from_json(Contract, value)
    except BundleError as error:
        raise BundleError(f"{path}: {error}") from error
    assert isinstance(contract, Contract)
    return contract


def _check_unpacked(path: Path, archive: bytes) -> None:
    """BundleError for an archive of arrays that unpacks to far more than pictures and outputs take."""
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        size = sum(entry.file_size for entry in opened.infolist())
    if size > REFERENCE_LIMIT:
        raise BundleError(f"{path}: unpacks to {size} bytes: expected at most {REFERENCE_LIMIT}; export it again")


def _read_regular(path: Path) -> bytes:
    """The file's bytes; OSError for a device or a named pipe, which may never end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    return path.read_bytes()


def _checked_bytes(folder: Path, name: str, sha256: str) -> bytes:
    """The file's bytes; only a plain name inside the folder with the promised hash is read."""
    if not name or Path(name).name != name or name in (".", "..") or {"\\", "\0"} & set(name):
        raise BundleError(f"{folder / CONTRACT_FILE}: file name {name!r} leaves the bundle's folder")
    try:
        data = _read_regular(folder / name)
    except OSError as error:
        raise BundleError(f"{folder / name}: cannot be read ({error.strerror}); export the bundle again") from error
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise BundleError(
            f"{folder / name}: sha256 is {found[:12]}…, the contract promises {sha256[:12]}…; "
            "the file was changed or truncated: export the bundle again"
        )
    return data
