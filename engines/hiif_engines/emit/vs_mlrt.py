"""`--emit vs-mlrt`: writes one fixed-scale ONNX file for VapourSynth's vs-mlrt, with calibrated statistics.

The runtime computes attention statistics for every picture. A single graph cannot, so the mean over calibration
pictures is stored in it; how far that changes the picture is measured, reported, and stored in the file.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from hiif_deploy.backends.options import usable_cores
from hiif_deploy.bundle.loader import Bundle
from hiif_deploy.decoding.session import Tensors
from hiif_deploy.errors import EngineError, OptionError, ScaleError
from hiif_deploy.images.samples import SAMPLES, sample
from hiif_deploy.pixels import Frame, check_frame, to_unit
from hiif_deploy.rendering.verify import Difference, measure
from hiif_deploy.support.files import write_file
from hiif_deploy.upscaler import Upscaler
from hiif_engines.emit.vs_mlrt_graph import fused_graph

logger = logging.getLogger(__name__)
MEASURED_QUERIES = 1 << 16
"""Output pixels of the crop on which the deviation is measured: the file computes them in one call."""


def write_vs_mlrt(
    bundle: Bundle, scale: int, path: Path, *, pictures: Mapping[str, Frame] | None = None, overwrite: bool = False
) -> dict[str, Difference]:
    """Write the fused graph; return each calibration picture's deviation from the runtime with its own statistics.

    `pictures` are frames by name, instead of the package's samples. Both outputs are clamped to [0, 1]; they are
    compared on the middle of each picture. For a bundle with reference bits the deviation includes that of the exact
    rule, which the file follows. Raises ScaleError, OptionError for an existing file, FrameError; after any failure no
    file is written.
    """
    if not isinstance(scale, int) or scale < 1:
        raise ScaleError(f"scale {scale}: a file for vs-mlrt has one whole-number scale of at least 1")
    if path.exists() and not overwrite:
        raise OptionError(f"{path} exists already; choose another name or add --overwrite")
    frames = dict(pictures) if pictures is not None else {name: sample(name) for name in SAMPLES}
    if not frames:
        raise OptionError("no calibration picture was given; leave the option out to take the package's samples")
    for frame in frames.values():
        check_frame(frame)
    logger.debug("taking statistics at x%d from %s", scale, ", ".join(frames))
    folded = calibrate(bundle, scale, frames)
    metadata = describe(bundle, scale, frames)
    model = fused_graph(bundle, scale, folded, metadata)
    found = compare(bundle, scale, model.SerializeToString(), frames)
    for name, difference in found.items():
        logger.debug(
            "%s: %.1f dB from the runtime's output, at most %.4f of white", name, difference.psnr, difference.largest
        )
    deviations = {name: asdict(difference) for name, difference in found.items()}
    onnx.helper.set_model_props(model, {**metadata, "hiif.deviation": json.dumps(deviations)})
    try:
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
        write_file(path, model.SerializeToString())
    except OSError as error:
        raise EngineError(f"{path}: cannot be written ({error.strerror})") from error
    return found


def calibrate(bundle: Bundle, scale: int, frames: Mapping[str, Frame]) -> Tensors:
    """Return the decoder's folded attention by input name, averaged over frames [h, w, 3]; bits by the exact rule."""
    found: list[Tensors] = []
    decoder = replace(bundle.contract.decoder, bits="exact")
    exact = replace(bundle, contract=replace(bundle.contract, decoder=decoder))
    with Upscaler(exact, engine="onnxruntime") as upscaler:
        for frame in frames.values():
            features = upscaler.encode(frame)
            size = (features.size[0] * scale, features.size[1] * scale)
            found.append(upscaler.statistics(features, size).folded)
    # Folding is affine in the mean of KᵀV, so the mean of the folded matrices is the folded mean.
    means = {name: np.mean([one[name] for one in found], axis=0, dtype=np.float64) for name in found[0]}
    return {name: np.asarray(mean, dtype=np.float32) for name, mean in means.items()}


def describe(bundle: Bundle, scale: int, frames: Mapping[str, Frame]) -> dict[str, str]:
    """Return the file's metadata for users: limits and settings, and the names of the frames [h, w, 3]."""
    encoder = bundle.contract.encoder
    multiple, field = encoder.size_multiple, encoder.receptive_field
    overlap = (
        "unbounded: overlapping tiles differ slightly" if field is None else str(field + bundle.contract.decoder.halo)
    )
    return {
        "hiif.model": bundle.contract.name,
        "hiif.scale": str(scale),
        "hiif.bits": "exact",
        "hiif.calibration": ", ".join(frames),
        "hiif.size_multiple": f"height and width of the input must be multiples of {multiple}",
        "hiif.overlap": f"{overlap} (input pixels that tiles must overlap so that no seam shows)",
        "hiif.precision": "float32: leave vs-mlrt's fp16 off, which rounds positions between pixels",
        "hiif.memory": "all output pixels are computed at once: choose vs-mlrt's tilesize by the memory of the GPU",
    }


def compare(bundle: Bundle, scale: int, model: bytes, frames: Mapping[str, Frame]) -> dict[str, Difference]:
    """Compare the fused model in ONNX Runtime with the runtime, on the middle of each frame [h, w, 3]."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    options.log_severity_level = 3
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    found = {}
    with Upscaler(bundle, engine="onnxruntime") as upscaler:
        for name, frame in frames.items():
            image = middle(to_unit(frame), scale, bundle.contract.encoder.size_multiple)
            size = (image.shape[0] * scale, image.shape[1] * scale)
            expected = upscaler.render_unclamped(upscaler.encode(image), size=size).clip(0, 1)
            (output,) = session.run(["output"], {"input": np.ascontiguousarray(image.transpose(2, 0, 1)[None])})
            found[name] = measure(output[0].transpose(1, 2, 0), expected)
    return found


def middle(image: NDArray[np.float32], scale: int, multiple: int) -> NDArray[np.float32]:
    """Crop the middle [h, w, 3] with sides that are multiples of `multiple` and at most MEASURED_QUERIES output
    pixels."""
    side = max(multiple, int(MEASURED_QUERIES**0.5) // scale // multiple * multiple)
    height, width = (min(side, length // multiple * multiple) for length in image.shape[:2])
    if height == 0 or width == 0:
        raise OptionError(
            f"calibration picture of {image.shape[1]}x{image.shape[0]} pixels: this encoder needs {multiple}x{multiple}"
        )
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]
