"""What the fused kernels are compiled to, without a GPU: shared memory, registers, spills, matrix instructions, and
instructions per query; from them, how fast a GPU can be at best.

    python tests/benchmarks/gpu_compiled.py [--models hiif-attention full] [--architectures 80 90] [--json FILE]

`full` is the published size, width 256. Triton compiles for any architecture; its own tools disassemble the result.
Instructions are counted by the loops of the machine code and how often each runs for a block of queries.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

# Set for the interpreter's sake in tests; here kernels are compiled.
os.environ.pop("TRITON_INTERPRET", None)
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from hiif_deploy.bundle.loader import open_bundle, shipped_models
from hiif_deploy.errors import EngineError
from hiif_engines.fused.configs import KernelConfig, rows_of
from hiif_engines.fused.kernels import colour_kernel, sum_kernel
from hiif_engines.fused.select import decoder_graphs, open_kernels

MODELS = ("hiif-attention", "hiif-video", "full")
ATTENTION = Path(__file__).parents[1] / "models/hiif-attention"
"""Bundle of a model with attention; the full size is its network, wider."""
ARCHITECTURES = (75, 80, 86, 87, 89, 90, 100, 120)
FULL_WIDTH = 256
HALF = {
    "map_0", "map_1", "map_2", "map_3", "second", "folded", "attention_2", "level_1", "level_table", "level_2", "last",
    "key_value",
}  # fmt: skip
INTEGERS = {"row_tap", "column_tap", "row_bits", "column_bits"}
TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
QUERIES = 2160 * 3840
ENCODER_TFLOP = 6.8
"""Encoder and maps of the full size for a frame of 1920×1080, by counting."""
CONVOLUTION_SHARE = 0.6
"""The part of a GPU's rate that its library's convolutions are assumed to reach."""


@dataclass(frozen=True)
class Gpu:
    """What a GPU can do at best, by its data sheet."""

    name: str
    architecture: int
    processors: int
    clock_ghz: float
    tflops: float
    """fp16 products with float32 sums, dense."""
    l2_tb_s: float
    """Bandwidth of the L2 cache, as others measured it, roughly."""


GPUS = (
    Gpu("H200", 90, 132, 1.755, 790, 5.5), Gpu("RTX 4090", 89, 128, 2.52, 165, 5.0),
    Gpu("RTX 4070", 89, 46, 2.475, 58, 2.0), Gpu("RTX 3060", 86, 28, 1.777, 25, 1.2),
    Gpu("L4", 89, 58, 2.04, 121, 2.0), Gpu("AGX Orin", 87, 16, 1.3, 42, 0.6),
)  # fmt: skip
"""The H200's rate is one that others measured for large products; it and the clocks are without throttling."""


@dataclass(frozen=True)
class Target:
    """One kernel of one model on one architecture."""

    model: str
    kernel: str
    architecture: int
    constants: dict[str, int | float]
    config: KernelConfig


@dataclass(frozen=True)
class Compiled:
    """What a kernel was compiled to."""

    model: str
    kernel: str
    architecture: int
    config: str
    shared: int
    """Bytes per program."""
    registers: int
    """Per thread."""
    looped_spills: int
    """Loads and stores of spilled registers in loops over slices, which run most often."""
    spills: int
    """In all."""
    products: dict[str, int]
    """Matrix instruction and its shape → how often it is written in the code."""
    exponentials: int
    """Instructions for them, of which erf takes one per value and the tanh form of GELU none."""
    serialised: bool
    """Whether the assembler waits for every single matrix instruction."""
    instructions: float
    """Warp instructions issued per query."""
    macs: int
    """Multiplications per query that the algorithm needs."""
    l2_bytes: float
    """Bytes of weights and maps that a query reads: every block reads all weights."""


