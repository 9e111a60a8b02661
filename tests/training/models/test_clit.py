"""The CLIT module: sizes, keys, equality with its formulas in loops, stages, and what lies beyond the border."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hiif_deploy.errors import CheckpointError
from hiif_training.models.clit import Clit, ClitConfig, PositionBias, stage_features
from hiif_training.models.encoders.edsr import Edsr, EdsrConfig
from hiif_training.models.implicit import skip
from hiif_training.queries.clit import ClitQueries, clit_queries, stage_queries

SMALL: dict[str, Any] = {"width": 8, "heads": 2, "reach": 1, "frequencies": 3, "octaves": 2.0, "hidden": (10, 6)}
SOURCE, TARGET = (5, 7), (11, 16)


def small(**changes: Any) -> Clit:
    """A decoder whose random weights make every part matter."""
    torch.manual_seed(0)
    model = Clit(Edsr(EdsrConfig(blocks=1, features=6)), ClitConfig(**{**SMALL, **changes})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.requires_grad_(False)


def picture(source: tuple[int, int] = SOURCE, seed: int = 1) -> Tensor:
    return torch.rand(1, 3, *source, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def queries(model: Clit, source: tuple[int, int] = SOURCE, target: tuple[int, int] = TARGET) -> ClitQueries:
    return clit_queries(source, target, stages=model.config.stages, reach=model.config.reach)


@pytest.mark.parametrize(("stages", "count"), [(1, 5_328_651), (2, 10_509_070), (3, 15_689_489)])
def test_the_decoder_has_the_published_number_of_parameters(stages: int, count: int) -> None:
    model = Clit(Edsr(EdsrConfig(blocks=1)), ClitConfig(stages=stages))
    assert sum(p.numel() for name, p in model.named_parameters() if not name.startswith("encoder.")) == count


def test_the_decoder_has_exactly_the_published_keys() -> None:
    layers = ["conv_ch", "pb_encoder.proj"]
    layers += [f"conv_{kind}s.{n}" for kind in "qkv" for n in range(2)]
    layers += [f"imnets.{n}.layers.{i}" for n in range(2) for i in (0, 2, 4, 6, 8)]
    model = Clit(Edsr(EdsrConfig(blocks=1)), ClitConfig(stages=2))
    keys = {key for key in model.state_dict() if not key.startswith("encoder.")}
    assert keys == {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}


def test_the_waves_are_the_published_ones() -> None:
    waves = PositionBias(ClitConfig()).waves()
    assert waves.shape == (16,)
    np.testing.assert_allclose(waves.numpy(), [2 ** (10 * j / 15) - 1 for j in range(16)], rtol=1e-6, atol=1e-6)


def test_the_position_is_told_by_sines_of_row_and_column_then_cosines() -> None:
    bias = PositionBias(ClitConfig(**SMALL))
    y, x = 0.3, -1.2
    waves = [2 ** (2 * j / 2) - 1 for j in range(3)]
    code = [math.sin(y * b) for b in waves] + [math.sin(x * b) for b in waves]
    code += [math.cos(y * b) for b in waves] + [math.cos(x * b) for b in waves]
    expected = bias.proj.weight @ torch.tensor(code) + bias.proj.bias
    torch.testing.assert_close(bias(torch.tensor([y, x])), expected, atol=1e-6, rtol=1e-6)


def mlp(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    layers = sorted({int(key.split(".")[3]) for key in state if key.startswith(f"{name}.layers.")})
    for n in layers:
        x = state[f"{name}.layers.{n}.weight"] @ x + state[f"{name}.layers.{n}.bias"]
        x = x.clamp(min=0) if n != layers[-1] else x
    return x


def convolve(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    return torch.nn.functional.conv2d(x[None], state[f"{name}.weight"], state[f"{name}.bias"], padding=1)[0]


def bilinear(maps: Tensor, row: float, column: float) -> Tensor:
    """[C] between the four pixels around a position in pixels; pixels beyond the picture are zero."""
    total = torch.zeros(maps.shape[0])
    for y in (math.floor(row), math.floor(row) + 1):
        for x in (math.floor(column), math.floor(column) + 1):
            if 0 <= y < maps.shape[1] and 0 <= x < maps.shape[2]:
                total += maps[:, y, x] * (1 - abs(row - y)) * (1 - abs(column - x))
    return total


def rounded(index: int, target: int, size: int) -> int:
    """Nearest pixel; at ×1.5 queries lie between two, and the published float32 arithmetic decides."""
    f = np.float32
    centre = f(2 / target) * f(index) + f(-1 + 1 / target)
    return int(np.rint(((centre + f(1)) * f(size) - f(1)) / f(2)))


def slow_stage(model: Clit, maps: Tensor, n: int, target: tuple[int, int]) -> Tensor:
    """One stage's own answer [H·W, 3], query after query and token after token, positions in float64."""
    config, state = model.config, model.state_dict()
    question, key, value = (convolve(maps, state, f"conv_{kind}s.{n}") for kind in "qkv")
    size, reach, width = maps.shape[1:], config.reach, config.width // config.heads
    answers = []
    for query in np.ndindex(*target):
        coord = [-1 + (2 * query[a] + 1) / target[a] for a in (0, 1)]
        place = [((coord[a] + 1) * size[a] - 1) / 2 for a in (0, 1)]
        nearest = [rounded(query[a], target[a], size[a]) for a in (0, 1)]
        asked = bilinear(question, *place)
        logits, values = [], []
        for delta in np.ndindex(2 * reach + 1, 2 * reach + 1):
            y, x = (nearest[a] + delta[a] - reach for a in (0, 1))
            inside = 0 <= y < size[0] and 0 <= x < size[1]
            relative = [(coord[a] - (-1 + (2 * t + 1) / size[a])) * size[a] for a, t in ((0, y), (1, x))]
            bias = model.pb_encoder(torch.tensor(relative))
            k = key[:, y, x] if inside else torch.zeros(config.width)
            values.append(value[:, y, x] if inside else torch.zeros(config.width))
            heads = [slice(h * width, (h + 1) * width) for h in range(config.heads)]
            logits.append(torch.stack([asked[h] @ k[h] / width**0.5 for h in heads]) + bias)
        weights = torch.stack(logits).softmax(0).repeat_interleave(width, dim=1)
        cell = torch.tensor([2 / target[a] * size[a] for a in (0, 1)])
        answers.append(mlp(state, f"imnets.{n}", torch.cat([*(weights * torch.stack(values)), cell])))
    return torch.stack(answers)


