"""Writing one graph: names, dynamic axes, what the exporter leaves in the file, and what is refused."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from hiif_deploy.bundle.contract import TensorContract
from hiif_deploy.errors import ParityError
from hiif_export.graphs.graph import Graph
from hiif_export.graphs.onnx_file import (
    OPSET,
    _name_axes,
    _quiet,
    example_outputs,
    tensor_contracts,
    to_onnx,
)
from onnx_operators import operators

torch.set_num_threads(1)


class Scale(nn.Module):
    """Two outputs, and a tail of further inputs."""

    def forward(self, image: Tensor, *factors: Tensor) -> tuple[Tensor, Tensor]:
        first = image * factors[0]
        return first + factors[1], first.sum(dim=(2, 3))


def graph() -> Graph:
    return Graph(
        "scale",
        Scale(),
        {
            "image": (torch.rand(1, 3, 8, 12), (1, 3, "height", "width")),
            "factor": (torch.rand(3, 1, 1), (3, 1, 1)),
            "offset": (torch.rand(1, 12), (1, "width")),
        },
        {"answer": (1, 3, "height", "width"), "total": (1, 3)},
        {"height": 4},
    )


@pytest.fixture(scope="module")
def written() -> onnx.ModelProto:
    return to_onnx(graph())


def shape(value: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    return tuple(axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim)


def test_inputs_and_outputs_have_the_requested_names_and_shapes(written: onnx.ModelProto) -> None:
    assert {value.name: shape(value) for value in written.graph.input} == {
        "image": (1, 3, "height", "width"),
        "factor": (3, 1, 1),
        "offset": (1, "width"),
    }
    assert {value.name: shape(value) for value in written.graph.output} == {
        "answer": (1, 3, "height", "width"),
        "total": (1, 3),
    }


@pytest.mark.parametrize("size", [(4, 5), (8, 12), (20, 1)])
def test_dynamic_axes_take_other_sizes(written: onnx.ModelProto, size: tuple[int, int]) -> None:
    session = onnxruntime.InferenceSession(written.SerializeToString(), providers=["CPUExecutionProvider"])
    image, factor, offset = torch.rand(1, 3, *size), torch.rand(3, 1, 1), torch.rand(1, size[1])
    feeds = {"image": image.numpy(), "factor": factor.numpy(), "offset": offset.numpy()}
    for found, expected in zip(session.run(["answer", "total"], feeds), Scale()(image, factor, offset), strict=True):
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5)


def test_the_opset_is_the_stated_one_and_the_only_one(written: onnx.ModelProto) -> None:
    assert [(entry.domain, entry.version) for entry in written.opset_import] == [("", OPSET)]
    assert OPSET == 20


def test_operators_are_listed_without_the_names_of_functions(written: onnx.ModelProto) -> None:
    assert operators(written) == {"Add", "Mul", "ReduceSum"}


def test_operators_inside_functions_and_branches_are_listed() -> None:
    branch = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])], "branch", [],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])],
    )  # fmt: skip
    condition = onnx.helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    opset = onnx.helper.make_opsetid("", 20)
    function = onnx.helper.make_function(
        "own", "Twice", ["x"], ["y"], [onnx.helper.make_node("Add", ["x", "x"], ["y"])], [opset]
    )
    call = onnx.helper.make_node("Twice", ["y"], ["z"], domain="own")
    whole = onnx.helper.make_graph([condition, call], "whole", [], [])
    model = onnx.helper.make_model(whole, functions=[function], opset_imports=[opset])
    assert operators(model) == {"If", "Relu", "Add"}


def test_nothing_in_the_file_describes_the_machine_that_wrote_it(written: onnx.ModelProto) -> None:
    content = written.SerializeToString()
    for trace in (str(Path.cwd()), str(Path(torch.__file__).parent), "/home", "site-packages", ".py"):
        assert trace.encode() not in content, trace
    assert not written.metadata_props
    assert all(not node.metadata_props and not node.doc_string for node in written.graph.node)
    assert all(not value.metadata_props for value in (*written.graph.input, *written.graph.output))


def test_the_exporter_alone_would_describe_it() -> None:
    with _quiet():
        program = torch.onnx.export(nn.ReLU().eval(), (torch.rand(3),), dynamo=True, opset_version=OPSET, verbose=False)
    assert program is not None
    assert b".py" in program.model_proto.SerializeToString()


def test_the_contract_of_a_graph_lists_its_tensors_in_order() -> None:
    inputs, outputs = tensor_contracts(graph())
    assert inputs == (
        TensorContract("image", "float32", (1, 3, "height", "width")),
        TensorContract("factor", "float32", (3, 1, 1)),
        TensorContract("offset", "float32", (1, "width")),
    )
    assert [tensor.name for tensor in outputs] == ["answer", "total"]


def test_example_outputs_are_the_modules_own() -> None:
    asked = graph()
    image, factor, offset = (tensor for tensor, _ in asked.inputs.values())
    for found, expected in zip(example_outputs(asked), Scale()(image, factor, offset), strict=True):
        assert found.equal(expected)


def model_of(size: int | str) -> onnx.ModelProto:
    tensors = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [size, 3]) for name in ("x", "y")]
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    return onnx.helper.make_model(onnx.helper.make_graph([node], "g", tensors[:1], tensors[1:]))


def asking_for(axis: int | str) -> Graph:
    return Graph("small", nn.ReLU(), {"x": (torch.rand(5, 3), (axis, 3))}, {"y": (axis, 3)}, {})


def test_a_frozen_axis_is_refused_by_name() -> None:
    with pytest.raises(ParityError, match="graph small: axis rows of x was frozen at 5"):
        _name_axes(model_of(5), asking_for("rows"))


def test_axes_get_the_names_that_people_read() -> None:
    model = model_of("s77")
    _name_axes(model, asking_for("rows"))
    assert [shape(value) for value in (*model.graph.input, *model.graph.output)] == [("rows", 3)] * 2


def test_an_axis_that_should_be_fixed_gets_its_size() -> None:
    model = model_of("s77")
    _name_axes(model, asking_for(5))
    assert [shape(value) for value in (*model.graph.input, *model.graph.output)] == [(5, 3)] * 2


def test_the_exporters_logger_is_as_before_even_after_a_failure() -> None:
    logger = logging.getLogger("torch.onnx")
    seen = []

    def fail() -> None:
        with _quiet():
            seen.append(logger.level)
            warnings.warn("of no interest", stacklevel=1)
            raise ZeroDivisionError

    before = logger.level
    with pytest.raises(ZeroDivisionError):
        fail()
    assert seen == [logging.ERROR]
    assert logger.level == before != logging.ERROR
