"""The graphs of a HIIF bundle: which modules, which named tensors, which dynamic axes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hiif_export.graph import Graph
from hiif_export.hiif_modules import Decoder, Fold, Maps
from hiif_training.models.hiif import Hiif

Inputs = dict[str, tuple[Tensor, tuple[str | int, ...]]]
Shapes = dict[str, tuple[str | int, ...]]


def hiif_graphs(model: Hiif) -> list[Graph]:
    """Encoder, maps, a statistics and a fold graph per attention block, decoder: all float32 but the folds."""
    graphs = [encoder_graph(model), _maps_graph(model)]
    for n in range(model.config.attention_blocks):
        graphs += [_statistics_graph(model, n), _fold_graph(model, n)]
    outputs: Shapes = {"colour": ("queries", 3)}
    module = Decoder(model).float().eval()
    return [*graphs, Graph("decoder", module, _decoder_inputs(model, module.applied), outputs, {})]


def encoder_graph(model: Hiif) -> Graph:
    """image → features, any size that is a multiple of the encoder's."""
    multiple = model.encoder.size_multiple
    side = 3 * max(multiple, 4)
    image = torch.zeros(1, 3, side, side + 2 * multiple)
    return Graph(
        "encoder",
        _Encoder(model.encoder).eval(),
        {"image": (image, (1, 3, "height", "width"))},
        {"features": (1, model.encoder.out_channels, "height", "width")},
        {"height": multiple, "width": multiple},
    )


class _Encoder(nn.Module):
    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, image: Tensor) -> Tensor:
        features: Tensor = self.encoder(image)
        return features


def _maps_graph(model: Hiif) -> Graph:
    channels = model.freq.in_channels
    features = torch.zeros(1, channels, 6, 9)
    return Graph(
        "maps",
        Maps(model).float().eval(),
        {"features": (features, (1, channels, "tile_height", "tile_width"))},
        {name: shape for name, (_, shape) in _map_inputs(model).items()},
        {},
    )


def _statistics_graph(model: Hiif, n: int) -> Graph:
    module = Decoder(model, block=n).float().eval()
    outputs = {name: shape for name, (_, shape) in _sums(model).items()}
    return Graph(f"statistics_{n}", module, _decoder_inputs(model, n), outputs, {})


def _fold_graph(model: Hiif, n: int) -> Graph:
    count = torch.ones(1, dtype=torch.float64)
    outputs = {name: shape for name, (_, shape) in _folded(model, n).items()}
    inputs: Inputs = {**_sums(model), "count": (count, (1,))}
    return Graph(f"fold_{n}", Fold(model.attention[n]).eval(), inputs, outputs, {})


def _decoder_inputs(model: Hiif, applied: int) -> Inputs:
    folded = {name: value for n in range(applied) for name, value in _folded(model, n).items()}
    return {**_map_inputs(model), **_geometry_inputs(model), **folded}


def _map_inputs(model: Hiif, pixels: int = 20) -> Inputs:
    maps: Inputs = {
        f"map_{k}": (torch.zeros(pixels, model.config.mlp_dim), ("pixels", model.config.mlp_dim)) for k in range(4)
    }
    return {**maps, "moments": (torch.ones(pixels, 2), ("pixels", 2))}


def _geometry_inputs(model: Hiif, rows: int = 5, columns: int = 7) -> Inputs:
    taps = {"row_tap": _int(2, rows, 1), "column_tap": _int(2, 1, columns)}
    distances = {"row_distance": torch.ones(2, rows, 1), "column_distance": torch.ones(2, 1, columns)}
    if model.config.hierarchy == "coordinates":
        position = {"row_local": torch.ones(1, rows, 1), "column_local": torch.ones(1, 1, columns)}
    else:
        levels = model.config.levels
        position = {"row_bits": _int(levels, rows, 1), "column_bits": _int(levels, 1, columns)}
    tensors = {**taps, **distances, **position}
    shapes = {
        name: (t.shape[0], "rows", 1) if name.startswith("row") else (t.shape[0], 1, "columns")
        for name, t in tensors.items()
    }
    return {**{name: (t, shapes[name]) for name, t in tensors.items()}, "cell": (torch.ones(2), (2,))}


def _folded(model: Hiif, n: int) -> Inputs:
    width = model.config.hidden_dim
    return {
        f"attention_{n}_weight": (torch.zeros(width, width), (width, width)),
        f"attention_{n}_bias": (torch.zeros(width), (width,)),
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
