"""A network that predicts from each corner and averages: its last layer is linear, so it runs once on the average."""

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from hiif_export.decoders.hiif_modules import linear
from hiif_export.graphs.precision import wide
from hiif_training.models.mlp import Mlp


class CornerNetwork(nn.Module):
    """The layers after the first: hidden layers for each corner, the last one for the weighted sum of the corners."""

    def __init__(self, hidden: list[nn.Linear], last: nn.Linear) -> None:
        super().__init__()
        self.hidden = nn.ModuleList(hidden)
        self.last = last

    def forward(self, rows: list[Tensor], weights: list[Tensor]) -> Tensor:
        """Four rows [N, M] after a ReLU and four weights [N, 1] that sum to 1 → colours [N, 3], float32 or wider."""
        total = torch.zeros(())
        for k, x in enumerate(rows):
            for layer in self.hidden:
                x = relu(layer(x))
            part = wide(x) * weights[k]
            total = part if k == 0 else total + part
        return wide(self.last(total.to(rows[0].dtype)))


def network_after_first(network: Mlp | nn.Sequential) -> CornerNetwork:
    """Return the layers after the first, of a network of linear layers with a ReLU between them."""
    layers = network.layers if isinstance(network, Mlp) else network
    found = [copied(layer) for layer in list(layers)[2::2]]
    return CornerNetwork(found[:-1], found[-1])


def copied(layer: nn.Module) -> nn.Linear:
    """Return a Linear with the weights of a linear layer or of a 1×1 convolution."""
    weight, bias = layer.get_parameter("weight").detach(), layer.get_parameter("bias").detach()
    return linear(weight.double().flatten(1), bias.double())
