"""Peak memory of one variant on one picture, in a process of its own."""

import json
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hiif_deploy.errors import HiifError
from hiif_deploy.geometry.sizes import Size
from hiif_deploy.support.system_table import table_bytes

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
MEBI = 1 << 20


@dataclass(frozen=True)
class Memory:
    """Resident memory of a process that opened a variant and enlarged one picture, in MiB."""

    peak_mb: float
    """At most, from its start to its end: the interpreter, libraries and weights included."""
    working_mb: float
    """At most while it enlarged the picture, above what it held before."""


def measure_memory(
    variant: str, bundle: Path, checkpoint: Path | None, threads: int, source: Size, size: Size,
    engine: Mapping[str, Any],
) -> Memory:  # fmt: skip
    """Start the process and wait for it. HiifError with its last line where it fails."""
    words = json.dumps([variant, str(bundle), str(checkpoint or ""), threads, source, size, dict(engine)])
    done = subprocess.run(
        [sys.executable, "-m", "hiif_deploy.bench.memory", words], capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise HiifError(f"memory of {variant} could not be measured: {lines[-1]}")
    return Memory(**json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """The other process: arguments as JSON in, figures as JSON out."""
    from hiif_deploy.backends.options import EngineOptions
    from hiif_deploy.bench.case import BenchModel, picture
    from hiif_deploy.bench.variants import open_variant
    from hiif_deploy.bundle.loader import open_bundle

    variant, bundle, checkpoint, threads, source, size, engine = json.loads(sys.argv[1])
    model = BenchModel("", open_bundle(bundle), Path(checkpoint) if checkpoint else None)
    image = picture(tuple(source))
    isa = engine.pop("isa", None)
    runner = open_variant(variant, model, threads, EngineOptions(**engine), isa)
    opened, peak = resident(), peak_resident()
    with suppress(OSError):  # where the system cannot start the peak anew
        CLEAR.write_text("5", encoding="ascii")
    runner.upscale(image, tuple(size))
    ran = peak_resident()
    runner.close()
    # Opening the model may have needed more than the picture, and its peak was forgotten.
    print(json.dumps(asdict(Memory(max(peak, ran) / MEBI, max(0, ran - opened) / MEBI))))


def resident() -> int:
    """Bytes this process holds now; where the system does not report it, the most that it ever held."""
    return table_bytes(STATUS, "VmRSS") or peak_resident()


def peak_resident() -> int:
    """Most bytes that this process ever held.

    Not `ru_maxrss` where it can be helped: on Linux a child inherits that of the process that started it.
    """
    if (found := table_bytes(STATUS, "VmHWM")) is not None:
        return found
    import resource  # Windows has none

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
