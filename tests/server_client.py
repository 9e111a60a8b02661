"""A real server on loopback: uvicorn in a thread, asked by a real client."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from hiif_deploy import EngineOptions, RenderOptions, Upscaler
from hiif_deploy.server.app import listen, make_uvicorn, open_server
from hiif_deploy.server.options import ServeOptions
from hiif_deploy.support.extras import EXTRAS


@contextlib.contextmanager
def running(models: Mapping[str, Upscaler], sources: list[Path], options: ServeOptions | None = None) -> Iterator[Any]:
    """An `httpx.Client` of a server that runs meanwhile; `client.server` and `client.uvicorn` are the server."""
    for package in EXTRAS["serve"]:
        pytest.importorskip(package, reason="needs the extra serve")
    httpx = pytest.importorskip("httpx", reason="needs httpx")
    options = options or ServeOptions(port=0)
    with open_server(models, sources, options) as server, listen(options) as listening:
        port = listening.getsockname()[1]
        uvicorn = make_uvicorn(server.app)
        thread = threading.Thread(target=uvicorn.run, args=([listening],))
        thread.start()
        try:
            until = time.monotonic() + 30
            while not uvicorn.started and time.monotonic() < until:
                time.sleep(0.01)
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                client.server, client.uvicorn = server, uvicorn
                yield client
        finally:
            uvicorn.should_exit = True
            thread.join()


def opened(name: str | Path) -> Upscaler:
    """A model as the command opens it."""
    options = RenderOptions(max_output_pixels=1 << 44)
    return Upscaler(name, engine=EngineOptions(threads=1), options=options)
