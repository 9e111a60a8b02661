"""Two runs are compared beyond their scatter, a sweep fits straight lines, and both can be drawn."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import pytest

from hiif_deploy.bench.against import compare, read_run
from hiif_deploy.bench.case import BenchModel
from hiif_deploy.bench.report import bench_tables, plot_results, plot_sweep, remarks, sweep_table
from hiif_deploy.bench.run import Bench, Report, Result
from hiif_deploy.bench.sweep import MAX_PLAIN_QUERIES, Point, growth, points, run_sweep, sweep_steps
from hiif_deploy.bundle.loader import open_bundle
from hiif_deploy.cli import main
from hiif_deploy.errors import OptionError


def result(variant: str, median: float, low: float, high: float) -> Result:
    return Result(
        "m", variant, "", (4, 4), 2.0, (8, 8), median, (low, high), (median,), 1.0, {"plain": 1.0}, {"encode": median},
        90.0, None, 1e6, 1e5, 100.0, 0.5, 200.0, 50.0, 0,
    )  # fmt: skip


def write_run(path: Path, *results: Result, **changed: Any) -> Path:
    facts = {"results": [{**asdict(r), **changed} for r in results], "machine": {"processor": "one"}}
    path.write_text(json.dumps(facts))
    return path


def test_a_change_counts_where_the_quartiles_do_not_overlap(tmp_path: Path) -> None:
    old = [result("exact", 2.0, 1.9, 2.1), result("plain", 8.0, 7.0, 9.0), result("gone", 1.0, 1.0, 1.0)]
    now = [result("exact", 1.0, 0.9, 1.1), result("plain", 8.5, 8.4, 9.5), result("new", 1.0, 1.0, 1.0)]
    earlier = read_run(write_run(tmp_path / "old.json", *old))
    assert earlier.processor == "one"
    exact, plain = compare(now, earlier)
    assert (exact.variant, exact.ratio, exact.is_beyond_quartiles) == ("exact", 2.0, True)
    assert (plain.variant, plain.is_beyond_quartiles) == ("plain", False)


def test_another_scale_or_picture_is_not_compared(tmp_path: Path) -> None:
    for changed in ({"scale": 3.0}, {"source": [5, 4]}, {"model": "n"}):
        earlier = read_run(write_run(tmp_path / "old.json", result("exact", 2, 2, 2), **changed))
        assert compare([result("exact", 1, 1, 1)], earlier) == []


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"results": [{}], "machine": {"processor": "one"}}', '{"results": [], "machine": 3}']
)
def test_a_file_that_is_no_run_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(OptionError, match=r"--against .*x\.json: not a file that hiif-deploy bench --json wrote"):
        read_run(path)


def test_quartiles_that_do_not_hold_the_median_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="median and quartiles of exact"):
        read_run(write_run(tmp_path / "x.json", result("exact", 1.0, 2.0, 3.0)))


def test_growth_is_computed_from_the_points() -> None:
    found = [
        Point("m", "scale", name, (8, 8), 2.0, n, 3e-6 * n**power, 100 + 40 * n / 1e6, 1.0)
        for name, power in (("linear", 1.0), ("square", 2.0))
        for n in (1000, 4000, 9000)
    ]
    linear, square = growth(found)
    assert linear.exponent == pytest.approx(1)
    assert square.exponent == pytest.approx(2)
    assert linear.mb_per_megapixel == pytest.approx(40)
    assert growth(found[:1]) == []


def test_a_sweep_grows_the_scale_and_then_the_picture() -> None:
    found = list(points((128, 64)))
    scales = [scale for series, source, scale in found if series == "scale" and source == (128, 64)]
    sides = [source for series, source, scale in found if series == "picture" and scale == 2]
    assert scales == sorted(scales)
    assert sides == sorted(sides)
    assert sides[0] == (32, 16)
    assert 128 * 64 * max(scales) ** 2 > MAX_PLAIN_QUERIES  # the plain module is left out somewhere


def test_a_sweep_measures_every_point_and_can_be_drawn(tiny_bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    bench, done = Bench(("exact", "sampled"), (2.0,), (8, 8), rounds=1, threads=1, with_memory=False), list[int]()
    report = Report()
    found = run_sweep([BenchModel("tiny", open_bundle(tiny_bundle))], bench, report, done.append)
    assert len(found) == sum(done) == sweep_steps(bench) == 2 * len(list(points((8, 8))))
    assert {point.variant for point in found} == {"exact", "sampled"}
    assert all(point.median_s > 0 and point.peak_rss_mb is None for point in found)
    assert sweep_table(found, growth(found)).row_count == len(found) + 4
    assert remarks(report) == []
    plot_sweep(found, tmp_path / "sweep.png")
    assert cv2.imread(str(tmp_path / "sweep.png")).shape[0] > 500


def test_results_are_drawn_and_tabled(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report = Report([result("plain", 2.0, 1.9, 2.1), result("exact", 1.0, 0.9, 1.1)])
    plot_results(report.results, tmp_path / "run.png")
    assert cv2.imread(str(tmp_path / "run.png")).ndim == 3
    assert [path.name for path in tmp_path.iterdir()] == ["run.png"]
    assert [table.row_count for table in bench_tables(report)] == [2, 2]


def test_a_sweep_is_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["bench", "--sweep", "--against", str(write_run(tmp_path / "old.json"))])
    assert "leave --sweep out" in capsys.readouterr().err
