"""The interface that every decoder is exported through: its graphs, and the contract that the runtime reads.

An exporter turns a model into graphs that are connected by the names of their tensors (design/decoders.md):

    encoder        image → features
    maps           features of a tile with a halo → one row of values per source pixel, under any names; first `map_0`
    statistics_n   maps, geometry, outputs of earlier folds → sums over the queries of the call, float64 between calls
    fold_n         those sums and their count → inputs of later graphs
    decoder        maps, geometry, outputs of the folds → colour [queries, 3]

An exporter may add decoders, each of which reads features four times larger (`hiif_deploy.decoding.cascade`):

    maps_n         features of that size → maps
    decoder_n      maps, geometry, `before`, the output of the previous decoder → colour

An exporter may add stages: equivalent graphs that let a pass continue from the state of the one before it:

    first          maps, geometry → state_0, one row per query
    sums_n         state_n → the outputs of statistics_n
    mix_n          state_n, outputs of fold_n → state_(n + 1)
    tail           the last state, outputs of the last fold, geometry → colour

Geometry means the axis tables and `cell`: a graph receives those of `GEOMETRY_INPUTS`
(`hiif_deploy.bundle.contract`) that it names as inputs.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hiif_deploy.bundle.contract import DecoderContract, EncoderContract, Normalisation, Precision
from hiif_deploy.errors import OptionError
from hiif_deploy.support.resolve import resolve
from hiif_export.graphs.graph import Graph
from hiif_export.graphs.precision import COMPUTE, typed, typed_encoder
from hiif_training.models.implicit import ImplicitModel
from hiif_training.models.registry import decoder_named

Inputs = dict[str, tuple[Tensor, tuple[str | int, ...]]]
"""Input name → an example and its shape, as `Graph` takes them."""
Shapes = dict[str, tuple[str | int, ...]]
"""Output name → its shape."""
COLOUR: Shapes = {"colour": ("queries", 3)}
"""Output of decoder graphs."""


class DecoderExporter(ABC):
    """A model as it is deployed: equal to the plain module up to rounding, and cheaper."""

    precisions: ClassVar[tuple[Precision, ...]] = ("fp32", "fp16")
    """Precisions that the graphs can be exported in."""
    maps_module: ClassVar[type[nn.Module]]
    """Class of the maps graph's module, made from the model: everything that needs no query, once per source pixel."""
    decoder_module: ClassVar[type[nn.Module]]
    """Class of the decoder graph's module, made from the model: the colours of a rectangle of queries."""

    def __init__(self, model: Any) -> None:
        """`model` is the `ImplicitModel` whose registry entry names this class."""
        self.model = model

    @abstractmethod
    def maps(self, compute: torch.dtype) -> Inputs:
        """Outputs of the maps graph, which the decoder graph reads; matrix products return `compute`."""

    @abstractmethod
    def contract(self) -> DecoderContract:
        """How the runtime must query the graphs (`make_contract`)."""

    def make_contract(self, **values: Any) -> DecoderContract:
        """Return a contract of `values`, without statistics passes by default, and of the model's traits."""
        traits = {"skip": self.model.traits.skip, "clips_cell": self.model.traits.clips_cell}
        return DecoderContract(**{"statistics_passes": 0, **traits, **values})

    def geometry(self) -> Inputs:
        """Geometry that the decoder graph reads; by default tables of the four corners, and the cell."""
        axes = {**axis_inputs("tap", 2, torch.int32), **axis_inputs("distance", 2), **axis_inputs("relative", 2)}
        return {**axes, **cell_input()}

    def maps_graph(self, precision: Precision, name: str = "maps", module: nn.Module | None = None) -> Graph:
        """Features → maps; `module` is that of a later stage."""
        inputs = features_input(self.encoder_contract().channels, precision)
        outputs = shapes(self.maps(COMPUTE[precision]))
        return make_graph(name, module or self.maps_module(self.model), inputs, outputs, precision)

    def decoder_graph(self, precision: Precision) -> Graph:
        """Maps and geometry → colours."""
        inputs = {**self.maps(COMPUTE[precision]), **self.geometry()}
        return make_graph("decoder", self.decoder_module(self.model), inputs, COLOUR, precision)

    def encoder_graph(self, precision: Precision) -> Graph:
        """Everything that needs the whole picture; by default the encoder itself."""
        return encoder_graph(self.model, precision)

    def statistics_graphs(self, precision: Precision) -> list[Graph]:
        """`statistics_n` in order, for decoders whose queries depend on each other."""
        del precision
        return []

    def fold_graphs(self) -> list[Graph]:
        """`fold_n` in order, float64, shared by all precisions."""
        return []

    def stage_graphs(self) -> list[Graph]:
        """Statistics and decoder split between passes (`decoding.staged`), fp32; none by default."""
        return []

    def encoder_contract(self) -> EncoderContract:
        """Return the contract of `encoder_graph`."""
        encoder = self.model.encoder
        return EncoderContract(
            channels=encoder.out_channels,
            receptive_field=encoder.receptive_field,
            size_multiple=encoder.size_multiple,
            memory_channels=encoder.memory_channels,
        )

    def normalisation(self) -> Normalisation:
        """Mean and standard deviation of the network's input and of its colours."""
        return Normalisation(self.model.traits.mean, self.model.traits.std)

    def graphs(self, precision: Precision = "fp32") -> list[Graph]:
        """Return all graphs in the order of use; folds exist in fp32 only. OptionError for an unsupported precision."""
        if precision not in self.precisions:
            raise OptionError(
                f"this decoder cannot be exported in {precision}, only in {', '.join(self.precisions)}: "
                f"leave {precision} out of --precision"
            )
        graphs = [self.encoder_graph(precision), self.maps_graph(precision)]
        folds = self.fold_graphs() if precision == "fp32" else []
        for n, statistics in enumerate(self.statistics_graphs(precision)):
            graphs += [statistics, *folds[n : n + 1]]
        return [*graphs, self.decoder_graph(precision)]


