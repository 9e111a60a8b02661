"""The benchmark without PyTorch: this project's own variants take turns, and what cannot be had is named."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attention_model import ATTENTION_MODEL
from hiif_deploy.backends import onnxruntime_device as engine_choice
from hiif_deploy.backends.onnxruntime_device import DeviceBackend
from hiif_deploy.backends.options import EngineOptions
from hiif_deploy.backends.sessions.onnxruntime import OrtSession
from hiif_deploy.bench import memory
from hiif_deploy.bench.case import BenchModel, Work, picture
from hiif_deploy.bench.gemm import GemmMeter, matmul_model
from hiif_deploy.bench.run import Bench, Report, run_bench
from hiif_deploy.bench.stages import STAGES, Stopwatch
from hiif_deploy.bench.variants import (
    BASELINES,
    SETTINGS,
    VARIANTS,
    Setting,
    UpscalerRunner,
    check_variants,
    open_variant,
)
from hiif_deploy.bench.work import count_calls, count_upscale
from hiif_deploy.bundle.contract import GraphContract, TensorContract
from hiif_deploy.bundle.loader import open_bundle
from hiif_deploy.cli import app as cli
from hiif_deploy.cli import tune as tuning
from hiif_deploy.decoding.plan import QUERY_BLOCK
from hiif_deploy.errors import HiifError, OptionError
from hiif_deploy.rendering import tuned
from hiif_deploy.support import extras
from hiif_deploy.upscaler import RenderOptions, Upscaler


def model_of(bundle: Path) -> BenchModel:
    return BenchModel("tiny", open_bundle(bundle))


def test_every_variant_is_timed_in_every_round_and_compared_with_exact(half_bundle: Path) -> None:
    bench = Bench(("exact", "onnxruntime:fp16"), (2.5,), (12, 14), rounds=3, threads=1, with_memory=False)
    report, done = Report(), list[int]()
    run_bench([model_of(half_bundle)], bench, report, done.append)
    assert sum(done) == bench.steps()
    exact, half = report.results
    assert (exact.variant, half.variant) == bench.variants
    assert (exact.detail, half.detail) == ("ONNX Runtime, cpu, fp32", "ONNX Runtime, cpu, fp16")
    assert exact.exact_db == 200 > half.exact_db > 60  # type: ignore[operator]
    assert exact.size == (30, 35)
    for result in report.results:
        assert len(result.seconds) == 3
        assert result.quartiles_s[0] <= result.median_s <= result.quartiles_s[1]
        assert result.ratio is None
        assert result.ratios == {"exact": exact.median_s / result.median_s}
        assert (result.psnr_db, result.peak_rss_mb) == (None, None)
    assert report.gemm["fp32"]["gflops"] > 0
    assert exact.gflops is not None
    assert exact.macs_per_query is not None
    assert exact.gflops == pytest.approx(2 * exact.macs_per_query * 30 * 35 / exact.median_s / 1e9)
    assert any("no checkpoint" in note for note in report.notes)


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("name", ["exact", "sampled"])
def test_a_variant_runs_as_native_code_where_that_can_be_had(
    name: str, tiny_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for bundle, engine in ((ATTENTION_MODEL, r"native code \(\w+\) and ONNX Runtime"), (tiny_bundle, "ONNX Runtime")):
        runner = open_variant(name, BenchModel("model", open_bundle(bundle)), 1)
        assert re.match(f"{engine}, cpu, fp32", runner.detail)
        runner.close()
    assert f"model: {name} runs on onnxruntime and not as native code (graph sums_0" in caplog.text


@pytest.mark.processor
@pytest.mark.usefixtures("native")
def test_native_code_counts_its_own_multiplications() -> None:
    """By hand for width 64, two attention blocks and six levels."""
    model, image, size = BenchModel("model", open_bundle(ATTENTION_MODEL)), picture((16, 16)), (64, 64)
    runner = open_variant("exact", model, 1)
    work = runner.work(image, size)
    runner.close()
    # The picture's channels and the colours fill a vector, panels two.
    lanes = 16 if "(avx512)" in runner.detail else 8
    # 8 residual blocks and one more convolution of 48 channels, and the first one: 36 products per tile of 16 pixels.
    convolutions = 36 * (17 * 48 * 48 + lanes * 48) / 16 * 18 * 18
    plain = 9 * (17 * 48 * 48 + 3 * 48) * 16 * 16
    # Maps of two tiles, 9 and 8 rows of 16 pixels.
    convolutions += 36 * 48 * 64 / 16 * (14 + 10) * 18
    plain += 9 * 48 * 64 * 17 * 16
    square, triangle = 64 * 64, sum(range(2 * lanes, 65, 2 * lanes)) * 2 * lanes
    sums = 2 * (2 * square + 4 * 16 * 16)
    native = 4 * 64 + sums + 3 * square + 2 * square + square + 4 * (square + triangle) + 64 * lanes
    graphs = sums + 3 * square + 2 * square + square + 4 * 2 * square + 64 * 3
    counted = count_upscale(model.bundle, RenderOptions(), 1, image, size)
    assert work is not None
    rest = counted.macs - 64 * 64 * graphs - plain
    assert work.macs - 64 * 64 * native - convolutions == pytest.approx(rest, rel=0.01)
    assert work.macs < counted.macs


@pytest.mark.parametrize("engine", ["onnxruntime", "torch"])
def test_what_is_timed_is_what_users_get(engine: Any, tiny_bundle: Path) -> None:
    if engine == "torch":
        pytest.importorskip("torch")
    options, image, size = EngineOptions(engine=engine, device="cpu", threads=1), picture((12, 14)), (24, 28)
    runner = UpscalerRunner(engine, model_of(tiny_bundle), Setting(options))
    with Upscaler(tiny_bundle, engine=options) as plain:
        timed, real = runner._renderer, plain
        assert type(timed._backend) is type(real._backend)
        assert timed.plan(image.shape[:2]) == real.plan(image.shape[:2])
        np.testing.assert_array_equal(runner.upscale(image, size), plain.upscale(image, size=size))
    assert runner.stages()["decode"] > 0
    runner.close()


def test_a_device_backend_is_timed_with_its_own_blocks(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime's way for GPUs, its tensors on the processor."""
    monkeypatch.setattr(engine_choice, "keeps_tensors", lambda *_: True)
    options = EngineOptions(engine="onnxruntime", threads=1)
    runner = UpscalerRunner("cuda", model_of(tiny_bundle), Setting(options))
    with Upscaler(tiny_bundle, engine=options) as plain:
        assert isinstance(plain._backend, DeviceBackend)
        assert runner._renderer.plan((64, 64)).query_block == plain.plan((64, 64)).query_block > QUERY_BLOCK
    runner.close()


