"""The frozen contract of a bundle: everything the runtime must know of a model that its graphs do not say."""

import sys
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hiif_deploy.errors import BundleError
from hiif_deploy.geometry.grid import AxisRule, BitRule
from hiif_deploy.support.messages import shortened

FORMAT = "hiif-deploy bundle"
VERSION = 3
"""Raised when an older runtime could no longer read a bundle right; all earlier ones are read. 1 knew no precisions, 2
no decoder beside HIIF."""
MAX_COUNTS = {
    "statistics_passes": 64, "cascade": 8, "levels": 30, "halo": 16, "size_multiple": 256, "receptive_field": 4096,
    "channels": 1 << 12, "map_channels": 1 << 16, "query_channels": 1 << 18, "tile": 1 << 14, "tile_overlap": 1 << 13,
}  # fmt: skip
"""Largest counts: eight times those of published models and more, and few enough that no plan exceeds its memory."""
MAX_OTHER = 1 << 20
"""Of other counts, and of the sizes of a tensor."""
MAX_DIMENSIONS = 8
MAX_SCALE = 1000.0
MAX_NORMALISATION = 1e6
"""Means lie within ± this, standard deviations between this and its inverse."""

FIRST_STAGE = "first"
"""Maps and geometry → state 0 of the queries."""

Precision = Literal["fp32", "fp16"]
"""Of the features, the weights and the matrix products; what needs float32 has it in both."""

GEOMETRY_INPUTS = frozenset({
    "row_tap", "column_tap", "row_relative", "column_relative", "row_distance", "column_distance",
    "row_bits", "column_bits", "row_local", "column_local", "row_weight", "column_weight", "cell",
})  # fmt: skip
"""Names that the runtime fills from the axis tables; every other graph input comes from an earlier graph."""


ElementType = Literal["float16", "float32", "float64", "int32", "int64", "uint8", "uint16"]
"""Of a tensor; int64, uint8 and uint16 are those of the shared graphs (`decoding.shared_graphs`) alone."""


@dataclass(frozen=True)
class TensorContract:
    """One input or output of a graph."""

    name: str
    """As in the ONNX file."""
    dtype: ElementType
    """Element type."""
    shape: tuple[int | str, ...]
    """Sizes; a name marks a dynamic axis, and equal names agree within one call."""

    def __post_init__(self) -> None:
        sizes = [size for size in self.shape if isinstance(size, int)]
        if len(self.shape) > MAX_DIMENSIONS or not all(0 <= size <= MAX_OTHER for size in sizes):
            raise BundleError(
                f"tensor {shortened(self.name)} has shape {shortened(list(self.shape))}: expected at most "
                f"{MAX_DIMENSIONS} sizes of 0 to {MAX_OTHER}"
            )


@dataclass(frozen=True)
class GraphContract:
    """One ONNX file of a bundle: its tensors and hash."""

    name: str
    """encoder, maps, statistics_0, fold_0, …, decoder."""
    file: str
    """File name inside the bundle, without a folder."""
    sha256: str
    """Of the file, hexadecimal."""
    inputs: tuple[TensorContract, ...]
    """In the graph's order."""
    outputs: tuple[TensorContract, ...]
    """In the graph's order."""
    precision: Precision = "fp32"
    """The same graph may exist in several; fold graphs exist once."""

    @property
    def key(self) -> str:
        """Unique inside the bundle: `decoder`, `decoder.fp16`."""
        return self.name if self.precision == "fp32" else f"{self.name}.{self.precision}"

    @property
    def geometry(self) -> list[str]:
        """Names of the inputs that the axis tables fill."""
        return [tensor.name for tensor in self.inputs if tensor.name in GEOMETRY_INPUTS]


