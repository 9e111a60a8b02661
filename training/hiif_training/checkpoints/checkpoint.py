"""Checkpoint files: the LIIF family's dictionary, or safetensors with the spec in a JSON file beside it.

    {'model': {'name': str, 'args': {...}, 'sd': {...}}, 'optimizer': ..., 'epoch': int}      NAME.pth, .pt
    tensors                                                                                   NAME.safetensors
    {"model": {"name": str, "args": {...}}, "metadata": {...}}                                NAME.json

Read, but never written here: the state of a training run (`state.pt`), mmcv's checkpoints of CiaoSR
(`mmcv_format.py`), fixed-scale networks (`fixed_scale_format.py`), models of ncnn (`ncnn_format.py`), and tensors that
come without a name, in any of `{'model': {'sd': {...}}}`, `{'state_dict': {...}}`, `{'params': {...}}` and `{...}`:
their shapes identify the model (`detect.py`).

Nothing in a file is ever executed: torch files are read with `weights_only=True`, and there is no way around.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from hiif_deploy.errors import CheckpointError
from hiif_deploy.support.files import atomic_write
from hiif_training.checkpoints.detect import detect_spec
from hiif_training.checkpoints.fixed_scale_format import family_names
from hiif_training.checkpoints.mmcv_format import family_tensors, is_mmcv
from hiif_training.checkpoints.ncnn_format import read_ncnn
from hiif_training.checkpoints.nesting import check_nesting
from hiif_training.checkpoints.suffixes import NCNN, SUFFIXES
from hiif_training.models.encoders.branches import merge_branches
from hiif_training.models.implicit import ImplicitModel
from hiif_training.models.registry import make_model

COMPUTED = ("attn_mask", "relative_position_index")
"""Buffers that follow from the sizes: those of a file may be of any shape and are ignored."""

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Dtypes that a weight may have in a file."""

DESCRIPTION_LIMIT = 4 << 20
"""Bytes of the JSON file beside a safetensors file."""

WRAPPERS = ("state_dict", "params_ema", "params")
"""Keys under which files keep a state dict, in the order of preference."""

_SHOWN = 3
"""How many names an error message lists before it only counts."""


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A model with its published weights, and the spec and metadata of its file."""

    model: ImplicitModel
    """On the CPU, float32, in evaluation mode."""
    spec: dict[str, Any]
    """`{name, args}`: what `make_model` takes and `save_checkpoint` writes."""
    metadata: dict[str, Any]
    """All other plain data of the file, such as `epoch`; never tensors."""


def load_checkpoint(path: str | os.PathLike[str]) -> LoadedCheckpoint:
    """Read a checkpoint file into a model; CheckpointError names what is wrong with the file."""
    path = Path(path)
    described, tensors, metadata = READERS.get(path.suffix, _read_torch)(path)
    try:
        if described is None:
            tensors = family_names(_without_prefix(tensors))
        spec = described or detect_spec(tensors)
        model = make_model(spec)
        load_weights(model, tensors)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return LoadedCheckpoint(model.eval(), spec, metadata)


def save_checkpoint(
    path: str | os.PathLike[str],
    model: nn.Module,
    spec: Mapping[str, Any],
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write `model`, which `spec` describes, in the format of the suffix.

    Files are replaced atomically: a reader finds the previous file or the complete new one.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise CheckpointError(f"{path}: unknown checkpoint suffix; expected one of {', '.join(SUFFIXES)}")
    described = {"name": spec["name"], "args": _plain(spec.get("args", {}), "args")}
    extra = _plain(metadata or {}, "metadata")
    tensors = OrderedDict((k, v.detach().cpu().contiguous()) for k, v in model.state_dict().items())
    if _is_safetensors(path):
        text = json.dumps({"model": described, "metadata": extra}, indent=2, ensure_ascii=False)
        content = safetensors.torch.save({key: value.clone() for key, value in tensors.items()})
        write_whole(path, lambda file: file.write(content))
        write_whole(path.with_suffix(".json"), lambda file: file.write(text.encode()))
    else:
        whole = {**extra, "model": {**described, "sd": tensors}}
        write_whole(path, lambda file: torch.save(whole, file))


def load_weights(model: nn.Module, tensors: Mapping[str, Any]) -> None:
    """Copy published tensors into `model`, checking each for name, shape, dtype and finite values.

    `module.` prefixes are stripped and floating tensors cast to float32; `COMPUTED` buffers keep the model's values.
    """
    given = {key: value for key, value in _without_prefix(tensors).items() if not key.endswith(COMPUTED)}
    expected = model.state_dict()
    wanted = {key: value for key, value in expected.items() if not key.endswith(COMPUTED)}
    _check_names(given, wanted)
    for key, value in wanted.items():
        _check_tensor(key, given[key], value)
    model.load_state_dict({**expected, **{key: value.to(wanted[key].dtype) for key, value in given.items()}})


def read_file(path: Path) -> dict[str, Any]:
    """Return the dictionary in a torch file, on the CPU; a file that would execute code is refused."""
    _check_present(path)
    try:
        _check_sums(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        raise CheckpointError(_refusal(path, str(error))) from error
    except Exception as error:  # a damaged archive can fail in any way
        raise CheckpointError(f"{path}: truncated, damaged or not a checkpoint ({_brief(error)})") from error
    _check_nesting(path, content)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}: expected a dictionary with 'model'")
    return content


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file atomically, creating its folder where it is missing; CheckpointError where that fails."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            write(file)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written: {error.strerror or error}") from error


def _read_torch(path: Path) -> tuple[dict[str, Any] | None, Mapping[str, Any], dict[str, Any]]:
    """Return spec (None where the file names no model), tensors and metadata."""
    content = read_file(path)
    try:
        spec, tensors = _family(content) or _of_run(content) or _nameless(content)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    rest = {key: value for key, value in content.items() if key not in ("model", "optimizer", "state_dict")}
    return spec, tensors, {key: value for key, value in rest.items() if _is_plain(value)}


def _family(content: Mapping[str, Any]) -> tuple[dict[str, Any] | None, Mapping[str, Any]] | None:
    """Return spec and tensors of the LIIF family's dictionary, with or without a name; None for any other content."""
    model = content.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("sd"), Mapping):
        return None
    if model.get("name") is None and not model.get("args"):
        return None, model["sd"]
    spec = {"name": model.get("name"), "args": model.get("args") or {}}
    if not _is_plain(spec):
        raise CheckpointError(
            "the model's name and args are not plain data: expected numbers, texts, lists and dictionaries"
        )
    return spec, model["sd"]


