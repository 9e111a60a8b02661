"""The graphs of a HIIF bundle: names, axes, operators, and that constants survive the exporter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from hiif_deploy.bundle.contract import GEOMETRY_INPUTS, Contract, expected_graphs, expected_stages
from hiif_deploy.bundle.loader import read_contract
from hiif_deploy.upscaler import Upscaler
from hiif_export.decoders.hiif_graphs import HiifExporter
from hiif_export.graphs.corners import AREA_EPSILON
from hiif_export.graphs.onnx_file import OPSET, example_outputs, to_onnx
from hiif_export.parity.parity import cases, compare
from hiif_training.models.encoders.edsr import Edsr, EdsrConfig
from hiif_training.models.hiif import Hiif, HiifConfig
from onnx_operators import operators

torch.set_num_threads(1)

NAMES = ["encoder", "maps", "statistics_0", "fold_0", "statistics_1", "fold_1", "decoder"]
MAPS = {**{f"map_{k}": ("pixels", 48) for k in range(4)}, "moments": ("pixels", 2)}
GEOMETRY = {
    "row_tap": (2, "rows", 1),
    "column_tap": (2, 1, "columns"),
    "row_distance": (2, "rows", 1),
    "column_distance": (2, 1, "columns"),
    "row_bits": (6, "rows", 1),
    "column_bits": (6, 1, "columns"),
    "cell": (2,),
}
FOLDED = [
    {f"attention_{n}_weight": (32, 32), f"attention_{n}_bias": (32,)} for n in range(2)
]  # fmt: skip
SUMS = {"outer": (4, 8, 8), "key": (4, 8), "value": (4, 8)}
SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "encoder": ({"image": (1, 3, "height", "width")}, {"features": (1, 16, "height", "width")}),
    "maps": ({"features": (1, 16, "tile_height", "tile_width")}, MAPS),
    "statistics_0": ({**MAPS, **GEOMETRY}, SUMS),
    "fold_0": ({**SUMS, "count": (1,)}, FOLDED[0]),
    "statistics_1": ({**MAPS, **GEOMETRY, **FOLDED[0]}, SUMS),
    "fold_1": ({**SUMS, "count": (1,)}, FOLDED[1]),
    "decoder": ({**MAPS, **GEOMETRY, **FOLDED[0], **FOLDED[1]}, {"colour": ("queries", 3)}),
}
"""Graph → inputs and outputs of `tiny_model`."""


@pytest.fixture(scope="module")
def models(tiny_bundle: Path) -> dict[str, onnx.ModelProto]:
    return {name: onnx.load(tiny_bundle / f"{name}.onnx") for name in NAMES}


@pytest.fixture(scope="module")
def contract(tiny_bundle: Path) -> Contract:
    return read_contract(tiny_bundle)


def shapes(values: Any) -> dict[str, tuple[int | str, ...]]:
    return {
        value.name: tuple(axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim)
        for value in values
    }


def element_types(model: onnx.ModelProto) -> set[int]:
    """Of inputs, outputs, initializers, constants and casts."""
    found = {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    found |= {tensor.data_type for tensor in model.graph.initializer}
    for node in model.graph.node:
        for attribute in node.attribute:
            found |= {attribute.t.data_type} if attribute.HasField("t") else set()
            found |= {attribute.i} if node.op_type == "Cast" and attribute.name == "to" else set()
    return found


@pytest.fixture(scope="module")
def supported() -> set[str]:
    """Operators that TensorRT's parser supports."""
    text = Path(__file__).with_name("tensorrt_operators.txt").read_text(encoding="utf-8")
    return {line for line in text.splitlines() if line and not line.startswith("#")}


def test_the_graphs_come_in_the_order_of_use(tiny_model: Hiif, contract: Contract) -> None:
    assert [graph.name for graph in HiifExporter(tiny_model).graphs()] == NAMES
    assert [graph.name for graph in contract.graphs] == [*NAMES, *expected_stages(2)]
    assert [graph.name for graph in HiifExporter(tiny_model).stage_graphs()] == expected_stages(2)
    assert expected_graphs(2) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_graph_has_its_named_inputs_and_outputs(models: dict[str, onnx.ModelProto], name: str) -> None:
    inputs, outputs = SHAPES[name]
    found = shapes(models[name].graph.input)
    assert found == inputs
    assert list(found) == list(inputs)
    assert shapes(models[name].graph.output) == outputs


@pytest.mark.parametrize("name", NAMES)
def test_the_contract_says_what_the_file_has(models: dict[str, onnx.ModelProto], contract: Contract, name: str) -> None:
    types = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.DOUBLE: "float64"}
    types[onnx.TensorProto.INT32] = "int32"
    graph = contract.graph(name)
    for promised, values in ((graph.inputs, models[name].graph.input), (graph.outputs, models[name].graph.output)):
        assert {tensor.name: tensor.shape for tensor in promised} == shapes(values)
        assert [tensor.dtype for tensor in promised] == [types[value.type.tensor_type.elem_type] for value in values]


def test_every_input_is_geometry_or_the_output_of_an_earlier_graph(contract: Contract) -> None:
    known = {"image", "count"} | GEOMETRY_INPUTS
    for graph in contract.graphs:
        assert {tensor.name for tensor in graph.inputs} <= known, graph.name
        known |= {tensor.name for tensor in graph.outputs}


