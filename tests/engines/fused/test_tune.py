"""Configurations of the fused kernels: all give the same output, the fastest is stored, none is measured unasked."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hiif_deploy import EngineError
from hiif_deploy.bundle.loader import open_bundle
from hiif_deploy.support import cache_dir as store_root

torch = pytest.importorskip("torch")
pytest.importorskip("triton", reason="Triton is not installed")
from hiif_engines.fused import select  # noqa: E402
from hiif_engines.fused import tune as tuning  # noqa: E402
from hiif_engines.fused.configs import NARROW_ROWS, WIDE_ROWS, KernelConfig  # noqa: E402
from hiif_engines.fused.select import decoder_graphs, fused_kernels, open_kernels, tune_kernels  # noqa: E402
from hiif_engines.fused.tune import Kernel, Measured, find, measure, store  # noqa: E402

CPU = torch.device("cpu")
SOURCE, TARGET = (3, 3), (8, 17)
"""136 queries: more than one block of every config, and an end that fits none."""


@pytest.fixture(autouse=True)
def _own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(store_root.VARIABLE, str(tmp_path))


def kernel_of(name: str) -> tuple[Kernel, dict[str, torch.Tensor]]:
    bundle = open_bundle("hiif-compact")
    graphs = decoder_graphs(bundle, CPU)
    return open_kernels(graphs, "fp32")[name], tuning.random_feeds(bundle.contract, graphs[name], SOURCE, TARGET, CPU)


@pytest.mark.parametrize("name", [pytest.param("decoder", marks=pytest.mark.slow), "statistics_1"])
def test_every_candidate_answers_the_same(name: str) -> None:
    kernel, feeds = kernel_of(name)
    expected = kernel(feeds, KernelConfig(16, 16, 1, 4))
    # The interpreter knows no warps.
    for config in {replace(row.config(1), warps=1) for row in (*NARROW_ROWS, *WIDE_ROWS["decoder"])}:
        for part, value in kernel(feeds, config).items():
            # Sums of values of about 1 over all queries; colours of about 1.
            assert (value - expected[part]).abs().max() < 1e-5 * max(1, expected[part].abs().max())


def test_the_fastest_that_runs_is_taken_and_stays_for_later_runs(caplog: pytest.LogCaptureFixture) -> None:
    kernel, feeds = kernel_of("decoder")
    assert find(kernel, CPU) is None
    times = {32: 3.0, 64: 1.0, 128: 2.0}

    def clock(work: Callable[[], object]) -> float:
        config: KernelConfig = work.__defaults__[0]  # type: ignore[attr-defined]
        if config.block == 16:
            raise RuntimeError("out of resource: shared memory\nmore")
        return times[config.block]

    configs = [KernelConfig(block, 32, 7, 4) for block in (16, 32, 64, 128)]
    found = measure(kernel, feeds, configs, clock)
    assert found.config == KernelConfig(64, 32, 7, 4)
    assert sorted(found.seconds.values()) == [1, 2, 3]
    assert found.failed == {"16 queries, slices of 32, 7 programs, 4 warps, 1 stages": "out of resource: shared memory"}
    store(kernel, CPU, found)
    assert find(kernel, CPU) == found.config
    assert fused_kernels(open_bundle("hiif-compact"), "fp32", CPU)["decoder"].keywords == {  # type: ignore[attr-defined]
        "config": found.config
    }
    other, _ = kernel_of("statistics_0")
    assert find(other, CPU) is None
    assert caplog.messages == []


def test_where_no_configuration_runs_that_is_an_error() -> None:
    def clock(_: Callable[[], object]) -> float:
        raise RuntimeError("no")

    kernel, feeds = kernel_of("decoder")
    with pytest.raises(EngineError, match="no configuration of the fused kernel runs"):
        measure(kernel, feeds, [KernelConfig()], clock)


@pytest.mark.parametrize(
    "content", ["", "{}", '{"cut": {"block": 48}}', '{"cut": {"block": "64"}}', '{"cut": {"x": 1}}']
)
def test_a_damaged_file_is_told_and_not_used(content: str, caplog: pytest.LogCaptureFixture) -> None:
    kernel, _ = kernel_of("decoder")
    path = store(kernel, CPU, Measured(KernelConfig(), {}, {}))
    assert json.loads(path.read_text())["gpu"] == "cpu"
    path.write_text(content)
    assert find(kernel, CPU) is None
    (line,) = caplog.messages
    assert f"{path}: not a kernel configuration" in line


@pytest.mark.parametrize("values", [(48, 32, 1, 8), (64, 8, 1, 8), (64, 32, 0, 8), (64, 32, 1, 3)])
def test_a_configuration_that_no_kernel_has_is_refused(values: tuple[int, int, int, int]) -> None:
    with pytest.raises(EngineError, match="kernel configuration KernelConfig"):
        KernelConfig(*values)


def test_all_kernels_of_a_bundle_are_measured_and_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    # Real kernels and a real clock, at a size that the interpreter bears.
    for name, value in (("MEASURED", ((3, 3), (4, 6))), ("WARM_UP", 0), ("TURNS", 1)):
        monkeypatch.setattr(tuning, name, value)
    configs = [KernelConfig(16, 32, 3, 4), KernelConfig(32, 64, 2, 4)]
    monkeypatch.setattr(select, "configs", lambda *_: configs)
    bundle = open_bundle("hiif-compact")
    found = tune_kernels(bundle, CPU)
    assert set(found) == {"decoder", "statistics_0", "statistics_1"}
    for measured in found.values():
        assert (len(measured.seconds), measured.failed) == (2, {})
    for name, kernel in fused_kernels(bundle, "fp16", CPU).items():
        assert kernel.keywords["config"] == found[name].config  # type: ignore[attr-defined]
        assert found[name].config in configs


@pytest.mark.parametrize(("device", "reason"), [("cpu", "kernels run on a GPU"), ("cuda:99", "PyTorch")])
def test_the_command_wants_a_gpu(device: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    from hiif_deploy.cli import app as cli

    with pytest.raises(SystemExit) as stop:
        cli.main(["tune-kernels", "hiif-compact", "--device", device])
    assert stop.value.code == 2
    assert reason in capsys.readouterr().err
