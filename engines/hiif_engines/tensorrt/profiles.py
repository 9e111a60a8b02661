"""Optimisation profiles: the sizes for which an engine is built."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from hiif_deploy.backends.tensorrt.graphs import shared_graphs
from hiif_deploy.bundle.contract import Contract, GraphContract, Precision, is_fold
from hiif_deploy.errors import OptionError
from hiif_deploy.geometry.target import parse_size

Shape = tuple[int, ...]

MAX_PIXELS = 1 << 22
"""Largest number of source pixels whose maps are one tensor: TensorRT's tensors are limited to 2³¹ elements."""
MAX_QUERIES = 1 << 20
"""Largest number of queries per call, likewise: `MAX_EXCESS` times as many values of 256 channels are below 2³¹."""
MAX_EXCESS = 4
"""How many times the queries of a call the largest rows and columns of its profile may hold together."""
MAPS_ROWS = 128
"""Largest number of source rows per call of the maps graph: its inner layers need 0.5 KB per pixel of scratch
memory. As many rows of any width are a multiple of the 256 bytes that TensorRT wants of the next call's addresses."""


@dataclass(frozen=True)
class ShapeRange:
    """Smallest, optimal and largest shape of one input."""

    min: Shape
    """Smallest size of every axis."""
    opt: Shape
    """Shape that TensorRT selects its kernels for."""
    max: Shape
    """Largest size of every axis."""


Profile = Mapping[str, ShapeRange]
"""Input name → range; every input of the graph is named."""


