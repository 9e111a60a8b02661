"""What the benchmark compares with is what it says: the plain module whole, in chunks, in ONNX, and in float64."""

from __future__ import annotations

import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hiif_deploy import Upscaler
from hiif_deploy.bench import case, variants
from hiif_deploy.bench.case import BenchModel, picture
from hiif_deploy.bench.run import Bench, Report, run_bench
from hiif_deploy.bundle.loader import open_bundle
from hiif_deploy.support import resolve

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from conftest import TINY_SPEC  # noqa: E402
from hiif_export.baselines import bench_model  # noqa: E402
from hiif_export.baselines.bench_naive import CHUNKS, NaiveOnnxBaseline  # noqa: E402
from hiif_export.baselines.bench_plain import ChunkedEagerBaseline, EagerBaseline, Float64Reference  # noqa: E402
from hiif_training.checkpoints.checkpoint import save_checkpoint  # noqa: E402

IMAGE, SIZE = picture((10, 12)), (31, 25)
PYPROJECT = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def model(tiny_model: Any, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> BenchModel:
    checkpoint = tmp_path_factory.mktemp("bench") / "tiny.pth"
    save_checkpoint(checkpoint, tiny_model, TINY_SPEC)
    return BenchModel("tiny", open_bundle(tiny_bundle), checkpoint)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The entry points of this tree, whatever tree is installed."""

    def found(group: str, name: str) -> list[EntryPoint]:
        return [EntryPoint(name, PYPROJECT["project"]["entry-points"][group][name], group)]

    monkeypatch.setattr(resolve, "entry_points", found)


def test_plain_equals_the_upscaler_and_chunks_do_not(model: BenchModel) -> None:
    with Upscaler(model.bundle) as upscaler:
        expected = upscaler.render_unclamped(upscaler.encode(IMAGE), size=SIZE)
    plain, chunked = EagerBaseline(model, 1, None), ChunkedEagerBaseline(model, 1, 200)
    assert np.abs(plain.colours(IMAGE, SIZE) - expected).max() < 1e-5  # fp32 in another order
    assert np.abs(chunked.colours(IMAGE, SIZE) - expected).max() > 1e-3
    assert np.abs(plain.upscale(IMAGE, SIZE) - upscaler_frame(model)).max() <= 1
    assert set(plain.stages()) == {"encode", "decode", "conversion"}


def upscaler_frame(model: BenchModel) -> Any:
    with Upscaler(model.bundle) as upscaler:
        return upscaler.upscale(IMAGE, size=SIZE).astype(int)


def test_float64_is_the_whole_picture_however_it_is_cut(model: BenchModel) -> None:
    whole, cut = (Float64Reference(model, 1, chunk).colours(IMAGE, SIZE) for chunk in (None, 97))
    assert whole.dtype == np.float64
    assert np.abs(whole - cut).max() < 1e-12  # sums in another order
    assert 0 < np.abs(whole - EagerBaseline(model, 1, None).colours(IMAGE, SIZE)).max() < 1e-5  # fp32


def test_the_naive_graph_run_at_once_is_the_plain_module(model: BenchModel) -> None:
    expected = EagerBaseline(model, 1, None).colours(IMAGE, SIZE)
    whole, cut = NaiveOnnxBaseline(model, 1, SIZE[0] * SIZE[1]), NaiveOnnxBaseline(model, 1, 200)
    assert np.abs(whole.colours(IMAGE, SIZE) - expected).max() < 1e-5  # fp32 in another order
    assert np.abs(cut.colours(IMAGE, SIZE) - ChunkedEagerBaseline(model, 1, 200).colours(IMAGE, SIZE)).max() < 1e-5
    assert np.abs(cut.colours(IMAGE, SIZE) - expected).max() > 1e-3


def test_the_naive_chunk_is_chosen_by_measuring_and_two_counters_agree_on_the_multiplications(
    model: BenchModel,
) -> None:
    naive = NaiveOnnxBaseline(model, 1, None)
    assert naive.resolved == "naive-onnx"
    naive.upscale(IMAGE, SIZE)
    assert naive.resolved in {f"naive-onnx:{chunk}" for chunk in CHUNKS}
    # One counter reads PyTorch's dispatcher, one ONNX Runtime's profile, and the formula is written by hand.
    macs = {
        runner.work(IMAGE, SIZE).macs
        for runner in (EagerBaseline(model, 1, None), ChunkedEagerBaseline(model, 1, 200), naive)
    }
    assert macs == {encoder_macs() * 10 * 12 + decoder_macs() * SIZE[0] * SIZE[1]}


def encoder_macs() -> int:
    """Per pixel: edsr-mini of two residual blocks, 16 wide, and `freq` to 32."""
    return 9 * (3 * 16 + 2 * 2 * 16 * 16 + 16 * 16 + 16 * 32)


def decoder_macs() -> int:
    """Per query, of `TINY_SPEC`: width 32, inside 48, four heads, six levels."""
    levels = (4 * 32 + 4) * 48 + 48 * 32 + 4 * ((32 + 2) * 48 + 48 * 32) + (32 + 2) * 48 + 48 * 3
    return levels + 2 * (32 * 96 + 2 * 32 * 8 + 2 * 32 * 32)


@pytest.mark.usefixtures("registered")
def test_a_run_has_ratios_to_every_baseline_and_deviations_from_float64(model: BenchModel) -> None:
    bench = Bench(("plain", "plain-chunked:200", "naive-onnx:200", "exact"), (2.5,), (10, 12), 1, 1, with_memory=False)
    report = Report()
    run_bench([model], bench, report)
    assert not report.unavailable
    plain, chunked, naive, exact = report.results
    assert exact.ratio == plain.median_s / exact.median_s
    assert exact.ratios["plain"] == exact.ratio
    assert exact.ratios["naive-onnx:200"] == naive.median_s / exact.median_s
    assert plain.psnr_db is not None
    assert chunked.psnr_db is not None
    assert naive.psnr_db is not None
    assert exact.psnr_db is not None
    assert min(plain.psnr_db, exact.psnr_db) > 110 > 80 > max(chunked.psnr_db, naive.psnr_db)


@pytest.mark.usefixtures("registered")
def test_the_full_size_model_is_exported_once_and_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HIIF_DEPLOY_STORE", str(tmp_path))
    few_graphs = {**TINY_SPEC["args"], "attention_blocks": 0, "levels": 2}
    monkeypatch.setattr(bench_model, "SPEC", {**TINY_SPEC, "args": few_graphs})
    caplog.set_level("INFO", "hiif_export")
    made = case.open_model("full", None, show_progress=False)
    assert "exporting the full-size model once" in caplog.messages[0]
    caplog.clear()
    again = case.open_model("full", None, show_progress=False)
    assert caplog.messages == []
    assert again.bundle.graphs == made.bundle.graphs
    assert np.abs(EagerBaseline(again, 1, None).colours(IMAGE, SIZE) - colours_of(again)).max() < 1e-5


def colours_of(model: BenchModel) -> Any:
    with Upscaler(model.bundle) as upscaler:
        return upscaler.render_unclamped(upscaler.encode(IMAGE), size=SIZE)


def test_every_baseline_and_model_that_the_runtime_knows_is_registered() -> None:
    entries = PYPROJECT["project"]["entry-points"]
    assert set(entries[variants.ENTRY_POINTS]) == {*variants.BASELINES, variants.REFERENCE}
    assert set(entries[case.ENTRY_POINTS]) == {case.FULL}
    for group in (variants.ENTRY_POINTS, case.ENTRY_POINTS):
        for name, value in entries[group].items():
            assert callable(EntryPoint(name, value, group).load())
