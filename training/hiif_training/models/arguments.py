"""Names and arguments of a spec: checking them and putting them into a configuration."""

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
"""Public arguments that set nothing here → the values they may have; None where no value has an effect."""


def part_arguments(model: str, spec: Any, expected: str) -> dict[str, Any]:
    """Arguments of a part that can only be one thing; none where the spec leaves the part out."""
    if spec is None:
        return {}
    name, args = read_spec(spec, f"{expected} of {model}")
    if name != expected:
        raise CheckpointError(f"{model}: {name!r} is not what this project reads: expected {expected!r}")
    return dict(args)


def configure(model: str, base: Config, args: Arguments, names: Mapping[str, str], accepted: Accepted) -> Config:
    """`base` with the arguments put into the fields that `names` gives them."""
    for name, value in args.items():
        look_up(name, {**names, **accepted}, f"argument of {model}")
        allowed = accepted.get(name)
        if allowed is not None and value not in allowed:
            raise CheckpointError(f"{model}: {name} is {value!r}: expected {' or '.join(map(repr, allowed))}")
    values = {
        field: _typed(f"{model}: {name}", args[name], getattr(base, field))
        for name, field in names.items()
        if name in args
    }
    return replace(base, **values)


def _typed(what: str, value: Any, example: Any) -> Any:
    """`value` where it has the type of `example`, a list as a tuple; CheckpointError otherwise."""
    if isinstance(example, tuple) and isinstance(value, list | tuple):
        return tuple(_typed(f"{what}[{n}]", entry, example[0]) for n, entry in enumerate(value))
    if isinstance(example, float) and type(value) is int:
        return float(value)
    if type(value) is not type(example):
        kind = "list" if isinstance(example, tuple) else type(example).__name__
        raise CheckpointError(f"{what} is {value!r}: expected {kind}")
    return value


def read_spec(spec: Mapping[str, Any], kind: str) -> tuple[str, Arguments]:
    """Name and arguments of a spec, which may come from a file and be anything."""
    rest = dict(spec) if isinstance(spec, Mapping) else {}
    name, args = rest.pop("name", None), rest.pop("args", None)
    args = {} if args is None else args
    if rest or not isinstance(name, str) or not isinstance(args, Mapping):
        raise CheckpointError(f"{kind} spec is {spec!r}: expected {{'name': text, 'args': {{…}}}}")
    return name, args


Value = TypeVar("Value")


def look_up(name: Any, table: Mapping[str, Value], kind: str) -> Value:
    if isinstance(name, str) and name in table:
        return table[name]
    raise CheckpointError(f"unknown {kind} {name!r}{_nearest(name, table)}; known: {', '.join(table)}")


def _nearest(name: Any, known: Collection[str]) -> str:
    near = difflib.get_close_matches(str(name).lower(), known, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
