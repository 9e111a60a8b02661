"""The Triton repository describes every graph rightly, and its Python model answers what `Upscaler` answers."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attention_model import ATTENTION_MODEL
from hiif_deploy.backends.options import EngineOptions
from hiif_deploy.bundle.contract import GraphContract, Precision, TensorContract
from hiif_deploy.bundle.loader import Bundle, open_bundle
from hiif_deploy.errors import EngineError, OptionError
from hiif_deploy.upscaler import RenderOptions, Upscaler
from hiif_engines.emit.triton import graph_config, write_triton
from hiif_engines.tensorrt.profiles import BuildSizes, Profile, ShapeRange, make_profiles
from triton_double import KINDS, Server, Tensor, load_module, read_config

GRAPHS = ("encoder", "maps", "statistics_0", "statistics_1", "decoder")
OPTIONS = RenderOptions(query_block=600, memory=1 << 27)
"""Small enough that a test picture is cut into several blocks."""


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return open_bundle(ATTENTION_MODEL)


@pytest.fixture(scope="module")
def repository(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("triton") / "repository"
    write_triton(bundle, folder, options=OPTIONS)
    return folder


@pytest.fixture
def server(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    made = Server(repository)
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", made.module())
    return made


@pytest.fixture
def front(server: Server) -> Iterator[Any]:
    model = server.front("hiif")
    yield model
    model.finalize()


def picture(height: int = 19, width: int = 23) -> Any:
    return np.random.default_rng(5).integers(0, 256, (height, width, 3), dtype=np.uint8)


def ask(front: Any, **values: Any) -> Any:
    (response,) = front.execute([[Tensor(name, np.asarray(value)) for name, value in values.items()]])
    return response


def frame_of(response: Any) -> Any:
    assert not response.has_error(), response.error().message()
    (tensor,) = response.output_tensors()
    assert tensor.name() == "frame"
    return tensor.as_numpy()


def test_every_graph_is_described_as_the_contract_says(bundle: Bundle, repository: Path) -> None:
    for name in GRAPHS:
        graph = bundle.contract.graph(name)
        config = read_config(repository / f"hiif_{name}" / "config.pbtxt")
        assert (config.name, config.platform, config.max_batch_size) == (f"hiif_{name}", "onnxruntime_onnx", 0)
        for described, tensors in ((config.input, graph.inputs), (config.output, graph.outputs)):
            kinds = type(described[0]).DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number
            found = [(entry.name, KINDS[kinds[entry.data_type].name], list(entry.dims)) for entry in described]
            assert found == [
                (t.name, t.dtype, [size if isinstance(size, int) else -1 for size in t.shape]) for t in tensors
            ]
        assert (repository / f"hiif_{name}" / "1" / "model.onnx").read_bytes() == bundle.graphs[name]


def test_the_configuration_names_what_clients_send(repository: Path) -> None:
    config = read_config(repository / "hiif" / "config.pbtxt")
    assert (config.name, config.backend, config.max_batch_size) == ("hiif", "python", 0)
    assert [(entry.name, list(entry.dims), entry.optional) for entry in config.input] == [
        ("image", [-1, -1, 3], False),
        ("scale", [1], True),
        ("size", [2], True),
    ]
    assert [(entry.name, list(entry.dims)) for entry in config.output] == [("frame", [-1, -1, 3])]
    assert config.parameters["query_block"].string_value == "600"


def test_only_models_are_in_the_folder_and_folds_are_none(repository: Path) -> None:
    found = {path.name for path in repository.iterdir()}
    assert found == {"hiif", *(f"hiif_{name}" for name in GRAPHS), "client.py", "README.md"}


@pytest.mark.parametrize("scale", [1.0, 2.0, 3.3])
def test_the_output_is_the_upscalers_bit_for_bit(bundle: Bundle, front: Any, server: Server, scale: float) -> None:
    image = picture()
    with Upscaler(bundle, engine="onnxruntime", options=OPTIONS) as upscaler:
        expected = upscaler.upscale(image, scale=scale)
    answer = frame_of(ask(front, image=image, scale=np.array([scale], np.float32)))
    np.testing.assert_array_equal(answer, expected)
    assert set(server.calls) == {f"hiif_{name}" for name in GRAPHS}
    assert server.calls.count("hiif_decoder") >= 1 + int(scale > 1)


def test_a_size_may_be_given_instead_of_a_scale(bundle: Bundle, front: Any) -> None:
    with Upscaler(bundle, engine="onnxruntime", options=OPTIONS) as upscaler:
        expected = upscaler.upscale(picture(), size=(40, 61))
    answer = frame_of(ask(front, image=picture(), size=np.array([40, 61], np.int32)))
    np.testing.assert_array_equal(answer, expected)


def test_a_scale_means_its_decimal_digits(front: Any) -> None:
    # 15 × 3.3 = 49.5 rounds to 50; with float32's 3.2999999 it would be 49.
    assert frame_of(ask(front, image=picture(15, 15), scale=np.array([3.3], np.float32))).shape == (50, 50, 3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "give either scale or size"),
        ({"scale": np.array([2], np.float32), "size": np.array([40, 40], np.int32)}, "give either scale or size"),
        ({"scale": np.array([0.5], np.float32)}, "scale 0.5: expected a finite number of at least 1"),
        ({"size": np.array([1 << 16, 1 << 16], np.int32)}, "over the limit"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_reason(front: Any, values: Any, message: str) -> None:
    response = ask(front, image=picture(), **values)
    assert message in response.error().message()


def test_one_bad_request_does_not_spoil_the_next(front: Any) -> None:
    bad = [Tensor("image", picture())]
    good = [Tensor("image", picture()), Tensor("scale", np.array([2], np.float32))]
    first, second = front.execute([bad, good])
    assert first.has_error()
    assert frame_of(second).shape == (38, 46, 3)


def test_a_failing_inner_model_is_named(front: Any, server: Server) -> None:
    server.broken = "hiif_maps"
    response = ask(front, image=picture(), scale=np.array([2], np.float32))
    assert response.error().message() == "model hiif_maps failed: out of memory"


def test_the_client_sends_and_reads_what_the_model_takes(
    repository: Path, front: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from PIL import Image

    class Input:
        def __init__(self, name: str, shape: list[int], kind: str) -> None:
            self.name, self.shape, self.kind = name, shape, kind

        def set_data_from_numpy(self, values: Any) -> None:
            assert list(values.shape) == self.shape
            assert {"UINT8": "uint8", "FP32": "float32", "INT32": "int32"}[self.kind] == str(values.dtype)
            self.values = values

    class Client:
        def __init__(self, url: str, network_timeout: float) -> None:
            assert url == "there:8000"
            assert network_timeout > 60

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def infer(self, model: str, inputs: list[Input]) -> Any:
            assert model == "hiif"
            frame = frame_of(ask(front, **{each.name: each.values for each in inputs}))
            return types.SimpleNamespace(as_numpy={"frame": frame}.__getitem__)

    http: Any = types.ModuleType("tritonclient.http")
    http.InferInput, http.InferenceServerClient = Input, Client
    monkeypatch.setitem(sys.modules, "tritonclient.http", http)
    Image.fromarray(picture()).save(tmp_path / "in.png")
    words = [str(tmp_path / "in.png"), str(tmp_path / "out.png"), "--scale", "2", "--url", "there:8000"]
    monkeypatch.setattr(sys, "argv", ["client.py", *words])
    load_module("client", repository / "client.py").main()
    expected = frame_of(ask(front, image=picture(), scale=np.array([2], np.float32)))
    with Image.open(tmp_path / "out.png") as written:
        np.testing.assert_array_equal(np.asarray(written), expected)


def small_engines(bundle: Bundle) -> tuple[dict[str, bytes], dict[str, Profile]]:
    """What plays engines for pictures up to 60 × 48 and few queries a call: the ONNX files themselves."""
    engines = {name: bundle.graphs[name] for name in GRAPHS}
    sizes = BuildSizes(max_input=(48, 60), opt_input=(48, 60), queries=256, scale=2.0, max_scale=2.0)
    return engines, make_profiles(bundle.contract, "fp32", sizes)


def test_engines_are_served_as_plans(bundle: Bundle, tmp_path: Path) -> None:
    engines, profiles = small_engines(bundle)
    write_triton(bundle, tmp_path / "out", engines=engines, profiles=profiles)
    for name in GRAPHS:
        assert (tmp_path / "out" / f"hiif_{name}" / "1" / "model.plan").read_bytes() == bundle.graphs[name]
        assert read_config(tmp_path / "out" / f"hiif_{name}" / "config.pbtxt").platform == "tensorrt_plan"
    assert "served by TensorRT" in (tmp_path / "out" / "README.md").read_text()
    assert 'default="hiif"' in (tmp_path / "out" / "client.py").read_text()
    limits = json.loads(read_config(tmp_path / "out" / "hiif" / "config.pbtxt").parameters["limits"].string_value)
    assert (limits["height"], limits["width"], limits["columns"], limits["rows"]) == (48, 60, 120, 2)


@pytest.mark.parametrize(("size", "target"), [((48, 60), (70, 100)), ((30, 101), (30, 202)), ((93, 40), (94, 41))])
def test_no_call_exceeds_what_the_engines_were_built_for(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: Any, target: Any
) -> None:
    """Queries are cut; of the second and third picture source columns or rows as well."""
    engines, profiles = small_engines(bundle)
    write_triton(bundle, tmp_path / "out", engines=engines, profiles=profiles)
    server = Server(tmp_path / "out")
    server.profiles = {f"hiif_{name}": profile for name, profile in profiles.items()}
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", server.module())
    front = server.front("hiif")
    answer = frame_of(ask(front, image=picture(*size), size=np.array(target, np.int32)))
    front.finalize()
    with Upscaler(bundle, engine="onnxruntime", options=OPTIONS) as upscaler:
        expected = upscaler.upscale(picture(*size), size=target)
    assert server.calls.count("hiif_decoder") >= target[0] * target[1] / 256
    assert (server.calls.count("hiif_encoder") > 1) == (size != (48, 60))
    # Tiles are exact, and sums are added in another order: a value on the edge between two may fall to the other side.
    difference = np.abs(answer.astype(int) - expected)
    assert difference.max() <= 1
    assert np.mean(difference > 0) < 1e-3


def test_a_picture_that_no_tiles_fit_is_refused(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines, profiles = small_engines(bundle)
    profiles["encoder"] = {"image": ShapeRange((1, 3, 1, 1), (1, 3, 16, 50), (1, 3, 16, 50))}
    write_triton(bundle, tmp_path / "out", engines=engines, profiles=profiles)
    server = Server(tmp_path / "out")
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", server.module())
    front = server.front("hiif")
    response = ask(front, image=picture(40, 20), scale=np.array([2], np.float32))
    front.finalize()
    assert "the engines take at most 50x16, too little for tiles with 18 pixels" in response.error().message()


def test_an_output_that_is_no_number_is_an_error(front: Any, server: Server) -> None:
    server.spoiled = "hiif_decoder"
    response = ask(front, image=picture(), scale=np.array([2], np.float32))
    assert (
        "the decoder gave no numbers (NaN or infinite), as fp16 can; serve the graphs in fp32"
        in response.error().message()
    )


def test_half_precision_is_described_as_such() -> None:
    graph = GraphContract(
        "maps", "maps.fp16.onnx", "0" * 64, (TensorContract("features", "float16", (1, 4, "h", "w")),), (), "fp16"
    )
    assert 'name: "features" data_type: TYPE_FP16 dims: [ 1, 4, -1, -1 ]' in graph_config("m", graph, "tensorrt_plan")


@pytest.mark.early
def test_graphs_of_half_precision_have_the_outputs_of_the_upscaler(
    half_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = open_bundle(half_bundle)
    write_triton(bundle, tmp_path / "out", precision="fp16", options=OPTIONS)
    server = Server(tmp_path / "out")
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", server.module())
    front = server.front("hiif")
    answer = frame_of(ask(front, image=picture(), scale=np.array([2.5], np.float32)))
    front.finalize()
    frames = []
    precisions: tuple[Precision, ...] = ("fp32", "fp16")
    for precision in precisions:
        with Upscaler(
            bundle, engine=EngineOptions(engine="onnxruntime", precision=precision), options=OPTIONS
        ) as upscaler:
            frames.append(upscaler.upscale(picture(), scale=2.5))
    assert np.any(frames[0] != frames[1])
    np.testing.assert_array_equal(answer, frames[1])


def test_the_readme_has_no_gap_and_says_what_was_never_tried(repository: Path) -> None:
    text = (repository / "README.md").read_text()
    assert "@" not in text
    assert "never tried in a server" in text


def test_a_missing_engine_is_named_and_nothing_appears(bundle: Bundle, tmp_path: Path) -> None:
    engines, profiles = small_engines(bundle)
    with pytest.raises(OptionError, match="no engine, or no profile of it, for graph encoder"):
        write_triton(bundle, tmp_path / "out", engines=engines)
    del engines["maps"]
    with pytest.raises(OptionError, match="no engine, or no profile of it, for graph maps"):
        write_triton(bundle, tmp_path / "out", engines=engines, profiles=profiles)
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_things_is_not_touched(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(OptionError, match="is not empty; choose another folder or add --overwrite"):
        write_triton(bundle, tmp_path / "out")
    with pytest.raises(OptionError, match="is not a model repository"):
        write_triton(bundle, tmp_path / "out", overwrite=True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_an_empty_folder_and_an_earlier_repository_are_replaced(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write_triton(bundle, tmp_path / "out")
    (tmp_path / "out" / "hiif_old").mkdir()
    write_triton(bundle, tmp_path / "out", overwrite=True)
    assert not (tmp_path / "out" / "hiif_old").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_failing_write_leaves_the_earlier_repository(bundle: Bundle, tmp_path: Path) -> None:
    write_triton(bundle, tmp_path / "out")
    gone = replace(bundle, folder=tmp_path / "gone")
    with pytest.raises(EngineError, match="the model repository cannot be written"):
        write_triton(gone, tmp_path / "out", options=RenderOptions(tile_rows=3), overwrite=True)
    assert 'string_value: "8"' in (tmp_path / "out" / "hiif" / "config.pbtxt").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