def main() -> None:
    """Compile, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--architectures", nargs="+", type=int, default=ARCHITECTURES)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    found: list[Compiled] = []
    wanted: list[Target] = []
    for model in given.models:
        for architecture in given.architectures:
            try:
                wanted += targets(model, architecture)
            except EngineError as error:
                print(f"{model} sm_{architecture}: refused: {error}")
    with ProcessPoolExecutor(given.processes) as pool:
        for one in pool.map(compiled, wanted):
            found.append(one)
            print(
                f"{one.model} {one.kernel} sm_{one.architecture} ({one.config}): {one.shared} B shared, "
                f"{one.registers} registers, {one.looped_spills} of {one.spills} spills in loops over slices, "
                f"{one.instructions:.0f} instructions and {one.macs} MACs per query, {one.products}",
                flush=True,
            )
    for gpu in GPUS:
        if parts := [one for one in found if (one.model, one.architecture) == ("full", gpu.architecture)]:
            print(prediction(gpu, parts))
    if given.json:
        given.json.write_text(json.dumps([asdict(one) for one in found], indent=1))


def prediction(gpu: Gpu, parts: list[Compiled]) -> str:
    """Return frames/s of 1920×1080 → 3840×2160, full size, exact: without and with overlap of products and the rest."""
    encoder = ENCODER_TFLOP / gpu.tflops / CONVOLUTION_SHARE
    products = 2 * QUERIES * sum(part.macs for part in parts) / 1e12 / gpu.tflops
    # Four instructions of 32 threads per clock and multiprocessor.
    issue = QUERIES * sum(part.instructions for part in parts) / (4 * gpu.processors * gpu.clock_ghz * 1e9)
    l2 = QUERIES * sum(part.l2_bytes for part in parts) / gpu.l2_tb_s / 1e12
    least, most = 1 / (encoder + products + issue), 1 / (encoder + max(products, issue, l2))
    return (
        f"{gpu.name}: {1000 * encoder:.0f} ms encoder, {1000 * products:.0f} ms products, {1000 * issue:.0f} ms "
        f"instructions, {1000 * l2:.0f} ms L2: {least:.1f} to {most:.1f} frames/s"
    )


def targets(model: str, architecture: int) -> list[Target]:
    """Return the kernels of a model, each with the configuration that the table chooses for the architecture."""
    bundle, device = open_bundle(model if model in shipped_models() else ATTENTION), torch.device("cpu")
    found = []
    for name, kernel in sorted(open_kernels(decoder_graphs(bundle, device), "fp16").items()):
        width = FULL_WIDTH if model == "full" else kernel.width
        kernel.width = kernel.hidden = width
        if hasattr(kernel, "heads"):
            kernel.heads = width // kernel.head
        config = rows_of(name, width, (architecture // 10, architecture % 10))[0].config(1)
        found.append(Target(model, name, architecture, kernel.constants(config), config))
    return found


def compiled(target: Target) -> Compiled:
    """Compile one kernel and read its machine code."""
    kernel = colour_kernel if target.kernel == "decoder" else sum_kernel
    signature = {name: "constexpr" if name in target.constants else _type(name) for name in kernel.arg_names}
    constants = {(kernel.arg_names.index(name),): value for name, value in target.constants.items()}
    aligned = {
        (n,): [["tt.divisibility", 16]]
        for n, name in enumerate(kernel.arg_names)
        if signature[name].startswith("*") or name == "stride"
    }
    source = ASTSource(kernel, signature, constants, aligned)
    binary = triton.compile(source, GPUTarget("cuda", target.architecture, 32), target.config.compiled)
    sass, registers = disassembled(binary.asm["cubin"])
    code = Code.read(sass)
    loops = code.loops()
    inner = [(start, stop) for start, stop in loops if not any(start < a and b < stop for a, b in loops)]
    runs = code.runs(loops, target)
    config = target.config
    named = f"{config.block}, {config.slice}, {config.warps}, {config.stages}"
    return Compiled(
        target.model, target.kernel, target.architecture, named,
        binary.metadata.shared, registers, sum(code.count(SPILL, *loop) for loop in inner), code.count(SPILL),
        _products(binary.asm["ptx"]), code.count("MUFU.EX2"), any(code.waits_for_each(*loop) for loop in inner),
        sum(runs) * config.warps / config.block, macs(target), l2_bytes(target),
    )  # fmt: skip


def macs(target: Target) -> int:
    """Return the multiplications of one query in products (padding and positions aside)."""
    c = {name: int(value) for name, value in target.constants.items()}
    width, hidden = c["WIDTH"], c["HIDDEN"]
    attentions = c["ATTENTIONS"] * 2 * width * width
    if target.kernel == "decoder":
        return hidden * width + attentions + (c["LEVELS"] - 2) * 2 * width * hidden + hidden * (width + 3)
    first = hidden * width if c["ATTENTIONS"] else 0
    return first + attentions + 2 * width * (width if c["ATTENTIONS"] else hidden) + width * c["HEAD"]


def l2_bytes(target: Target) -> float:
    """Return the bytes of float16 that a query reads: its share of its block's weights, and four map rows."""
    return 2 * macs(target) / target.config.block + 2 * 4 * target.constants["CHANNELS"]


