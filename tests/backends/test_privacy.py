"""No engine opens a socket or leaves a file in the home folder: use is reported to nobody."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from hiif_deploy.backends.sessions.openvino import require_instructions
from hiif_deploy.errors import EngineError

UPSCALE = """
import os, sys

log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def watch(event, arguments):
    # Written with one system call each: forked children, which inherit the hook, report here too.
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.bind", "urllib.Request"):
        os.write(log, f"{event} {arguments[1:]}\\n".encode())


sys.addaudithook(watch)
if sys.argv[2] == "control":
    import socket

    socket.socket().connect_ex(("127.0.0.1", 9))
else:
    import numpy as np
    from hiif_deploy import EngineOptions, Upscaler

    options = EngineOptions(engine=sys.argv[2], precision=sys.argv[3], threads=1, device="cpu")
    with Upscaler(engine=options) as upscaler:
        upscaler.upscale(np.zeros((6, 6, 3), np.uint8), scale=2)
if os.path.isdir("/proc/self/fd"):
    for name in os.listdir("/proc/self/fd"):
        try:
            found = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if found.startswith("socket:"):
            os.write(log, f"{found}\\n".encode())
"""


def watched(tmp_path: Path, engine: str, precision: str) -> tuple[str, list[Path]]:
    """What a process that upscales a picture did on the network, and the files it left in its home folder."""
    home, log = tmp_path / "home", tmp_path / "log"
    home.mkdir()
    # CI=true would silence OpenVINO by itself.
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "TF_BUILD", "JENKINS_URL")}
    done = subprocess.run(
        [sys.executable, "-c", UPSCALE, str(log), engine, precision],
        env={**kept, "HOME": str(home), "XDG_CACHE_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return log.read_text(), [path for path in home.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("engine", "precision"),
    [("onnxruntime", "fp32"), ("openvino", "fp32"), ("auto", "int8"), ("native", "fp32"), ("torch", "fp32")],
)
def test_no_engine_uses_the_network_or_writes_to_the_home_folder(
    engine: str, precision: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if precision == "int8":
        try:
            require_instructions("int8")
        except EngineError as error:
            pytest.skip(str(error))
    if engine == "native":
        request.getfixturevalue("native")
    package = {"openvino": "openvino", "auto": "openvino", "torch": "torch"}.get(engine)
    if package is not None and find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    assert watched(tmp_path, engine, precision) == ("", [])


def test_a_connection_is_seen(tmp_path: Path) -> None:
    assert "socket.connect" in watched(tmp_path, "control", "")[0]
