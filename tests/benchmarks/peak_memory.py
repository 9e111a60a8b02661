"""Peak resident memory of one large picture: 512x512 → 8192x8192 by default, in a process of its own.

    python tests/benchmarks/peak_memory.py [--bundle NAME|DIR] [--side 512] [--scale 16] [--memory MIB] [--engine NAME]

Prints one JSON object. The default must stay within 3 GB.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2

SAMPLE = Path(__file__).resolve().parents[2] / "hiif_deploy" / "samples" / "astronaut.png"


def main() -> None:
    """Upscale an enlarged sample through the command line and report time and peak memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="hiif-compact")
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--scale", type=float, default=16)
    parser.add_argument("--memory", type=int, default=1024, help="MiB of working memory")
    parser.add_argument("--engine", default="onnxruntime")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.png", Path(folder) / "out.png"
        side = (arguments.side, arguments.side)
        cv2.imwrite(str(source), cv2.resize(cv2.imread(str(SAMPLE)), side, interpolation=cv2.INTER_CUBIC))
        words = ["upscale", str(source), "-o", str(target), "-b", arguments.bundle, "--scale", str(arguments.scale)]
        command = [sys.executable, "-m", "hiif_deploy.cli", *words, "--memory", str(arguments.memory)]
        command += ["--engine", arguments.engine]
        began = time.perf_counter()
        subprocess.run(command, check=True)
        seconds = time.perf_counter() - began
        size = cv2.imread(str(target)).shape[:2]
    # Of the child alone: this process never held the large picture while it ran.
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    result = {
        "bundle": arguments.bundle,
        "engine": arguments.engine,
        "output": f"{size[1]}x{size[0]}",
        "seconds": round(seconds, 1),
    }
    print(json.dumps({**result, "peak_rss_mib": round(peak)}))


if __name__ == "__main__":
    main()
