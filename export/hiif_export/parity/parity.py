"""Compares a bundle's pictures with PyTorch's: the measure that every export must pass."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hiif_deploy.bundle.contract import Contract
from hiif_deploy.decoding.compose import normalise
from hiif_deploy.geometry.sizes import Scale, output_size, padded_size
from hiif_deploy.images.samples import SAMPLES, sample
from hiif_deploy.pixels import mirror, to_unit
from hiif_deploy.rendering.verify import TOLERANCES, Difference, Tolerance, check_difference, measure
from hiif_deploy.upscaler import Upscaler
from hiif_training.models.implicit import ImplicitModel

Array = NDArray[np.float32]

SIZES = ((1, 1), (7, 5), (33, 2), (16, 24))
"""Source sizes: the smallest, odd, tall, ordinary."""
SCALES: tuple[Scale, ...] = (1.0, 1.37, 2.0, 3.3, 4.0, 8.0, 12.0, (1.5, 2.75))
"""Scale factors: dyadic ones lie on rounding edges of the bits; the last one is anisotropic."""


@dataclass(frozen=True)
class Case:
    """One picture to upscale to one output size."""

    picture: str
    """Name of the sample picture."""
    image: NDArray[np.uint8]
    """RGB picture [h, w, 3], values 0 to 255."""
    target: tuple[int, int]
    """(height, width) of the output."""


@dataclass(frozen=True)
class Deviation:
    """Deviation of one case from PyTorch."""

    picture: str
    """Name of the sample picture."""
    source: tuple[int, int]
    """(height, width) of the picture."""
    target: tuple[int, int]
    """(height, width) of the output."""
    features: float
    """Largest absolute difference of the encoder's features."""
    colours: float
    """Largest absolute difference of the colours, 1 being white."""
    quantile: float
    """99.99th percentile of that difference."""
    psnr: float
    """PSNR of the colours in dB, at most 200."""


def cases(sizes: Sequence[tuple[int, int]] = SIZES, scales: Sequence[Scale] = SCALES) -> list[Case]:
    """Return crops of the sample pictures, every size at every scale; the pictures alternate."""
    found = []
    names = list(SAMPLES)
    for n, (size, scale) in enumerate(itertools.product(sizes, scales)):
        name = names[n % len(names)]
        image = sample(name)
        top, left = (image.shape[0] - size[0]) // 2, (image.shape[1] - size[1]) // 2
        crop = np.ascontiguousarray(image[top : top + size[0], left : left + size[1]])
        found.append(Case(name, crop, output_size(size, scale=scale)))
    return found


def compare(
    model: ImplicitModel, upscaler: Upscaler, suite: Iterable[Case], advance: Callable[[int], None] = lambda _: None
) -> list[Deviation]:
    """Compare the bundle with the PyTorch module on every case, both in float32 on the same bits."""
    found = []
    for case in suite:
        encoded = upscaler.encode(case.image)
        features = torch_features(model, upscaler.contract, case.image)
        colours = upscaler.render_unclamped(encoded, size=case.target)
        expected = torch_colours(model, upscaler.contract, case.image, features, case.target)
        source = (case.image.shape[0], case.image.shape[1])
        error = measure(np.asarray(encoded.encoded), features).largest
        found.append(Deviation(case.picture, source, case.target, error, *astuple(measure(colours, expected))))
        advance(1)
    return found


def torch_features(model: ImplicitModel, contract: Contract, image: NDArray[np.uint8]) -> Array:
    """Return PyTorch's features [C, h, w] of an RGB picture [h, w, 3], padded as the contract says."""
    height, width = image.shape[:2]
    padded = mirror(to_unit(image), padded_size((height, width), contract.encoder.size_multiple))
    with torch.no_grad():
        features = model.encode(torch.from_numpy(normalise(contract, padded)))
    return np.ascontiguousarray(features[0, :, :height, :width].numpy())


def torch_colours(
    model: ImplicitModel, contract: Contract, image: NDArray[np.uint8], features: Array, target: tuple[int, int]
) -> Array:
    """Decode `features` [C, h, w] of an RGB picture [h, w, 3] in PyTorch to unclamped colours [H, W, 3], 1 being white.

    All queries run in one call.
    """
    source = (image.shape[0], image.shape[1])
    queries = model.make_queries(source, target)
    network_input = torch.from_numpy(normalise(contract, to_unit(image)))
    with torch.no_grad():
        output = model.decode_with_skip(network_input, torch.from_numpy(features)[None], queries)
    return denormalised(contract, output, target)


def denormalised(contract: Contract, output: torch.Tensor, size: tuple[int, int]) -> NDArray[Any]:
    """Return network colours [1, N, 3] as [H, W, 3] of the same dtype, 1 being white."""
    colours, scale = output.numpy().reshape(*size, 3), contract.normalisation
    std, mean = (np.array(values, dtype=colours.dtype) for values in (scale.std, scale.mean))
    return np.asarray(colours * std + mean)


def check(found: Sequence[Deviation], tolerance: Tolerance = TOLERANCES["fp32"]) -> None:
    """Raise ParityError naming the first case beyond tolerance, and whether the encoder or the decoder deviates."""
    for case in found:
        where = "already in the encoder's features" if case.features > tolerance.largest else "in the decoder"
        hint = f"; the difference arises {where} (features differ by {case.features:.2e})"
        difference = Difference(case.colours, case.quantile, case.psnr)
        check_difference(f"colours of {case.picture} {case.source} → {case.target}", difference, tolerance, hint)
