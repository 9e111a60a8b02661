"""The HIIF module: sizes, keys, equality with its formulas, variants, and that it remembers nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hiif_deploy.errors import CheckpointError
from hiif_training.models.encoders.edsr import Edsr, EdsrConfig
from hiif_training.models.hiif import Hiif, HiifConfig, LinearAttention
from hiif_training.models.implicit import skip
from hiif_training.queries.axis import Queries, grid_queries, scattered_queries

torch.set_num_threads(1)

SMALL: dict[str, Any] = {"heads": 2, "hidden_dim": 8, "mlp_dim": 12}
SOURCE, TARGET = (5, 7), (11, 16)


def published(**changes: Any) -> Hiif:
    """The published decoder on an encoder of the published width, but of one block."""
    return Hiif(Edsr(EdsrConfig(blocks=1)), HiifConfig(**{"bits": "reference", **changes}))


def small(**changes: Any) -> Hiif:
    """A decoder whose random weights make every part matter."""
    torch.manual_seed(0)
    model = Hiif(Edsr(EdsrConfig(blocks=1, features=6)), HiifConfig(**{**SMALL, **changes})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.requires_grad_(False)


def picture(batch: int = 1, seed: int = 1) -> Tensor:
    return torch.rand(batch, 3, *SOURCE, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def queries(model: Hiif, target: tuple[int, int] = TARGET) -> Queries:
    return grid_queries(SOURCE, target, levels=model.config.levels, bits=model.config.bits)


def decoder_parameters(model: Hiif) -> int:
    return sum(p.numel() for name, p in model.named_parameters() if not name.startswith("encoder."))


def test_hiif_on_edsr_baseline_has_the_published_number_of_parameters() -> None:
    model = Hiif(Edsr(EdsrConfig()), HiifConfig())
    assert sum(p.numel() for p in model.parameters()) == 1_735_071 + 1_220_416 + 24


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({}, 1_735_071),
        ({"hierarchy": "coordinates"}, 1_735_071),
        ({"hierarchy": "once"}, 1_735_071),
        ({"attention_blocks": 0}, 1_735_071 - 658_048),
        ({"levels": 4, "projections": 1}, 1_338_263),
        ({"levels": 3}, 1_337_235),
        ({"attention_blocks": 1, "projections": 1}, 1_340_255),
        ({"levels": 4}, 1_322_135 + 147_712),
    ],
)
def test_every_variant_has_its_counted_number_of_parameters(changes: dict[str, Any], count: int) -> None:
    assert decoder_parameters(published(**changes)) == count


@pytest.mark.parametrize(
    ("part", "count"),
    [("freq", 147_712), ("fc_layers.0", 331_272), ("fc_layers.5", 67_591), ("conv0", 329_024)]
    + [(f"fc_layers.{n}", 132_612) for n in range(1, 5)],
)
def test_every_part_has_its_published_number_of_parameters(part: str, count: int) -> None:
    assert sum(p.numel() for p in published().get_submodule(part).parameters()) == count


def decoder_keys(projections: tuple[str, ...] = ("proj1", "proj2")) -> set[str]:
    layers = ["freq"]
    layers += [f"fc_layers.{n}.{part}" for n in range(6) for part in ("norm", "fc1", "fc2")]
    layers += [f"conv{n}.{part}" for n in range(2) for part in ("qkv_proj", "kln", "vln", *projections)]
    return {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}


def test_the_decoder_has_exactly_the_published_keys() -> None:
    keys = {key for key in published().state_dict() if not key.startswith("encoder.")}
    assert keys == decoder_keys()
    assert len(keys) == 2 + 36 + 20


def test_the_form_with_one_projection_names_it_proj() -> None:
    keys = {key for key in published(projections=1).state_dict() if not key.startswith("encoder.")}
    assert keys == decoder_keys(projections=("proj",))


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("freq.weight", (256, 64, 3, 3)),
        ("fc_layers.0.norm.weight", (1028,)),
        ("fc_layers.0.fc1.weight", (256, 1028)),
        ("fc_layers.3.fc1.weight", (256, 258)),
        ("fc_layers.5.fc2.weight", (3, 256)),
        ("conv1.qkv_proj.weight", (768, 256)),
        ("conv1.kln.weight", (16,)),
        ("conv0.proj2.bias", (256,)),
    ],
)
def test_the_decoder_tensors_have_the_published_shapes(key: str, shape: tuple[int, ...]) -> None:
    assert tuple(published().state_dict()[key].shape) == shape


def slow_attention(x: Tensor, weights: dict[str, Tensor], name: str, heads: int) -> Tensor:
    """One head after the other, for queries [N, width] (H8)."""
    size = x.shape[1] // heads
    qkv = x @ weights[f"{name}.qkv_proj.weight"].T + weights[f"{name}.qkv_proj.bias"]

    def norm(rows: Tensor, kind: str) -> Tensor:
        return nn.functional.layer_norm(rows, (size,), weights[f"{name}.{kind}.weight"], weights[f"{name}.{kind}.bias"])

    attended = []
    for head in range(heads):
        q, k, v = qkv[:, 3 * size * head : 3 * size * (head + 1)].chunk(3, dim=1)
        attended.append(q @ (norm(k, "kln").T @ norm(v, "vln") / x.shape[0]))
    y = torch.cat(attended, dim=1) + x
    if f"{name}.proj.weight" in weights:
        return x + nn.functional.gelu(y @ weights[f"{name}.proj.weight"].T + weights[f"{name}.proj.bias"])
    y = nn.functional.gelu(y @ weights[f"{name}.proj1.weight"].T + weights[f"{name}.proj1.bias"])
    return x + y @ weights[f"{name}.proj2.weight"].T + weights[f"{name}.proj2.bias"]


def slow_hiif(model: Hiif, image: Tensor, asked: Queries) -> Tensor:
    """One picture's colours [N, 3], written out with functions (design/model.md H1–H10, ablations)."""
    config, weights = model.config, model.state_dict()
    maps = nn.functional.conv2d(model.encoder(image), weights["freq.weight"], weights["freq.bias"], padding=1)[
        0
    ].flatten(1)
    corners = [(maps[:, asked.index[0, k]] * asked.weight[0, k]).T for k in range(4)]
    count = corners[0].shape[0]
    x = torch.cat([*corners, asked.cell.expand(count, 2)], dim=1)
    for n in range(config.levels):
        told = {
            "levels": asked.bits[0, :, n],
            "coordinates": asked.local[0],
            "once": asked.bits[0].reshape(count, -1) if n == 0 else torch.empty(count, 0),
        }[config.hierarchy]
        z = torch.cat([x, told], dim=1)
        name = f"fc_layers.{n}"
        y = nn.functional.layer_norm(z, z.shape[1:], weights[f"{name}.norm.weight"], weights[f"{name}.norm.bias"])
        y = nn.functional.gelu(y @ weights[f"{name}.fc1.weight"].T + weights[f"{name}.fc1.bias"])
        y = y @ weights[f"{name}.fc2.weight"].T + weights[f"{name}.fc2.bias"]
        x = z + y if z.shape == y.shape else y
        if n == 0:
            for block in range(config.attention_blocks):
                x = slow_attention(x, weights, f"conv{block}", config.heads)
    pixels = image[0].flatten(1)
    return x + sum((pixels[:, asked.skip_index[0, k]] * asked.skip_weight[0, k]).T for k in range(4))


