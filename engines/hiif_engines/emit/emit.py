"""`build --emit`: commands for other tools, a server's model repository, or a fused graph for VapourSynth."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hiif_deploy.bundle.loader import Bundle
from hiif_deploy.errors import OptionError
from hiif_deploy.support.files import atomic_write
from hiif_engines.tensorrt.build_bundle import BuildRequest
from hiif_engines.tensorrt.profiles import make_profiles

logger = logging.getLogger(__name__)
Emit = Literal["trtexec", "polygraphy", "triton", "vs-mlrt"]
"""Kinds of output that can be written."""


@dataclass(frozen=True)
class EmitOptions:
    """Kind, place and settings of the output."""

    kind: Emit
    """Kind of output that is written."""
    output: Path | None
    """File or folder to write; None prints text to the terminal."""
    scale: float | None
    """Scale factor of the fused graph."""
    overwrite: bool
    """Whether an existing file or folder may be replaced."""
    engines: Mapping[str, bytes] | None = None
    """Graph name → serialised engine, for a server; None where it runs the ONNX graphs."""


def emit(bundle: Bundle, request: BuildRequest, options: EmitOptions) -> str | None:
    """Write the output, or return the text to print. OptionError where an option is missing or does not apply."""
    if options.kind in ("trtexec", "polygraphy"):
        text = _script(bundle, request, options)
        if options.output is not None:
            logger.info(
                "%s: the commands of %s, to be run beside the bundle's ONNX files", options.output, options.kind
            )
        return text
    if options.output is None:
        raise OptionError(
            f"--emit {options.kind} needs --output, the {'folder' if options.kind == 'triton' else 'file'}"
        )
    if options.kind == "triton":
        _triton(bundle, request, options.output, options)
        logger.info(
            "%s: a Triton Inference Server model repository; its README.md says how to start it", options.output
        )
        return None
    text = _vs_mlrt(bundle, options.output, options)
    size = options.output.stat().st_size / 1e6
    logger.info("%s: one ONNX file of %.1f MB for VapourSynth's vs-mlrt, x%g", options.output, size, options.scale or 2)
    return text


def _script(bundle: Bundle, request: BuildRequest, options: EmitOptions) -> str | None:
    from hiif_engines.emit.polygraphy import polygraphy_script
    from hiif_engines.emit.trtexec import BuildRecipe, trtexec_script

    recipe = BuildRecipe(
        name=bundle.contract.name,
        models=bundle.folder,
        engines=Path("engines"),
        flags=request.flags,
    )
    graphs = list(bundle.contract.chain(request.precision).values())
    profiles = make_profiles(bundle.contract, request.precision, request.sizes)
    write = trtexec_script if options.kind == "trtexec" else polygraphy_script
    text = write(recipe, graphs, profiles)
    if options.output is None:
        return text
    if options.output.exists() and not options.overwrite:
        raise OptionError(f"{options.output} exists already; choose another file or add --overwrite")
    with atomic_write(options.output) as file:
        file.write(text.encode())
    return None


def _triton(bundle: Bundle, request: BuildRequest, folder: Path, options: EmitOptions) -> None:
    from hiif_engines.emit.triton import write_triton

    profiles = make_profiles(bundle.contract, request.precision, request.sizes) if options.engines else None
    write_triton(
        bundle, folder, precision=request.precision, engines=options.engines, profiles=profiles,
        overwrite=options.overwrite,
    )  # fmt: skip


def _vs_mlrt(bundle: Bundle, path: Path, options: EmitOptions) -> str:
    from hiif_engines.emit.vs_mlrt import write_vs_mlrt

    scale = options.scale or 2.0
    if scale != int(scale):
        raise OptionError(f"--scale {scale:g}: a fused graph has a whole factor, such as 2")
    found = write_vs_mlrt(bundle, int(scale), path, overwrite=options.overwrite)
    lines = [
        f"{name}: {difference.psnr:.1f} dB from the exact output, largest deviation {difference.largest:.2e}"
        for name, difference in found.items()
    ]
    return "\n".join(lines) + "\n"
