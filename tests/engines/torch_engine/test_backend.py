"""Whole pictures through PyTorch against ONNX Runtime."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hiif_deploy import EngineAbsentError, EngineError, EngineOptions, OptionError, RenderOptions, Upscaler
from hiif_deploy.backends.host import HostBackend
from hiif_deploy.bundle.contract import Precision
from hiif_deploy.bundle.loader import Bundle, open_bundle
from hiif_deploy.decoding.plan import PlanLimits
from hiif_deploy.images.samples import sample
from hiif_deploy.rendering.open_engine import open_backend
from hiif_deploy.rendering.verify import measure

torch = pytest.importorskip("torch")

from attention_model import ATTENTION_MODEL  # noqa: E402
from hiif_engines.torch_engine import executor  # noqa: E402
from hiif_engines.torch_engine.backend import TorchBackend  # noqa: E402
from hiif_engines.torch_engine.plan import make_torch_plan  # noqa: E402

CPU = EngineOptions(engine="torch", device="cpu", threads=1)
SIZE = (70, 61)
IMAGE = sample("astronaut")[100:124, 100:120]


def answer(bundle: Bundle, options: EngineOptions) -> np.ndarray:
    with Upscaler(bundle, backend=TorchBackend(bundle, options)) as upscaler:
        return upscaler.render_unclamped(upscaler.encode(IMAGE), size=SIZE)


def expected(bundle: Bundle) -> np.ndarray:
    with Upscaler(bundle, backend=HostBackend(bundle, EngineOptions(engine="onnxruntime", threads=1))) as upscaler:
        return upscaler.render_unclamped(upscaler.encode(IMAGE), size=SIZE)


@pytest.mark.parametrize("name", [ATTENTION_MODEL, "hiif-video"])
def test_the_shipped_models_answer_as_in_onnx_runtime(name: str) -> None:
    bundle = open_bundle(name)
    reference = expected(bundle)
    # 1e-4 is what an export may deviate from PyTorch; fp16 is held to what its users are promised.
    assert np.abs(answer(bundle, CPU) - reference).max() < 1e-4
    assert measure(answer(bundle, replace(CPU, precision="fp16")), reference).psnr > 60


@pytest.mark.parametrize(("name", "precision", "least"), [(ATTENTION_MODEL, "fp16", 60), ("hiif-video", "fp32", 100)])
def test_fused_kernels_answer_whole_pictures(name: str, precision: Precision, least: float) -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    bundle, image, size = open_bundle(name), IMAGE[:4, :5], (8, 9)
    backend = TorchBackend(bundle, replace(CPU, precision=precision), fused=True)
    assert backend.description.endswith("fused kernels")
    with Upscaler(bundle, backend=backend) as upscaler, Upscaler(bundle) as plain:
        found = upscaler.render_unclamped(upscaler.encode(image), size=size)
        reference = plain.render_unclamped(plain.encode(image), size=size)
    assert measure(found, reference).psnr > least


def test_a_decoder_of_another_width_is_not_fused_and_says_so(tiny_bundle: Path) -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    with pytest.raises(EngineError, match="attention of width 48 does not fit the fused kernels"):
        TorchBackend(open_bundle(tiny_bundle), CPU, fused=True)


@pytest.mark.parametrize("mib", [1, 64])
def test_the_answer_does_not_depend_on_how_the_work_is_cut(tiny_bundle: Path, mib: int) -> None:
    bundle = open_bundle(tiny_bundle)
    backend = TorchBackend(bundle, replace(CPU, gpu_memory=mib << 20))
    assert (backend.plan(IMAGE.shape[:2], PlanLimits()).query_block < SIZE[0] * SIZE[1]) == (mib == 1)
    with Upscaler(bundle, backend=backend) as upscaler:
        told: list[int] = []
        features = upscaler.encode(IMAGE, advance=told.append)
        upscaler.render(features, size=SIZE, advance=told.append)
        assert sum(told) == upscaler.steps(IMAGE.shape[:2], SIZE)
        found = upscaler.render_unclamped(features, size=SIZE)
        assert upscaler.fallback_blocks == 0
    assert np.abs(found - expected(bundle)).max() < 1e-4


def test_a_region_equals_that_region_of_the_whole(tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    with Upscaler(bundle, backend=TorchBackend(bundle, CPU)) as upscaler:
        features = upscaler.encode(IMAGE)
        whole = upscaler.render(features, size=SIZE)
        part = upscaler.render(features, size=SIZE, region=(11, 7, 30, 40))
    # One step of 8 bits: blocks of another shape may round another way.
    assert np.abs(part.astype(int) - whole[11:41, 7:47]).max() <= 1


def test_blocks_that_are_no_numbers_are_decoded_again_and_counted(
    tiny_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = open_bundle(tiny_bundle)
    backend = TorchBackend(bundle, CPU)
    weights = backend._graphs["decoder"].weights
    weights["second.bias"] = weights["second.bias"] * float("nan")
    with Upscaler(bundle, backend=backend) as upscaler:
        found = upscaler.render_unclamped(upscaler.encode(IMAGE), size=SIZE)
        assert upscaler.fallback_blocks == 1
    assert len(caplog.messages) == 1
    assert np.abs(found - expected(bundle)).max() < 1e-4


@pytest.mark.parametrize("fused", [False, True])
def test_one_value_that_is_not_finite_sends_only_blocks_near_it_to_the_processor(
    fused: bool, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fused:
        pytest.importorskip("triton", reason="Triton is not installed")
    bundle = open_bundle(ATTENTION_MODEL if fused else tiny_bundle)
    image, size, most = (IMAGE[:8, :5], (16, 9), 18) if fused else (IMAGE, SIZE, 500)
    monkeypatch.setattr(executor, "MAX_QUERIES", most)
    backend = TorchBackend(bundle, CPU, fused=fused)
    with Upscaler(bundle, backend=backend) as upscaler, Upscaler(bundle) as plain:
        reference = plain.render_unclamped(plain.encode(image), size=size)
        features = upscaler.encode(image)
        assert backend.plan(image.shape[:2], PlanLimits()).query_block > size[0] * size[1], "a pass is one block"
        with torch.inference_mode():
            features.encoded.tensor[:, 0, 0] = float("nan")  # type: ignore[union-attr]
        found = upscaler.render_unclamped(features, size=size)
        passes = 1 + bundle.contract.decoder.statistics_passes
        blocks = -(-size[0] // (most // size[1]))
        # The value reaches the source rows 0 and 1, and all queries between them and row 2.
        assert passes <= upscaler.fallback_blocks <= passes * -(-blocks // 2)
    assert np.abs(found - reference).max() < 1e-4


def test_features_come_to_the_host_and_those_of_another_engine_are_refused(tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    with (
        Upscaler(bundle, backend=TorchBackend(bundle, CPU)) as one,
        Upscaler(bundle, backend=HostBackend(bundle, EngineOptions(engine="onnxruntime", threads=1))) as other,
    ):
        features, foreign = one.encode(IMAGE), other.encode(IMAGE)
        np.testing.assert_allclose(np.asarray(features.encoded), foreign.encoded, atol=1e-4)
        with pytest.raises(EngineError, match="encoded by another engine"):
            one.render(foreign, size=SIZE)


@pytest.mark.parametrize("mib", [1, 64])
def test_sampled_statistics_are_those_of_the_processor(tiny_bundle: Path, mib: int) -> None:
    bundle, options = open_bundle(tiny_bundle), RenderOptions(statistics="sampled", samples=100)
    torch_backend = TorchBackend(bundle, replace(CPU, gpu_memory=mib << 20))
    host = HostBackend(bundle, EngineOptions(engine="onnxruntime", threads=1))
    with (
        Upscaler(bundle, backend=torch_backend, options=options) as upscaler,
        Upscaler(bundle, backend=host, options=options) as other,
    ):
        told: list[int] = []
        features = upscaler.encode(IMAGE, advance=told.append)
        upscaler.render(features, size=SIZE, advance=told.append)
        assert sum(told) == upscaler.steps(IMAGE.shape[:2], SIZE)
        found = upscaler.render_unclamped(features, size=SIZE)
        sampled = other.render_unclamped(other.encode(IMAGE), size=SIZE)
        assert upscaler.fallback_blocks == 0
    # The same queries are asked, so the engines are as near as with all of them; the sample itself is farther away.
    assert np.abs(found - sampled).max() < 1e-5
    assert np.abs(found - expected(bundle)).max() > 3e-5


def test_sampled_sums_that_are_no_numbers_are_asked_again(tiny_bundle: Path) -> None:
    bundle, options = open_bundle(tiny_bundle), RenderOptions(statistics="sampled", samples=100)
    backend = TorchBackend(bundle, CPU)
    weights = backend._graphs["statistics_0"].weights
    weights["first.bias"] = weights["first.bias"] * float("nan")
    host = HostBackend(bundle, EngineOptions(engine="onnxruntime", threads=1))
    with (
        Upscaler(bundle, backend=backend, options=options) as upscaler,
        Upscaler(bundle, backend=host, options=options) as other,
    ):
        found = upscaler.render_unclamped(upscaler.encode(IMAGE), size=SIZE)
        assert upscaler.fallback_blocks == 1
        assert np.abs(found - other.render_unclamped(other.encode(IMAGE), size=SIZE)).max() < 1e-5


@pytest.mark.parametrize("name", ["nonsense", "mps"])
def test_an_unknown_device_is_refused(name: str, tiny_bundle: Path) -> None:
    with pytest.raises(OptionError, match=f"device '{name}': expected cuda"):
        TorchBackend(open_bundle(tiny_bundle), replace(CPU, device=name))


def test_a_gpu_that_is_not_there_is_refused(tiny_bundle: Path) -> None:
    with pytest.raises(EngineAbsentError, match=r"device cuda:99: PyTorch .* sees"):
        TorchBackend(open_bundle(tiny_bundle), replace(CPU, device="cuda:99"))


def test_the_runtime_finds_the_engine_by_its_entry_point(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "torch_engine-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torch-engine\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[hiif_deploy.backends]\ntorch = hiif_engines.torch_engine.backend:open_torch\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    backend = open_backend(open_bundle(tiny_bundle), CPU)
    backend.close()
    assert backend.description == f"PyTorch {torch.__version__}, fp32, cpu, operation by operation"


@pytest.mark.parametrize("records", [False, True])
def test_8192_by_8192_pixels_are_planned_within_4_gib(records: bool) -> None:
    contract = open_bundle(ATTENTION_MODEL).contract
    # The full-size architecture: 64 channels of features, 256 of a state, four maps of 256.
    full = replace(
        contract,
        encoder=replace(contract.encoder, channels=64, memory_channels=512, receptive_field=35),
        decoder=replace(contract.decoder, map_channels=4 * 256 + 2 + 2 * 256, query_channels=8 * 256),
    )
    for source in (1024, 2048, 4096, 8192):
        for precision in ("fp32", "fp16"):
            plan = make_torch_plan(full, (source, source), precision, 4 << 30, records=records)
            assert plan.working_bytes <= 4 << 30
            assert plan.query_block >= 1 << 14
    assert not make_torch_plan(full, (8192, 8192), "fp16", 4 << 30).keeps_features
    assert make_torch_plan(full, (2048, 2048), "fp16", 4 << 30).keeps_features


def test_too_little_memory_is_refused_with_what_is_needed() -> None:
    with pytest.raises(OptionError, match="allow"):
        make_torch_plan(open_bundle(ATTENTION_MODEL).contract, (1000, 1000), "fp32", 1 << 20)
