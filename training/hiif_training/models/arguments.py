"""Checks the names and arguments of a spec and puts them into a configuration."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from hiif_deploy.errors import CheckpointError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Config = TypeVar("Config", bound=DataclassInstance)

Arguments = Mapping[str, Any]
"""The `args` of a spec."""
Accepted = Mapping[str, tuple[Any, ...] | None]
"""Published arguments that set nothing here → their allowed values; None where no value has an effect."""


MAX_BY_FIELD = {
    "blocks": 128, "layers": 32, "depths": 32, "attention_blocks": 32, "levels": 30, "stages": 8, "image_size": 512,
    "window": 64, "reach": 16, "kernel": 15,
}  # fmt: skip
"""Field of a configuration → largest allowed value, several times that of the published models: a few bytes of a
checkpoint could otherwise request any amount of memory."""
MAX_WIDTH = 4096
"""Largest allowed value of all other integer fields."""
MAX_ENTRIES = 32
"""Largest allowed length of a list."""
MAX_NUMBER = 1000.0
"""Largest allowed absolute value of a float."""


def part_arguments(model: str, spec: Any, expected: str) -> dict[str, Any]:
    """Return the arguments of a part with one allowed name; none where the spec leaves the part out."""
    if spec is None:
        return {}
    name, args = read_spec(spec, f"{expected} of {model}")
    if name != expected:
        raise CheckpointError(f"{model}: {name!r} is not what this project reads: expected {expected!r}")
    return dict(args)


def configure(model: str, base: Config, args: Arguments, names: Mapping[str, str], accepted: Accepted) -> Config:
    """Return `base` with the arguments stored in the fields that `names` assigns to them."""
    for name, value in args.items():
        lookup(name, {**names, **accepted}, f"argument of {model}")
        allowed = accepted.get(name)
        if allowed is not None and value not in allowed:
            raise CheckpointError(f"{model}: {name} is {_short(value)}: expected {' or '.join(map(repr, allowed))}")
    values = {
        field: _typed(f"{model}: {name}", args[name], getattr(base, field), MAX_BY_FIELD.get(field, MAX_WIDTH))
        for name, field in names.items()
        if name in args
    }
    return replace(base, **values)


def _typed(what: str, value: Any, example: Any, most: int) -> Any:
    """Return `value` where it has the type of `example` and is in range, a list as a tuple; CheckpointError
    otherwise."""
    if isinstance(example, tuple) and isinstance(value, list | tuple):
        if len(value) > MAX_ENTRIES:
            raise CheckpointError(f"{what} has {len(value)} entries: expected at most {MAX_ENTRIES}")
        return tuple(_typed(f"{what}[{n}]", entry, example[0], most) for n, entry in enumerate(value))
    if isinstance(example, float) and type(value) in (int, float):
        if not -MAX_NUMBER <= value <= MAX_NUMBER:
            raise CheckpointError(f"{what} is {_short(value)}: expected a number between ±{MAX_NUMBER:g}")
        return float(value)
    if type(value) is not type(example):
        kind = "list" if isinstance(example, tuple) else type(example).__name__
        raise CheckpointError(f"{what} is {_short(value)}: expected {kind}")
    if type(value) is int and value > most:
        raise CheckpointError(f"{what} is {_short(value)}: expected at most {most}")
    return value


def _short(value: Any) -> str:
    text = (
        repr(value)
        if not isinstance(value, int) or value.bit_length() < 200
        else f"a number of {value.bit_length()} bits"
    )
    return text if len(text) <= 80 else f"{text[:77]}…"


def read_spec(spec: Mapping[str, Any], kind: str) -> tuple[str, Arguments]:
    """Return name and arguments of a spec from a file; CheckpointError for any other content."""
    rest = dict(spec) if isinstance(spec, Mapping) else {}
    name, args = rest.pop("name", None), rest.pop("args", None)
    args = {} if args is None else args
    if rest or not isinstance(name, str) or not isinstance(args, Mapping):
        raise CheckpointError(f"{kind} spec is {_short(spec)}: expected {{'name': text, 'args': {{…}}}}")
    return name, args


Value = TypeVar("Value")


def lookup(name: Any, table: Mapping[str, Value], kind: str) -> Value:
    """Return the entry of that name; CheckpointError lists the known names and suggests the nearest."""
    if isinstance(name, str) and name in table:
        return table[name]
    raise CheckpointError(f"unknown {kind} {_short(name)}{_nearest(name, table)}; known: {', '.join(table)}")


def _nearest(name: Any, known: Collection[str]) -> str:
    near = difflib.get_close_matches(str(name)[:80].lower(), known, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
