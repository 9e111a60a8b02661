"""Builds a serialised engine from one graph, in the precision of its ONNX file."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hiif_deploy.backends.tensorrt.library import Library, Messages
from hiif_deploy.bundle.contract import GraphContract
from hiif_deploy.engine_store.identity import TARGET
from hiif_deploy.errors import EngineError, OptionError
from hiif_deploy.support.progress import Progress
from hiif_engines.tensorrt.network import parse_network
from hiif_engines.tensorrt.profiles import Profile

if TYPE_CHECKING:
    import tensorrt as trt


@dataclass(frozen=True)
class BuildFlags:
    """Settings of a build, beside its graph and its profile."""

    optimization_level: int = 3
    """0 builds at once, 5 tries every kernel; 3 is TensorRT's own default."""
    target: str | None = None
    """TensorRT-RTX only: compute capability to build for without a GPU, such as `8.9`. None: the GPU at hand."""

    def __post_init__(self) -> None:
        if not 0 <= self.optimization_level <= 5:
            raise OptionError(f"optimisation level is {self.optimization_level}: expected 0 to 5")

    def metadata(self) -> dict[str, Any]:
        """Return the settings as the engine's identity stores them."""
        return {"optimization_level": self.optimization_level, TARGET: self.target, "tf32": False}


DEFAULT_FLAGS = BuildFlags()
"""TensorRT's own defaults, for the GPU at hand alone."""


def build_engine(
    library: Library, graph: GraphContract, model: bytes, profile: Profile, flags: BuildFlags = DEFAULT_FLAGS, *,
    show_progress: bool = False,
) -> bytes:  # fmt: skip
    """Return a serialised engine. EngineError with the library's own reason where that fails, OptionError for a wrong
    flag.

    Ctrl-C ends the build at the builder's next step.
    """
    with Progress(f"building {graph.key}", 1, unit="steps", enabled=show_progress) as progress:
        return _interruptible(_Build(library, graph, model, profile, flags, progress))


class _Build:
    """Keeps alive everything that the library holds pointers into until the build is done."""

    def __init__(
        self, library: Library, graph: GraphContract, model: bytes, profile: Profile, flags: BuildFlags,
        progress: Progress,
    ) -> None:  # fmt: skip
        self.library, self.graph, self.model, self.profile, self.flags = library, graph, model, profile, flags
        self.progress = progress
        self.stop = threading.Event()
        self.messages = Messages(library)

    def run(self) -> bytes:
        """Return the serialised engine."""
        builder = self.library.module.Builder(self.messages.logger)
        network = parse_network(self.library, builder, self.messages, self.graph, self.model)
        config = self._configure(builder)
        monitor = make_monitor(self.library, self.progress, self.stop)
        config.progress_monitor = monitor
        data = builder.build_serialized_network(network, config)
        if self.stop.is_set():
            raise KeyboardInterrupt
        if data is None:
            raise EngineError(
                f"graph {self.graph.key}: {self.library.name} {self.library.version} built no engine: "
                f"{self.messages.reason()}"
            )
        return bytes(data)

    def _configure(self, builder: trt.Builder) -> trt.IBuilderConfig:
        if TYPE_CHECKING:
            import tensorrt as trt
        else:
            trt = self.library.module
        flags = self.flags
        config = builder.create_builder_config()
        config.builder_optimization_level = flags.optimization_level
        # TF32 is on by default: it would compute float32 products with ten bits of mantissa.
        config.clear_flag(trt.BuilderFlag.TF32)
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        if flags.target is not None:
            set_target(self.library, config, flags.target)
        profile = builder.create_optimization_profile()
        for name, bounds in self.profile.items():
            profile.set_shape(name, bounds.min, bounds.opt, bounds.max)
        config.add_optimization_profile(profile)
        return config


def set_target(library: Library, config: Any, capability: str) -> None:
    """Build for another GPU than the one at hand; OptionError where the library cannot, listing what it supports."""
    kinds = getattr(library.module, "ComputeCapability", None)
    if kinds is None:
        raise OptionError(f"{library.name} builds for the GPU at hand only; --target is for tensorrt-rtx")
    name = f"SM{capability.replace('.', '')}"
    if name not in kinds.__members__:
        known = [f"{n[2:-1]}.{n[-1]}" for n in kinds.__members__ if n.startswith("SM")]
        raise OptionError(f"--target {capability}: {library.name} builds for {', '.join(known)}")
    config.num_compute_capabilities = 1
    config.set_compute_capability(kinds.__members__[name], 0)


def make_monitor(library: Library, progress: Progress, stop: threading.Event) -> trt.IProgressMonitor:
    """Return a monitor that shows the builder's progress, and stops the build once `stop` is set."""
    base = library.module.IProgressMonitor

    class BuildMonitor(base):  # type: ignore[misc, valid-type]
        """Called from the builder's threads. Phases nest; only the outermost is shown."""

        def __init__(self) -> None:
            base.__init__(self)
            self._outer: str | None = None

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            """A phase of `num_steps` steps begins."""
            if not parent_phase and self._outer is None:
                self._outer = phase_name
                progress.total = max(1, num_steps)

        def phase_finish(self, phase_name: str) -> None:
            """The phase of that name ends."""
            if phase_name == self._outer:
                self._outer = None

        def step_complete(self, phase_name: str, step: int) -> bool:
            """Return whether the build continues."""
            del step
            if phase_name == self._outer:
                progress.advance(1)
            return not stop.is_set()

    monitor: trt.IProgressMonitor = BuildMonitor()
    return monitor


def _interruptible(build: _Build) -> bytes:
    """Run the build in a thread, so that the main thread can handle Ctrl-C while the library works."""
    outcome: Future[bytes] = Future()

    def work() -> None:
        try:
            outcome.set_result(build.run())
        except BaseException as error:
            outcome.set_exception(error)

    # Not an executor: when it is interrupted while starting its thread, it does not wait for it.
    thread = threading.Thread(target=work, name="hiif-build")
    try:
        thread.start()
        while thread.is_alive():
            thread.join(timeout=0.2)
    except KeyboardInterrupt:
        build.stop.set()
        thread.join()
        raise
    return outcome.result()