def make_graph(name: str, module: nn.Module, inputs: Inputs, outputs: Shapes, precision: Precision = "fp32") -> Graph:
    """Return a graph whose module is converted to the precision, in place."""
    return Graph(name, typed(module, COMPUTE[precision]), inputs, outputs, {}, precision)


def make_exporter(model: ImplicitModel, spec: Mapping[str, Any]) -> DecoderExporter:
    """Return the exporter of the model that `spec` describes."""
    return exporter_class(spec)(model)


def exporter_class(spec: Mapping[str, Any]) -> type[DecoderExporter]:
    """Return the exporter's class; CheckpointError for an unknown name, OptionError for a fixed-scale model."""
    place = decoder_named(spec).exporter
    if place is None:
        raise OptionError(
            f"{spec['name']}: a model of one scale becomes one graph, not a bundle: hiif-deploy export CHECKPOINT -o "
            "NAME.onnx"
        )
    exporter: type[DecoderExporter] = resolve(place)
    return exporter


def encoder_graph(model: ImplicitModel, precision: Precision = "fp32") -> Graph:
    """image (float32) → features, for any size that is a multiple of the encoder's."""
    multiple = model.encoder.size_multiple
    side = 3 * max(multiple, 4)
    image = torch.zeros(1, 3, side, side + 2 * multiple)
    return Graph(
        "encoder",
        _Encoder(model.encoder, COMPUTE[precision]).eval(),
        {"image": (image, (1, 3, "height", "width"))},
        {"features": (1, model.encoder.out_channels, "height", "width")},
        {"height": multiple, "width": multiple},
        precision,
    )


class _Encoder(nn.Module):
    def __init__(self, encoder: nn.Module, compute: torch.dtype) -> None:
        super().__init__()
        self.compute = compute
        self.encoder = typed_encoder(encoder, compute)

    def forward(self, image: Tensor) -> Tensor:
        """Picture [1, 3, h, w] float32 → features [1, C, h, w] in the graph's dtype."""
        features: Tensor = self.encoder(image.to(self.compute))
        return features


def features_input(channels: int, precision: Precision) -> Inputs:
    """Input of every maps graph: the features of a tile and its halo."""
    features = torch.zeros(1, channels, 6, 9, dtype=COMPUTE[precision])
    return {"features": (features, (1, channels, "tile_height", "tile_width"))}


def map_input(name: str, width: int, dtype: torch.dtype, pixels: int = 20) -> Inputs:
    """Input for one map: `width` values for each source pixel of a tile, row-major."""
    return {name: (torch.ones(pixels, width, dtype=dtype), ("pixels", width))}


def map_inputs(widths: Sequence[int], dtype: torch.dtype) -> Inputs:
    """Inputs `map_0`, `map_1`, … of these widths."""
    return {
        name: value for n, width in enumerate(widths) for name, value in map_input(f"map_{n}", width, dtype).items()
    }


def axis_inputs(name: str, values: int, dtype: torch.dtype = torch.float32, rows: int = 5, columns: int = 7) -> Inputs:
    """Inputs `row_NAME` [values, rows, 1] and `column_NAME` [values, 1, columns]
    (`decoding.queries.geometry_inputs`)."""
    make = torch.zeros if dtype == torch.int32 else torch.ones
    return {
        f"row_{name}": (make(values, rows, 1, dtype=dtype), (values, "rows", 1)),
        f"column_{name}": (make(values, 1, columns, dtype=dtype), (values, 1, "columns")),
    }


def cell_input() -> Inputs:
    """Input `cell`: size of an output pixel relative to a source pixel, times two, as (row, column)."""
    return {"cell": (torch.ones(2), (2,))}


def shapes(inputs: Inputs) -> Shapes:
    """Return the shapes of `inputs`, to declare them as outputs of an earlier graph."""
    return {name: shape for name, (_, shape) in inputs.items()}
