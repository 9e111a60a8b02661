"""ONNX Runtime with tensors that stay on its device, tested with the processor as that device."""

from __future__ import annotations

import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attention_model import ATTENTION_MODEL
from hiif_deploy import EngineError, EngineOptions, RenderOptions, Upscaler
from hiif_deploy.backends import onnxruntime_device as choice
from hiif_deploy.backends.host import HostBackend
from hiif_deploy.backends.onnxruntime_device import DeviceBackend, keeps_tensors
from hiif_deploy.backends.sessions.onnxruntime_device import Crop, DeviceSession, Held, HeldFeatures, device_of
from hiif_deploy.bundle.contract import FIRST_STAGE, is_fold
from hiif_deploy.bundle.loader import Bundle, open_bundle
from hiif_deploy.decoding.plan import QUERY_BLOCK, make_plan
from hiif_deploy.decoding.shared_graphs import contracts, model
from hiif_deploy.geometry.tiling import Tile
from hiif_deploy.images.samples import sample

IMAGE = sample("astronaut")[100:124, 100:119]
SIZE = (70, 61)
SMALL = RenderOptions(query_block=300, tile_rows=5)
"""Many tiles and several blocks in each."""


def without_stages(bundle: Bundle) -> Bundle:
    """The same bundle, decoded by its whole graphs, as a GPU does."""
    stages = (FIRST_STAGE, "sums_", "mix_", "tail")
    graphs = tuple(graph for graph in bundle.contract.graphs if not graph.name.startswith(stages))
    return replace(bundle, contract=replace(bundle.contract, graphs=graphs))


def answer(bundle: Bundle, kind: type[HostBackend], engine: EngineOptions, options: RenderOptions) -> np.ndarray:
    with Upscaler(bundle, engine=engine, options=options, backend=kind(bundle, engine)) as upscaler:
        features = upscaler.encode(IMAGE)
        statistics = upscaler.statistics(features, SIZE)
        assert all(isinstance(value, np.ndarray) for value in statistics.folded.values())
        return upscaler.render_unclamped(features, size=SIZE, statistics=statistics)


@pytest.mark.parametrize("kind", [HostBackend, DeviceBackend])
def test_a_closed_backend_is_freed_at_once(kind: type[HostBackend], half_bundle: Path) -> None:
    bundle, engine = open_bundle(half_bundle), EngineOptions(engine="onnxruntime", threads=1)
    backend = kind(bundle, engine)
    with Upscaler(bundle, engine=engine, backend=backend) as upscaler:
        upscaler.upscale(IMAGE, size=SIZE)
    alive = weakref.ref(backend)
    del backend, upscaler
    assert alive() is None


def crop_session(dtype: str) -> DeviceSession:
    name = f"crop-{dtype}"
    return DeviceSession(contracts()[name], model(name), "cpu", 1)


@pytest.mark.parametrize(
    ("name", "precision", "threads"),
    [(ATTENTION_MODEL, "fp16", 2), ("hiif-video", "fp32", 1), ("hiif-video", "fp16", 1)],
)
def test_tensors_that_stay_give_the_same_picture_bit_for_bit(name: str, precision: Any, threads: int) -> None:
    bundle = without_stages(open_bundle(name))
    engine = EngineOptions(engine="onnxruntime", threads=threads, precision=precision)
    plain, held = (answer(bundle, kind, engine, SMALL) for kind in (HostBackend, DeviceBackend))
    np.testing.assert_array_equal(held, plain)


def test_sampled_statistics_are_the_same_bit_for_bit(half_bundle: Path) -> None:
    bundle = without_stages(open_bundle(half_bundle))
    engine = EngineOptions(engine="onnxruntime", threads=1, precision="fp16")
    options = replace(SMALL, statistics="sampled", samples=100)
    plain, held = (answer(bundle, kind, engine, options) for kind in (HostBackend, DeviceBackend))
    np.testing.assert_array_equal(held, plain)