def disassembled(cubin: bytes) -> tuple[str, int]:
    """Return machine code as text, and registers per thread."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        run = partial(subprocess.run, capture_output=True, text=True, check=True)
        usage = run([TOOLS / "cuobjdump", "-res-usage", file.name]).stdout
        registers = re.search(r"REG:(\d+)", usage)
        assert registers is not None, usage
        return run([TOOLS / "nvdisasm", "-c", file.name]).stdout, int(registers[1])


SPILL = "LDL|STL"
MATRIX = "HGMMA|HMMA|UTCHMMA"


@dataclass(frozen=True)
class Code:
    """Machine code, one name of an instruction per line, and where its branches go."""

    names: list[str]
    branches: dict[int, int]
    """Line of a branch → the line that it goes to."""

    @classmethod
    def read(cls, sass: str) -> Code:
        """Read a disassembly."""
        labels: dict[str, int] = {}
        names: list[str] = []
        targets: dict[int, str] = {}
        for line in sass.splitlines():
            if label := re.match(r"^(\.L_x_\d+):", line):
                labels[label[1]] = len(names)
            if instruction := re.match(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?(\S+)(.*)", line):
                if branch := re.search(r"`\((\.L_x_\d+)\)", instruction[2]):
                    targets[len(names)] = branch[1]
                names.append(instruction[1].rstrip(";"))
        return cls(names, {line: labels[label] for line, label in targets.items() if label in labels})

    def loops(self) -> list[tuple[int, int]]:
        """Return first and last lines of all loops that hold matrix instructions, outer ones first.

        Loops that wait for a barrier jump into the program from behind its end: they are not nested in the others.
        """
        found: list[tuple[int, int]] = []
        for line, to in sorted(self.branches.items()):
            is_loop = to < line and self.names[line].startswith("BRA") and self.count(MATRIX, to, line)
            if is_loop and all(to <= start or stop < to for start, stop in found):
                found.append((to, line))
        return sorted(found, key=lambda loop: (loop[0], -loop[1]))

    def count(self, pattern: str, start: int = 0, stop: int | None = None) -> int:
        """Count instructions whose names begin as the pattern says."""
        lines = self.names[start : None if stop is None else stop + 1]
        return sum(re.match(pattern, name) is not None for name in lines)

    def waits_for_each(self, start: int, stop: int) -> bool:
        """Return whether there are as many waits as asynchronous matrix instructions: the assembler gave up."""
        products = self.count("HGMMA", start, stop)
        return products > 2 and self.count("WARPGROUP.DEPBAR", start, stop) >= products

    def runs(self, loops: list[tuple[int, int]], target: Target) -> list[int]:
        """Return how often each line runs for one block of queries (once where it is in no loop over parts of it)."""
        trips = trip_counts(target)
        # Loops of few rounds may be unrolled instead.
        block = max(loops, key=lambda loop: loop[1] - loop[0])
        inside = [loop for loop in loops if loop != block and block[0] <= loop[0] and loop[1] <= block[1]]
        while len(trips) > len(inside):
            trips.remove(min(trips))
        if len(inside) > len(trips):
            raise RuntimeError(f"{target.kernel}: {len(inside)} loops in a block's code, expected {len(trips)}")
        found = [int(block[0] <= line <= block[1]) for line in range(len(self.names))]
        for (start, stop), trip in zip(inside, trips, strict=True):
            for line in range(start, stop + 1):
                found[line] *= trip
        return found


def trip_counts(target: Target) -> list[int]:
    """Return how often each loop within a block runs, in the order of the code. Loops of one round are unrolled."""
    c = target.constants
    hidden, width = (int(c[name] // c["SLICE"]) for name in ("HIDDEN", "WIDTH"))
    found: list[int] = []
    if target.kernel != "statistics_0":
        found += [hidden, int(c["ATTENTIONS"]), *([width] if c["ATTENTIONS"] else [])]
    if target.kernel == "decoder":
        found += [int(c["LEVELS"]) - 2, hidden, hidden]
    else:
        found.append(int(c["WIDTH"] // (c["HEADS_AT_ONCE"] * c["HEAD"])))
    return [trip for trip in found if trip > 1]


def _type(name: str) -> str:
    if name in HALF:
        return "*fp16"
    if name in INTEGERS:
        return "*i32"
    return "i32" if name in ("rows", "columns", "stride") else "*fp32"


def _products(ptx: str) -> dict[str, int]:
    shapes = re.findall(r"(wgmma|mma\.sync)\S*?\.(m\d+n\d+k\d+)|(tcgen05\.mma)", ptx)
    return dict(Counter(f"{kind} {shape}".strip() if kind else other for kind, shape, other in shapes))


if __name__ == "__main__":
    sys.exit(main())
