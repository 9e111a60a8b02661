"""How the bindings' classes behave, whatever they are about: strict attributes and arguments; every call recorded."""

from __future__ import annotations

import functools
import inspect
import operator
import weakref
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from ._testing import Call, crash, testing

Function = TypeVar("Function", bound=Callable[..., Any])
Made = TypeVar("Made")
unsigned = int
"""A whole number that the bindings refuse below zero."""
Buffer = Any
"""Whatever `memoryview` takes."""
CLASSES: dict[str, type] = {}
"""Classes of the API by name, for annotations."""


class Strict:
    """An object that only the library makes, and that takes no attribute which it does not have."""

    _label = ""

    def __init_subclass__(cls) -> None:
        CLASSES[cls.__name__] = cls

    def __init__(self, *_: object, **__: object) -> None:
        raise TypeError(f"tensorrt.tensorrt.{type(self).__name__}: No constructor defined!")

    def __setattr__(self, name: str, value: object) -> None:
        if not name.startswith("_") and not hasattr(type(self), name):
            raise AttributeError(f"'tensorrt.tensorrt.{type(self).__name__}' object has no attribute '{name}'")
        object.__setattr__(self, name, value)


def make(kind: type[Made], **attributes: object) -> Made:
    """An object of a class that has no constructor, with these private attributes."""
    made = kind.__new__(kind)
    for name, value in attributes.items():
        object.__setattr__(made, f"_{name}", value)
    return made


def api(function: Function) -> Function:
    """A method of the API: its arguments are checked as pybind11 checks them, and the call is recorded."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def checked(*given: Any, **named: Any) -> Any:
        try:
            bound = signature.bind(*given, **named)
            bound.apply_defaults()
            values = {name: _converted(signature.parameters[name], value) for name, value in bound.arguments.items()}
        except TypeError as error:
            raise TypeError(f"{function.__name__}(): incompatible function arguments: {error}") from None
        me, *rest = values.items()
        _record(me[1], function.__qualname__.removesuffix(".__init__"), dict(rest))
        return function(me[1], **dict(rest))

    checked.is_api = True  # type: ignore[attr-defined]
    return checked  # type: ignore[return-value]


def attribute(kind: str, default: object = None, *, check: Callable[[Any, Any], object] | None = None) -> property:
    """A property that can be set to what `kind` names; `check(me, value)` answers what to keep."""

    class Described(property):
        def __set_name__(self, owner: type, name: str) -> None:
            self.slot, self.title = f"_{name}", f"{owner.__name__}.{name}="

    def get(me: Any) -> Any:
        held = me.__dict__.get(described.slot, default)
        return held() if isinstance(held, Held) else held

    def put(me: Any, value: Any) -> None:
        kept = convert(kind, value)
        _record(me, described.title, {"value": kept})
        object.__setattr__(me, described.slot, kept if check is None else check(me, kept))

    described = Described(get, put)
    return described


def convert(kind: str, value: Any) -> Any:
    """`value` as the bindings take it for a parameter annotated `kind`; TypeError otherwise."""
    options = kind.split(" | ")
    if value is None and "None" in options:
        return None
    for option in options:
        if option in CONVERTERS:
            return CONVERTERS[option](value)
        if option in CLASSES and isinstance(value, CLASSES[option]):
            return value
    raise TypeError(f"expected {kind}, not {type(value).__name__}")


class Held:
    """Something that TensorRT points to without keeping it alive: using it after its end is a crash."""

    def __init__(self, thing: object, what: str) -> None:
        self._reference = weakref.ref(thing)
        self._what = what

    def __call__(self) -> Any:
        thing = self._reference()
        return crash(f"{self._what} was garbage-collected while in use") if thing is None else thing


def held(what: str) -> Callable[[Any, Any], Held | None]:
    """For `attribute`: keep no reference to what is set."""
    return lambda _, value: None if value is None else Held(value, what)


class Dims:
    """Sizes. Like the real one it equals lists and tuples, refuses to be compared with anything else, and no hash."""

    MAX_DIMS = 8
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, shape: Any) -> None:
        if len(shape) > self.MAX_DIMS:
            raise ValueError(f"Input length {len(shape)}. Max expected length is {self.MAX_DIMS}")
        self._sizes = tuple(map(operator.index, shape))

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, arg0: Any) -> Any:
        return self._sizes[arg0]

    def __iter__(self) -> Iterator[int]:
        return iter(self._sizes)

    def __eq__(self, arg0: object) -> bool:
        if not isinstance(arg0, (list, tuple)):
            raise TypeError("__eq__(): incompatible function arguments: expected list or tuple")
        return self._sizes == tuple(arg0)

    def __repr__(self) -> str:
        return str(self._sizes)


def _converted(parameter: inspect.Parameter, value: Any) -> Any:
    return value if parameter.name == "self" else convert(str(parameter.annotation), value)


def _record(me: Any, name: str, arguments: dict[str, Any]) -> None:
    shown = {key: _summary(value) for key, value in arguments.items()}
    testing.calls.append(Call(name, shown, getattr(me, "_label", "")))


def _summary(value: Any) -> Any:
    """Values as they are, shapes as tuples, the size of buffers, and of objects, which must not be kept, the class."""
    if isinstance(value, (Dims, memoryview)):
        return tuple(value) if isinstance(value, Dims) else value.nbytes
    plain = value is None or isinstance(value, (str, int)) or hasattr(type(value), "__members__")
    return value if plain else type(value).__name__


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected str, not {type(value).__name__}")
    return value


def _dims(value: Any) -> Dims:
    return value if isinstance(value, Dims) else Dims(value)


def _unsigned(value: Any) -> int:
    number = operator.index(value)
    if number < 0:
        raise TypeError(f"expected a number from 0, not {number}")
    return number


CONVERTERS: dict[str, Callable[[Any], Any]] = {
    "int": operator.index,
    "unsigned": _unsigned,
    "bool": bool,
    "str": _text,
    "Dims": _dims,
    "Buffer": memoryview,
}
"""How parameters of plain types are taken; every other annotation names a class."""
