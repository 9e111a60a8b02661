"""CiaoSR restructured: equal to the plain module in float64, and fewer operations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from hiif_deploy.geometry.ciaosr_axis import ciaosr_axis
from hiif_deploy.geometry.grid import relative_cell
from hiif_export.decoders.ciaosr_modules import CiaosrDecoder, CiaosrMaps
from hiif_training.models.ciaosr import Ciaosr, CiaosrConfig
from hiif_training.models.encoders.edsr import Edsr, EdsrConfig
from hiif_training.queries.ciaosr import CiaosrQueries, ciaosr_queries

torch.set_num_threads(1)

Size = tuple[int, int]
CHANNELS, HALO = 6, 2
SIZES: list[tuple[Size, Size]] = [
    ((1, 1), (3, 4)),
    ((2, 1), (4, 1)),
    ((2, 3), (25, 31)),
    ((5, 7), (5, 7)),
    ((4, 6), (10, 15)),
    ((5, 7), (12, 31)),
]
"""(source, target): the smallest, a pixel of shift, ×1, ties of ×2.5, anisotropic."""


def make(**changes: Any) -> Ciaosr:
    """A float64 model whose random weights make every part matter."""
    torch.manual_seed(0)
    model = Ciaosr(Edsr(EdsrConfig(blocks=1, features=CHANNELS)), CiaosrConfig(**{"hidden": (12, 8), **changes}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.double().eval().requires_grad_(False)


def features_of(model: Ciaosr, source: Size) -> Tensor:
    image = torch.rand(1, 3, *source, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    return model.encode(image - 0.5)


def wide(queries: CiaosrQueries) -> CiaosrQueries:
    return CiaosrQueries(**{n: t.double() if t.is_floating_point() else t for n, t in vars(queries).items()})


def decoded(model: Ciaosr, features: Tensor, target: Size, part: slice = slice(None)) -> Tensor:
    """[N, 3] of some output rows, by the restructured modules."""
    source = (features.shape[2], features.shape[3])
    rows, columns = (ciaosr_axis(n, m) for n, m in zip(source, target, strict=True))
    row_tap, column_tap = (np.concatenate([axis.taps, axis.nearest[None]]) for axis in (rows, columns))
    taps = (row_tap[:, part, None] * source[1], column_tap[:, None])
    relative = (rows.relative[:, part, None], columns.relative[:, None])
    geometry = [torch.from_numpy(array) for array in (*taps, *relative, relative_cell(source, target))]
    maps = CiaosrMaps(model).double()(pad(features, (HALO, HALO, HALO, HALO)))
    geometry = [tensor.double() if tensor.is_floating_point() else tensor for tensor in geometry]
    colours: Tensor = CiaosrDecoder(model).double()(*maps, *geometry)
    return colours


@pytest.mark.parametrize("non_local", [True, False])
@pytest.mark.parametrize(("source", "target"), SIZES)
def test_every_size_equals_the_plain_module(source: Size, target: Size, non_local: bool) -> None:
    model = make(non_local=non_local)
    features = features_of(model, source)
    expected = model.decode(features, wide(ciaosr_queries(source, target)))[0]
    assert expected.std() > 0.01
    torch.testing.assert_close(decoded(model, features, target), expected, rtol=0, atol=1e-10)


def test_colours_of_some_rows_are_those_of_the_whole_picture() -> None:
    model = make()
    features = features_of(model, (5, 7))
    whole = decoded(model, features, (12, 18)).view(12, 18, 3)
    part = decoded(model, features, (12, 18), slice(4, 9)).view(5, 18, 3)
    torch.testing.assert_close(part, whole[4:9], rtol=0, atol=1e-12)


def test_maps_of_a_tile_are_those_of_the_whole_picture() -> None:
    model = make()
    features = pad(features_of(model, (9, 6)), (HALO, HALO, HALO, HALO))
    module = CiaosrMaps(model).double()
    for whole, tile in zip(module(features), module(features[:, :, 3:11]), strict=True):
        torch.testing.assert_close(tile, whole[3 * 6 : 7 * 6], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("channels", "share"), [(64, 0.59), (180, 0.44)])
def test_a_query_costs_41_percent_less_and_56_with_180_channels(channels: int, share: float) -> None:
    model = Ciaosr(Edsr(EdsrConfig(blocks=1, features=channels)), CiaosrConfig())
    plain = 4 * (multiplications(model.imnet_k) + multiplications(model.imnet_v)) + multiplications(model.imnet_q)
    decoder = CiaosrDecoder(model)
    networks = (decoder.key_hidden, decoder.value_hidden, decoder.value_last)
    restructured = 4 * (sum(map(multiplications, networks)) + 256) + multiplications(decoder.colour)
    assert restructured / plain == pytest.approx(share, abs=0.006)


def multiplications(network: nn.Module) -> int:
    return sum(layer.weight.numel() for layer in network.modules() if isinstance(layer, nn.Linear))
