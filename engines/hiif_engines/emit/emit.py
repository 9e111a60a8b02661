"""`build --emit`: commands for other tools, a server's model repository, or a fused graph for VapourSynth."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from hiif_deploy.bundle.loader import Bundle
from hiif_deploy.errors import OptionError
from hiif_deploy.support.files import write_file
from hiif_engines.tensorrt.build_bundle import BuildRequest
from hiif_engines.tensorrt.profiles import make_profiles

logger = logging.getLogger(__name__)
Emit = Literal["trtexec", "polygraphy", "triton", "vs-mlrt"]
"""Kinds of output that can be written."""


def emit(
    bundle: Bundle, request: BuildRequest, kind: Emit, output: Path | None, scale: float | None, *, overwrite: bool,
    engines: Mapping[str, bytes] | None = None,
) -> str | None:  # fmt: skip
    """Write `output`, or return the text to print. OptionError where an option is missing or does not apply.

    `scale` is the fused graph's; `engines` are serialised, by graph name, for a server that does not run the graphs.
    """
    if kind in ("trtexec", "polygraphy"):
        text = _script(bundle, request, kind)
        if output is None:
            return text
        if output.exists() and not overwrite:
            raise OptionError(f"{output} exists already; choose another file or add --overwrite")
        write_file(output, text.encode())
        logger.info("%s: the commands of %s, to be run beside the bundle's ONNX files", output, kind)
        return None
    if output is None:
        raise OptionError(f"--emit {kind} needs --output, the {'folder' if kind == 'triton' else 'file'}")
    if kind == "triton":
        from hiif_engines.emit.triton import write_triton

        profiles = make_profiles(bundle.contract, request.precision, request.sizes) if engines else None
        write_triton(
            bundle, output, precision=request.precision, engines=engines, profiles=profiles, overwrite=overwrite
        )
        logger.info("%s: a Triton Inference Server model repository; its README.md says how to start it", output)
        return None
    text = _vs_mlrt(bundle, output, scale or 2.0, overwrite)
    size = output.stat().st_size / 1e6
    logger.info("%s: one ONNX file of %.1f MB for VapourSynth's vs-mlrt, x%g", output, size, scale or 2)
    return text


def _script(bundle: Bundle, request: BuildRequest, kind: Emit) -> str:
    from hiif_engines.emit.polygraphy import polygraphy_script
    from hiif_engines.emit.trtexec import BuildRecipe, trtexec_script

    recipe = BuildRecipe(bundle.contract.name, bundle.folder, Path("engines"), request.flags)
    graphs = list(bundle.contract.chain(request.precision).values())
    profiles = make_profiles(bundle.contract, request.precision, request.sizes)
    return (trtexec_script if kind == "trtexec" else polygraphy_script)(recipe, graphs, profiles)


def _vs_mlrt(bundle: Bundle, path: Path, scale: float, overwrite: bool) -> str:
    from hiif_engines.emit.vs_mlrt import write_vs_mlrt

    if scale != int(scale):
        raise OptionError(f"--scale {scale:g}: a fused graph has a whole factor, such as 2")
    found = write_vs_mlrt(bundle, int(scale), path, overwrite=overwrite)
    return "".join(
        f"{name}: {difference.psnr:.1f} dB from the exact output, largest deviation {difference.largest:.2e}\n"
        for name, difference in found.items()
    )