def joined(name: str, parts: Sequence[GraphContract]) -> GraphContract:
    """Graphs one behind the other as one: it reads what no earlier part makes, and has the outputs of the last one."""
    made: set[str] = set()
    inputs: dict[str, TensorContract] = {}
    for part in parts:
        inputs |= {tensor.name: tensor for tensor in part.inputs if tensor.name not in made}
        made |= {tensor.name for tensor in part.outputs}
    return GraphContract(name, parts[0].file, parts[0].sha256, tuple(inputs.values()), parts[-1].outputs)


@dataclass(frozen=True)
class EncoderContract:
    """How a picture is fed to the encoder."""

    channels: int
    """Channels of the features."""
    receptive_field: int | None
    """Source pixels that a feature sees to every side: tiles with that overlap are exact. None: no bound."""
    size_multiple: int
    """Both sides of the picture are padded (mirrored, to the right and below) to a multiple of this."""
    memory_channels: int
    """float32 values per source pixel alive at the encoder's peak, an upper estimate."""
    tile: int | None = None
    """Side of the tiles in which a larger picture is encoded, because cost grows with the square of the area."""
    tile_overlap: int = 0
    """Source pixels that those tiles share; their features are averaged there."""

    def __post_init__(self) -> None:
        _check_counts("encoder", self, channels=1, receptive_field=0, size_multiple=1, memory_channels=1)
        _check_counts("encoder", self, tile=1, tile_overlap=0)
        if self.tile is not None and self.tile_overlap >= self.tile:
            raise BundleError(f"encoder tile_overlap is {self.tile_overlap}: expected less than the tile, {self.tile}")


@dataclass(frozen=True)
class DecoderContract:
    """How the decoder is queried."""

    halo: int
    """Source pixels around a tile that the maps graph needs; zero beyond the picture."""
    statistics_passes: int
    """Number of passes over all queries of a picture before its colours; 0 for uncoupled decoders."""
    map_channels: int
    """Values per source pixel that the maps graph gives."""
    query_channels: int
    """float32 values per query alive at the decoder's peak, an upper estimate."""
    skip: Literal["bilinear", "none"]
    """What is added to the decoder's output: the bilinearly sampled picture, or nothing."""
    levels: int = 0
    """Levels of hierarchical bits in the axis tables."""
    bits: BitRule = "exact"
    """How those bits are computed."""
    axes: AxisRule = "corners"
    """Which source pixels a query reads, and its coordinates relative to them."""
    clips_cell: bool = True
    """Whether the published evaluation gives the decoder no smaller cell than it was trained on."""
    cascade: int = 1
    """How many decoders there are: each reads features four times larger, and the output of the one before."""

    def __post_init__(self) -> None:
        _check_counts("decoder", self, cascade=1)
        _check_counts("decoder", self, halo=0, statistics_passes=0, map_channels=1, query_channels=1, levels=0)


@dataclass(frozen=True)
class Normalisation:
    """Network domain = (x − mean) / std for x in [0, 1]."""

    mean: tuple[float, ...]
    """Per colour: red, green, blue."""
    std: tuple[float, ...]
    """Likewise; positive."""

    def __post_init__(self) -> None:
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise BundleError(f"normalisation {self}: expected three means and three positive standard deviations")
        is_sane = all(1 / MAX_NORMALISATION <= std <= MAX_NORMALISATION for std in self.std)
        if not is_sane or not all(abs(mean) <= MAX_NORMALISATION for mean in self.mean):
            raise BundleError(
                f"normalisation {self}: expected means up to ±{MAX_NORMALISATION:g} and standard deviations of "
                f"{1 / MAX_NORMALISATION:g} to {MAX_NORMALISATION:g}"
            )


@dataclass(frozen=True)
class TrainedFor:
    """Degradations that a model saw in the inputs of its training; neither: it was trained on clean pictures."""

    jpeg: tuple[float, float] | None = None
    """Range of the JPEG quality."""
    noise: tuple[float, float] | None = None
    """Range of the noise's standard deviation in 8-bit levels."""

    def __post_init__(self) -> None:
        for name, pair, least, most in (("jpeg", self.jpeg, 1, 100), ("noise", self.noise, 0, 255)):
            if pair is not None and not least <= pair[0] <= pair[1] <= most:
                raise BundleError(f"trained_for {name} is {list(pair)}: expected {least} ≤ low ≤ high ≤ {most}")


