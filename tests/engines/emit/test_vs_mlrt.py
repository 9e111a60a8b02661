"""The fused fixed-scale graph computes the runtime's geometry and, with a picture's own statistics, its picture."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx.utils import Extractor

from attention_model import ATTENTION_MODEL
from hiif_deploy.bundle.loader import Bundle, open_bundle
from hiif_deploy.decoding.session import Tensors
from hiif_deploy.errors import BundleError, OptionError, ScaleError
from hiif_deploy.geometry.grid import axis_table, relative_cell
from hiif_deploy.upscaler import Upscaler
from hiif_engines.emit.vs_mlrt import MEASURED_QUERIES, calibrate, describe, middle, write_vs_mlrt
from hiif_engines.emit.vs_mlrt_graph import fused_graph

HEIGHTS = [*range(1, 70), 96, 127, 135, 360, 480, 540, 719, 720, 1080, 1081, 2160, 4096, 4320]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return open_bundle(ATTENTION_MODEL)


@pytest.fixture(scope="module")
def no_attention(bundle: Bundle) -> Tensors:
    """Zeros where the decoder wants folded attention."""
    inputs = bundle.contract.graph("decoder").inputs
    return {t.name: np.zeros(t.shape, np.float32) for t in inputs if t.name.startswith("attention")}


def picture(height: int, width: int, seed: int = 3) -> Any:
    """[height, width, 3] float32: a gradient, so that something is smooth, and noise down to black and up to white."""
    noise = np.random.default_rng(seed).normal(0, 0.3, (height, width, 3))
    ramp = np.linspace(0, 1, width)[None, :, None]
    return np.clip(ramp + noise, 0, 1).astype(np.float32)


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def run(model: onnx.ModelProto, image: Any) -> Any:
    (answer,) = session(model).run(["output"], {"input": image.transpose(2, 0, 1)[None]})
    return answer[0].transpose(1, 2, 0)


def metadata(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 5, 8])
def test_geometry_is_the_runtimes_for_any_size(bundle: Bundle, no_attention: Tensors, scale: int) -> None:
    model = onnx.shape_inference.infer_shapes(fused_graph(bundle, scale, no_attention, {}))
    names = ["row/taps", "row/distance", "row/bits", "row_tap", "cell"]
    part = session(Extractor(model).extract_model(["input"], names))
    for height in HEIGHTS:
        found = dict(zip(names, part.run(names, {"input": np.zeros((1, 3, height, 7), np.float32)}), strict=True))
        table = axis_table(height, scale * height, bits="exact")
        np.testing.assert_array_equal(found["row/taps"], table.taps)
        np.testing.assert_array_equal(found["row_tap"], 7 * table.taps[:, :, None])
        np.testing.assert_array_equal(found["row/bits"], table.bits)
        # The same float32 operations in the same order; a runtime that fuses two of them may differ in the last digit.
        np.testing.assert_allclose(found["row/distance"], table.distance, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(found["cell"], relative_cell((height, 7), (scale * height, scale * 7)))


@pytest.mark.parametrize(("scale", "size"), [(1, (9, 14)), (2, (13, 17)), (2, (24, 5)), (3, (8, 11)), (4, (7, 6))])
def test_with_its_own_statistics_a_picture_is_the_runtimes(bundle: Bundle, scale: int, size: tuple[int, int]) -> None:
    image = picture(*size)
    with Upscaler(bundle) as upscaler:
        features = upscaler.encode(image)
        target = (size[0] * scale, size[1] * scale)
        folded = upscaler.statistics(features, target).folded
        expected = upscaler.render_unclamped(features, size=target)
    answer = run(fused_graph(bundle, scale, folded, {}), image)
    assert answer.shape == expected.shape
    # Float32 rounding in another order of operations; 1e-4 is a fortieth of an 8-bit step.
    np.testing.assert_allclose(answer, expected.clip(0, 1), rtol=0, atol=1e-4)
    assert expected.min() < 0 or expected.max() > 1, "nothing was clamped"


def test_statistics_matter(bundle: Bundle, no_attention: Tensors) -> None:
    image = picture(12, 12)
    own = run(fused_graph(bundle, 2, calibrate(bundle, 2, {"own": image}), {}), image)
    assert np.abs(run(fused_graph(bundle, 2, no_attention, {}), image) - own).max() > 0.01


def test_statistics_of_several_pictures_are_their_mean(bundle: Bundle) -> None:
    pictures = {"a": picture(9, 9, 1), "b": picture(14, 8, 2)}
    one, other = (calibrate(bundle, 2, {name: image}) for name, image in pictures.items())
    both = calibrate(bundle, 2, pictures)
    assert both.keys() == one.keys()
    for name, mean in both.items():
        assert np.abs(one[name] - other[name]).max() > 1e-4
        np.testing.assert_allclose(mean, (one[name] + other[name]) / 2, rtol=0, atol=1e-6)


def test_nothing_is_used_that_tensorrt_or_half_of_the_runtimes_lack(bundle: Bundle, no_attention: Tensors) -> None:
    model = onnx.shape_inference.infer_shapes(fused_graph(bundle, 2, no_attention, {}), strict_mode=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 20)]
    operators = {node.op_type for node in model.graph.node}
    assert not operators & {"GridSample", "NonZero", "Mod", "Floor", "If", "Loop"}
    double = onnx.TensorProto.DOUBLE
    assert not [tensor.name for tensor in model.graph.initializer if tensor.data_type == double]
    assert not [value.name for value in model.graph.value_info if value.type.tensor_type.elem_type == double]
    names = [name for node in model.graph.node for name in node.output]
    assert len(names) == len(set(names))


def test_vs_mlrt_can_work_out_the_output_size(bundle: Bundle, no_attention: Tensors) -> None:
    """vs-mlrt writes the tile's size into the input, forgets the output's, and reads what shape inference finds."""
    model = fused_graph(bundle, 3, no_attention, {})
    assert [value.name for value in model.graph.input] == ["input"]
    assert [value.name for value in model.graph.output] == ["output"]
    for axis, size in ((2, 16), (3, 20)):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = size
    del model.graph.value_info[:]
    inferred = session(onnx.shape_inference.infer_shapes(model))
    assert inferred.get_inputs()[0].shape == [1, 3, 16, 20]
    assert inferred.get_outputs()[0].shape == [1, 3, 48, 60]


def test_the_real_parser_and_builder_accept_it(bundle: Bundle, no_attention: Tensors) -> None:
    trt = pytest.importorskip("tensorrt_rtx_bindings")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    data = fused_graph(bundle, 2, no_attention, {}).SerializeToString()
    assert parser.parse(data), [parser.get_error(n).desc() for n in range(parser.num_errors)]
    assert network.get_input(0).dtype == network.get_output(0).dtype == trt.float32
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    profile.set_shape("input", (1, 3, 16, 16), (1, 3, 270, 480), (1, 3, 540, 960))
    config.add_optimization_profile(profile)
    assert builder.build_serialized_network(network, config) is not None


def test_the_file_says_what_it_is_and_how_far_it_is_off(
    bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "hiif_engines")
    path = tmp_path / "new" / "x2.onnx"
    pictures = {"one": picture(20, 24, 1), "two": picture(16, 18, 2)}
    found = write_vs_mlrt(bundle, 2, path, pictures=pictures)
    model = onnx.load(path)
    facts = metadata(model)
    assert facts["hiif.model"] == "hiif-attention"
    assert (facts["hiif.scale"], facts["hiif.bits"], facts["hiif.calibration"]) == ("2", "exact", "one, two")
    assert facts["hiif.size_multiple"].endswith("multiples of 1")
    assert facts["hiif.overlap"].startswith("19 ")
    assert json.loads(facts["hiif.deviation"])["one"]["psnr"] == found["one"].psnr
    with Upscaler(bundle) as upscaler:
        image = pictures["two"]
        expected = upscaler.render_unclamped(upscaler.encode(image), size=(32, 36)).clip(0, 1)
    error = np.abs(run(model, image).astype(np.float64) - expected)
    assert 0 < error.max() == pytest.approx(found["two"].largest, abs=1e-6)
    assert -10 * np.log10(np.mean(error**2)) == pytest.approx(found["two"].psnr, abs=0.1)
    assert any(line.startswith(f"two: {found['two'].psnr:.1f} dB") for line in caplog.messages)
    assert [entry.name for entry in path.parent.iterdir()] == ["x2.onnx"]


@pytest.mark.early
def test_the_shipped_model_stays_close_with_the_packages_samples(bundle: Bundle, tmp_path: Path) -> None:
    found = write_vs_mlrt(bundle, 2, tmp_path / "x2.onnx")
    assert found.keys() == {"astronaut", "coffee", "chelsea"}
    # Measured: 68 dB and 0.008. Three pictures' mean is an estimate, so this is a bound for a broken one.
    assert min(difference.psnr for difference in found.values()) > 60
    assert max(difference.largest for difference in found.values()) < 0.03


def test_the_deviation_of_a_bundle_with_reference_bits_includes_that_of_the_bits(
    bundle: Bundle, tmp_path: Path
) -> None:
    decoder = replace(bundle.contract.decoder, bits="reference")
    published = replace(bundle, contract=replace(bundle.contract, decoder=decoder))
    pictures = {"one": picture(27, 30)}
    exact = write_vs_mlrt(bundle, 2, tmp_path / "exact.onnx", pictures=pictures)["one"]
    # Of one picture the statistics are its own: only rounding is left.
    assert exact.psnr > 100
    assert write_vs_mlrt(published, 2, tmp_path / "published.onnx", pictures=pictures)["one"].psnr < exact.psnr - 20
    graphs = [onnx.load(tmp_path / name).graph for name in ("exact.onnx", "published.onnx")]
    assert graphs[0].SerializeToString() == graphs[1].SerializeToString()


@pytest.mark.parametrize("scale", [0, -2, 2.5])
def test_only_whole_scales_are_possible(bundle: Bundle, tmp_path: Path, scale: Any) -> None:
    with pytest.raises(ScaleError, match=f"scale {scale}: a file for vs-mlrt has one whole-number scale"):
        write_vs_mlrt(bundle, scale, tmp_path / "x.onnx")


def test_an_existing_file_is_kept_without_overwrite(bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "x2.onnx"
    path.write_bytes(b"mine")
    with pytest.raises(OptionError, match=r"x2\.onnx exists already; choose another name or add --overwrite"):
        write_vs_mlrt(bundle, 2, path)
    assert path.read_bytes() == b"mine"
    write_vs_mlrt(bundle, 2, path, pictures={"one": picture(8, 8)}, overwrite=True)
    assert onnx.load(path).graph.name == "hiif-attention_x2"


def test_calibration_without_pictures_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no calibration picture was given"):
        write_vs_mlrt(bundle, 2, tmp_path / "x2.onnx", pictures={})
    assert list(tmp_path.iterdir()) == []


def test_encoders_that_want_multiples_are_measured_on_multiples(bundle: Bundle) -> None:
    assert middle(picture(50, 37), 2, 8).shape == (48, 32, 3)
    large = middle(np.zeros((2000, 900, 3), np.float32), 4, 8)
    assert large.shape[0] % 8 == large.shape[1] % 8 == 0
    assert 0.8 * MEASURED_QUERIES < large.shape[0] * large.shape[1] * 16 <= MEASURED_QUERIES
    with pytest.raises(OptionError, match="calibration picture of 9x7 pixels: this encoder needs 8x8"):
        middle(picture(7, 9), 2, 8)
    windowed = replace(bundle.contract.encoder, size_multiple=8, receptive_field=None)
    facts = describe(replace(bundle, contract=replace(bundle.contract, encoder=windowed)), 2, {"one": picture(8, 8)})
    assert facts["hiif.size_multiple"].endswith("multiples of 8")
    assert facts["hiif.overlap"].startswith("unbounded")


def test_a_graph_of_another_opset_is_refused(bundle: Bundle, no_attention: Tensors) -> None:
    model = onnx.load_from_string(bundle.graphs["maps"])
    model.opset_import[0].version = 21
    changed = replace(bundle, graphs={**bundle.graphs, "maps": model.SerializeToString()})
    with pytest.raises(BundleError, match=r"graph maps: it uses opsets .*21.*, expected ONNX 20 alone"):
        fused_graph(changed, 2, no_attention, {})


def test_statistics_that_are_missing_are_named(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="graph decoder: input attention_0_weight is known to no earlier graph"):
        fused_graph(bundle, 2, {}, {})
