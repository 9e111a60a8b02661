"""The graphs of a HIIF bundle: which modules, which named tensors, which dynamic axes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hiif_deploy.contract import Precision
from hiif_export.graph import Graph
from hiif_export.hiif_modules import Decoder, Fold, Maps
from hiif_export.hiif_stages import First, Mix, Tail, key_value
from hiif_export.precision import COMPUTE, typed, typed_encoder
from hiif_training.models.hiif import Hiif

Inputs = dict[str, tuple[Tensor, tuple[str | int, ...]]]
Shapes = dict[str, tuple[str | int, ...]]


def hiif_graphs(model: Hiif, precision: Precision = "fp32") -> list[Graph]:
    """Encoder, maps, a statistics and a fold graph per attention block, decoder.

    Folds are float64 and belong to fp32's graphs alone: every precision shares them.
    """
    graphs = [encoder_graph(model, precision), _maps_graph(model, precision)]
    for n in range(model.config.attention_blocks):
        graphs.append(_statistics_graph(model, n, precision))
        if precision == "fp32":
            graphs.append(_fold_graph(model, n))
    return [*graphs, _decoder_graph(model, precision)]


def hiif_stages(model: Hiif) -> list[Graph]:
    """The statistics and decoder graphs once more, cut where passes meet (fp32): what was computed for one pass can be
    kept for the next, and each part can run in an arithmetic of its own."""
    blocks, config = model.config.attention_blocks, model.config
    states = [config.mlp_dim, *[config.hidden_dim] * blocks]

    def state(n: int) -> Inputs:
        return {f"state_{n}": (torch.ones(35, states[n]), ("queries", states[n]))}

    def graph(name: str, module: nn.Module, inputs: Inputs, outputs: Shapes) -> Graph:
        return Graph(name, typed(module, torch.float32), inputs, outputs, {})

    def shapes(inputs: Inputs) -> Shapes:
        return {name: shape for name, (_, shape) in inputs.items()}

    inputs = {**_map_inputs(model, torch.float32), **_geometry_inputs(model)}
    found = [graph("first", First(model), inputs, shapes(state(0)))]
    for n in range(blocks):
        found.append(graph(f"sums_{n}", key_value(model, n), state(n), shapes(_sums(model))))
        if n + 1 < blocks:
            inputs = {**state(n), **_folded(model, n, torch.float32)}
            found.append(graph(f"mix_{n}", Mix(model, n), inputs, shapes(state(n + 1))))
    last = max(0, blocks - 1)
    inputs = {**state(last), **_position_inputs(model)}
    if blocks:
        inputs |= _folded(model, last, torch.float32)
    return [*found, graph("tail", Tail(model), inputs, {"colour": ("queries", 3)})]


def encoder_graph(model: Hiif, precision: Precision = "fp32") -> Graph:
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


def _maps_graph(model: Hiif, precision: Precision) -> Graph:
    channels, compute = model.freq.in_channels, COMPUTE[precision]
    features = torch.zeros(1, channels, 6, 9, dtype=compute)
    return Graph(
        "maps",
        typed(Maps(model), compute),
        {"features": (features, (1, channels, "tile_height", "tile_width"))},
        {name: shape for name, (_, shape) in _map_inputs(model, compute).items()},
        {},
        precision,
    )


def _statistics_graph(model: Hiif, n: int, precision: Precision) -> Graph:
    compute = COMPUTE[precision]
    outputs = {name: shape for name, (_, shape) in _sums(model).items()}
    module = typed(Decoder(model, n, compute), compute)
    return Graph(f"statistics_{n}", module, _decoder_inputs(model, n, compute), outputs, {}, precision)


def _decoder_graph(model: Hiif, precision: Precision) -> Graph:
    compute = COMPUTE[precision]
    outputs: Shapes = {"colour": ("queries", 3)}
    module = typed(Decoder(model, None, compute), compute)
    inputs = _decoder_inputs(model, model.config.attention_blocks, compute)
    return Graph("decoder", module, inputs, outputs, {}, precision)


def _fold_graph(model: Hiif, n: int) -> Graph:
    count = torch.ones(1, dtype=torch.float64)
    outputs = {name: shape for name, (_, shape) in _folded(model, n, torch.float32).items()}
    inputs: Inputs = {**_sums(model), "count": (count, (1,))}
    return Graph(f"fold_{n}", Fold(model.attention[n]).eval(), inputs, outputs, {})


def _decoder_inputs(model: Hiif, applied: int, compute: torch.dtype) -> Inputs:
    folded = {name: value for n in range(applied) for name, value in _folded(model, n, compute).items()}
    return {**_map_inputs(model, compute), **_geometry_inputs(model), **folded}


def _map_inputs(model: Hiif, compute: torch.dtype, pixels: int = 20) -> Inputs:
    width = model.config.mlp_dim
    maps: Inputs = {f"map_{k}": (torch.zeros(pixels, width, dtype=compute), ("pixels", width)) for k in range(4)}
    return {**maps, "moments": (torch.ones(pixels, 2), ("pixels", 2))}


def _geometry_inputs(model: Hiif, rows: int = 5, columns: int = 7) -> Inputs:
    taps = {"row_tap": _int(2, rows, 1), "column_tap": _int(2, 1, columns)}
    distances = {"row_distance": torch.ones(2, rows, 1), "column_distance": torch.ones(2, 1, columns)}
    return {**_axes({**taps, **distances}), **_position_inputs(model, rows, columns), "cell": (torch.ones(2), (2,))}


def _position_inputs(model: Hiif, rows: int = 5, columns: int = 7) -> Inputs:
    if model.config.hierarchy == "coordinates":
        return _axes({"row_local": torch.ones(1, rows, 1), "column_local": torch.ones(1, 1, columns)})
    levels = model.config.levels
    return _axes({"row_bits": _int(levels, rows, 1), "column_bits": _int(levels, 1, columns)})


def _axes(tensors: dict[str, Tensor]) -> Inputs:
    return {
        name: (t, (t.shape[0], "rows", 1) if name.startswith("row") else (t.shape[0], 1, "columns"))
        for name, t in tensors.items()
    }


def _folded(model: Hiif, n: int, compute: torch.dtype) -> Inputs:
    width = model.config.hidden_dim
    return {
        f"attention_{n}_weight": (torch.zeros(width, width, dtype=compute), (width, width)),
        f"attention_{n}_bias": (torch.zeros(width, dtype=compute), (width,)),
    }


def _sums(model: Hiif) -> Inputs:
    heads = model.config.heads
    size = model.config.hidden_dim // heads
    return {
        "outer": (torch.zeros(heads, size, size, dtype=torch.float64), (heads, size, size)),
        "key": (torch.zeros(heads, size, dtype=torch.float64), (heads, size)),
        "value": (torch.zeros(heads, size, dtype=torch.float64), (heads, size)),
    }


def _int(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.int32)