def _of_run(content: Mapping[str, Any]) -> tuple[dict[str, Any], Mapping[str, Any]] | None:
    """Return spec and tensors, averaged where the run averages them, of a training run's state; None otherwise."""
    recipe, tensors = content.get("recipe"), content.get("state_dict")
    if not isinstance(recipe, dict) or not isinstance(recipe.get("model"), dict) or not isinstance(tensors, Mapping):
        return None
    return recipe["model"], merge_branches({str(key).removeprefix("model."): v for key, v in tensors.items()})


def _nameless(content: Mapping[str, Any]) -> tuple[None, Mapping[str, Any]]:
    """Return the tensors of mmcv's dictionary, of a nested state dict or of a plain one; CheckpointError otherwise."""
    if is_mmcv(content):
        return None, family_tensors(content["state_dict"])
    tensors = next((content[key] for key in WRAPPERS if key in content), content)
    if isinstance(tensors, Mapping) and tensors and all(isinstance(value, Tensor) for value in tensors.values()):
        return None, tensors
    raise CheckpointError(
        "not a checkpoint of the LIIF family: expected {'model': {'name', 'args', 'sd'}}, mmcv's {'state_dict'} with a "
        f"generator, or nothing but tensors; got keys {_some(content)}"
    )


def _without_prefix(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Remove `module.`, which training on several GPUs puts in front of every key."""
    return {str(key).removeprefix("module."): value for key, value in tensors.items()}


def _read_safetensors(path: Path) -> tuple[dict[str, Any], Mapping[str, Any], dict[str, Any]]:
    _check_present(path)
    spec, metadata = _read_description(path.with_suffix(".json"))
    try:
        tensors = safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: truncated or not a safetensors file ({_brief(error)})") from error
    return spec, tensors, metadata


def _read_ncnn(path: Path) -> tuple[None, Mapping[str, Any], dict[str, Any]]:
    _check_present(path)
    return None, read_ncnn(path), {}


def _read_description(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    if not path.is_file():
        raise CheckpointError(f"{path}: missing; a safetensors checkpoint needs its name and args beside it")
    try:
        if path.stat().st_size > DESCRIPTION_LIMIT:
            raise CheckpointError(f"{path}: larger than {DESCRIPTION_LIMIT} bytes, so it is no description of a model")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a JSON file: {error}") from error
    _check_nesting(path, content)
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise CheckpointError(f'{path}: expected {{"model": {{"name": …, "args": …}}}}')
    metadata = content.get("metadata")
    return content["model"], metadata if isinstance(metadata, dict) else {}


def _check_present(path: Path) -> None:
    if not path.exists():
        raise CheckpointError(f"{path}: no such file")
    if not path.is_file():
        raise CheckpointError(f"{path}: not a file")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path}: the file is empty (0 bytes); copy or download it again")


def _check_nesting(path: Path, content: Any) -> None:
    try:
        check_nesting(content)
    except ValueError as error:
        raise CheckpointError(f"{path}: its data is {error}") from error


def _check_sums(path: Path) -> None:
    """Check the archive's checksums: torch.load ignores them, and a flipped bit in a weight is a valid weight."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        # torch.save stores and never compresses: anything else may unpack to a thousand times the file.
        is_stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
        if not is_stored or sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise CheckpointError(f"{path}: a compressed archive: expected one that torch.save wrote; save it again")
        for entry in entries:
            if entry.CRC:  # zero where torch was configured to write none
                with archive.open(entry) as file:
                    while file.read(1 << 20):
                        pass


def _check_names(given: Mapping[str, Any], wanted: Mapping[str, Tensor]) -> None:
    missing = [key for key in wanted if key not in given]
    surplus = [key for key in given if key not in wanted]
    complaints = [
        f"{len(keys)} {kind} ({_some(keys)})" for kind, keys in (("missing", missing), ("unexpected", surplus)) if keys
    ]
    if complaints:
        raise CheckpointError(
            f"the weights do not fit the model's name and args: {' and '.join(complaints)} of {len(wanted)}"
        )


def _check_tensor(key: str, given: Any, wanted: Tensor) -> None:
    if not isinstance(given, Tensor) or given.dtype not in FLOATS:
        kind = given.dtype if isinstance(given, Tensor) else type(given).__name__
        raise CheckpointError(f"{key} is {kind}: expected a floating-point tensor")
    if given.is_meta or given.layout != torch.strided:
        kind = "has no values (it is on the meta device)" if given.is_meta else f"is stored as {given.layout}"
        raise CheckpointError(f"{key} {kind}: expected a dense tensor with its values; save it again")
    if given.shape != wanted.shape:
        raise CheckpointError(f"{key} has shape {_shape(given)}: expected {_shape(wanted)}")
    broken = int(given.numel() - given.isfinite().sum())
    if broken:
        raise CheckpointError(f"{key} has {broken} NaN or infinite values of {given.numel()}")


def _refusal(path: Path, reason: str) -> str:
    found = re.search(r"GLOBAL ([\w.]+)", reason)
    if found is None:
        return f"{path}: not a checkpoint: torch.save did not write this file"
    return (
        f"{path}: executes code when it is loaded ({found[1]}); refused. If you trust it, open it where it "
        "was made and save it again with tensors, numbers, texts and dictionaries only"
    )


def _plain(value: Any, what: str) -> Any:
    """Convert to plain containers all the way down, so that every reader can open the file."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry, f"{what}.{key}") for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry, what) for entry in value]
    if not _is_plain(value):
        raise CheckpointError(f"{what} is a {type(value).__name__}: expected a number, text, list or dictionary")
    return value


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(entry) for key, entry in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str)


def _is_safetensors(path: Path) -> bool:
    return path.suffix == ".safetensors"


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "scalar"


def _some(names: Any) -> str:
    listed = [str(name) for name in names]
    return ", ".join(listed[:_SHOWN]) + (", …" if len(listed) > _SHOWN else "")


def _brief(error: Exception) -> str:
    first = str(error).split("\n")[0].split(". ")[0]
    return first if isinstance(error, RuntimeError) else f"{type(error).__name__}: {first}"


READERS: Mapping[str, Callable[[Path], tuple[dict[str, Any] | None, Mapping[str, Any], dict[str, Any]]]] = {
    ".safetensors": _read_safetensors,
    NCNN: _read_ncnn,
}
"""Suffix → function that returns spec, tensors and metadata; files with any other suffix are torch files."""