@dataclass(frozen=True)
class Contract:
    """The frozen contents of `bundle.json`."""

    format: str
    """Always `hiif-deploy bundle`."""
    version: int
    """Of the format."""
    name: str
    """Of the model, for people."""
    model: Mapping[str, Any]
    """`{name, args}` as in the checkpoint."""
    parameters: int
    """Weights of encoder and decoder together."""
    training_scales: tuple[float, float]
    """Range of scales seen in training."""
    normalisation: Normalisation
    """Of the picture going in and the colours coming out."""
    encoder: EncoderContract
    """How the encoder is fed."""
    decoder: DecoderContract
    """How the decoder is queried."""
    graphs: tuple[GraphContract, ...]
    """Every ONNX file."""
    reference: Mapping[str, str]
    """`file` and `sha256` of stored PyTorch outputs, an .npz."""
    provenance: Mapping[str, Any]
    """Where the weights come from, which versions exported them, and `trained_for` (see `TrainedFor`)."""
    parity: Mapping[str, Any]
    """Deviation from PyTorch measured at export."""

    def __post_init__(self) -> None:
        low, high = self.training_scales
        if not 1 <= low <= high <= MAX_SCALE:
            raise BundleError(f"training scales {low} to {high}: expected 1 ≤ low ≤ high ≤ {MAX_SCALE:g}")
        keys = [graph.key for graph in self.graphs]
        for precision in self.precisions:
            for key in expected_graphs(self.decoder.statistics_passes, precision, self.decoder.cascade):
                if keys.count(key) != 1:
                    raise BundleError(f"graph {key!r} occurs {keys.count(key)} times, expected once")
        stages = expected_stages(self.decoder.statistics_passes)
        if found := [keys.count(key) for key in stages if keys.count(key) != int(FIRST_STAGE in keys)]:
            raise BundleError(f"stages occur {found} times, expected each of {', '.join(stages)} once, or none")
        _ = self.trained_for  # Raises BundleError where it is malformed.

    @property
    def trained_for(self) -> TrainedFor:
        """Degradations that the model was trained for; bundles that do not record any count as trained on clean
        pictures."""
        value = self.provenance.get("trained_for", {})
        if isinstance(value, dict):
            # Later versions may record more kinds, which must not make the bundle unreadable.
            value = {field.name: value[field.name] for field in fields(TrainedFor) if field.name in value}
        found: TrainedFor = from_json(TrainedFor, value, "bundle.json.provenance.trained_for")
        return found

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """Precisions in which the graphs exist, fp32 first."""
        found = {graph.precision for graph in self.graphs} | {"fp32"}
        return tuple(precision for precision in get_args(Precision) if precision in found)

    def graph(self, name: str, precision: Precision = "fp32") -> GraphContract:
        """The graph of that name; fold graphs are the same in every precision. BundleError where it is missing."""
        wanted = "fp32" if is_fold(name) else precision
        for graph in self.graphs:
            if (graph.name, graph.precision) == (name, wanted):
                return graph
        raise BundleError(
            f"bundle {self.name} holds no {wanted} graph {name!r} (it has {', '.join(self.precisions)}); "
            f"export it again with --precision fp32,{wanted}"
        )

    def chain(self, precision: Precision = "fp32") -> dict[str, GraphContract]:
        """Graph name → the graph of that precision, in the order of use."""
        keys = expected_graphs(self.decoder.statistics_passes, precision, self.decoder.cascade)
        names = (key.partition(".")[0] for key in keys)
        return {name: self.graph(name, precision) for name in names}

    @property
    def stages(self) -> dict[str, GraphContract]:
        """Name → graph of the decoder cut into stages; empty where the bundle has none."""
        if all(graph.name != FIRST_STAGE for graph in self.graphs):
            return {}
        return {name: self.graph(name) for name in expected_stages(self.decoder.statistics_passes)}

    @property
    def last_pass(self) -> tuple[GraphContract, ...]:
        """Stages that lead from state 0 to colours, in order."""
        return tuple(graph for name, graph in self.stages.items() if name.startswith(("mix_", "tail")))


