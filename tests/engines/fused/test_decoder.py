"""The fused kernel, run by Triton's interpreter, against the decoder graph run operation by operation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from hiif_deploy.bundle.contract import Precision
from hiif_deploy.bundle.loader import open_bundle
from hiif_deploy.errors import EngineError

torch = pytest.importorskip("torch")
pytest.importorskip("triton", reason="Triton is not installed")
from attention_model import ATTENTION_MODEL  # noqa: E402
from hiif_engines.fused import select  # noqa: E402
from hiif_engines.fused.configs import NARROW_ROWS, WIDE_ROWS, KernelConfig  # noqa: E402
from hiif_engines.fused.decoder import FusedDecoder, FusedStatistics  # noqa: E402
from hiif_engines.fused.kernels import AREA_EPSILON  # noqa: E402
from hiif_engines.fused.select import fused_kernels, random_feeds  # noqa: E402
from hiif_engines.torch_graph.interpreter import TorchGraph  # noqa: E402

SOURCE, TARGET = (4, 3), (9, 7)
"""63 queries: an odd count that no block divides."""


def graph_of(name: str, graph: str, precision: Precision) -> TorchGraph:
    bundle = open_bundle(name)
    found = bundle.contract.chain(precision)[graph]
    return TorchGraph(found, bundle.graphs[found.key], torch.device("cpu"))


def feeds_of(name: str, decoder: TorchGraph) -> dict[str, torch.Tensor]:
    """Random maps and folded matrices, real geometry."""
    dtype = getattr(torch, decoder.contract.inputs[0].dtype)
    return random_feeds(open_bundle(name).contract, decoder, dtype, SOURCE, TARGET)


@pytest.mark.parametrize(
    ("name", "precision", "tolerance"),
    [
        (ATTENTION_MODEL, "fp32", 1e-5), (ATTENTION_MODEL, "fp16", 4e-3),
        # Its colours, which are added to the enlarged input, are a hundredth of the others.
        ("hiif-live", "fp32", 1e-6), ("hiif-live", "fp16", 2e-4),
    ],
)  # fmt: skip
def test_the_kernel_answers_as_the_graph(name: str, precision: Precision, tolerance: float) -> None:
    decoder = graph_of(name, "decoder", precision)
    feeds = feeds_of(name, decoder)
    fused = FusedDecoder(graph_of(name, "decoder", "fp32"), feeds["map_0"].dtype)
    expected, found = decoder(feeds)["colour"], fused(feeds, KernelConfig(block=32, slice=32, programs=2))["colour"]
    # Half precision rounds values of about 1 by 5e-4, a few times in a row.
    assert (found - expected).abs().max() < tolerance
    assert expected.abs().max() > 10 * tolerance


@pytest.mark.parametrize("name", [pytest.param("decoder", marks=pytest.mark.slow), "statistics_1"])
def test_the_output_does_not_depend_on_the_configuration(name: str) -> None:
    graph = graph_of(ATTENTION_MODEL, name, "fp32")
    feeds = feeds_of(ATTENTION_MODEL, graph)
    fused = (FusedDecoder if name == "decoder" else FusedStatistics)(graph, torch.float32)
    expected = fused(feeds, KernelConfig(16, 16, 1))
    # The interpreter knows no warps.
    for config in {replace(row.config(1), warps=1) for row in (*NARROW_ROWS, *WIDE_ROWS["decoder"])}:
        for part, value in fused(feeds, config).items():
            # Sums of values of about 1 over all queries; colours of about 1.
            assert (value - expected[part]).abs().max() < 1e-5 * max(1, expected[part].abs().max())


def test_the_first_configuration_that_runs_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, cpu = open_bundle(ATTENTION_MODEL), torch.device("cpu")
    # Triton has blocks of powers of two only.
    broken, sound = KernelConfig(block=48), KernelConfig(block=16)
    monkeypatch.setattr(select, "configs", lambda *_: [broken, sound, KernelConfig()])
    assert {kernel.keywords["config"] for kernel in fused_kernels(bundle, "fp32", cpu).values()} == {sound}  # type: ignore[attr-defined]
    monkeypatch.setattr(select, "configs", lambda *_: [broken])
    with pytest.raises(EngineError, match=r"kernel decoder does not run on cpu: KernelConfig\(block=48.*: ."):
        fused_kernels(bundle, "fp32", cpu)


@pytest.mark.parametrize("n", [0, 1])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("fp16", 4e-3)])
def test_the_statistics_kernel_sums_as_the_graph(n: int, precision: Precision, tolerance: float) -> None:
    statistics = graph_of(ATTENTION_MODEL, f"statistics_{n}", precision)
    feeds = feeds_of(ATTENTION_MODEL, statistics)
    fused = FusedStatistics(graph_of(ATTENTION_MODEL, f"statistics_{n}", "fp32"), feeds["map_0"].dtype)
    expected, found = statistics(feeds), fused(feeds, KernelConfig(block=32, slice=32, programs=2))
    queries = TARGET[0] * TARGET[1]
    for name, value in expected.items():
        # Sums of values of about 1 over all queries, hence per query.
        assert (found[name] - value).abs().max() / queries < tolerance
        assert value.abs().max() / queries > 10 * tolerance
    again = fused(feeds, KernelConfig(block=32, slice=32, programs=2))
    assert all(torch.equal(again[name], value) for name, value in found.items())


@pytest.mark.parametrize(("name", "outputs"), [("decoder", ["colour"]), ("statistics_1", ["outer", "key", "value"])])
def test_the_epsilon_of_a_layer_norm_is_that_of_the_graph(name: str, outputs: list[str]) -> None:
    contract = open_bundle(ATTENTION_MODEL).contract.chain("fp32")[name]
    model = onnx.load_from_string(open_bundle(ATTENTION_MODEL).graphs[contract.key])
    before = TorchGraph(contract, model.SerializeToString(), torch.device("cpu")).constants("Add", before="Sqrt")
    assert set(before) == {float(np.float32(1e-5))}
    for tensor in model.graph.initializer:
        value = onnx.numpy_helper.to_array(tensor)
        if value.ndim == 0 and value == np.float32(1e-5):
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.array(0.5, np.float32), tensor.name))
    graph = TorchGraph(contract, model.SerializeToString(), torch.device("cpu"))
    fused = (FusedDecoder if name == "decoder" else FusedStatistics)(graph, torch.float32)
    assert set(fused.epsilons) == {0.5}
    feeds = feeds_of(ATTENTION_MODEL, graph)
    expected, found = graph(feeds), fused(feeds, KernelConfig(block=32, slice=32, programs=2))
    for output in outputs:
        assert (found[output] - expected[output]).abs().max() < 1e-5 * max(1, expected[output].abs().max())
    other = graph_of(ATTENTION_MODEL, name, "fp32")(feeds)
    assert (other[outputs[0]] - expected[outputs[0]]).abs().max() > 1e-3


def test_attention_with_a_single_projection_is_not_fused_and_says_so(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    from encoder_bundles import ENCODERS
    from hiif_export.export import export_bundle
    from hiif_export.parity.parity import cases
    from hiif_training.models.registry import make_model

    torch.manual_seed(5)
    args = {"blocks": 2, "hidden_dim": 16, "mlp_dim": 16, "levels": 3, "attention_blocks": 1, "projections": 1}
    encoder = {"name": "edsr-baseline", "args": ENCODERS["edsr-baseline"]}
    spec = {"name": "hiif", "args": {"encoder_spec": encoder, **args}}
    suite = cases(sizes=((6, 9),), scales=(2.0,))
    export_bundle(make_model(spec).eval(), spec, tmp_path / "one", name="one", provenance={}, suite=suite)
    with pytest.raises(EngineError, match="attention with a single projection is not fused"):
        fused_kernels(open_bundle(tmp_path / "one"), "fp32", torch.device("cpu"))


def test_the_areas_epsilon_is_that_of_the_graphs() -> None:
    weights = graph_of(ATTENTION_MODEL, "decoder", "fp32").weights
    constants = [float(value) for name, value in weights.items() if value.ndim == 0 and name.startswith("val_")]
    assert float(np.float32(AREA_EPSILON.value)) in constants
