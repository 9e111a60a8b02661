"""The fused kernels as Triton compiles them for every architecture: they fit, they do not spill, they use its matrix
units."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from hiif_deploy.errors import EngineError

pytest.importorskip("torch")
pytest.importorskip("triton", reason="Triton is not installed")
from hiif_engines.fused.configs import (
    NARROW_ROWS,
    SHARED_MEMORY,
    SMALLEST_SHARED_MEMORY,
    WIDE_ROWS,
    rows_of,
)

SCRIPT = Path(__file__).parents[2] / "benchmarks/gpu_compiled.py"
COMPILED = (80, 86, 89, 90, 100, 120)
MAX_LOOPED_SPILLS = {"hiif-attention": 16, "hiif-video": 16, "full": 200}
"""Loads and stores of spilled registers in all loops over slices, of 1,000 to 2,000 instructions at full size."""
WIDTH = {"hiif-attention": 64, "hiif-video": 32, "full": 256}
MATRIX = {80: "mma.sync m16n8k16", 86: "mma.sync m16n8k16", 89: "mma.sync m16n8k16", 120: "mma.sync m16n8k16"}


@cache
def everything() -> list[dict[str, Any]]:
    """All kernels of all models for all architectures, compiled once: in a process of its own, because in this one
    they are interpreted."""
    folder = Path(__file__).parents[3] / ".test-cache"
    folder.mkdir(exist_ok=True)
    found = folder / "gpu_compiled.json"
    words = ["--architectures", *map(str, COMPILED), "--json", str(found)]
    subprocess.run([sys.executable, str(SCRIPT), *words], check=True, capture_output=True, timeout=1800)
    rows: list[dict[str, Any]] = json.loads(found.read_text())
    return rows


def name_of(row: dict[str, Any]) -> str:
    return f"{row['model']} {row['kernel']} sm_{row['architecture']} ({row['config']})"


def test_every_kernel_of_every_model_compiles_for_every_architecture() -> None:
    assert len(everything()) == len(COMPILED) * (3 + 1 + 3)


def test_shared_memory_is_within_what_the_table_states_and_the_gpu_has() -> None:
    for row in everything():
        block, part, warps, stages = (int(value) for value in row["config"].split(", "))
        rows = (*NARROW_ROWS, *(wide for kind in WIDE_ROWS.values() for wide in kind))
        stated = min(r.shared for r in rows if (r.block, r.slice, r.warps, r.stages) == (block, part, warps, stages))
        limit = SHARED_MEMORY.get(divmod(row["architecture"], 10), SMALLEST_SHARED_MEMORY)
        assert row["shared"] <= stated <= limit, name_of(row)


def test_loops_over_slices_spill_few_registers() -> None:
    for row in everything():
        assert row["registers"] <= 255
        assert row["looped_spills"] <= MAX_LOOPED_SPILLS[row["model"]], name_of(row)


def test_gelu_is_one_instruction_and_takes_no_erf() -> None:
    for row in everything():
        assert row["exponentials"] == 0, name_of(row)


def test_products_are_the_matrix_instructions_of_the_architecture() -> None:
    for row in everything():
        shapes, architecture = row["products"], row["architecture"]
        if architecture == 90:
            # 64 columns or a narrower model's width, but for colours (16) and for keys times values, a hundredth of the
            # work.
            least = min(64, WIDTH[row["model"]])
            assert all(shape.startswith("wgmma m64") for shape in shapes), name_of(row)
            columns = {shape: int(shape.partition("n")[2].partition("k")[0]) for shape in shapes}
            wide = sum(count for shape, count in shapes.items() if columns[shape] >= least)
            assert wide >= 0.8 * sum(shapes.values()), name_of(row)
        else:
            assert list(shapes) == [MATRIX.get(architecture, "tcgen05.mma")], name_of(row)


def test_no_loop_waits_for_each_of_its_asynchronous_products() -> None:
    assert [name_of(row) for row in everything() if row["serialised"]] == []


@pytest.mark.parametrize("kernel", ["decoder", "statistics_0", "statistics_1"])
@pytest.mark.parametrize("width", [64, 128, 256])
def test_every_architecture_has_two_configurations_or_more(kernel: str, width: int) -> None:
    for capability in ((8, 0), (8, 6), (8, 7), (8, 9), (9, 0), (10, 0), (12, 0), (12, 1)):
        assert len(rows_of(kernel, width, capability)) >= 2


def test_a_gpu_without_matrix_products_in_triton_is_refused_with_the_reason() -> None:
    with pytest.raises(EngineError, match=r"compute capability 7\.5: the fused kernels need 8\.0"):
        rows_of("decoder", 64, (7, 5))
