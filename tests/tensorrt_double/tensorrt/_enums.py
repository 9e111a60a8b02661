"""Enumerations. Their numbers moved between TensorRT 10 and 11, so they depend on `tensorrt.__version__`."""

from __future__ import annotations

from typing import Any, ClassVar

from ._base import CLASSES
from ._testing import major


class Enumeration:
    """Like pybind11's: members are attributes, numbers come from `int`, and nothing equals a plain number."""

    __members__: ClassVar[dict[str, Any]]
    _numbers: ClassVar[dict[int, dict[str, int]]]

    def __init_subclass__(cls, numbers: dict[str, int], ten: dict[str, int] | None = None) -> None:
        CLASSES[cls.__qualname__] = cls
        cls._numbers = {10: ten or numbers, 11: numbers}
        cls.__members__ = {name: _member(cls, name) for name in numbers}
        for name, member in cls.__members__.items():
            setattr(cls, name, member)

    def __init__(self, value: int) -> None:
        raise TypeError(f"the double's {type(self).__name__} is made by name only, not from {value!r}")

    @property
    def name(self) -> str:
        return str(self.__dict__["_name"])

    @property
    def value(self) -> int:
        return self._numbers[min(11, major())][self.name]

    def __int__(self) -> int:
        return self.value

    __index__ = __int__

    def __repr__(self) -> str:
        return f"<{type(self).__name__}.{self.name}: {self.value}>"

    def __str__(self) -> str:
        return f"{type(self).__name__}.{self.name}"


def _member(cls: type, name: str) -> Any:
    member = cls.__new__(cls)
    member.__dict__["_name"] = name
    return member


def _counted(names: str) -> dict[str, int]:
    return {name: number for number, name in enumerate(names.split())}


class DataType(Enumeration, numbers=_counted("FLOAT HALF INT8 INT32 BOOL UINT8 FP8 BF16 INT64")):
    @property
    def itemsize(self) -> int:
        return {"FLOAT": 4, "HALF": 2, "BF16": 2, "INT32": 4, "INT64": 8}.get(self.name, 1)


class TensorIOMode(Enumeration, numbers=_counted("NONE INPUT OUTPUT")):
    pass


class NetworkDefinitionCreationFlag(Enumeration, numbers={"STRONGLY_TYPED": 0}, ten={"STRONGLY_TYPED": 1}):
    pass


class BuilderFlag(
    Enumeration,
    numbers={"REFIT": 4, "DISABLE_TIMING_CACHE": 5, "TF32": 6, "DIRECT_IO": 11, "VERSION_COMPATIBLE": 12,
             "EXCLUDE_LEAN_RUNTIME": 13, "STRIP_PLAN": 18, "WEIGHT_STREAMING": 20},
    ten={"REFIT": 4, "DISABLE_TIMING_CACHE": 5, "TF32": 6, "DIRECT_IO": 11, "VERSION_COMPATIBLE": 13,
         "EXCLUDE_LEAN_RUNTIME": 14, "STRIP_PLAN": 19, "WEIGHT_STREAMING": 21},
):  # fmt: skip
    pass


class ProfilingVerbosity(Enumeration, numbers=_counted("LAYER_NAMES_ONLY NONE DETAILED")):
    pass


class ExecutionContextAllocationStrategy(Enumeration, numbers=_counted("STATIC ON_PROFILE_CHANGE USER_MANAGED")):
    pass


class MemoryPoolType(Enumeration, numbers={"WORKSPACE": 0, "TACTIC_DRAM": 4, "TACTIC_SHARED_MEMORY": 5}):
    pass


class LayerInformationFormat(Enumeration, numbers=_counted("ONELINE JSON")):
    pass


class ErrorCode(
    Enumeration,
    numbers=_counted("SUCCESS INTERNAL_ERROR MEM_ALLOC_FAILED MODEL_DESERIALIZE_FAILED INVALID_VALUE INVALID_GRAPH "
                     "INVALID_NODE UNSUPPORTED_GRAPH UNSUPPORTED_NODE"),
):  # fmt: skip
    pass


class ErrorCodeTRT(
    Enumeration,
    numbers=_counted("SUCCESS UNSPECIFIED_ERROR INTERNAL_ERROR INVALID_ARGUMENT INVALID_CONFIG FAILED_ALLOCATION "
                     "FAILED_INITIALIZATION FAILED_EXECUTION FAILED_COMPUTATION INVALID_STATE UNSUPPORTED_STATE"),
):  # fmt: skip
    pass


class LayerType(
    Enumeration,
    numbers={
        "CONVOLUTION": 0, "CAST": 1, "ACTIVATION": 2, "POOLING": 3, "SOFTMAX": 6, "DECONVOLUTION": 7,
        "CONCATENATION": 8, "ELEMENTWISE": 9, "UNARY": 11, "PADDING": 12, "SHUFFLE": 13, "REDUCE": 14, "TOPK": 15,
        "GATHER": 16, "MATRIX_MULTIPLY": 17, "CONSTANT": 19, "IDENTITY": 20, "SLICE": 22, "SHAPE": 23,
        "PARAMETRIC_RELU": 24, "RESIZE": 25, "SELECT": 30, "FILL": 31, "CONDITION": 34, "SCATTER": 37, "EINSUM": 38,
        "NORMALIZATION": 45, "SQUEEZE": 47, "UNSQUEEZE": 48, "CUMULATIVE": 49,
    },
):  # fmt: skip
    pass
