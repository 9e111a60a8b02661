"""The seam that every decoder is exported through: which graphs, and what the runtime must know of them.

A form turns a model into graphs that are joined by names (design/decoders.md):

    encoder        image → features
    maps           features of a tile with a halo → one row of values per source pixel, under any names; first `map_0`
    statistics_n   maps, geometry, what earlier folds gave → sums over the queries of the call, float64 between calls
    fold_n         those sums and their count → inputs of later graphs
    decoder        maps, geometry, what the folds gave → colour [queries, 3]

A form may give further decoders, each of which reads features four times larger (`hiif_deploy.decoding.cascade`):

    maps_n         features of that size → as maps
    decoder_n      maps, geometry, `before`, what the decoder before answered → colour

A form may give stages besides, which do the same and let a pass go on from what the one before it computed:

    first          maps, geometry → state_0, one row per query
    sums_n         state_n → what statistics_n answers
    mix_n          state_n, what fold_n gave → state_(n + 1)
    tail           the last state, what the last fold gave, geometry → colour

Geometry are the axis tables and `cell`: a graph is given those of `GEOMETRY_INPUTS` (`hiif_deploy.bundle.contract`)
that it names.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hiif_deploy.bundle.contract import DecoderContract, EncoderContract, Normalisation, Precision
from hiif_deploy.errors import OptionError
from hiif_export.graphs.graph import Graph
from hiif_export.graphs.precision import COMPUTE, typed_encoder
from hiif_training.models.implicit import ImplicitModel
from hiif_training.models.registry import decoder_named

Inputs = dict[str, tuple[Tensor, tuple[str | int, ...]]]
"""Input name → an example and its shape, as `Graph` takes them."""
Shapes = dict[str, tuple[str | int, ...]]
"""Output name → its shape."""


class DecoderForm(ABC):
    """A model as it is deployed: equal to the plain module up to rounding, and cheaper."""

    precisions: ClassVar[tuple[Precision, ...]] = ("fp32", "fp16")
    """What the graphs can be written in."""

    def __init__(self, model: Any) -> None:
        """`model` is the `ImplicitModel` whose registry entry names this class."""
        self.model = model

    @abstractmethod
    def maps_graph(self, precision: Precision) -> Graph:
        """Everything that needs no query, per source pixel."""

    @abstractmethod
    def decoder_graph(self, precision: Precision) -> Graph:
        """The colours of a rectangle of queries."""

    @abstractmethod
    def contract(self) -> DecoderContract:
        """How the runtime must ask; `skip` and `clips_cell` are the model's traits."""

    def encoder_graph(self, precision: Precision) -> Graph:
        """What needs the whole picture; by default the encoder itself."""
        return encoder_graph(self.model, precision)

    def statistics_graphs(self, precision: Precision) -> list[Graph]:
        """`statistics_n` in order, for decoders whose queries depend on each other."""
        del precision
        return []

    def fold_graphs(self) -> list[Graph]:
        """`fold_n` in order, float64, shared by all precisions."""
        return []

    def stage_graphs(self) -> list[Graph]:
        """Statistics and decoder once more, cut where passes meet (`decoding.staged`), fp32; none by default."""
        return []

    def encoder_contract(self) -> EncoderContract:
        """Of `encoder_graph`."""
        encoder = self.model.encoder
        return EncoderContract(
            channels=encoder.out_channels,
            receptive_field=encoder.receptive_field,
            size_multiple=encoder.size_multiple,
            memory_channels=encoder.memory_channels,
        )

    def normalisation(self) -> Normalisation:
        """Of the picture going in and the colours coming out."""
        return Normalisation(self.model.traits.mean, self.model.traits.std)

    def graphs(self, precision: Precision = "fp32") -> list[Graph]:
        """In the order of use; the folds belong to fp32's graphs alone. OptionError for a precision it lacks."""
        if precision not in self.precisions:
            raise OptionError(
                f"this decoder cannot be written in {precision}, only in {', '.join(self.precisions)}: "
                f"leave {precision} out of --precision"
            )
        graphs = [self.encoder_graph(precision), self.maps_graph(precision)]
        folds = self.fold_graphs() if precision == "fp32" else []
        for n, statistics in enumerate(self.statistics_graphs(precision)):
            graphs += [statistics, *folds[n : n + 1]]
        return [*graphs, self.decoder_graph(precision)]


def make_form(model: ImplicitModel, spec: Mapping[str, Any]) -> DecoderForm:
    """The export form of the model that `spec` describes, by the table of decoders."""
    return form_of(spec)(model)


def form_of(spec: Mapping[str, Any]) -> type[DecoderForm]:
    """The class of that form; CheckpointError with the list of known names."""
    module, _, name = decoder_named(spec).form.partition(":")
    form: type[DecoderForm] = getattr(importlib.import_module(module), name)
    return form


def encoder_graph(model: ImplicitModel, precision: Precision = "fp32") -> Graph:
    """image (float32) → features, any size that is a multiple of the encoder's."""
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
        features: Tensor = self.encoder(image.to(self.compute))
        return features


def features_input(channels: int, precision: Precision) -> Inputs:
    """What every maps graph reads: a tile's features and its halo."""
    features = torch.zeros(1, channels, 6, 9, dtype=COMPUTE[precision])
    return {"features": (features, (1, channels, "tile_height", "tile_width"))}


def map_input(name: str, width: int, dtype: torch.dtype, pixels: int = 20) -> Inputs:
    """One map: `width` values for each source pixel of a tile, row-major."""
    return {name: (torch.ones(pixels, width, dtype=dtype), ("pixels", width))}


def axis_inputs(name: str, values: int, dtype: torch.dtype = torch.float32, rows: int = 5, columns: int = 7) -> Inputs:
    """`row_NAME` [values, rows, 1] and `column_NAME` [values, 1, columns]; see `decode.geometry_inputs`."""
    make = torch.zeros if dtype == torch.int32 else torch.ones
    return {
        f"row_{name}": (make(values, rows, 1, dtype=dtype), (values, "rows", 1)),
        f"column_{name}": (make(values, 1, columns, dtype=dtype), (values, 1, "columns")),
    }


def cell_input() -> Inputs:
    """Size of an output pixel relative to a source pixel, times two: (row, column)."""
    return {"cell": (torch.ones(2), (2,))}


def shapes(inputs: Inputs) -> Shapes:
    """The same tensors as outputs of an earlier graph."""
    return {name: shape for name, (_, shape) in inputs.items()}
