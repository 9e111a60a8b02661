"""Converts a training configuration of the LIIF family (LIIF, LTE, SRNO, HIIF) to the values of a recipe.

Epochs become steps: an epoch is every picture `repeat` times. A setting that this project handles differently is
refused, not ignored; settings for validation and files only are dropped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from hiif_deploy.errors import OptionError
from hiif_training.checkpoints.nesting import check_nesting
from hiif_training.pictures.store import find_pictures

_IGNORED = ("val_dataset", "eval_type", "eval_bsize", "epoch_val", "epoch_save", "resume")
_KNOWN = ("train_dataset", "data_norm", "model", "optimizer", "epoch_max", "multi_step_lr", "cosine_lr_warmup")
FILE_LIMIT = 1 << 20
"""Largest size of a configuration in bytes."""
MAX_STEPS = 1 << 31
_HALF = {"sub": [0.5], "div": [0.5]}


def read_family_yaml(path: Path, data: Sequence[str] = ()) -> dict[str, Any]:
    """Return the values of a recipe; `data` replaces the configuration's own folder. OptionError names what does not
    fit."""
    try:
        if path.stat().st_size > FILE_LIMIT:
            raise OptionError(f"recipe {path}: larger than {FILE_LIMIT} bytes, so it is no configuration")
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        # Aliases let a few lines stand for any number of values.
        check_nesting(content)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise OptionError(f"recipe {path}: cannot be read: {error}") from error
    try:
        return _convert(content, data)
    except OptionError as error:
        raise OptionError(f"recipe {path}: {error}") from error


def _convert(content: Any, data: Sequence[str]) -> dict[str, Any]:
    config = _table(content, "the file", (*_KNOWN, *_IGNORED))
    dataset = _table(config.get("train_dataset"), "train_dataset", ("dataset", "wrapper", "batch_size"))
    folder, repeat = _source(dataset.get("dataset"))
    folders = list(data) or [folder]
    batch = _number(dataset, "batch_size", "train_dataset")
    epoch = math.ceil(len(find_pictures(tuple(folders))) * repeat / batch)
    _check_normalisation(config.get("data_norm", {}))
    return {
        "model": dict(_table(config.get("model"), "model", ("name", "args"))),
        "data": folders,
        "batch": batch,
        "steps": epoch * _number(config, "epoch_max", "the file"),
        "save_every": epoch,
        **_crops(dataset.get("wrapper")),
        **_schedule(config, epoch),
    }


def _source(value: Any) -> tuple[str, int]:
    spec = _table(value, "train_dataset.dataset", ("name", "args"))
    _expect(spec.get("name"), "image-folder", "train_dataset.dataset.name")
    args = _table(spec.get("args"), "train_dataset.dataset.args", ("root_path", "repeat", "cache"))
    return str(args.get("root_path", "")), _number({"repeat": 1, **args}, "repeat", "train_dataset.dataset.args")


def _crops(value: Any) -> dict[str, Any]:
    where = "train_dataset.wrapper"
    spec = _table(value, where, ("name", "args"))
    if spec.get("name") not in ("sr-implicit-downsampled", "sr-implicit-downsampled-fast"):
        _expect(spec.get("name"), "sr-implicit-downsampled-fast", f"{where}.name")
    args = _table(spec.get("args"), f"{where}.args", ("inp_size", "scale_min", "scale_max", "augment", "sample_q"))
    patch = _number(args, "inp_size", f"{where}.args")
    _expect(args.get("sample_q", patch**2), patch**2, f"{where}.args.sample_q")
    _expect(args.get("augment", False), True, f"{where}.args.augment")
    low = _float(args, "scale_min", f"{where}.args", 1)
    return {"patch": patch, "scale": [low, _float(args, "scale_max", f"{where}.args", low)]}


def _schedule(config: Mapping[str, Any], epoch: int) -> dict[str, Any]:
    optimizer = _table(config.get("optimizer"), "optimizer", ("name", "args"))
    _expect(optimizer.get("name"), "adam", "optimizer.name")
    rate = _float(_table(optimizer.get("args"), "optimizer.args", ("lr",)), "lr", "optimizer.args", 0)
    if "cosine_lr_warmup" in config:
        warm = _table(config["cosine_lr_warmup"], "cosine_lr_warmup", ("warmup_t", "warmup_lr_init", "lr_min"))
        _expect(warm.get("warmup_lr_init"), warm.get("lr_min"), "cosine_lr_warmup.warmup_lr_init")
        return {
            "schedule": "published-cosine", "schedule_every": epoch, "learning_rate": rate,
            "final_learning_rate": _float(warm, "lr_min", "cosine_lr_warmup", 0),
            "warmup": epoch * _number(warm, "warmup_t", "cosine_lr_warmup"),
        }  # fmt: skip
    decay = _table(config.get("multi_step_lr"), "multi_step_lr", ("milestones", "gamma"))
    milestones = decay.get("milestones", [])
    if not isinstance(milestones, list) or not all(type(n) is int and 0 < n < MAX_STEPS for n in milestones):
        raise OptionError(f"multi_step_lr: milestones is {milestones!r}, expected a list of epochs")
    return {
        "schedule": "steps", "learning_rate": rate, "warmup": 0, "decay": _float(decay, "gamma", "multi_step_lr", 0.1),
        "milestones": [epoch * n for n in milestones],
    }  # fmt: skip


def _check_normalisation(value: Any) -> None:
    for name, norm in _table(value, "data_norm", ("inp", "gt")).items():
        _expect(norm, _HALF, f"data_norm.{name}")


def _table(value: Any, where: str, known: Sequence[str]) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise OptionError(f"{where} is {value!r}: expected a table with {', '.join(known)}")
    for key in value:
        if key not in known:
            raise OptionError(f"{where}: unknown key {key!r}; known keys: {', '.join(known)}")
    return value


def _number(table: Mapping[str, Any], key: str, where: str) -> int:
    value = table.get(key)
    if type(value) is not int or value < 1:
        raise OptionError(f"{where}: {key} is {value!r}, expected a whole number of at least 1")
    if value > MAX_STEPS:
        raise OptionError(f"{where}: {key} is larger than {MAX_STEPS}")
    return value


def _float(table: Mapping[str, Any], key: str, where: str, default: float) -> float:
    value = table.get(key, default)
    if type(value) not in (int, float) or not -MAX_STEPS <= value <= MAX_STEPS:
        raise OptionError(f"{where}: {key} is {value!r}, expected a number")
    return float(value)


def _expect(found: Any, wanted: Any, where: str) -> None:
    if found != wanted:
        raise OptionError(f"{where} is {found!r}: this project trains with {wanted!r} only")