@dataclass(frozen=True)
class BuildSizes:
    """Picture sizes that a set of engines serves, and the block sizes of its calls."""

    max_input: tuple[int, int]
    """Largest (height, width) of one encoder call and of the cached maps; larger pictures are split."""
    opt_input: tuple[int, int]
    """(height, width) for which the encoder is optimised."""
    queries: int = 131072
    """Queries per decoder call: 4K takes 64 calls a pass. Fewer where memory is short (`backends.tensorrt.plan`)."""
    scale: float = 2.0
    """Scale for which the decoder is optimised; others work as well."""
    max_scale: float = 4.0
    """Scale up to which whole output rows of the widest picture fit one call; wider rows are split."""

    def __post_init__(self) -> None:
        if min(self.max_input) < 1 or any(o > m for o, m in zip(self.opt_input, self.max_input, strict=True)):
            raise OptionError(f"build sizes: opt input {self.opt_input} must lie within max input {self.max_input}")
        if min(self.opt_input) < 1 or max(self.max_input) > 1 << 15:
            raise OptionError(f"build sizes: inputs {self.opt_input}, {self.max_input}: expected sides of 1 to 32768")
        if not 256 <= self.queries <= MAX_QUERIES:
            raise OptionError(f"build sizes: {self.queries} queries per call: expected 256 to {MAX_QUERIES}")
        if not 1 <= self.scale <= self.max_scale <= 64:
            raise OptionError(f"build sizes: scales {self.scale} ≤ {self.max_scale}: expected 1 ≤ scale ≤ max ≤ 64")

    @property
    def columns(self) -> int:
        """Largest number of query columns per call."""
        return min(math.ceil(self.max_input[1] * self.max_scale), self.queries)

    @property
    def opt_columns(self) -> int:
        """Query columns per call at the scale and width that the decoder is optimised for."""
        return min(round(self.opt_input[1] * self.scale), self.columns)

    @property
    def rows(self) -> int:
        """Largest number of query rows per call: `queries` of the optimal width, and not far too many of the largest.

        The caller keeps rows × columns within the product of the optimal ones.
        """
        return max(1, min(self.queries // self.opt_columns, MAX_EXCESS * self.queries // self.columns))


PRESETS: dict[str, BuildSizes] = {
    "720p": BuildSizes(max_input=(720, 1280), opt_input=(720, 1280)),
    "1080p": BuildSizes(max_input=(1080, 1920), opt_input=(1080, 1920)),
    "4k": BuildSizes(max_input=(2160, 3840), opt_input=(2160, 3840), max_scale=2.0),
}
"""Name of the largest input size → build sizes."""


def parse_sizes(preset: str | None, max_input: str | None, queries: int | None, scale: float | None) -> BuildSizes:
    """Return the build sizes for a preset, or WIDTHxHEIGHT, with the given values replaced."""
    if preset is not None and preset not in PRESETS:
        raise OptionError(f"--preset {preset!r}: expected one of {', '.join(PRESETS)}")
    if preset is not None and max_input is not None:
        raise OptionError("--preset and --max-input exclude each other: give one of them")
    sizes = PRESETS[preset or "1080p"]
    if max_input is not None:
        size = parse_size("--max-input", max_input)
        sizes = BuildSizes(size, size)
    wanted = scale or sizes.scale
    return BuildSizes(
        sizes.max_input, sizes.opt_input, queries or sizes.queries, wanted, max(sizes.max_scale, wanted)
    )  # fmt: skip


def make_profiles(contract: Contract, precision: Precision, sizes: BuildSizes) -> dict[str, Profile]:
    """Return graph name → profile for every graph of a bundle that TensorRT runs (folds run on the CPU)."""
    axes = _axes(contract, sizes)
    chain = contract.chain(precision).items()
    return {name: _profile(graph, axes) for name, graph in chain if not is_fold(name)}


def make_shared_profiles(contract: Contract, sizes: BuildSizes) -> dict[str, Profile]:
    """Return graph name → profile for the shared graphs that convert a bundle's frames."""
    common, profiles = _axes(contract, sizes), {}
    for name, (graph, _) in shared_graphs().items():
        axes = {**common, "channels": (1, 3, 3)}
        if name.startswith("finish"):
            axes = _finish_axes(common, int(graph.outputs[0].shape[2]))
        profiles[name] = _profile(graph, axes)
    return profiles


def _axes(contract: Contract, sizes: BuildSizes) -> dict[str, tuple[int, int, int]]:
    """Return dynamic axis → its smallest, optimal and largest size."""
    multiple, halo = contract.encoder.size_multiple, 2 * contract.decoder.halo
    high, opt = ([-(-side // multiple) * multiple for side in s] for s in (sizes.max_input, sizes.opt_input))
    pixels = max(min(high[0] * high[1], MAX_PIXELS), 2 * high[1])
    return {
        "height": (multiple, opt[0], high[0]),
        "width": (multiple, opt[1], high[1]),
        "tile_height": (1 + halo, MAPS_ROWS // 2 + halo, MAPS_ROWS + halo),
        "tile_width": (1 + halo, opt[1] + halo, high[1] + halo),
        "pixels": (1, min(opt[0] * opt[1], pixels), pixels),
        "rows": (1, sizes.rows, sizes.rows),
        "columns": (1, sizes.opt_columns, sizes.columns),
    }


def _finish_axes(axes: Mapping[str, tuple[int, int, int]], channels: int) -> dict[str, tuple[int, int, int]]:
    """Return the dynamic axes of a `finish` graph. `height` and `width` are those of the frame, or of the part of it
    that a decoder tile reads, which may be two pixels larger than the tile."""
    (_, *rows), (_, *columns), (_, *height), (_, *width) = (axes[n] for n in ("rows", "columns", "height", "width"))
    return {
        **axes, "queries": (1, rows[0] * columns[0], rows[1] * columns[1]), "channels": (channels,) * 3,
        "height": (1, height[0], height[1] + 2), "width": (1, width[0], width[1] + 2),
    }  # fmt: skip


def _profile(graph: GraphContract, axes: Mapping[str, tuple[int, int, int]]) -> Profile:
    """Return a range for every input; inputs with an axis of one name agree, which TensorRT does not check."""
    return {
        tensor.name: ShapeRange(
            *(tuple(axes[a][n] if isinstance(a, str) else a for a in tensor.shape) for n in range(3))
        )
        for tensor in graph.inputs
    }