def test_the_stages_of_a_picture_sum_up_to_all_of_it(tiny_bundle: Path) -> None:
    runner = UpscalerRunner("exact", model_of(tiny_bundle), Setting(EngineOptions(engine="onnxruntime", threads=2)))
    assert runner.stages() == {}
    runner.upscale(picture((24, 20)), (48, 40))
    stages = runner.stages()
    assert tuple(stages) == STAGES
    assert min(stages.values()) > 0
    assert sum(stages.values()) == pytest.approx(runner.seconds)
    runner.close()


def test_a_stopwatch_takes_maps_and_tables_out_of_the_passes() -> None:
    watch = Stopwatch()
    watch.start({"encode": 1, "statistics": 2, "decode": 1})
    for graph, steps in (("encoder", 1), ("maps", 2), ("maps", 0), ("finish-uint8", 1)):
        watch.add(graph, 4.0)
        watch.advance(steps)
    assert set(watch.phases) == {"encode", "statistics", "decode"}
    watch.phases.update(encode=10.0, statistics=10.0, decode=10.0)
    assert watch.split(40.0, table=1.0, passes=2, calls=2) == {
        "encode": 10.0, "tables": 3.0, "maps": 4.0, "statistics": 6.0, "decode": 5.0, "conversion": 12.0,
    }  # fmt: skip


def test_a_variant_is_the_upscaler_of_its_setting(tiny_bundle: Path) -> None:
    image, size = picture((10, 12)), (31, 25)
    for name in ("exact", "sampled"):
        runner = open_variant(name, model_of(tiny_bundle), 1)
        with Upscaler(tiny_bundle, options=SETTINGS[name].render) as upscaler:
            np.testing.assert_array_equal(runner.upscale(image, size), upscaler.upscale(image, size=size))
        runner.close()


def test_sampling_lowers_the_work(tiny_bundle: Path) -> None:
    model, image = model_of(tiny_bundle), picture((16, 16))
    few = Setting(EngineOptions(engine="onnxruntime", threads=1), RenderOptions(statistics="sampled", samples=64))
    works = [
        UpscalerRunner("", model, setting).work(image, (48, 48))
        for setting in (Setting(EngineOptions(engine="onnxruntime", threads=1)), few)
    ]
    assert works[0] is not None
    assert works[1] is not None
    assert works[0].macs > works[1].macs > works[0].macs / 2


