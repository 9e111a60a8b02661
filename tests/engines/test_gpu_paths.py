"""The benchmark of all ways on a GPU, on the processor and on tiny sizes: that it runs, not how fast."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hiif_deploy.bench.case import picture
from hiif_deploy.bench.work import count_upscale
from hiif_deploy.bundle.loader import open_bundle
from hiif_deploy.upscaler import RenderOptions

pytest.importorskip("torch")
pytest.importorskip("onnxscript")


def test_every_way_is_measured_or_named_with_its_reason(tmp_path: Path) -> None:
    from benchmarks.gpu_paths import main

    ways = [
        "plain:1000", "torch-fp32", "torch-fp16-sampled", "onnxruntime-fp32", "onnxruntime-fp32-bound", "nonsense-fp32",
    ]  # fmt: skip
    found = tmp_path / "found.json"
    fixed = ["--device", "cpu", "--rounds", "1", "--sizes", "24x16:60x40", "--json", str(found)]
    main([*fixed, "--bundle", "hiif-compact", "--ways", *ways])
    told = json.loads(found.read_text())
    rows = {row["way"]: row for row in told["results"]}
    rate = rows["torch-fp32"]["frames_per_s"] / rows["plain:1000"]["frames_per_s"]
    assert {row["way"]: row for row in told["ratios"]}["torch-fp32"]["times_plain"] == pytest.approx(rate)
    assert list(rows) == ways
    assert rows["nonsense-fp32"]["reason"].startswith("OptionError: engine is 'nonsense'")
    for name in ways[:-1]:
        row = rows[name]
        assert (row["from"], row["to"]) == ("24x16", "60x40")
        assert row["frames_per_s"] > 0
        if name != "torch-fp16-sampled":
            assert row["share"] == pytest.approx(row["tflops"] / row["gemm_tflops"])
    assert rows["torch-fp16-sampled"]["tflops"] is None
    # 1e-5 of white is 100 dB.
    assert rows["torch-fp32"]["psnr_db"] > 100
    assert rows["onnxruntime-fp32-bound"]["psnr_db"] > 100
    assert rows["onnxruntime-fp32-bound"]["detail"] == "ONNX Runtime, cpu with I/O binding, fp32"
    # Worked out from three other pairs of sizes; folding's products are the same for all.
    counted = count_upscale(open_bundle("hiif-compact"), RenderOptions(), 1, picture((16, 24)), (40, 60))
    tflop = [rows[name]["tflops"] / rows[name]["frames_per_s"] for name in ("plain:1000", "torch-fp32")]
    assert tflop[1] == pytest.approx(2 * counted.macs / 1e12, rel=1e-3)
    assert tflop[0] > tflop[1]
