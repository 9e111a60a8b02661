"""A training recipe: a TOML file or a YAML of the LIIF family, validated; unknown keys are refused."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from hiif_deploy.errors import OptionError
from hiif_training.models.encoders.branches import MAX_WIDTH
from hiif_training.models.fixed_scale import spec_scale
from hiif_training.pictures.degradations import Degradations
from hiif_training.training.family_yaml import read_family_yaml

Precision = Literal["fp32", "bf16", "fp16"]
Schedule = Literal["cosine", "published-cosine", "steps"]
InitPart = Literal["model", "encoder"]
Freeze = Literal["none", "encoder"]
OptimizerName = Literal["adam", "muon", "muon-decoder"]

_POSITIVE = ("steps", "batch", "accumulate", "patch", "reuse", "schedule_every", "save_every")
_WHOLE = (*_POSITIVE, "seed", "queries", "warmup", "branches")


@dataclass(frozen=True)
class Recipe:
    """Model, data and schedule of a training run (design/model.md T1–T3)."""

    model: Mapping[str, Any]
    """`{name, args}` as in a checkpoint."""
    data: tuple[str, ...] = ()
    """Folders of pictures, searched recursively, or DIV2K's own folder."""
    seed: int = 0
    """Seed of the initial weights and of every sample."""
    steps: int = 10_000
    """Number of optimizer steps in all."""
    batch: int = 16
    """Crops per optimizer step, over all processes."""
    accumulate: int = 1
    """Parts in which each process computes its share of a step; changes memory, not the result beyond rounding."""
    patch: int = 48
    """Side of the low-resolution crop in pixels."""
    queries: int = 0
    """Output pixels that are queried per crop, at most patch²; 0: patch²."""
    reuse: int = 1
    """How often each crop is used. Above 1, its features by a frozen encoder and the teacher's output are computed once
    and kept in the run's folder until it ends (`kept_crops.py`)."""
    scale: tuple[float, float] = (1.0, 4.0)
    """Range of the uniformly drawn scale of each sample. A recipe of a fixed-scale model leaves it out."""
    shrink: tuple[float, float] = (1.0, 1.0)
    """Range by which a picture is first downscaled (antialiased), which removes JPEG noise from the target."""
    degrade: Degradations = field(default_factory=Degradations)
    """Degradations of the low-resolution crop, a table."""
    optimizer: OptimizerName = "adam"
    """`muon` trains matrices and kernels by Muon and the rest by Adam (`muon.py`): several times fewer steps, at about
    ten times Adam's rate. `muon-decoder` leaves the encoder to Adam, which keeps trained weights closer to theirs."""
    learning_rate: float = 4e-4
    """Peak learning rate."""
    schedule: Schedule = "cosine"
    """`cosine`: warm-up, then half a cosine. `published-cosine`: the public code's, whose cosine counts from step 0.
    `steps`: multiplied by `decay` at each of `milestones`."""
    final_learning_rate: float = 2e-6
    """Learning rate at the end of a cosine."""
    warmup: int = 500
    """Number of steps of linear warm-up."""
    milestones: tuple[int, ...] = ()
    """Steps after which the rate of schedule `steps` decays, ascending."""
    decay: float = 0.5
    """Factor on the rate at each milestone."""
    schedule_every: int = 1
    """Steps between changes of the rate; published configurations change it once per epoch."""
    ema: float = 0.0
    """Decay of the averaged weights; 0 trains without them."""
    precision: Precision = "fp32"
    """Precision of the forward and backward pass; fp16 needs a GPU."""
    save_every: int = 500
    """Number of steps between checkpoints."""
    init: str = ""
    """Checkpoint, or name of a shipped model, whose tensors replace initial weights of the same name and shape; empty
    for none."""
    init_part: InitPart = "model"
    """Tensors that are taken from `init`: all of the `model`, or those of the `encoder`."""
    init_blocks: tuple[int, ...] = ()
    """Residual blocks of `init`'s EDSR encoder, ascending, from which those of a shorter encoder start; empty: the same
    number of blocks, each from its own."""
    freeze: Freeze = "none"
    """`encoder` trains the decoder only; the encoder stays as `init` has it."""
    encoder_rate: float = 1.0
    """Factor on the learning rate of the encoder."""
    zero_output: bool = False
    """Whether the decoder's output starts at zero, so that the first steps see the enlarged input, not noise. Narrow
    decoders (16 values) otherwise silence their last GELUs to get rid of the noise, and learn nothing afterwards."""
    normalise_features: bool = False
    """Whether the encoder's last layer is first scaled so that every feature has mean 0 and standard deviation ½ on the
    first step's crops. Encoders of fixed-scale networks otherwise hide details in features a hundred times smaller than
    others."""
    branches: int = 0
    """Width of the branches with which each 3×3 convolution of the encoder is trained (`encoders/branches.py`), in
    multiples of its channels; 0 for none. The trained model has plain convolutions."""
    teacher: str = ""
    """Checkpoint whose output for the same queries is a second target; empty for none."""
    teacher_weight: float = 0.0
    """Share w of the teacher: the loss is (1 − w)·L1(target) + w·L1(teacher's output)."""
    teacher_ensemble: bool = False
    """Whether the teacher's output is its mean over the eight turns of the crop, turned back: better, and eight times
    the work (self-ensemble; Timofte et al. 2016, arXiv 1511.02228, §3.6)."""

    def __post_init__(self) -> None:
        for name in _WHOLE:
            if type(getattr(self, name)) is not int:
                raise OptionError(f"recipe: {name} is {getattr(self, name)!r}, expected a whole number")
        if not isinstance(self.data, tuple) or not all(isinstance(folder, str) for folder in self.data):
            raise OptionError(f"recipe: data is {self.data!r}, expected a list of folders")
        for name in _POSITIVE:
            if getattr(self, name) < 1:
                raise OptionError(f"recipe: {name} is {getattr(self, name)}, expected at least 1")
        for name in ("scale", "shrink"):
            low, high = getattr(self, name)
            if not 1 <= low <= high:
                raise OptionError(f"recipe: {name} is [{low}, {high}], expected 1 ≤ low ≤ high")
        if not 0 <= self.ema < 1:
            raise OptionError(f"recipe: ema is {self.ema}, expected 0 ≤ ema < 1")
        choices = (
            ("precision", Precision), ("schedule", Schedule), ("init_part", InitPart), ("freeze", Freeze),
            ("optimizer", OptimizerName),
        )  # fmt: skip
        for name, kind in choices:
            if getattr(self, name) not in get_args(kind):
                expected = " or ".join(map(repr, get_args(kind)))
                raise OptionError(f"recipe: {name} is {getattr(self, name)!r}, expected {expected}")
        if self.batch % self.accumulate:
            raise OptionError(f"recipe: batch {self.batch} is not a multiple of accumulate {self.accumulate}")
        if not 0 <= self.queries <= self.patch**2:
            raise OptionError(f"recipe: queries is {self.queries}, expected 1 to patch² = {self.patch**2}, or 0")
        self._check_milestones()
        self._check_fine_tuning()

    def _check_milestones(self) -> None:
        if list(self.milestones) != sorted(set(self.milestones)) or any(type(n) is not int for n in self.milestones):
            raise OptionError(f"recipe: milestones is {list(self.milestones)}, expected ascending whole numbers")
        if (self.schedule == "steps") != bool(self.milestones):
            raise OptionError("recipe: schedule 'steps' and milestones belong together: give both or neither")

    def _check_fine_tuning(self) -> None:
        for name in ("init", "teacher"):
            if not isinstance(getattr(self, name), str):
                raise OptionError(f"recipe: {name} is {getattr(self, name)!r}, expected the path of a checkpoint")
        if not self.init and self.init_part != "model":
            raise OptionError(f"recipe: init_part {self.init_part!r} needs a checkpoint: --init CHECKPOINT")
        if self.freeze == "encoder" and not self.init:
            raise OptionError("recipe: freeze 'encoder' needs trained weights for it: --init CHECKPOINT")
        if self.reuse > 1 and self.freeze == "none" and not self.teacher:
            raise OptionError(f"recipe: reuse {self.reuse} keeps nothing without freeze 'encoder' or a teacher")
        if self.encoder_rate <= 0:
            raise OptionError(f"recipe: encoder_rate is {self.encoder_rate}, expected more than 0; to stop: freeze")
        if self.freeze == "encoder" and self.encoder_rate != 1:
            raise OptionError(f"recipe: a frozen encoder has no rate: leave out encoder_rate {self.encoder_rate}")
        for name in ("zero_output", "normalise_features", "teacher_ensemble"):
            if type(getattr(self, name)) is not bool:
                raise OptionError(f"recipe: {name} is {getattr(self, name)!r}, expected true or false")
        if not 0 <= self.branches <= MAX_WIDTH:
            raise OptionError(f"recipe: branches is {self.branches}, expected 0 to {MAX_WIDTH}")
        if self.branches and self.freeze == "encoder":
            raise OptionError(f"recipe: a frozen encoder has no branches: leave out branches {self.branches}")
        if not 0 <= self.teacher_weight <= 1:
            raise OptionError(f"recipe: teacher_weight is {self.teacher_weight}, expected 0 to 1")
        if bool(self.teacher) != (self.teacher_weight > 0):
            raise OptionError("recipe: teacher and a teacher_weight above 0 belong together: give both or neither")
        if self.teacher_ensemble and not self.teacher:
            raise OptionError("recipe: teacher_ensemble needs a teacher")
        if self.init_blocks and not self.init:
            raise OptionError("recipe: init_blocks needs a checkpoint with these blocks: --init CHECKPOINT")
        is_ascending = list(self.init_blocks) == sorted(set(self.init_blocks))
        if not is_ascending or any(type(n) is not int or n < 0 for n in self.init_blocks):
            raise OptionError(f"recipe: init_blocks is {list(self.init_blocks)}, expected ascending numbers from 0 on")

    def plain(self) -> dict[str, Any]:
        """Return all fields as TOML and checkpoints store them: lists for tuples."""
        values = asdict(self)
        return {**_with_lists(values), "degrade": _with_lists(values["degrade"])}


