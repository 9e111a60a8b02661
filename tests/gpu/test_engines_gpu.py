"""TensorRT on a real GPU: `pytest -m gpu`. Everything here skips itself where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from attention_model import ATTENTION_MODEL
from hiif_deploy import EngineOptions, HiifError, RenderOptions, Upscaler
from hiif_deploy.backends.cuda.open import open_device
from hiif_deploy.backends.tensorrt.library import Library, load_library
from hiif_deploy.bundle.contract import Precision
from hiif_deploy.bundle.loader import Bundle, open_bundle
from hiif_deploy.engine_store.store import EngineStore
from hiif_deploy.images.samples import sample
from hiif_deploy.pixels import FrameFormat, from_unit
from hiif_deploy.rendering.open_tensorrt import describe
from hiif_deploy.rendering.verify import TOLERANCES, check_difference, measure
from hiif_engines.tensorrt.build_bundle import BuildRequest, build_bundle
from hiif_engines.tensorrt.profiles import BuildSizes

pytestmark = pytest.mark.gpu
SIZES = BuildSizes((360, 640), (360, 640))


@pytest.fixture(scope="module", params=["tensorrt", "tensorrt-rtx"])
def library(request: pytest.FixtureRequest) -> Library:
    try:
        open_device().close()
        return load_library(request.param)
    except HiifError as error:
        pytest.skip(str(error).splitlines()[0])


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return open_bundle(ATTENTION_MODEL)


@pytest.fixture(scope="module", params=["fp16", "fp32"])
def options(
    request: pytest.FixtureRequest, library: Library, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> EngineOptions:
    """Engines of the shipped model, built on this GPU into a store of their own."""
    root: Path = tmp_path_factory.mktemp("store")
    precision: Precision = request.param
    device = open_device()
    build_bundle(
        bundle, BuildRequest(precision, SIZES), library, describe(library, device), EngineStore.open(root),
        show_progress=False,
    )  # fmt: skip
    device.close()
    return EngineOptions(engine="tensorrt", precision=precision, library=library.name, store=root)


@pytest.fixture(scope="module")
def upscaler(options: EngineOptions) -> Iterator[Upscaler]:
    with Upscaler(engine=options) as upscaler:
        yield upscaler


@pytest.fixture(scope="module")
def exact() -> Upscaler:
    return Upscaler(ATTENTION_MODEL)


@pytest.mark.parametrize(("size", "scale"), [((96, 128), 2.0), ((96, 128), 3.3), ((1, 1), 4.0), ((180, 320), 4.0)])
def test_pictures_lie_within_tolerance_of_fp32_run_after_run(
    upscaler: Upscaler, exact: Upscaler, size: tuple[int, int], scale: float
) -> None:
    image = np.resize(sample("astronaut"), (*size, 3))
    target = (round(size[0] * scale), round(size[1] * scale))
    expected = exact.render_unclamped(exact.encode(image), size=target)
    answers = [upscaler.render_unclamped(upscaler.encode(image), size=target) for _ in range(4)]
    for answer in answers:
        check_difference(upscaler.description, measure(answer, expected), TOLERANCES[upscaler.precision])
    np.testing.assert_allclose(answers[3], answers[0], atol=2e-3)
    assert upscaler.fallback_blocks == 0


def test_a_picture_larger_than_the_profile_is_cut_without_seams(upscaler: Upscaler, exact: Upscaler) -> None:
    image = np.resize(sample("coffee"), (400, 700, 3))
    expected = exact.upscale(image, scale=1.5)
    assert np.abs(upscaler.upscale(image, scale=1.5).astype(int) - expected).max() <= 3


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 3])
def test_values_of_every_type_are_those_of_the_host(upscaler: Upscaler, dtype: type, channels: int) -> None:
    unit = np.resize(sample("coffee"), (90, 120, 3))[..., :channels] / 255
    top = np.iinfo(dtype).max if dtype != np.float32 else 1
    frame = (unit * top).astype(dtype)
    features = upscaler.encode(frame)
    expected = from_unit(upscaler.render_unclamped(features, size=(207, 276)), FrameFormat.of(frame))
    # A fused multiply-add may round a value to its neighbour.
    step = 1 if dtype != np.float32 else 1e-5
    assert np.abs(upscaler.render(features, size=(207, 276)).astype(float) - expected).max() <= step


def test_sampled_statistics_are_near_the_exact_ones(options: EngineOptions, upscaler: Upscaler) -> None:
    image = np.resize(sample("coffee"), (240, 320, 3))
    with Upscaler(engine=options, options=RenderOptions(statistics="sampled")) as sampled:
        found = measure(
            sampled.render_unclamped(sampled.encode(image), size=(720, 960)),
            upscaler.render_unclamped(upscaler.encode(image), size=(720, 960)),
        )
    assert found.psnr > 60


def test_memory_is_flat_over_a_thousand_frames(upscaler: Upscaler) -> None:
    frame = np.ascontiguousarray(sample("chelsea")[:48, :64])
    for _ in range(10):
        upscaler.upscale(frame, scale=2)
    before = upscaler.memory_bytes
    for _ in range(1000):
        upscaler.upscale(frame, scale=2)
    assert upscaler.memory_bytes == before > 0


def test_onnx_runtimes_cuda_provider_has_the_outputs_of_the_processor(exact: Upscaler) -> None:
    image = np.ascontiguousarray(sample("coffee")[:64, :80])
    try:
        cuda = Upscaler(engine=EngineOptions(engine="onnxruntime", provider="cuda"))
    except HiifError as error:
        pytest.skip(str(error))
    expected = exact.render_unclamped(exact.encode(image), size=(128, 160))
    answer = cuda.render_unclamped(cuda.encode(image), size=(128, 160))
    check_difference("cuda", measure(answer, expected), TOLERANCES["fp32"])
