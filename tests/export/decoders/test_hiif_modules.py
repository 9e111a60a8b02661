"""The restructured modules against the plain one, both in float64: equal up to rounding, for every variant."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hiif_deploy.geometry.grid import Axis, axis_table, relative_cell
from hiif_export.decoders.hiif_modules import Fold, HiifDecoder, HiifMaps
from hiif_export.graphs.corners import AREA_EPSILON, AREA_SCALE, corner_weights
from hiif_training.models.encoders.edsr import Edsr, EdsrConfig
from hiif_training.models.hiif import Hiif, HiifConfig
from hiif_training.queries.axis import CORNERS, Queries, grid_queries

torch.set_num_threads(1)

Size = tuple[int, int]

TOLERANCE = 1e-9
"""Of the largest colour; both sides compute in float64."""
SMALL: dict[str, Any] = {"heads": 2, "hidden_dim": 8, "mlp_dim": 12}
SIZES: list[tuple[Size, Size]] = [
    ((1, 1), (1, 1)),
    ((1, 1), (3, 4)),
    ((1, 6), (2, 31)),
    ((5, 7), (5, 7)),
    ((5, 7), (15, 21)),
    ((8, 8), (32, 32)),
    ((6, 4), (20, 11)),
    ((3, 11), (41, 13)),
]
"""(source, target): the smallest, one row, ×1 and ×3 on exact centres, dyadic, anisotropic."""
VARIANTS = [
    {"hierarchy": hierarchy, "projections": projections, "attention_blocks": blocks}
    for hierarchy, projections, blocks in itertools.product(("levels", "coordinates", "once"), (1, 2), (0, 1, 2, 3))
]


def make(**changes: Any) -> Hiif:
    """A float64 model with random weights of the size that training gives them."""
    torch.manual_seed(11)
    model = Hiif(Edsr(EdsrConfig(blocks=1, features=6)), HiifConfig(**{**SMALL, **changes})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter)) if parameter.dim() == 1 else parameter.mul_(1.5)
    return model.double().requires_grad_(False)


def features_of(model: Hiif, source: Size) -> Tensor:
    image = torch.rand(1, 3, *source, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    return model.encode(image * 2 - 1)


def axes(model: Hiif, source: Size, target: Size) -> tuple[Axis, Axis]:
    config = model.config
    rows, columns = (
        axis_table(n, m, levels=config.levels, bits=config.bits) for n, m in zip(source, target, strict=True)
    )
    return rows, columns


def wide_queries(model: Hiif, source: Size, target: Size) -> Queries:
    """The queries with area weights that were never rounded to float32."""
    rows, columns = axes(model, source, target)
    y, x = rows.distance.astype(np.float64), columns.distance.astype(np.float64)
    areas = np.stack([(y[a][:, None] * x[b] + float(np.float32(1e-9))).flatten() for a, b in CORNERS])
    weight = torch.from_numpy(areas[::-1] / areas.sum(0))[None]
    asked = grid_queries(source, target, levels=model.config.levels, bits=model.config.bits)
    return dataclasses.replace(asked.to(dtype=torch.float64), weight=weight)


class Restructured:
    """The modules of the graphs in float64, chained as the runtime chains them."""

    def __init__(self, model: Hiif, source: Size, target: Size) -> None:
        self.model = model
        self.maps = HiifMaps(model).double()(torch.nn.functional.pad(features_of(model, source), (1, 1, 1, 1)))
        self.rows, self.columns = axes(model, source, target)
        self.width = source[1]
        self.cell = torch.from_numpy(relative_cell(source, target)).double()

    def statistics(self, block: int, rows: slice, folded: list[Tensor]) -> tuple[Tensor, ...]:
        """Sums of attention block `block` over some output rows."""
        module = HiifDecoder(self.model, block=block).double()
        answer: tuple[Tensor, ...] = module(*self.maps, *self.geometry(rows), *folded)
        return answer

    def fold(self) -> list[Tensor]:
        """Weight and bias of every attention block."""
        folded: list[Tensor] = []
        count = torch.tensor([self.rows.count * self.columns.count], dtype=torch.float64)
        for n, attention in enumerate(self.model.attention):
            sums = self.statistics(n, slice(None), folded)
            folded += Fold(attention, dtype=torch.float64)(*sums, count)
        return folded

    def colours(self, folded: list[Tensor]) -> Tensor:
        """[N, 3]."""
        answer: Tensor = HiifDecoder(self.model).double()(*self.maps, *self.geometry(slice(None)), *folded)
        return answer

    def geometry(self, part: slice) -> list[Tensor]:
        rows, columns = self.rows[part], self.columns
        taps = [rows.taps[:, :, None] * self.width, columns.taps[:, None, :]]
        distances = [rows.distance[:, :, None], columns.distance[:, None, :]]
        if self.model.config.hierarchy == "coordinates":
            positions: list[Any] = [rows.local[None, :, None], columns.local[None, None, :]]
        else:
            positions = [rows.bits[:, :, None], columns.bits[:, None, :]]
        arrays = [torch.from_numpy(np.ascontiguousarray(a)) for a in (*taps, *distances, *positions)]
        wide = [a.double() if a.is_floating_point() else a for a in arrays]
        return [*wide, self.cell]


def assert_equal_to_the_plain_module(model: Hiif, source: Size, target: Size) -> None:
    chained = Restructured(model, source, target)
    expected = model.decode(features_of(model, source), wide_queries(model, source, target))[0]
    found = chained.colours(chained.fold())
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE * float(expected.abs().max()))


@pytest.mark.parametrize("changes", VARIANTS, ids=lambda c: "-".join(map(str, c.values())))
@pytest.mark.parametrize(("source", "target"), [((5, 7), (12, 18)), ((4, 6), (12, 18))])
def test_every_variant_equals_the_plain_module(changes: dict[str, Any], source: Size, target: Size) -> None:
    assert_equal_to_the_plain_module(make(**changes), source, target)


@pytest.mark.parametrize("bits", ["reference", "exact"])
@pytest.mark.parametrize(("source", "target"), SIZES)
def test_every_size_equals_the_plain_module(source: Size, target: Size, bits: str) -> None:
    assert_equal_to_the_plain_module(make(bits=bits), source, target)


@pytest.mark.parametrize("hierarchy", ["coordinates", "once"])
@pytest.mark.parametrize(("source", "target"), SIZES)
def test_every_size_of_an_ablation_equals_the_plain_module(source: Size, target: Size, hierarchy: str) -> None:
    assert_equal_to_the_plain_module(make(hierarchy=hierarchy, attention_blocks=1), source, target)


@pytest.mark.parametrize(
    "changes",
    [
        {"levels": 2},
        {"levels": 9},
        {"mlp_dim": 8},
        {"mlp_dim": 5, "hidden_dim": 20, "heads": 5},
        {"heads": 1},
        {"heads": 8, "hidden_dim": 32},
    ],
    ids=str,
)
def test_every_width_equals_the_plain_module(changes: dict[str, Any]) -> None:
    assert_equal_to_the_plain_module(make(**changes), (5, 7), (12, 18))


@pytest.mark.parametrize("block", [0, 1])
@pytest.mark.parametrize("cut", [1, 6, 11])
def test_statistics_of_two_parts_add_up_to_those_of_the_whole(block: int, cut: int) -> None:
    chained = Restructured(make(), (5, 7), (12, 18))
    folded = chained.fold()[: 2 * block]
    whole = chained.statistics(block, slice(None), folded)
    upper = chained.statistics(block, slice(None, cut), folded)
    lower = chained.statistics(block, slice(cut, None), folded)
    for total, first, second in zip(whole, upper, lower, strict=True):
        torch.testing.assert_close(first + second, total, rtol=1e-12, atol=1e-12)
        assert (first - second).abs().max() > 1e-3


def test_colours_of_some_rows_are_those_of_the_whole_picture() -> None:
    chained = Restructured(make(), (5, 7), (12, 18))
    folded = chained.fold()
    part = HiifDecoder(chained.model).double()(*chained.maps, *chained.geometry(slice(4, 9)), *folded)
    whole = chained.colours(folded).reshape(12, 18, 3)
    torch.testing.assert_close(part.reshape(5, 18, 3), whole[4:9], rtol=1e-12, atol=1e-12)


def test_maps_of_a_tile_are_those_of_the_whole_picture() -> None:
    model = make()
    features = torch.nn.functional.pad(features_of(model, (9, 6)), (1, 1, 1, 1))
    module = HiifMaps(model).double()
    whole, tile = module(features), module(features[:, :, 3:9])
    for one, part in zip(whole, tile, strict=True):
        torch.testing.assert_close(part, one[3 * 6 : 7 * 6], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("changes", [{}, {"projections": 1}], ids=str)
def test_the_folded_matrix_is_attention_and_its_first_projection(changes: dict[str, Any]) -> None:
    model = make(**changes)
    attention, seen = model.attention[0], list[Tensor]()
    first = "proj" if model.config.projections == 1 else "proj1"
    attention.get_submodule(first).register_forward_hook(lambda _m, _i, output: seen.append(output))
    x = torch.randn(1, 40, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    attention(x)
    normalised = []
    for n, norm in ((1, attention.kln), (2, attention.vln)):
        rows = attention.qkv_proj(x[0]).reshape(40, 2, 3, 4)[:, :, n]
        normalised.append(torch.nn.functional.layer_norm(rows, (4,), eps=norm.eps).transpose(0, 1))
    key, value = normalised
    count = torch.tensor([40.0], dtype=torch.float64)
    weight, bias = Fold(attention, dtype=torch.float64)(key.transpose(1, 2) @ value, key.sum(1), value.sum(1), count)
    torch.testing.assert_close(x[0] @ weight + bias, seen[0][0], rtol=1e-10, atol=1e-10)


def test_a_fold_returns_float32_unless_requested_otherwise() -> None:
    attention = make().attention[0]
    sums = [torch.ones(shape, dtype=torch.float64) for shape in ((2, 4, 4), (2, 4), (2, 4), (1,))]
    assert {t.dtype for t in Fold(attention)(*sums)} == {torch.float32}
    for narrow, wide in zip(Fold(attention)(*sums), Fold(attention, torch.float64)(*sums), strict=True):
        assert narrow.equal(wide.float())


def test_corner_weights_are_those_of_the_queries_bit_for_bit() -> None:
    for source, target in SIZES:
        rows, columns = (axis_table(n, m) for n, m in zip(source, target, strict=True))
        distances = [torch.from_numpy(axis.distance) for axis in (rows, columns)]
        found = corner_weights(distances[0][:, :, None], distances[1][:, None, :])
        expected = grid_queries(source, target).weight[0]
        assert torch.cat(found, dim=1).T.equal(expected), (source, target)


def test_the_area_epsilon_is_the_published_one_times_a_power_of_two() -> None:
    assert np.log2(AREA_SCALE) % 1 == 0
    assert float(np.float32(1e-9)) == AREA_EPSILON / AREA_SCALE
    assert AREA_EPSILON > 0.1  # the exporter's optimizer takes a bare 1e-9 for zero