def test_what_cannot_be_had_is_named_and_the_rest_measured(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    bench = Bench((*BASELINES, "exact"), (2.0,), (8, 8), rounds=1, threads=1, with_memory=False)
    report = Report()
    run_bench([model_of(tiny_bundle)], bench, report)
    assert [result.variant for result in report.results] == ["exact"]
    assert set(report.unavailable) == {f"tiny: {name}" for name in BASELINES}
    assert "torch is not installed" in report.unavailable["tiny: plain"]


def test_where_nothing_can_be_had_the_reasons_are_the_error(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    with pytest.raises(HiifError, match="none of the variants plain can be had for tiny: torch is not installed"):
        run_bench([model_of(tiny_bundle)], Bench(("plain",), (2.0,), (8, 8)), Report())


def test_memory_is_that_of_a_process_of_its_own(tiny_bundle: Path) -> None:
    ballast = np.ones(100 << 20, dtype=np.uint8)
    found = memory.measure_memory("exact", tiny_bundle, None, 1, (24, 24), (96, 96), {})
    assert 0 < found.working_mb < found.peak_mb < memory.peak_resident() / memory.MEBI
    assert memory.peak_resident() >= memory.resident() > ballast.nbytes


def test_memory_that_cannot_be_measured_says_why(tmp_path: Path) -> None:
    with pytest.raises(HiifError, match=r"memory of exact could not be measured: .*BundleError: .*no such folder"):
        memory.measure_memory("exact", tmp_path / "none", None, 1, (8, 8), (16, 16), {})


def test_the_matrix_product_is_the_one_that_it_says() -> None:
    side, data = 24, matmul_model(24)
    x, y = (TensorContract(name, "float32", (side, side)) for name in "xy")
    session = OrtSession(GraphContract("product", "", "", (x,), (y,)), data, "cpu", 1)
    weight = session.run({"x": np.eye(side, dtype=np.float32)})["y"]
    rows = np.random.default_rng(5).standard_normal((side, side), dtype=np.float32)
    np.testing.assert_allclose(session.run({"x": rows})["y"], rows @ weight, atol=1e-4)  # fp32, 24 terms
    assert weight.std() == pytest.approx(1, abs=0.1)


def test_a_peak_is_the_best_of_all_rounds() -> None:
    meter = GemmMeter(1, {"fp32"}, side=64)
    meter.measure()
    first = meter.peaks["fp32"].gflops
    meter.measure()
    assert meter.peaks["fp32"].gflops >= first > 0
    assert meter.peaks["fp32"].engine in ("onnxruntime", "openvino")


def test_multiplications_and_bytes_are_counted_per_call() -> None:
    rows = {"x": np.ones((32, 32), dtype=np.float32)}
    assert count_calls(matmul_model(32), [rows, rows], 1) == Work(2 * 32**3, 2 * 3 * 4 * 32**2)


def test_every_name_in_the_table_can_be_requested_and_no_other() -> None:
    check_variants([*VARIANTS, "tensorrt", "torch", "torch:fp16", "openvino:bf16", "naive-onnx:8192"])
    for name in ("fast", "exact:9", "plain:all", "warp:fp16"):
        with pytest.raises(OptionError, match=f"unknown variant '{name}': expected one of plain, .*exact.*int8"):
            check_variants([name])


def run_cli(*words: str) -> int | str | None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["bench", *words])
    return stop.value.code


def test_the_command_prints_tables_and_writes_json(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "b.json"
    words = ["--input", "14x12", "--rounds", "2", "--scale", "2", "--variants", "exact,sampled", "--threads", "1"]
    assert not run_cli(str(tiny_bundle), *words, "-q", "--json", str(file))
    said = capsys.readouterr()
    assert "14x12 ×2 → 28x24" in " ".join(said.out.split())
    assert "matrix products of this machine" in said.err
    facts: dict[str, Any] = json.loads(file.read_text())
    for result, variant in zip(facts["results"], ("exact", "sampled"), strict=True):
        assert (result["variant"], result["scale"], result["source"]) == (variant, 2.0, [12, 14])
        assert result["peak_rss_mb"] > result["working_mb"] > 0
        assert set(result["stages_s"]) == set(STAGES)
        assert {"ratio", "median_s", "psnr_db", "gflops", "quartiles_s"} <= set(result)
    assert facts["machine"]["usable_cores"] >= 1
    assert facts["machine"]["versions"]["onnxruntime"]
    assert facts["threads"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["b.json"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--rounds", "0"), "--rounds 0"),
        (("--scale", "0.5"), "scale 0.5"),
        (("--input", "7"), "--input '7'"),
        (("--engine", "warp"), "unknown variant 'warp'"),
        (("--variants", "exact,fast"), "unknown variant 'fast'"),
        (("--variants", ","), "nothing to measure"),
    ],
)
def test_wrong_usage_exits_2(words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(*words) == 2
    assert message in capsys.readouterr().err


def test_a_variant_takes_the_cut_that_was_tuned_and_says_so(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIIF_DEPLOY_STORE", str(tmp_path))
    model, engine = model_of(tiny_bundle), EngineOptions(engine="onnxruntime", threads=2)
    measured = tuning.measure(model.bundle, engine, [tuned.CallConfig(256, 2)], 1, lambda _: None)
    tuned.store(model.bundle, engine, measured)
    runner = open_variant("exact", model, 2)
    assert runner.detail == "ONNX Runtime, cpu, fp32, tuned: 256 queries x 2 threads per call"
    runner.upscale(picture((8, 8)), (16, 16))
    assert min(runner.stages().values()) > 0
    runner.close()
