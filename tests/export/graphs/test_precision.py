"""Half precision is hand-typed: what is half, what is not, and what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from hiif_deploy.backends.host import HostBackend
from hiif_deploy.backends.options import EngineOptions
from hiif_deploy.bundle.loader import open_bundle
from hiif_deploy.errors import BundleError, OptionError
from hiif_deploy.rendering.verify import TOLERANCES, check_stored, compare_stored
from hiif_deploy.upscaler import Upscaler
from hiif_export.decoders.hiif_graphs import HiifExporter
from hiif_export.decoders.hiif_modules import KeyValue
from hiif_export.export_command import parse_precisions
from hiif_export.graphs.precision import fit, typed, typed_encoder, wide
from hiif_export.parity.parity import cases, check, compare
from hiif_export.parity.tensor_parity import compare_tensors
from hiif_training.models.hiif import Hiif
from hiif_training.models.registry import make_encoder
from torch_session import TorchSession

torch.set_num_threads(1)
HALF_TYPES = {"encoder": {"features"}, "maps": {"map_0", "map_1", "map_2", "map_3"}}
"""Outputs that are half, by graph; all others are float32."""


def initializer_types(model: onnx.ModelProto) -> dict[str, int]:
    return {tensor.name: tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) > 1}


def test_features_and_weights_are_half_and_tables_moments_and_statistics_are_not(half_bundle: Path) -> None:
    chain = open_bundle(half_bundle).contract.chain("fp16")
    for name, graph in chain.items():
        half = {tensor.name for tensor in graph.outputs if tensor.dtype == "float16"}
        assert half == HALF_TYPES.get(name, set())
    inputs = {tensor.name: tensor.dtype for tensor in chain["decoder"].inputs}
    assert {name for name, dtype in inputs.items() if dtype == "float16"} == {
        *(f"map_{k}" for k in range(4)), *(f"attention_{n}_{part}" for n in range(2) for part in ("weight", "bias")),
    }  # fmt: skip
    assert {inputs[name] for name in ("moments", "row_distance", "column_distance", "cell")} == {"float32"}
    assert chain["encoder"].inputs[0].dtype == "float32"


def test_every_matrix_product_over_queries_is_half(half_bundle: Path) -> None:
    model = onnx.load(half_bundle / "decoder.fp16.onnx")
    types = initializer_types(model)
    weights = {name for name in types if name.endswith("weight") and "cell" not in name}
    assert len(weights) >= 10
    assert {types[name] for name in weights} == {onnx.TensorProto.FLOAT16}
    assert {types[name] for name in types if "table" in name or "cell" in name} == {onnx.TensorProto.FLOAT}


def test_layer_norm_sums_are_float32(half_bundle: Path) -> None:
    for name in ("decoder", "statistics_1", "maps"):
        model = onnx.shape_inference.infer_shapes(onnx.load(half_bundle / f"{name}.fp16.onnx"))
        kinds = {
            value.name: value.type.tensor_type.elem_type for value in (*model.graph.value_info, *model.graph.input)
        }
        sums = [node for node in model.graph.node if node.op_type in ("ReduceSum", "ReduceMean")]
        assert sums
        assert {kinds[node.input[0]] for node in sums} == {onnx.TensorProto.FLOAT}


def test_fold_graphs_are_shared_by_both_precisions(half_bundle: Path) -> None:
    contract = open_bundle(half_bundle).contract
    assert contract.precisions == ("fp32", "fp16")
    assert contract.graph("fold_0", "fp16") is contract.graph("fold_0")
    assert sorted(path.name for path in half_bundle.glob("fold*")) == ["fold_0.onnx", "fold_1.onnx"]


def test_a_bundle_without_half_graphs_names_the_export_that_adds_them(tiny_bundle: Path) -> None:
    with pytest.raises(BundleError, match=r"holds no fp16 graph 'encoder' .* --precision fp32,fp16"):
        Upscaler(tiny_bundle, engine=EngineOptions(engine="onnxruntime", precision="fp16"))


def test_half_graphs_equal_pytorch_within_their_tolerance(tiny_model: Hiif, half_bundle: Path) -> None:
    with Upscaler(half_bundle, engine=EngineOptions(engine="onnxruntime", precision="fp16")) as upscaler:
        found = compare(tiny_model, upscaler, cases(sizes=((1, 1), (7, 5), (16, 24)), scales=(1.0, 2.0, 3.3)))
    check(found, TOLERANCES["fp16"])
    assert min(deviation.psnr for deviation in found) < 120


def test_the_shipped_models_half_graphs_are_far_better_than_required() -> None:
    with Upscaler(engine=EngineOptions(engine="onnxruntime", precision="fp16")) as upscaler:
        found = compare_stored(upscaler)
    check_stored(found, TOLERANCES["fp16"])
    assert 80 < min(difference.psnr for difference in found.values()) < 110


def test_pytorch_rounding_every_tensor_keeps_the_tolerance_too(tiny_model: Hiif, half_bundle: Path) -> None:
    """ONNX Runtime on a processor may leave out roundings; a GPU does not."""
    bundle = open_bundle(half_bundle)
    backend = HostBackend(bundle, EngineOptions(engine="onnxruntime", threads=1, precision="fp16"))
    backend.sessions.update({graph.name: TorchSession(graph) for graph in HiifExporter(tiny_model).graphs("fp16")})
    with Upscaler(bundle, backend=backend) as upscaler:
        found = compare(tiny_model, upscaler, cases(sizes=((7, 5), (16, 24)), scales=(2.0, 3.3)))
    check(found, TOLERANCES["fp16"])
    assert min(deviation.psnr for deviation in found) < 100


def test_every_part_is_measured_and_none_is_far_off(tiny_model: Hiif, half_bundle: Path) -> None:
    found = compare_tensors(tiny_model, open_bundle(half_bundle))
    names = {(deviation.graph, deviation.tensor) for deviation in found}
    assert {
        ("encoder", "features"), ("maps", "moments"), ("statistics_0", "outer"), ("decoder", "first"),
        ("decoder", "attention.1"), ("decoder", "levels.2"), ("decoder", "colour"),
    } <= names  # fmt: skip
    assert min(deviation.ratio_db for deviation in found) > 40
    assert next(d for d in found if d.tensor == "colour").ratio_db < 80


@pytest.mark.parametrize("largest", [0.3, 1.0, 1.5, 4.0, 1000.0])
def test_a_fitted_weight_cannot_make_a_finite_half_product_infinite(largest: float) -> None:
    weight = torch.full((3, 8), largest / 8, dtype=torch.float64)
    factor = fit(weight, torch.float16)
    assert factor == 2.0 ** round(np.log2(factor))
    x = torch.full((8,), torch.finfo(torch.float16).max)
    assert torch.isfinite((weight / factor).half() @ x.half()).all()
    assert factor == 1 or not torch.isfinite(weight.half() @ x.half()).all()
    assert fit(weight, torch.float32) == 1


def test_only_half_is_widened() -> None:
    assert wide(torch.ones(1, dtype=torch.float16)).dtype == torch.float32
    assert wide(torch.ones(1, dtype=torch.float64)).dtype == torch.float64


def test_only_products_and_what_is_named_weight_become_half() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    module.register_buffer("weight", torch.ones(1))
    module.register_buffer("table", torch.ones(1, dtype=torch.float64))
    typed(module, torch.float16)
    assert (module[0].weight.dtype, module.weight.dtype, module.table.dtype) == (
        torch.float16, torch.float16, torch.float32,
    )  # fmt: skip


def test_a_half_transformer_keeps_its_layer_norms_in_float32() -> None:
    args = {"embed_dim": 12, "depths": [2], "num_heads": [2], "no_upsampling": True}
    encoder = make_encoder({"name": "swinir", "args": args}).eval()
    image = torch.rand(1, 3, 8, 16)
    half = typed_encoder(encoder, torch.float16)
    with torch.no_grad():
        expected, answer = encoder(image), half(image.half())
    assert answer.dtype == torch.float16
    assert torch.nn.functional.mse_loss(answer.float(), expected) < 1e-6 * expected.square().mean()
    assert {p.dtype for name, p in half.named_parameters() if ".norm" in name} == {torch.float32}


def test_statistics_of_eight_million_adversarial_queries_stay_finite_and_right(tiny_model: Hiif) -> None:
    """Activations up to the largest half number, all of one sign: sums and products are as large as they can be."""
    module = KeyValue(tiny_model.attention[0], None, torch.float16)
    half, exact = typed(module, torch.float16), KeyValue(tiny_model.attention[0], None)
    generator = torch.Generator().manual_seed(1)
    signs = torch.sign(torch.randn(8, 32, generator=generator))
    rows = (signs * 65000).half().repeat(1 << 15, 1)
    calls = 8_300_000 // rows.shape[0] + 1
    with torch.no_grad():
        # Every call answers the same, so that one run stands for all of them.
        answers = [value.double() * calls for value in half(rows)]
        expected = [value.double() * calls for value in exact(rows.double())]
    for answer, truth in zip(answers, expected, strict=True):
        assert torch.isfinite(answer).all()
        assert float((answer - truth).abs().max()) <= 2e-3 * calls * rows.shape[0]
    plain = tiny_model.attention[0].qkv_proj
    assert not torch.isfinite(rows[:8] @ plain.weight.half().T * 1.0 + plain.bias.half()).all()


def test_one_call_of_equal_queries_is_summed_up_within_float32(tiny_model: Hiif) -> None:
    """The worst case for adding in float32: every rounding goes the same way. Calls are added in float64."""
    half = typed(KeyValue(tiny_model.attention[0], None, torch.float16), torch.float16)
    rows = torch.full((1, 32), 60000.0, dtype=torch.float16)
    with torch.no_grad():
        one = [value.double() for value in half(rows)]
        many = half(rows.expand(1 << 16, 32))
    for answer, truth in zip(many, one, strict=True):
        torch.testing.assert_close(answer.double(), truth * (1 << 16), rtol=2e-3, atol=1e-3 * (1 << 16))


@pytest.mark.parametrize(
    ("text", "expected"), [("fp32", ["fp32"]), ("fp16,fp32", ["fp32", "fp16"]), ("fp32, fp16", ["fp32", "fp16"])]
)
def test_precisions_are_listed_fp32_first(text: str, expected: list[str]) -> None:
    assert parse_precisions(text) == expected


@pytest.mark.parametrize("text", ["fp16", "", "fp32,int8", "fp32,fp32", "half"])
def test_a_list_without_fp32_or_with_unknown_precisions_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="expected fp32, or fp32,fp16"):
        parse_precisions(text)


def test_parity_of_both_precisions_stands_in_the_contract(half_bundle: Path) -> None:
    parity: dict[str, Any] = dict(open_bundle(half_bundle).contract.parity)
    assert parity["max_error"] < 1e-4 < parity["fp16"]["max_error"]
    assert {entry["graph"] for entry in parity["fp16"]["graphs"]} >= {"encoder", "maps", "decoder", "fold_0"}