@pytest.mark.parametrize("name", NAMES)
def test_a_graph_is_a_valid_model_of_the_stated_opset(models: dict[str, onnx.ModelProto], name: str) -> None:
    onnx.checker.check_model(models[name], full_check=True)
    assert [(entry.domain, entry.version) for entry in models[name].opset_import] == [("", OPSET)]
    assert not models[name].functions


@pytest.mark.parametrize("name", NAMES)
def test_a_graph_uses_only_operators_that_tensorrt_supports(
    models: dict[str, onnx.ModelProto], supported: set[str], name: str
) -> None:
    used = operators(models[name])
    assert used <= supported
    assert not used & {"GridSample", "NonZero", "Loop", "If", "Scan"}


def test_the_list_of_supported_operators_leaves_some_out(supported: set[str]) -> None:
    assert {"Conv", "Gather", "Gelu", "GridSample"} <= supported
    assert not supported & {"Det", "StringNormalizer", "AffineGrid"}


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("fold")])
def test_only_the_folds_which_run_on_the_processor_have_float64(models: dict[str, onnx.ModelProto], name: str) -> None:
    assert onnx.TensorProto.DOUBLE not in element_types(models[name])
    assert onnx.TensorProto.DOUBLE in element_types(models["fold_0"])


@pytest.mark.parametrize("name", NAMES)
def test_nothing_in_a_graph_describes_the_machine_that_wrote_it(tiny_bundle: Path, name: str) -> None:
    content = (tiny_bundle / f"{name}.onnx").read_bytes()
    for trace in (str(Path.cwd()), str(Path(torch.__file__).parent), "/home", "site-packages", "pkg.torch"):
        assert trace.encode() not in content, trace


@pytest.mark.parametrize("name", ["statistics_0", "statistics_1", "decoder"])
def test_the_area_epsilon_is_a_constant_of_the_graph(models: dict[str, onnx.ModelProto], name: str) -> None:
    graph = models[name].graph
    constants = [onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer]
    constants += [
        onnx.numpy_helper.to_array(attribute.t)
        for node in graph.node
        for attribute in node.attribute
        if attribute.HasField("t")
    ]
    assert any(array.size == 1 and array.item() == np.float32(AREA_EPSILON) for array in constants)


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("size", [(1, 1), (5, 5), (1, 5)])
def test_queries_on_pixel_centres_have_the_right_output(
    tiny_model: Hiif, tiny_bundle: Path, size: tuple[int, int], scale: float
) -> None:
    with Upscaler(tiny_bundle) as upscaler:
        (found,) = compare(tiny_model, upscaler, cases(sizes=(size,), scales=(scale,)))
    assert np.isfinite(found.colours)
    assert found.colours < 2e-5


def variant(**changes: Any) -> Hiif:
    torch.manual_seed(0)
    config = HiifConfig(**{"heads": 2, "hidden_dim": 8, "mlp_dim": 12, **changes})
    return Hiif(Edsr(EdsrConfig(blocks=1, features=6)), config).eval()


@pytest.mark.parametrize("blocks", [0, 1, 3])
def test_each_attention_block_has_its_statistics_and_its_fold(blocks: int) -> None:
    graphs = HiifExporter(variant(attention_blocks=blocks)).graphs()
    assert [graph.name for graph in graphs] == expected_graphs(blocks)
    folded = [name for name in graphs[-1].inputs if name.startswith("attention")]
    assert folded == [f"attention_{n}_{part}" for n in range(blocks) for part in ("weight", "bias")]


@pytest.mark.parametrize(
    ("changes", "position", "count"),
    [
        ({"hierarchy": "levels", "levels": 4}, "bits", 4),
        ({"hierarchy": "once", "levels": 9}, "bits", 9),
        ({"hierarchy": "coordinates"}, "local", 1),
    ],
)
def test_a_hierarchy_decides_which_position_is_an_input(changes: dict[str, Any], position: str, count: int) -> None:
    graph = HiifExporter(variant(**changes)).graphs()[-1]
    names = [name for name in graph.inputs if name.endswith(("_bits", "_local"))]
    assert names == [f"row_{position}", f"column_{position}"]
    assert graph.inputs[names[0]][1] == (count, "rows", 1)
    assert graph.inputs[names[1]][1] == (count, 1, "columns")


@pytest.mark.parametrize("changes", [{}, {"hierarchy": "coordinates"}, {"attention_blocks": 0}], ids=str)
def test_the_examples_fit_the_shapes_that_the_graphs_promise(changes: dict[str, Any]) -> None:
    for graph in HiifExporter(variant(**changes)).graphs():
        answers = example_outputs(graph)
        assert len(answers) == len(graph.outputs)
        tensors = [(tensor, axes) for tensor, axes in graph.inputs.values()]
        sizes: dict[str, int] = {}
        for tensor, axes in [*tensors, *zip(answers, graph.outputs.values(), strict=True)]:
            assert tensor.dim() == len(axes)
            for size, axis in zip(tensor.shape, axes, strict=True):
                expected = sizes.setdefault(axis, size) if isinstance(axis, str) else axis
                assert size == expected, (graph.name, axis)


def test_a_decoder_that_gets_all_bits_at_once_is_exported_with_supported_operators(supported: set[str]) -> None:
    model = to_onnx(HiifExporter(variant(hierarchy="once", attention_blocks=0, levels=3)).graphs()[-1])
    assert operators(model) <= supported
    assert onnx.TensorProto.DOUBLE not in element_types(model)
