"""Peaks of instruction sets: libraries heed their limits, and native variants say what they ran on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from attention_model import ATTENTION_MODEL
from hiif_deploy.bench.case import BenchModel
from hiif_deploy.bench.isa_peak import LIMITS, IsaMeter, blas, measure_limited
from hiif_deploy.bench.report import bench_tables, remarks
from hiif_deploy.bench.run import Bench, Report, run_bench
from hiif_deploy.bench.variants import open_variant
from hiif_deploy.bundle.loader import open_bundle
from hiif_deploy.cli import app as cli
from hiif_deploy.errors import HiifError, OptionError

CORES = {"avx512": "SkylakeX", "avx2": "Haswell"}


def openblas() -> Path | None:
    """NumPy's own copy."""
    return next((Path(np.__file__).parents[1] / "numpy.libs").glob("libscipy_openblas64_*"), None)


def core() -> str:
    """The processor that OpenBLAS takes this one for, in a process that starts now."""
    code = (
        f"import ctypes; f = ctypes.CDLL({str(openblas())!r}).scipy_openblas_get_corename64_; "
        "f.restype = ctypes.c_char_p; print(f().decode())"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.processor
@pytest.mark.parametrize("isa", sorted(CORES))
def test_openblas_heeds_its_limit(isa: str, own_isas: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if isa not in own_isas or openblas() is None:
        pytest.skip(f"this processor lacks {isa}, or this NumPy OpenBLAS")
    for name, value in LIMITS[isa, "fp32"].items():  # type: ignore[index]
        monkeypatch.setenv(name, value)
    assert core() == CORES[isa]


@pytest.fixture
def own_isas() -> list[str]:
    """Instruction sets of this processor."""
    compile_ = pytest.importorskip("hiif_engines.native.compile")
    from hiif_engines.native.target import TARGETS

    return [
        name for name, target in TARGETS.items() if "fp32" in target.precisions and not compile_.lacking(target, "fp32")
    ]


def test_a_product_that_cannot_be_limited_sets_no_peak() -> None:
    with pytest.raises(HiifError, match="a product limited to avx2 could not be measured in bf16"):
        measure_limited("avx2", "bf16", 1, 8)
    meter = IsaMeter(1, set(), [("avx2", "bf16")], side=8)
    meter.measure()
    assert meter.isa_peaks == {}


@pytest.mark.processor
@pytest.mark.usefixtures("native")
def test_a_native_variant_names_its_instruction_set_and_share(own_isas: list[str]) -> None:
    isa, report = own_isas[-1], Report()
    bench = Bench(
        ("exact", "onnxruntime"), (2.0,), (12, 12), rounds=1, threads=1, with_memory=False, isa=isa,  # type: ignore[arg-type]
    )  # fmt: skip
    run_bench([BenchModel("m", open_bundle(ATTENTION_MODEL))], bench, report)
    exact, library = report.results
    assert (exact.isa, library.isa, library.isa_share) == (isa, None, None)
    assert f"native code ({isa})" in exact.detail
    if not blas():
        pytest.skip("this NumPy heeds no limits")
    peak = report.gemm[f"fp32 limited to {isa}"]
    assert exact.isa_share == pytest.approx(exact.gflops / peak["gflops"])  # type: ignore[operator]
    assert any(f"fp32 limited to {isa}" in line for line in remarks(report))
    columns = {column.header: list(column.cells) for column in bench_tables(report)[1].columns}
    assert columns["isa"] == [isa, "–"]
    assert columns["of its peak"] == [f"{exact.isa_share:.0%}", "–"]


@pytest.mark.processor
@pytest.mark.usefixtures("native")
def test_a_variant_that_the_instruction_set_cannot_run_is_not_replaced() -> None:
    with pytest.raises(OptionError):
        open_variant("bf16", BenchModel("m", open_bundle(ATTENTION_MODEL)), 1, isa="avx2")


def test_an_instruction_set_without_native_code_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["bench", "--variants", "plain,onnxruntime", "--isa", "avx2"])
    assert stop.value.code == 2
    assert "--isa avx2: none of the variants runs as native code; name one of exact" in capsys.readouterr().err
