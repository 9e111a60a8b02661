"""The CiaoSR module: sizes, keys, equality with its formulas in loops, and that queries do not see each other."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hiif_deploy.errors import CheckpointError
from hiif_training.models.ciaosr import Ciaosr, CiaosrConfig
from hiif_training.models.encoders.edsr import Edsr, EdsrConfig
from hiif_training.models.implicit import skip
from hiif_training.queries.ciaosr import ciaosr_queries

SOURCE, TARGET = (5, 7), (16, 20)


def small(**changes: Any) -> Ciaosr:
    """A decoder whose random weights make every part matter."""
    torch.manual_seed(0)
    config = CiaosrConfig(**{"hidden": (12, 8), **changes})
    model = Ciaosr(Edsr(EdsrConfig(blocks=1, features=6)), config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.requires_grad_(False)


def picture(seed: int = 1) -> Tensor:
    return torch.rand(1, 3, *SOURCE, generator=torch.Generator().manual_seed(seed)) - 0.5


def decoder_parameters(model: Ciaosr) -> int:
    return sum(p.numel() for name, p in model.named_parameters() if not name.startswith("encoder."))


@pytest.mark.parametrize(("channels", "count"), [(64, 1_428_614), (180, 3_167_918)])
def test_the_decoder_has_the_published_number_of_parameters(channels: int, count: int) -> None:
    assert decoder_parameters(Ciaosr(Edsr(EdsrConfig(blocks=1, features=channels)), CiaosrConfig())) == count


def test_the_decoder_has_exactly_the_published_keys() -> None:
    networks = {f"imnet_{n}.layers.{i}.{k}" for n in "qkv" for i in (0, 2, 4, 6, 8) for k in ("weight", "bias")}
    names = ("conv_match_1", "conv_match_2", "conv_assembly")
    branch = {f"cs_attn.{n}.{part}" for n in names for part in ("0.weight", "0.bias", "1.weight")}
    branch |= {f"cs_attn.{key}" for key in ("down.weight", "down.bias", "escape_NaN")}
    model = Ciaosr(Edsr(EdsrConfig(blocks=1)), CiaosrConfig())
    assert {key for key in model.state_dict() if not key.startswith("encoder.")} == networks | branch


def mlp(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    layers = sorted({int(key.split(".")[2]) for key in state if key.startswith(f"{name}.layers.")})
    for n in layers:
        x = state[f"{name}.layers.{n}.weight"] @ x + state[f"{name}.layers.{n}.bias"]
        x = x.clamp(min=0) if n != layers[-1] else x
    return x


def around(maps: Tensor, row: int, column: int) -> Tensor:
    """[9·C] values of the 3×3 surroundings, channel by channel, zero beyond the border."""
    padded = torch.nn.functional.pad(maps, (1, 1, 1, 1))
    return padded[:, row : row + 3, column : column + 3].flatten()


def slow_decode(model: Ciaosr, features: Tensor, target: tuple[int, int]) -> Tensor:
    """[H·W, 3], query after query and corner after corner, positions in float64."""
    state, maps = model.state_dict(), features[0, : model.encoder.out_channels]
    size = maps.shape[1:]
    other = model.cs_attn(maps[None])[0] if model.config.non_local else None
    answers = []
    for query in np.ndindex(*target):
        coord = [-1 + (2 * query[a] + 1) / target[a] for a in (0, 1)]
        cell = [2 / target[a] * size[a] for a in (0, 1)]
        nearest = [int(np.rint(((coord[a] + 1) * size[a] - 1) / 2)) for a in (0, 1)]
        question = around(maps, *nearest)
        logits, values = [], []
        for sides in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
            tap, relative = [], []
            for a in (0, 1):
                moved = coord[a] + sides[a] * (1 - 2 / target[a]) / (size[a] - 1) + 1e-6
                moved = min(max(moved, -1 + 1e-6), 1 - 1e-6)
                tap.append(int(np.rint(((moved + 1) * size[a] - 1) / 2)))
                relative.append((coord[a] - (-1 + (2 * tap[a] + 1) / size[a])) * size[a])
            place = torch.tensor([*relative, *cell])
            key = around(maps, *tap)
            value = key if other is None else torch.cat([key, other[:, tap[0], tap[1]]])
            logits.append(question @ (key * mlp(state, "imnet_k", torch.cat([key, place]))))
            values.append(value * mlp(state, "imnet_v", torch.cat([value, place])))
        weights = torch.stack(logits).softmax(0)
        answers.append(mlp(state, "imnet_q", (weights[:, None] * torch.stack(values)).sum(0)))
    return torch.stack(answers)


@pytest.mark.parametrize("non_local", [True, False])
@pytest.mark.parametrize("target", [TARGET, (10, 14), (15, 21)])
def test_ciaosr_equals_its_formulas_in_loops(non_local: bool, target: tuple[int, int]) -> None:
    model = small(non_local=non_local)
    features = model.encode(picture())
    expected = slow_decode(model, features, target)
    found = model.decode(features, ciaosr_queries(SOURCE, target))[0]
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-5)


def test_the_answer_is_the_decoder_plus_the_skip() -> None:
    model, asked = small(), ciaosr_queries(SOURCE, TARGET)
    expected = model.decode(model.encode(picture()), asked) + skip(picture(), asked)
    assert model(picture(), asked).equal(expected)


@pytest.mark.parametrize("field", ["nearest", "index", "relative", "cell", "skip_index", "skip_weight"])
def test_everything_that_is_asked_matters(field: str) -> None:
    model, asked = small(), ciaosr_queries(SOURCE, TARGET)
    tensor = getattr(asked, field)
    disturbed = tensor.roll(1, dims=-1) if tensor.dtype == torch.int64 else 1 - tensor
    changed = dataclasses.replace(asked, **{field: disturbed})
    assert (model(picture(), changed) - model(picture(), asked)).abs().max() > 1e-3


def test_queries_do_not_see_each_other() -> None:
    model = small()
    pixels = np.arange(3, 100, 7)
    whole = model(picture(), ciaosr_queries(SOURCE, TARGET))[:, pixels]
    torch.testing.assert_close(model(picture(), ciaosr_queries(SOURCE, TARGET, pixels)), whole, atol=1e-6, rtol=1e-6)


def test_an_odd_number_of_channels_cannot_be_halved() -> None:
    with pytest.raises(CheckpointError, match="halves 5 channels: expected an even number"):
        Ciaosr(Edsr(EdsrConfig(blocks=1, features=5)), CiaosrConfig())


@pytest.mark.parametrize("hidden", [(), (8, 0)])
def test_impossible_widths_are_refused(hidden: tuple[int, ...]) -> None:
    with pytest.raises(CheckpointError, match="CiaoSR hidden widths are"):
        CiaosrConfig(hidden=hidden)
