"""LTE and LTE+ restructured for deployment: equal to `hiif_training.models.lte` up to rounding.

Amplitudes and frequencies are maps for both models; row frequencies stand before column frequencies and are multiplied
by π. The last layer is applied once to the average of the corners. There is no larger exact gain (design/decoders.md).
"""

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, embedding, relu

from hiif_deploy.bundle.contract import DecoderContract
from hiif_export.decoders.corner_network import copied, network_after_first
from hiif_export.graphs.corners import corner_pixels, corner_relatives, corner_weights
from hiif_export.graphs.exporter import DecoderExporter, Inputs, map_input
from hiif_export.graphs.precision import wide
from hiif_training.models.lte import Waves


class LteMaps(nn.Module):
    """Amplitudes and frequencies of every pixel."""

    frequency: Tensor
    shift: Tensor

    def __init__(self, model: Waves) -> None:
        super().__init__()
        self.amplitude = nn.Conv2d(model.coef.in_channels, model.config.width, 3)
        self.amplitude.load_state_dict(model.coef.state_dict())
        order, bias = model.frequency_order, cast(Tensor, model.freq.bias)
        self.register_buffer("frequency", math.pi * model.freq.weight.detach().double()[order])
        self.register_buffer("shift", math.pi * bias.detach().double()[order])

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features [1, C, b + 2, w + 2] of b × w pixels and a halo of one → amplitudes and frequencies [b·w, M],
        row-major."""
        both = self.amplitude(features), conv2d(wide(features), self.frequency, self.shift)
        amplitude, frequency = (maps.flatten(2).transpose(1, 2)[0] for maps in both)
        return amplitude, frequency


class LteDecoder(nn.Module):
    """Maps and geometry → colours without the skip."""

    phase: Tensor

    def __init__(self, model: Waves) -> None:
        super().__init__()
        self.waves = model.config.width // 2
        self.register_buffer("phase", math.pi * model.phase.weight.detach().double().T.contiguous())
        self.first = copied(model.network[0])
        self.network = network_after_first(model.network)

    def forward(
        self, map_0: Tensor, map_1: Tensor, row_tap: Tensor, column_tap: Tensor, row_distance: Tensor,
        column_distance: Tensor, row_relative: Tensor, column_relative: Tensor, cell: Tensor,
    ) -> Tensor:  # fmt: skip
        """Maps [P, M] and axis tables → colours [R·W, 3] of R × W queries, row-major, without the skip.

        Taps (int32), distances and relative positions [2, R, 1] and [2, 1, W], `cell` [2].
        """
        pixels = corner_pixels(row_tap, column_tap)
        places = corner_relatives(row_relative, column_relative)
        weights = corner_weights(row_distance, column_distance)
        phase = cell @ self.phase
        size = (row_tap.shape[1], column_tap.shape[2], self.waves)
        rows = []
        for k in range(4):
            frequency = embedding(pixels[k], map_1)
            row, column = frequency[:, : self.waves].reshape(size), frequency[:, self.waves :].reshape(size)
            angle = (row * places[k][0] + column * places[k][1] + phase).flatten(0, 1)
            waves = torch.cat([angle.cos(), angle.sin()], dim=1)
            rows.append(relu(self.first((wide(embedding(pixels[k], map_0)) * waves).to(map_0.dtype))))
        colours: Tensor = self.network(rows, weights)
        return colours


class LteExporter(DecoderExporter):
    """LTE and LTE+: two maps, no statistics."""

    model: Waves
    maps_module, decoder_module = LteMaps, LteDecoder

    def maps(self, compute: torch.dtype) -> Inputs:
        """Amplitudes and frequencies per pixel."""
        width = self.model.config.width
        # An angle of many turns keeps no fraction in half precision.
        return {**map_input("map_0", width, compute), **map_input("map_1", width, torch.float32)}

    def contract(self) -> DecoderContract:
        """Contract of a decoder with independent queries and two maps."""
        width, hidden = self.model.config.width, self.model.config.hidden
        return self.make_contract(halo=1, map_channels=2 * width, query_channels=8 * max(width, *hidden))
