"""A stand-in for TensorRT: the part of its API that this project uses, the way it really behaves, and nothing else.

Names, signatures and enumerations' numbers are the real ones (a test compares them with the bindings); what is not
here is refused as an unknown attribute or argument. Engines compute through ONNX Runtime in the memory of a
FakeDevice, lazily, in its streams' order. Three things are not TensorRT's:

    __version__   may be set: 10.13.3.9, 10.16.1.11, 11.4.0.106; the enumerations' numbers follow
    testing       the device, the recorded calls, the failures to come: see `_testing.py`
    errors        CrashError where the real process would end, MisuseError where pixels would be wrong without a word
"""

from __future__ import annotations

from ._base import Dims
from ._build import Builder, IBuilderConfig, IHostMemory, IOptimizationProfile
from ._context import IExecutionContext
from ._engine import EngineInspector, ICudaEngine, Runtime
from ._enums import (
    BuilderFlag,
    DataType,
    ErrorCode,
    ErrorCodeTRT,
    ExecutionContextAllocationStrategy,
    LayerInformationFormat,
    LayerType,
    MemoryPoolType,
    NetworkDefinitionCreationFlag,
    ProfilingVerbosity,
    TensorIOMode,
)
from ._log import IErrorRecorder, ILogger, IProgressMonitor, Logger
from ._network import ILayer, INetworkDefinition, ITensor, OnnxParser, ParserError
from ._testing import CrashError, MisuseError, testing

__version__ = "11.4.0.106"

float32, float16, int32, int64 = (DataType.__members__[name] for name in ("FLOAT", "HALF", "INT32", "INT64"))


def init_libnvinfer_plugins(logger: ILogger, namespace: str) -> bool:
    """There are none."""
    return isinstance(logger, ILogger) and isinstance(namespace, str)


__all__ = [
    "Builder",
    "BuilderFlag",
    "CrashError",
    "DataType",
    "Dims",
    "EngineInspector",
    "ErrorCode",
    "ErrorCodeTRT",
    "ExecutionContextAllocationStrategy",
    "IBuilderConfig",
    "ICudaEngine",
    "IErrorRecorder",
    "IExecutionContext",
    "IHostMemory",
    "ILayer",
    "ILogger",
    "INetworkDefinition",
    "IOptimizationProfile",
    "IProgressMonitor",
    "ITensor",
    "LayerInformationFormat",
    "LayerType",
    "Logger",
    "MemoryPoolType",
    "MisuseError",
    "NetworkDefinitionCreationFlag",
    "OnnxParser",
    "ParserError",
    "ProfilingVerbosity",
    "Runtime",
    "TensorIOMode",
    "float16",
    "float32",
    "init_libnvinfer_plugins",
    "int32",
    "int64",
    "testing",
]
