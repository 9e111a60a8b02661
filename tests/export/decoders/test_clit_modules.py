"""CLIT restructured: equal to the plain module in float64, stage by stage."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad

from hiif_deploy.geometry.clit_axis import ClitAxis, clit_axis, stage_sizes
from hiif_deploy.geometry.grid import relative_cell
from hiif_export.decoders.clit_modules import ClitDecoder, ClitMaps
from hiif_training.models.clit import Clit, ClitConfig, stage_features
from hiif_training.models.encoders.edsr import Edsr, EdsrConfig
from hiif_training.queries.axis import CORNERS
from hiif_training.queries.clit import ClitQueries, StageQueries, clit_queries

torch.set_num_threads(1)

Size = tuple[int, int]
SMALL: dict[str, Any] = {"width": 8, "heads": 2, "reach": 1, "frequencies": 3, "octaves": 2.0, "hidden": (10, 6)}
SIZES: list[tuple[Size, Size]] = [
    ((1, 1), (3, 4)),
    ((5, 7), (5, 7)),
    ((4, 6), (10, 15)),
    ((5, 7), (12, 31)),
    ((2, 3), (12, 18)),
    ((2, 1), (35, 34)),
]
"""(source, target): the smallest, ×1, ties of ×2.5, anisotropic, two stages, three stages."""


def make(**changes: Any) -> Clit:
    """A float64 model whose random weights make every part matter."""
    torch.manual_seed(0)
    model = Clit(Edsr(EdsrConfig(blocks=1, features=6)), ClitConfig(**{**SMALL, **changes}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.double().eval().requires_grad_(False)


def features_of(model: Clit, source: Size) -> Tensor:
    image = torch.rand(1, 3, *source, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    return model.encode(image * 2 - 1)


def plain_decoded(model: Clit, features: Tensor, target: Size) -> Tensor:
    """[N, 3] of the plain module, weights of the question that were never rounded to float32."""
    source, config = (features.shape[2], features.shape[3]), model.config
    queries = clit_queries(source, target, stages=config.stages, reach=config.reach)
    stages = tuple(_wide_stage(stage, target) for stage in queries.stages)
    return model.decode(features, ClitQueries(stages, queries.skip_index, queries.skip_weight))[0]


def _wide_stage(stage: StageQueries, target: Size) -> StageQueries:
    y, x = (clit_axis(n, m).weight.astype(np.float64) for n, m in zip(stage.size, target, strict=True))
    weight = np.stack([(y[a][:, None] * x[b]).flatten() for a, b in CORNERS])
    values = {name: _wide(value) for name, value in vars(stage).items()}
    return StageQueries(**{**values, "query_weight": torch.from_numpy(weight)[None]})


def _wide(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def geometry(size: Size, target: Size, reach: int, part: slice) -> list[Tensor]:
    rows, columns = (clit_axis(n, m, reach=reach) for n, m in zip(size, target, strict=True))

    def tables(values: Any) -> list[Any]:
        return [values(rows)[:, part, None], values(columns)[:, None]]

    taps = tables(lambda axis: np.concatenate([axis.tokens, axis.taps]))
    taps[0] = taps[0] * size[1]
    arrays = [*taps, *tables(_weights), *tables(lambda axis: axis.relative), relative_cell(size, target)]
    return [_wide(torch.from_numpy(np.ascontiguousarray(array))) for array in arrays]


def _weights(axis: ClitAxis) -> Any:
    return np.concatenate([axis.inside, axis.weight])


def decoded(model: Clit, features: Tensor, target: Size, part: slice = slice(None)) -> Tensor:
    """[N, 3] of some output rows, by the restructured modules, one stage after the other."""
    source = (features.shape[2], features.shape[3])
    answer: Tensor | None = None
    for n, size in enumerate(stage_sizes(source, target)[: model.config.stages]):
        maps = ClitMaps(model, n).double()(pad(stage_features(features, size), (1, 1, 1, 1)))
        given = [] if answer is None else [answer]
        answer = ClitDecoder(model, n).double()(*maps, *geometry(size, target, model.config.reach, part), *given)
    assert answer is not None
    return answer


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize(("source", "target"), SIZES)
def test_every_size_equals_the_plain_module(source: Size, target: Size, activation: str) -> None:
    model = make(activation=activation, stages=3)
    features = features_of(model, source)
    expected = plain_decoded(model, features, target)
    assert expected.std() > 0.01
    torch.testing.assert_close(decoded(model, features, target), expected, rtol=0, atol=1e-10)


def test_the_published_reach_equals_the_plain_module() -> None:
    model = make(reach=3)
    features = features_of(model, (5, 7))
    expected = plain_decoded(model, features, (12, 18))
    torch.testing.assert_close(decoded(model, features, (12, 18)), expected, rtol=0, atol=1e-10)


def test_colours_of_some_rows_are_those_of_the_whole_picture() -> None:
    model = make(stages=2)
    features = features_of(model, (2, 3))
    whole = decoded(model, features, (12, 18)).view(12, 18, 3)
    part = decoded(model, features, (12, 18), slice(4, 9)).view(5, 18, 3)
    torch.testing.assert_close(part, whole[4:9], rtol=0, atol=1e-12)


def test_maps_of_a_tile_are_those_of_the_whole_picture() -> None:
    model = make()
    features = pad(features_of(model, (9, 6)), (1, 1, 1, 1))
    module = ClitMaps(model, 0).double()
    for whole, tile in zip(module(features), module(features[:, :, 3:9]), strict=True):
        torch.testing.assert_close(tile, whole[3 * 6 : 7 * 6], rtol=0, atol=1e-12)
