"""Native code for AMX on a processor that has it, or in an emulator of one: what is chosen, and how far a picture is
from AVX-512's and from ONNX Runtime's in fp32. Needs neither PyTorch nor pytest, which are slow in an emulator.

    python tests/benchmarks/amx_check.py [--bundle hiif-video] [--side 24] [--threads 2]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
from llvmlite import binding as llvm
from numpy.typing import NDArray

from hiif_deploy import EngineOptions, Upscaler
from hiif_deploy.backends.options import IsaName
from hiif_engines.native.compile import choose_target
from hiif_engines.native.tile_permission import request_tiles

SCALE = 2
Picture = NDArray[np.float32]


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    print(f"{llvm.get_host_cpu_name()}, tiles {'granted' if request_tiles() else 'refused'}", flush=True)
    frame = np.random.default_rng(0).integers(0, 256, (options.side, options.side, 3), np.uint8)
    expected = upscale(options.bundle, frame, EngineOptions(engine="onnxruntime", threads=options.threads))
    for precision in ("bf16", "int8"):
        chosen = choose_target(precision).name
        print(f"{precision}: {chosen} is chosen", flush=True)
        isas: tuple[IsaName, ...] = ("amx", "avx512")
        engines = [
            EngineOptions(engine="native", precision=precision, threads=options.threads, isa=isa) for isa in isas
        ]
        tiles, vectors = (upscale(options.bundle, frame, engine) for engine in engines)
        print(f"  amx to fp32:      {deviation(tiles, expected)}")
        print(f"  avx512 to fp32:   {deviation(vectors, expected)}")
        print(f"  amx to avx512:    {deviation(tiles, vectors)}", flush=True)


def upscale(bundle: str, frame: NDArray[np.uint8], engine: EngineOptions) -> Picture:
    """Return the frame [height, width, 3] in twice the size, float32, colours from 0 to 1 before they are clamped."""
    height, width, _ = frame.shape
    with Upscaler(bundle, engine=engine) as upscaler:
        return upscaler.render_unclamped(upscaler.encode(frame), size=(SCALE * height, SCALE * width))


def deviation(answer: Picture, expected: Picture) -> str:
    """Return the largest and the root mean square difference of two pictures, in words."""
    difference = answer.astype(np.float64) - expected
    return f"largest {np.abs(difference).max():.1e}, rms {np.sqrt(np.mean(difference**2)):.1e}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="hiif-video", help="name or folder")
    parser.add_argument("--side", type=int, default=24, help="of the picture [pixels]")
    parser.add_argument("--threads", type=int, default=2)
    return parser


if __name__ == "__main__":
    main()
