"""The sub-command `build`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hiif_deploy.backends.options import LibraryName
from hiif_deploy.backends.tensorrt.library import Library, load_library
from hiif_deploy.bundle.contract import Precision
from hiif_deploy.cli.options import refuse_options
from hiif_deploy.errors import EngineAbsentError, OptionError
from hiif_engines.emit.emit import Emit, emit
from hiif_engines.store_command import StoreOption
from hiif_engines.tensorrt.build import BuildFlags
from hiif_engines.tensorrt.profiles import parse_sizes

if TYPE_CHECKING:
    from hiif_deploy.bundle.loader import Bundle
    from hiif_deploy.engine_store.entry import StoredEngine
    from hiif_engines.tensorrt.build_bundle import BuildRequest

logger = logging.getLogger(__name__)
BUILD_ONLY = ("store", "device_layer", "force")
"""Parameters of `build` that apply only where engines are built."""


def build(
    context: typer.Context,
    bundle: Annotated[str, typer.Argument(help="Bundle folder, or name of a model.")],
    precision: Annotated[Precision, typer.Option(help="Of the graphs, and so of the engines.")] = "fp16",
    preset: Annotated[str | None, typer.Option(help="Largest input picture: 720p, 1080p (default) or 4k.")] = None,
    max_input: Annotated[
        str | None,
        typer.Option(help="Largest input picture as WIDTHxHEIGHT, in place of --preset; larger ones are split."),
    ] = None,
    queries: Annotated[int | None, typer.Option(help="Most queries per decoder call (default 131072).")] = None,
    scale: Annotated[float | None, typer.Option(help="Scale to be fastest for (default 2); others work too.")] = None,
    library: Annotated[LibraryName, typer.Option(help="TensorRT, or TensorRT-RTX.")] = "tensorrt",
    target: Annotated[
        str | None, typer.Option(help="tensorrt-rtx: build for this compute capability (8.9) without its GPU.")
    ] = None,
    level: Annotated[int, typer.Option(help="Optimisation level, 0 (at once) to 5 (tries everything).")] = 3,
    store: StoreOption = None,
    device_layer: Annotated[str, typer.Option(help="Python layer to the GPU: cuda-python, pycuda or auto.")] = "auto",
    force: Annotated[bool, typer.Option(help="Keep engines that are out of tolerance.")] = False,
    emit_: Annotated[
        Emit | None,
        typer.Option("--emit", help="Write this instead of building: commands, a server's folder, a fused graph."),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="With --emit: file or folder to write.")] = None,
    backend: Annotated[
        Literal["tensorrt", "onnxruntime"] | None,
        typer.Option(
            help="With --emit triton: what the server runs; default: TensorRT, or ONNX Runtime where it is absent."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="With --emit: replace what is there.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Errors only: no progress.")] = False,
) -> None:
    """Turn a bundle's graphs into TensorRT engines for the GPU at hand, and prove them against PyTorch's outputs."""
    if emit_ is None:
        refuse_options(context, ("output", "overwrite"), "for --emit; engines go into the store (--store)")
    elif emit_ == "triton" and output is None:
        raise OptionError("--emit triton needs --output, the folder")
    elif emit_ != "triton":
        refuse_options(context, BUILD_ONLY, f"for engines that are built, and --emit {emit_} builds none; leave it out")
    from hiif_deploy.bundle.loader import open_bundle
    from hiif_engines.tensorrt.build_bundle import BuildRequest

    sizes = parse_sizes(preset, max_input, queries, scale)
    request = BuildRequest(precision, sizes, BuildFlags(level, target))
    if backend is not None and emit_ != "triton":
        raise OptionError(f"--backend {backend} goes with --emit triton")
    if emit_ == "triton" and backend is None:
        backend = _triton_backend(library)
    if emit_ is not None and (emit_ != "triton" or backend == "onnxruntime"):
        _print(emit(open_bundle(bundle), request, emit_, output, scale, overwrite=overwrite))
        return
    # Load the library first: without it no other work is useful.
    loaded = load_library(library)
    opened = open_bundle(bundle)
    engines = _build(opened, request, loaded, store, device_layer, force=force, show_progress=not quiet)
    if emit_ is not None:
        data = {name: engine.load() for name, engine in engines.items()}
        _print(emit(opened, request, emit_, output, scale, overwrite=overwrite, engines=data))


def _triton_backend(library: LibraryName) -> Literal["tensorrt", "onnxruntime"]:
    """Return `tensorrt` where it is installed; otherwise `onnxruntime`, which is logged."""
    try:
        load_library(library)
    except EngineAbsentError as error:
        logger.warning("no TensorRT here, so the server uses the ONNX Runtime backend: %s", error)
        return "onnxruntime"
    return "tensorrt"


def _build(
    bundle: Bundle, request: BuildRequest, library: Library, root: Path | None, layer: str, *,
    force: bool, show_progress: bool,
) -> dict[str, StoredEngine]:  # fmt: skip
    from hiif_deploy.backends.cuda.open import open_device
    from hiif_deploy.backends.options import EngineOptions
    from hiif_deploy.engine_store.identity import EngineEnvironment
    from hiif_deploy.engine_store.store import EngineStore
    from hiif_deploy.rendering.open_tensorrt import describe, load_engines
    from hiif_deploy.rendering.verify_engines import verify_engines
    from hiif_engines.tensorrt.build_bundle import build_bundle

    store, target = EngineStore.open(root), request.flags.target
    if target is not None:
        environment = EngineEnvironment(library.name, library.version, f"any of capability {target}", target, "0")
        engines = build_bundle(bundle, request, library, environment, store, show_progress=show_progress)
        logger.info(
            "%s: built for %s, not run and so not verified: that happens when they are first loaded", store.root, target
        )
        return engines
    device = open_device(layer)
    try:
        environment = describe(library, device)
        engines = build_bundle(bundle, request, library, environment, store, show_progress=show_progress)
        options = EngineOptions(engine="tensorrt", precision=request.precision, library=library.name)
        backend = load_engines(bundle, request.precision, engines, library, device, options)
    except BaseException:
        device.close()
        raise
    try:
        found = verify_engines(bundle, backend, engines, request.precision, store, force=force)
    finally:
        backend.close()
    for case, difference in found.items():
        print(f"{case}: largest deviation {difference.largest:.2e}, {difference.psnr:.0f} dB")
    logger.info(
        "%s: ready; try: hiif-deploy upscale PICTURE --bundle %s --engine tensorrt --scale 2", store.root, bundle.folder
    )
    return engines


def _print(text: str | None) -> None:
    if text is not None:
        print(text, end="")
