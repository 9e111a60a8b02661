"""Options that several sub-commands share. Importing this needs neither an engine nor OpenCV."""

import logging
from collections.abc import Callable, Iterable
from typing import Annotated, Any, cast, get_args

import typer

from hiif_deploy.backends.engines import AUTO, ENGINES, Engine
from hiif_deploy.backends.options import EngineOptions, IsaName, LibraryName, usable_cores
from hiif_deploy.decoding.session import ComputePrecision
from hiif_deploy.errors import OptionError

logger = logging.getLogger(__name__)
OUTPUT, SIZE, MODEL, SPEED = "Output", "Size", "Model", "Speed"
VIDEO, CLUSTER, REPORT = "Video", "Cluster", "Report"
"""Panels of `--help`."""


def in_panel(panel: str) -> Callable[..., Any]:
    """Return `typer.Option` for the options of a panel, with the help text as its first argument."""

    def option(help_: str, *names: str, **settings: Any) -> Any:
        return typer.Option(*names, help=help_, rich_help_panel=panel, **settings)

    return option


_model, _speed, _report, _cluster = map(in_panel, (MODEL, SPEED, REPORT, CLUSTER))
BundleOption = Annotated[str, _model("Bundle folder, or name of a model.", "--bundle", "-b")]
EngineOption = Annotated[
    str | None,
    _speed(
        "Default: auto, the fastest engine that is installed, works and needs no building, GPUs first. native: code "
        "made for this processor.",
        metavar="|".join(get_args(Engine)),
        autocompletion=lambda: list(get_args(Engine)),
    ),
]
PrecisionOption = Annotated[
    ComputePrecision | None,
    _speed(
        "Default: fp16 on TensorRT and on a GPU that auto takes, fp32 elsewhere. bf16 and int8 are approximate, "
        "and for processors only."
    ),
]
LibraryOption = Annotated[LibraryName | None, _speed("With --engine tensorrt: tensorrt (default) or tensorrt-rtx.")]
ProviderOption = Annotated[
    str | None, _speed("With --engine onnxruntime: execution provider; default: cpu. Never replaced silently.")
]
DeviceOption = Annotated[str | None, _speed("With --engine torch: cuda (default), cuda:N, or cpu.")]
IsaOption = Annotated[
    IsaName | None, _speed("With --engine native: its instruction set; default: the fastest that this processor has.")
]
ThreadsOption = Annotated[int, _speed("Processor threads; 0 takes all that this process may use.")]
MemoryOption = Annotated[int, _speed("Working memory in MiB, beside input, features and output.")]
JsonOption = Annotated[bool, _report("Report as JSON on stdout.", "--json")]
QuietOption = Annotated[bool, _report("Errors only: no progress, no table.", "--quiet", "-q")]
RayOption = Annotated[
    str | None, _cluster("Spread the work over a Ray cluster: local, auto or HOST:PORT.", "--ray", metavar="ADDRESS")
]
WorkersOption = Annotated[int, _cluster("With --ray: maximum number of workers; 0 uses the whole cluster.")]

AUTO_READS = ("library",)
"""Options that `auto` passes on to the engine that it takes."""
GPU_WORDS = ("cuda", "gpu", "nvidia")
"""What people call the engine for their GPU."""


def engine_options(
    engine: str | None, precision: ComputePrecision | None, threads: int = 0, *, provider: str | None = None,
    library: LibraryName | None = None, device: str | None = None, isa: IsaName | None = None,
    default: Engine | None = None,
) -> EngineOptions:  # fmt: skip
    """Engine options from the command line; `default` where no engine is named. OptionError where they do not fit."""
    given = {"provider": provider, "library": library, "device": device, "isa": isa}
    given = {name: value for name, value in given.items() if value is not None}
    readers_of: dict[str, list[Engine]] = {
        name: [spec.name for spec in ENGINES.values() if name in spec.reads] + [AUTO] * (name in AUTO_READS)
        for name in given
    }
    # An option that one engine alone reads names that engine.
    implied = next((readers[0] for readers in readers_of.values() if AUTO not in readers), None)
    chosen = parse_engine(engine) or default or implied or AUTO
    for name, readers in readers_of.items():
        if chosen not in readers:
            raise OptionError(
                f"--{name} {given[name]} is read by engine {' and '.join(readers)} only, and this run uses {chosen}: "
                f"add --engine {readers[0]}, or leave --{name} out"
            )
    return EngineOptions(
        engine=chosen, precision=precision, threads=limited_threads(threads), provider=provider or "cpu",
        library=library or "tensorrt", device=device or "cuda", isa=isa,
    )  # fmt: skip


def parse_engine(name: str | None) -> Engine | None:
    """OptionError for a name that is not an engine's."""
    if name is None or name in get_args(Engine):
        return cast("Engine | None", name)
    gpu = "; for an NVIDIA GPU: --engine torch, --engine tensorrt, or --provider cuda (ONNX Runtime)"
    hint = gpu if name in GPU_WORDS else ""
    raise OptionError(f"--engine {name}: expected one of {', '.join(get_args(Engine))}{hint}")


def limited_threads(threads: int) -> int:
    """`threads`, or the number of cores where that is less: more threads than cores only cost time to start.

    OptionError for a negative number.
    """
    if threads < 0:
        raise OptionError(f"threads is {threads}: expected 0 (all) or more")
    cores = usable_cores()
    if threads <= cores:
        return threads
    logger.warning("--threads %d: this process may use %d cores, so %d threads are used", threads, cores, cores)
    return cores


def given_options(context: typer.Context, names: Iterable[str]) -> list[str]:
    """Options among `names` that the user gave, as they are written on the command line: `--crf`."""
    wanted = set(names)
    return [
        max(parameter.opts, key=len)
        for parameter in context.command.params
        if parameter.name in wanted and str(context.get_parameter_source(parameter.name)).endswith("COMMANDLINE")
    ]


def refuse_options(context: typer.Context, names: Iterable[str], why: str) -> None:
    """OptionError where any of them was given; `why` says what they are for."""
    if given := given_options(context, names):
        raise OptionError(f"{', '.join(given)}: {why}")
