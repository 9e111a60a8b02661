"""Peak memory follows the budget and the output picture, not the number of queries."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import resource, sys
import numpy as np
from hiif_deploy import EngineOptions, RenderOptions, Upscaler
frame = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
options = RenderOptions(memory=32 << 20)
with Upscaler(sys.argv[1], engine=EngineOptions(engine="onnxruntime", threads=2), options=options) as upscaler:
    upscaler.upscale(frame, scale=float(sys.argv[2]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def peak(bundle: Path, scale: float) -> int:
    """Bytes resident at most while one picture is upscaled."""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(bundle), str(scale)], cwd=root, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux only")
def test_memory_grows_with_the_output_picture_alone(tiny_bundle: Path) -> None:
    small, large = peak(tiny_bundle, 4), peak(tiny_bundle, 20)
    queries, output = (64 * 20) ** 2, (64 * 20) ** 2 * 3
    # One float32 row of 32 hidden values per query would already be four times the allowance.
    assert large - small <= output + (48 << 20) < queries * 32 * 4


ENCODE = """
import sys
import numpy as np
from hiif_deploy import EngineOptions, RenderOptions, Upscaler
from hiif_deploy.bench.memory import peak_resident, resident
frame = np.zeros((1024, 1024, 3), np.uint8)
engine, options = EngineOptions(engine="onnxruntime", threads=2), RenderOptions(memory=4 << 30)
with Upscaler(sys.argv[1], engine=engine, options=options) as upscaler:
    before = resident()
    features = upscaler.encode(frame)
    print(features.encoded.nbytes + features.frame.nbytes, resident() - before, peak_resident() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="resident memory is read from Linux's /proc")
def test_an_encoder_gives_its_buffers_back_when_the_picture_is_encoded() -> None:
    found = subprocess.run([sys.executable, "-c", ENCODE, "hiif-compact"], capture_output=True, text=True, check=True)
    features, kept, peak = map(int, found.stdout.split())
    assert peak > 3 * features
    assert kept < 2 * features + (16 << 20)