def expected_stages(statistics_passes: int) -> list[str]:
    """Names of a decoder's stages in the order of use: between statistics passes the queries' state is handed over."""
    passes = [f"{kind}_{n}" for n in range(statistics_passes) for kind in ("sums", "mix")]
    return [FIRST_STAGE, *passes[:-1], "tail"]


def expected_graphs(statistics_passes: int, precision: Precision = "fp32", cascade: int = 1) -> list[str]:
    """Keys of the graphs of a bundle in the order of use."""
    passes = [f"{kind}_{n}" for n in range(statistics_passes) for kind in ("statistics", "fold")]
    later = [f"{kind}_{n}" for n in range(1, cascade) for kind in ("maps", "decoder")]
    names = ["encoder", "maps", *passes, "decoder", *later]
    return names if precision == "fp32" else [n if is_fold(n) else f"{n}.{precision}" for n in names]


def is_fold(name: str) -> bool:
    """Whether a graph is one of the float64 ones that every precision shares."""
    return name.startswith("fold_")


def from_json(kind: Any, value: Any, where: str = "bundle.json") -> Any:
    """Build `kind` (a dataclass, or a type of one of its fields) from parsed JSON; BundleError says where it fails."""
    if is_dataclass(kind) and isinstance(kind, type):
        return _dataclass_from_json(kind, value, where)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is tuple and isinstance(value, list):
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(kinds) == len(value):
            return tuple(from_json(k, v, f"{where}[{n}]") for n, (k, v) in enumerate(zip(kinds, value, strict=True)))
    elif origin is Literal and value in arguments:
        return value
    elif origin in (Union, types.UnionType):
        return _union_from_json(arguments, value, where)
    elif origin is Mapping and isinstance(value, dict):
        return {k: from_json(arguments[1], v, f"{where}.{k}") for k, v in value.items()}
    elif kind is Any or (kind is type(None) and value is None):
        return value
    elif kind is float and type(value) in (int, float) and abs(value) <= sys.float_info.max:
        return float(value)
    elif kind in (bool, int, str) and type(value) is kind:
        return value
    raise BundleError(f"{where} is {shortened(value)}: expected {_describe(kind)}")


def to_json(value: Any) -> Any:
    """Plain values for JSON, from which `from_json` reads the contract back."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    return value


def _dataclass_from_json(kind: type[Any], value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise BundleError(f"{where} is {shortened(value)}: expected an object")
    hints = get_type_hints(kind)
    known = {field.name: field for field in fields(kind)}
    missing = [n for n, f in known.items() if n not in value and f.default is MISSING]
    unknown = [n for n in value if n not in known]
    if missing or unknown:
        problem = f"lacks {', '.join(missing)}" if missing else f"has unknown {', '.join(map(repr, unknown))}"
        raise BundleError(f"{where} {problem}")
    return kind(**{name: from_json(hints[name], item, f"{where}.{name}") for name, item in value.items()})


def _union_from_json(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    for kind in kinds:
        try:
            return from_json(kind, value, where)
        except BundleError:
            continue
    raise BundleError(f"{where} is {shortened(value)}: expected {' or '.join(_describe(kind) for kind in kinds)}")


def _check_counts(section: str, contract: Any, **least: int) -> None:
    for name, low in least.items():
        value, high = getattr(contract, name), MAX_COUNTS.get(name, MAX_OTHER)
        if value is not None and not low <= value <= high:
            raise BundleError(f"{section} {name} is {shortened(value)}: expected {low} to {high}")


def _describe(kind: Any) -> str:
    if kind is float:
        return "a finite number"
    return kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")