def read_recipe(path: Path, changes: Sequence[str] = (), data: Sequence[str] = ()) -> Recipe:
    """Parse and validate a TOML recipe, or a YAML of the LIIF family.

    `changes` are `key=value` with a TOML value and dotted keys for the model (`model.args.levels=4`); `data` replaces
    the folders. OptionError names an unknown key and the nearest known one.
    """
    is_yaml = path.suffix.lower() in (".yaml", ".yml")
    values = read_family_yaml(path, data) if is_yaml else _read_toml(path)
    for change in changes:
        _apply(values, change)
    if data:
        values["data"] = list(data)
    _check_keys(path, values)
    if (fixed := spec_scale(values["model"])) is not None:
        values.setdefault("scale", [fixed, fixed])
    try:
        return Recipe(**_with_tuples({**values, "degrade": Degradations(**_with_tuples(values.get("degrade", {})))}))
    except (TypeError, ValueError, OptionError) as error:
        raise OptionError(f"recipe {path}: {str(error).removeprefix('recipe: ')}") from error


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise OptionError(f"recipe {path}: cannot be read: {error}") from error


def _with_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


def _with_lists(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def _check_keys(path: Path, values: Mapping[str, Any]) -> None:
    _check_known(path, values, Recipe)
    degrade = values.get("degrade", {})
    if not isinstance(degrade, dict):
        raise OptionError(f"recipe {path}: degrade is {degrade!r}, expected a table such as {{ jpeg = 0.5 }}")
    _check_known(path, degrade, Degradations, "degrade.")
    if "model" not in values:
        raise OptionError(f"recipe {path}: [model] with name and args is missing")


def _check_known(path: Path, values: Mapping[str, Any], table: type[Any], prefix: str = "") -> None:
    """OptionError for a key that the dataclass `table` has no field for."""
    known = [field.name for field in fields(table)]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; known keys: {', '.join(known)}"
            raise OptionError(f"recipe {path}: unknown key {prefix + key!r}{hint}")


def _apply(values: dict[str, Any], change: str) -> None:
    """Put one `key=value` of the command line into the recipe's values."""
    key, equals, text = change.partition("=")
    if not equals or not key.strip():
        raise OptionError(f"--set {change!r}: expected key=value, for example steps=2000 or model.args.levels=4")
    *tables, last = key.strip().split(".")
    place = values
    for name in tables:
        if not isinstance(place.setdefault(name, {}), dict):
            raise OptionError(f"--set {change!r}: {name} is no table of the recipe")
        place = place[name]
    place[last] = _value(text.strip())


def _value(text: str) -> Any:
    """Parse a TOML value; any other text is taken literally, so that quotes may be left out."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