@pytest.mark.parametrize("rows", [24, 10])
def test_features_of_a_whole_picture_and_of_one_in_tiles_are_the_same(rows: int, half_bundle: Path) -> None:
    bundle, engine = open_bundle(half_bundle), EngineOptions(engine="onnxruntime", threads=1, precision="fp16")
    plan = make_plan(bundle.contract, IMAGE.shape[:2])
    plan = replace(plan, encoder_tile=(rows, IMAGE.shape[1]), overlap=bundle.contract.encoder.receptive_field)
    told: list[int] = []
    found = []
    for backend in (kind(bundle, engine) for kind in (HostBackend, DeviceBackend)):
        features = backend.encode(IMAGE, plan, told.append)
        found.append(np.asarray(features))
        assert features.shape == found[-1].shape
        backend.close()
    np.testing.assert_array_equal(*found)
    assert sum(told) == 2 * -(-24 // rows)


def test_stages_are_left_out_and_the_picture_stays_within_rounding(tiny_bundle: Path) -> None:
    bundle, engine = open_bundle(tiny_bundle), EngineOptions(engine="onnxruntime", threads=1)
    assert bundle.contract.stages
    plain, held = (answer(bundle, kind, engine, SMALL) for kind in (HostBackend, DeviceBackend))
    assert np.abs(held - plain).max() < 1e-5


def test_only_sums_and_finished_values_come_to_the_host(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = open_bundle(tiny_bundle)
    came: list[tuple[str, str]] = []
    went: list[tuple[str, str]] = []
    run, inside = DeviceSession.run, DeviceSession._run

    def noted(self: DeviceSession, feeds: Any) -> dict[str, np.ndarray]:
        found = run(self, feeds)
        came.extend((self.name, name) for name in found)
        return found

    def fed(self: DeviceSession, feeds: Any, device: str) -> dict[str, Held]:
        went.extend((self.name, name) for name in self._dtypes if not isinstance(feeds[name], Held))
        return inside(self, feeds, device)

    monkeypatch.setattr(DeviceSession, "run", noted)
    monkeypatch.setattr(DeviceSession, "_run", fed)
    answer(bundle, DeviceBackend, EngineOptions(engine="onnxruntime", threads=1), SMALL)
    chain = bundle.contract.chain("fp32")
    finish = "finish-colours"
    assert {graph for graph, _ in came} == {finish} | {name for name in chain if "statistics_" in name}
    geometry = {(name, part) for name, graph in chain.items() if not is_fold(name) for part in graph.geometry}
    cuts = {("crop-float32", name) for name in ("starts", "ends", "axes", "pads")}
    frames = {("prepare-uint8", name) for name in ("frame", "mean", "std")}
    frames |= {(finish, tensor.name) for tensor in contracts()[finish].inputs if tensor.name != "colour"}
    assert set(went) == geometry | cuts | frames


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_crop_is_the_part_with_zeros_beyond_the_picture(dtype: Any) -> None:
    padded = np.random.default_rng(2).normal(size=(1, 3, 9, 12)).astype(dtype)
    session = crop_session(dtype)
    features = HeldFeatures(session.upload("features", padded), (8, 11))
    assert features.shape == (3, 8, 11)
    np.testing.assert_array_equal(np.asarray(features), padded[0, :, :8, :11])
    whole = np.pad(padded[0, :, :8, :11], ((0, 0), (2, 2), (2, 2)))
    crop = Crop(session)
    for rows, columns in ((slice(0, 8), slice(0, 11)), (slice(3, 5), slice(4, 6)), (slice(6, 8), slice(0, 3))):
        found = crop(features, Tile(slice(0), slice(0), rows, columns), 2).numpy()
        expected = whole[:, rows.start : rows.stop + 4, columns.start : columns.stop + 4]
        np.testing.assert_array_equal(found[0], expected)


def test_an_upload_is_a_copy_that_its_owner_may_write_to() -> None:
    array = np.ones((1, 1, 2, 2), np.float32)
    session = crop_session("float32")
    held = session.upload("features", array)
    array[:] = 5
    assert held.numpy().max() == 1
    assert (held.shape, held.nbytes) == ((1, 1, 2, 2), 16)


def test_features_of_another_engine_are_refused(tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    engine = EngineOptions(engine="onnxruntime", threads=1)
    with (
        Upscaler(bundle, backend=DeviceBackend(bundle, engine)) as one,
        Upscaler(bundle, backend=HostBackend(bundle, engine)) as other,
        pytest.raises(EngineError, match="encoded by another engine"),
    ):
        one.render(other.encode(IMAGE), size=SIZE)


def test_a_failing_graph_is_named_with_the_shapes_that_it_was_given() -> None:
    session = crop_session("float32")
    held = session.upload("features", np.ones((1, 1, 2, 2), np.float32))
    feeds = {name: np.zeros(size, np.int64) for name, size in (("starts", 2), ("ends", 2), ("axes", 2), ("pads", 7))}
    with pytest.raises(EngineError, match=r"graph crop-float32 failed on features \(1, 1, 2, 2\), starts"):
        session.hold({"features": held, **feeds})


@pytest.mark.parametrize("provider", ["cuda", "CUDAExecutionProvider", "tensorrt"])
def test_on_a_cuda_provider_tensors_stay_and_nothing_else_is_tried(provider: str, tiny_bundle: Path) -> None:
    import onnxruntime

    bundle = open_bundle(tiny_bundle)
    engine = EngineOptions(engine="onnxruntime", provider=provider)
    assert keeps_tensors(bundle, engine)
    assert not keeps_tensors(bundle, EngineOptions(engine="onnxruntime"))
    assert device_of("coreml") is None
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(EngineError, match="is not in this ONNX Runtime"):
            choice.open_host(bundle, engine)


def test_calls_on_a_gpu_are_as_large_as_the_memory_allows() -> None:
    bundle, engine = open_bundle("hiif-video"), EngineOptions(engine="onnxruntime", threads=2)
    decoder = replace(bundle.contract.decoder, query_channels=2048)
    wide = replace(bundle, contract=replace(bundle.contract, decoder=decoder))
    blocks = []
    for memory in (1 << 30, 4 << 30, 64 << 30):
        options = RenderOptions(memory=memory)
        with Upscaler(wide, engine=engine, options=options, backend=DeviceBackend(wide, engine)) as upscaler:
            blocks.append(upscaler.plan((64, 64)).query_block)
    # 8 KiB a query, two calls at once, a quarter of the memory for them.
    assert blocks == [1 << 14, 1 << 16, 1 << 16]
    with Upscaler(bundle, engine=engine) as upscaler:
        assert upscaler.plan((64, 64)).query_block == QUERY_BLOCK


def test_a_decoder_in_a_cascade_keeps_its_tensors_on_the_host(tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    second = tuple(replace(bundle.contract.graph(name), name=f"{name}_1") for name in ("maps", "decoder"))
    decoder = replace(bundle.contract.decoder, cascade=2)
    contract = replace(bundle.contract, decoder=decoder, graphs=bundle.contract.graphs + second)
    assert not keeps_tensors(replace(bundle, contract=contract), EngineOptions(engine="onnxruntime", provider="cuda"))
