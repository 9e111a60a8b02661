"""The builder: profiles, configuration, progress; and the plan that it makes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ._base import Dims, Strict, api, attribute, held, make, unsigned
from ._enums import BuilderFlag, DataType, MemoryPoolType, ProfilingVerbosity
from ._graph import Tensor
from ._log import ILogger, IProgressMonitor, Voice, guarded
from ._network import INetworkDefinition
from ._testing import crash, testing, version

PLAN = b"ftrt\x00double\x00"
PHASES = {"Preparing graph for optimization": 2, "Optimizing graph": 3, "Computing profile costs": 4}
"""Phases within `Building engine`, and their steps."""


class IHostMemory(Strict, bytes):
    """Bytes that the library owns: a buffer without a length of its own."""

    # Python 3.11 cannot make a buffer of any other class than one of its own; so what bytes can do is taken away.
    __len__ = __getitem__ = __iter__ = __contains__ = __add__ = __mul__ = None  # type: ignore[assignment]

    @property
    def nbytes(self) -> int:
        return bytes.__len__(self)

    @property
    def dtype(self) -> Any:
        return DataType.__members__["INT8"]


class IOptimizationProfile(Strict):
    """Ranges of input shapes. Takes nonsense without a word."""

    @api
    def set_shape(self, input: str, min: Dims, opt: Dims, max: Dims) -> None:  # noqa: A002
        if any(size < 0 for shape in (min, opt, max) for size in shape):
            raise RuntimeError("Shape provided for min is inconsistent with other shapes.")
        self._shapes[input] = (tuple(min), tuple(opt), tuple(max))

    @api
    def get_shape(self, input: str) -> list[Dims]:  # noqa: A002
        return [Dims(shape) for shape in self._shapes.get(input, ())]


class IBuilderConfig(Strict):
    """How to build."""

    builder_optimization_level = attribute("int", 3, check=lambda me, value: me._level(value))
    profiling_verbosity = attribute("ProfilingVerbosity", ProfilingVerbosity.__members__["LAYER_NAMES_ONLY"])
    progress_monitor = attribute("IProgressMonitor | None", check=held("the progress monitor"))

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._profiles)

    @api
    def set_flag(self, flag: BuilderFlag) -> None:
        self._flags.add(flag.name)

    @api
    def clear_flag(self, flag: BuilderFlag) -> None:
        self._flags.discard(flag.name)

    @api
    def get_flag(self, flag: BuilderFlag) -> bool:
        return flag.name in self._flags

    @api
    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: unsigned) -> None:
        self._limits[pool.name] = pool_size

    @api
    def get_memory_pool_limit(self, pool: MemoryPoolType) -> int:
        return int(self._limits.get(pool.name, 1 << 40))

    @api
    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        for name, (low, best, high) in profile._shapes.items():
            ordered = all(a <= b <= c for a, b, c in zip(low, best, high, strict=False))
            if not ordered or not len(low) == len(best) == len(high):
                self._error(f"Invalid optimization profiles for input tensors {name}, please ensure MIN<=OPT<=MAX.")
                return -1
        self._profiles.append(dict(profile._shapes))
        return len(self._profiles) - 1

    def _level(self, value: int) -> int:
        if value < 0:
            self._error("Parameter check failed, condition: level >= 0.")
            return int(self.builder_optimization_level)
        return min(value, 5)

    def _error(self, text: str) -> None:
        builder = self._builder
        builder._voice.error(builder.error_recorder, "INVALID_ARGUMENT", f"IBuilderConfig: API Usage Error ({text})")


class Builder(Strict):
    """Makes everything else."""

    error_recorder = attribute("IErrorRecorder | None", check=held("the error recorder"))

    @api
    def __init__(self, logger: ILogger) -> None:
        self._voice = Voice(logger, "createInferBuilder")
        self._networks = 0

    @api
    def create_network(self, flags: unsigned = 0) -> INetworkDefinition | None:
        if self.error_recorder is not None:
            # Measured with TensorRT-RTX 1.7: such a network ends the process when it is freed.
            crash("the recorder was set before create_network; set it afterwards")
        if flags >= 1 << 4:
            self._voice.error(self.error_recorder, "INVALID_ARGUMENT", "IBuilder::createNetworkV2: API Usage Error")
            return None
        self._networks += 1
        name = f"Unnamed Network {self._networks - 1}"
        return make(INetworkDefinition, name=name, flags=flags, layers=[], inputs=[], outputs=[], model=None)

    @api
    def create_builder_config(self) -> IBuilderConfig:
        return make(IBuilderConfig, builder=self, flags={"TF32"}, limits={}, profiles=[])

    @api
    def create_optimization_profile(self) -> IOptimizationProfile:
        return make(IOptimizationProfile, shapes={})

    @api
    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory | None:
        self._voice.logger()
        if problem := _problem(network, config):
            return self._fail("INVALID_CONFIG", f"Error Code 4: API Usage Error ({problem})")
        if not _report_progress(config.progress_monitor):
            return self._fail("FAILED_EXECUTION", "Error Code 7: BuildCanceled (Build canceled by user)")
        if testing.build_failures:
            return self._fail("INTERNAL_ERROR", testing.build_failures.pop(0))
        return host_memory(_plan(network, config))

    def _fail(self, code: str, text: str) -> None:
        self._voice.error(self.error_recorder, code, f"IBuilder::buildSerializedNetwork: {text}")


def host_memory(data: bytes) -> IHostMemory:
    """Bytes handed to the program."""
    return bytes.__new__(IHostMemory, data)


def _problem(network: INetworkDefinition, config: IBuilderConfig) -> str:
    """Why nothing can be built, or nothing."""
    if not network._outputs:
        return "Network must have at least one output."
    tensors = [handle._tensor for handle in network._inputs]
    if any(tensor.dynamic for tensor in tensors) and not config._profiles:
        return "Network has dynamic or shape inputs, but no optimization profile has been defined."
    for number, profile in enumerate(config._profiles):
        for tensor in tensors:
            if tensor.dynamic and tensor.name not in profile:
                return f"Dynamic input tensor {tensor.name} is missing dimensions in profile {number}."
            if problem := _mismatch(tensor.shape, profile.get(tensor.name)):
                return f"Input tensor {tensor.name} and profile {number}: {problem}"
        if problem := _disagreement({t: profile[t.name][1] for t in tensors if t.name in profile}):
            return problem
    return ""


def _mismatch(shape: tuple[int, ...], ranges: Any) -> str:
    if ranges is None:
        return ""
    if len(ranges[0]) != len(shape):
        return f"the tensor has {len(shape)} dimensions but the profile has {len(ranges[0])}."
    fixed = [(axis, size) for axis, size in enumerate(shape) if size >= 0]
    wrong = [axis for axis, size in fixed if any(given[axis] != size for given in ranges)]
    return f"Dimension mismatch at axis {wrong[0]}." if wrong else ""


def _disagreement(best: dict[Tensor, tuple[int, ...]]) -> str:
    """Only the middle of the ranges must agree; ends that cannot be reached together are accepted."""
    sizes: dict[str, int] = {}
    for tensor, shape in best.items():
        for axis, size in zip(tensor.axes, shape, strict=True):
            if isinstance(axis, str) and axis and sizes.setdefault(axis, size) != size:
                return f"Profile kOPT values are not self-consistent. Dimensions with name {axis} must be equal."
    return ""


def _report_progress(monitor: IProgressMonitor | None) -> bool:
    """Whether to go on; a monitor that refuses a step still hears that every phase under way is finished."""
    if monitor is None:
        return True
    with _phase(monitor, "Building engine", None, len(PHASES)) as step:
        for number, (name, steps) in enumerate(PHASES.items()):
            with _phase(monitor, name, "Building engine", steps) as inner:
                if not all(inner(n) for n in range(steps)):
                    return False
            if not step(number):
                return False
    return True


@contextmanager
def _phase(monitor: Any, name: str, parent: str | None, steps: int) -> Iterator[Callable[[int], bool]]:
    guarded(monitor.phase_start, name, parent, steps)
    yield lambda number: bool(guarded(monitor.step_complete, name, number))
    guarded(monitor.phase_finish, name)


def _plan(network: INetworkDefinition, config: IBuilderConfig) -> bytes:
    gpu, capability = testing.facts()
    inputs = {handle._tensor.name: handle._tensor.shape for handle in network._inputs}
    profiles = config._profiles or [{name: (shape,) * 3 for name, shape in inputs.items()}]
    head = {
        "version": version(),
        "gpu": gpu,
        "capability": capability,
        "name": network.name,
        "flags": sorted(config._flags),
        "profiles": [{n: p.get(n, (shape,) * 3) for n, shape in inputs.items()} for p in profiles],
        "verbosity": config.profiling_verbosity.name,
        "layers": [layer.name for layer in network._layers],
    }
    text = json.dumps(head).encode()
    return PLAN + len(text).to_bytes(4, "little") + len(network._model).to_bytes(8, "little") + text + network._model