VARIANTS: list[dict[str, Any]] = [
    {},
    {"projections": 1},
    {"hierarchy": "coordinates"},
    {"hierarchy": "once"},
    {"attention_blocks": 0},
    {"attention_blocks": 3, "projections": 1, "hierarchy": "once"},
    {"levels": 2, "bits": "reference"},
    {"levels": 9},
]


@pytest.mark.parametrize("changes", VARIANTS)
def test_hiif_equals_its_formulas_written_out_with_functions(changes: dict[str, Any]) -> None:
    model = small(**changes)
    asked = queries(model)
    expected = slow_hiif(model, picture(), asked)
    torch.testing.assert_close(model(picture(), asked)[0], expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("changes", [c for c in VARIANTS if "hierarchy" in c or c == {"attention_blocks": 0}])
def test_an_ablation_is_the_same_class_with_another_answer(changes: dict[str, Any]) -> None:
    full, ablated = small(), small(**changes)
    for key, value in ablated.state_dict().items():
        if key in full.state_dict() and full.state_dict()[key].shape == value.shape:
            value.copy_(full.state_dict()[key])
    assert type(ablated) is type(full)
    asked = queries(full)
    assert (ablated(picture(), asked) - full(picture(), asked)).abs().max() > 1e-2


def test_the_form_with_one_projection_is_x_plus_gelu_of_proj() -> None:
    torch.manual_seed(0)
    attention = LinearAttention(8, 2, projections=1).requires_grad_(False)
    x, seen = torch.randn(1, 9, 8), list[Tensor]()
    attention.get_submodule("proj").register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    y = attention(x)
    assert y.equal(x + nn.functional.gelu(attention.get_submodule("proj")(seen[0])))
    assert (seen[0] - x).abs().max() > 1e-3


def disturbed(asked: Queries, field: str) -> Queries:
    tensor = getattr(asked, field)
    changed = tensor.roll(1, dims=-1) if tensor.dtype == torch.int64 else 1 - tensor
    return dataclasses.replace(asked, **{field: changed})


@pytest.mark.parametrize(
    ("hierarchy", "field", "matters"),
    [
        *((h, f, True) for h in ("levels", "once", "coordinates") for f in ("index", "weight", "cell")),
        *((h, f, True) for h in ("levels", "once", "coordinates") for f in ("skip_index", "skip_weight")),
        ("levels", "bits", True),
        ("once", "bits", True),
        ("coordinates", "bits", False),
        ("levels", "local", False),
        ("once", "local", False),
        ("coordinates", "local", True),
    ],
)
def test_exactly_what_a_hierarchy_reads_matters(hierarchy: str, field: str, matters: bool) -> None:
    model = small(hierarchy=hierarchy)
    asked = queries(model)
    change = (model(picture(), disturbed(asked, field)) - model(picture(), asked)).abs().max()
    assert (change > 1e-3) if matters else change == 0


@pytest.mark.parametrize("hierarchy", ["levels", "once"])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("level", range(6))
def test_every_bit_matters(hierarchy: str, axis: int, level: int) -> None:
    model = small(hierarchy=hierarchy)
    asked = queries(model)
    flipped = asked.bits.clone()
    flipped[:, :, level, axis] = 1 - flipped[:, :, level, axis]
    changed = model(picture(), dataclasses.replace(asked, bits=flipped))
    assert (changed - model(picture(), asked)).abs().max() > 1e-3


@pytest.mark.parametrize(("blocks", "coupled"), [(0, False), (1, True), (2, True)])
def test_attention_couples_the_queries_of_a_call(blocks: int, coupled: bool) -> None:
    model = small(attention_blocks=blocks)
    whole = model(picture(), queries(model))[:, : 4 * TARGET[1]]
    part = model(picture(), grid_queries(SOURCE, TARGET, rows=slice(4), bits=model.config.bits))
    difference = (whole - part).abs().max()
    assert (difference > 1e-3) if coupled else (difference < 1e-6)


def test_the_answer_does_not_depend_on_the_order_of_the_queries() -> None:
    model = small()
    order = torch.randperm(TARGET[0] * TARGET[1], generator=torch.Generator().manual_seed(3))
    asked = scattered_queries(SOURCE, TARGET, order.numpy(), bits=model.config.bits)
    expected = model(picture(), queries(model))[:, order]
    torch.testing.assert_close(model(picture(), asked), expected, atol=1e-5, rtol=1e-5)


def test_a_batch_of_two_equals_two_single_pictures() -> None:
    model = small()
    pictures = [picture(seed=1), picture(seed=2)]
    asked = [queries(model), queries(model, (11, 16))]
    together = model(torch.cat(pictures), Queries.concatenate(asked))
    for n in range(2):
        torch.testing.assert_close(together[n : n + 1], model(pictures[n], asked[n]), atol=1e-5, rtol=1e-5)


def test_the_pictures_of_a_batch_may_ask_for_different_sizes() -> None:
    model = small()
    pixels = torch.arange(0, 120, 3).numpy()
    asked = [scattered_queries(SOURCE, size, pixels, bits="exact") for size in (TARGET, (20, 14))]
    pictures = [picture(seed=1), picture(seed=2)]
    together = model(torch.cat(pictures), Queries.concatenate(asked))
    for n in range(2):
        torch.testing.assert_close(together[n : n + 1], model(pictures[n], asked[n]), atol=1e-5, rtol=1e-5)


def held(model: nn.Module) -> Iterator[tuple[str, str, Any]]:
    """Everything that a module or one of its parts holds."""
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            yield name, key, value
            if isinstance(value, dict):
                yield from ((name, f"{key}.{entry}", item) for entry, item in value.items())


def test_nothing_is_stored_on_the_module_between_calls() -> None:
    model = small()
    before, values = list(held(model)), [p.clone() for p in model.parameters()]
    model(picture(), queries(model))
    model.decode(model.encode(picture()), queries(model))
    after = list(held(model))
    assert [entry[:2] for entry in after] == [entry[:2] for entry in before]
    assert all(a is b for (_, _, a), (_, _, b) in zip(after, before, strict=True))
    assert all(p.equal(value) for p, value in zip(model.parameters(), values, strict=True))


def test_interleaved_calls_answer_like_separate_ones() -> None:
    model = small()
    first, second = picture(seed=1), picture(seed=2)
    asked, other = queries(model), queries(model, (9, 8))
    expected = [model.decode(model.encode(first), asked), model.decode(model.encode(second), other)]
    features = [model.encode(first), model.encode(second)]
    assert model.decode(features[1], other).equal(expected[1])
    assert model.decode(features[0], asked).equal(expected[0])


def test_the_answer_is_the_decoder_plus_the_skip() -> None:
    model = small()
    asked = queries(model)
    expected = model.decode(model.encode(picture()), asked) + skip(picture(), asked)
    assert model(picture(), asked).equal(expected)


def test_a_level_adds_its_input_only_where_the_widths_agree() -> None:
    shortcuts = {
        hierarchy: [level.has_shortcut for level in published(hierarchy=hierarchy).fc_layers]
        for hierarchy in ("levels", "coordinates", "once")
    }
    assert shortcuts == {
        "levels": [False] * 6,
        "coordinates": [False] * 6,
        "once": [False, True, True, True, True, False],
    }


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"levels": 1}, "HIIF sizes out of range: .*levels=1"),
        ({"attention_blocks": -1}, "HIIF sizes out of range: .*attention_blocks=-1"),
        ({"heads": 0}, "HIIF sizes out of range: .*heads=0"),
        ({"mlp_dim": 0}, "HIIF sizes out of range: .*mlp_dim=0"),
        ({"heads": 3}, "HIIF hidden_dim 256 is not a multiple of 3 heads"),
        ({"projections": 3}, "HIIF projections is 3: expected 1 or 2"),
        ({"hierarchy": "twice"}, r"HIIF hierarchy 'twice': expected one of \('levels', 'coordinates', 'once'\)"),
        ({"bits": "rounded"}, r"HIIF bits 'rounded': expected one of \('reference', 'exact'\)"),
    ],
)
def test_impossible_configurations_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        HiifConfig(**wrong)