def test_one_stage_equals_its_formulas_in_loops() -> None:
    model = small()
    features = model.encode(picture())
    expected = slow_stage(model, convolve(model.encoder(picture())[0], model.state_dict(), "conv_ch"), 0, TARGET)
    torch.testing.assert_close(model.decode(features, queries(model))[0], expected, atol=2e-5, rtol=2e-5)


def test_the_published_reach_is_seven_by_seven_tokens() -> None:
    model = small(reach=3)
    assert ClitConfig().tokens == model.config.tokens == 49
    features = model.encode(picture())
    expected = slow_stage(model, convolve(model.encoder(picture())[0], model.state_dict(), "conv_ch"), 0, (6, 8))
    found = model.decode(features, queries(model, target=(6, 8)))[0]
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-5)


def slow_enlarged(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """[C, *size]: a bilinear sample at every pixel's centre, zero beyond the picture."""
    rows, columns = ([(i + 0.5) * n / m - 0.5 for i in range(m)] for n, m in zip(maps.shape[1:], size, strict=True))
    return torch.stack([torch.stack([bilinear(maps, y, x) for x in columns], dim=1) for y in rows], dim=1)


@pytest.mark.parametrize("size", [(12, 8), (7, 5), (3, 2)])
def test_stage_features_are_bilinear_and_zero_beyond_the_border(size: tuple[int, int]) -> None:
    maps = torch.randn(1, 4, 3, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(stage_features(maps, size)[0], slow_enlarged(maps[0], size), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("target", "used"), [((4, 8), 1), ((6, 12), 2), ((17, 34), 3)])
def test_each_stage_adds_three_quarters_of_the_one_before(target: tuple[int, int], used: int) -> None:
    model, source = small(stages=3), (1, 2)
    features = model.encode(picture(source))
    maps = convolve(model.encoder(picture(source))[0], model.state_dict(), "conv_ch")
    sizes = [(4**n, 2 * 4**n) for n in range(used)]
    expected = torch.zeros(target[0] * target[1], 3)
    for n, size in enumerate(sizes):
        expected = slow_stage(model, maps if n == 0 else slow_enlarged(maps, size), n, target) + 0.75 * expected
    found = model.decode(features, queries(model, source, target))[0]
    torch.testing.assert_close(found, expected, atol=5e-5, rtol=5e-5)


def test_a_model_of_one_stage_answers_any_enlargement_with_it() -> None:
    model, source, target = small(), (2, 3), (12, 18)
    asked = queries(model, source, target)
    assert [stage.size for stage in asked.stages] == [source]
    features = model.encode(picture(source))
    expected = slow_stage(model, convolve(model.encoder(picture(source))[0], model.state_dict(), "conv_ch"), 0, target)
    torch.testing.assert_close(model.decode(features, asked)[0], expected, atol=2e-5, rtol=2e-5)


def test_stages_of_any_size_may_be_asked() -> None:
    model, source, target = small(stages=2), (4, 6), (12, 18)
    pixels = np.arange(target[0] * target[1])
    sizes = [source, (8, 12)]
    stages = tuple(stage_queries(size, target, pixels, model.config.reach) for size in sizes)
    asked = dataclasses.replace(queries(model, source, target), stages=stages)
    features = model.encode(picture(source))
    maps = convolve(model.encoder(picture(source))[0], model.state_dict(), "conv_ch")
    first = slow_stage(model, maps, 0, target)
    second = slow_stage(model, slow_enlarged(maps, sizes[1]), 1, target)
    torch.testing.assert_close(model.decode(features, asked)[0], second + 0.75 * first, atol=5e-5, rtol=5e-5)


def test_the_answer_is_the_decoder_plus_the_skip() -> None:
    model = small()
    asked = queries(model)
    expected = model.decode(model.encode(picture()), asked) + skip(picture(), asked)
    assert model(picture(), asked).equal(expected)


@pytest.mark.parametrize("field", ["index", "inside", "relative", "query_index", "query_weight", "cell"])
def test_everything_that_is_asked_matters(field: str) -> None:
    model = small()
    asked = queries(model)
    tensor = getattr(asked.stages[0], field)
    disturbed = tensor.roll(1, dims=-1) if tensor.dtype == torch.int64 else 1 - tensor
    changed = dataclasses.replace(asked, stages=(dataclasses.replace(asked.stages[0], **{field: disturbed}),))
    assert (model(picture(), changed) - model(picture(), asked)).abs().max() > 1e-3


def test_queries_do_not_see_each_other() -> None:
    model, pixels = small(), np.arange(3, 100, 7)
    whole = model(picture(), queries(model))[:, pixels]
    part = model(picture(), clit_queries(SOURCE, TARGET, pixels, reach=model.config.reach))
    torch.testing.assert_close(part, whole, atol=1e-6, rtol=1e-6)


def test_gelu_is_another_model_than_relu() -> None:
    relu, gelu = small(), small(activation="gelu")
    gelu.load_state_dict(relu.state_dict())
    asked = queries(relu)
    assert (relu(picture(), asked) - gelu(picture(), asked)).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"stages": 0}, "CLIT sizes out of range: .*stages=0"),
        ({"reach": -1}, "CLIT sizes out of range: .*reach=-1"),
        ({"heads": 3}, "CLIT width 256 is not a multiple of 3 heads"),
        ({"hidden": ()}, "CLIT hidden widths are empty"),
        ({"activation": "tanh"}, "CLIT activation 'tanh': expected relu or gelu"),
    ],
)
def test_impossible_configurations_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        ClitConfig(**wrong)
