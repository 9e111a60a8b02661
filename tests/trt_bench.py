"""Engines of a bundle on the recording double and a fake GPU, opened as on a real one."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from fake_device import FakeDevice
from hiif_deploy.backends.options import EngineOptions
from hiif_deploy.backends.tensorrt.backend import TrtBackend
from hiif_deploy.backends.tensorrt.graphs import trt_graphs
from hiif_deploy.backends.tensorrt.library import Library, load_library
from hiif_deploy.bundle.contract import Precision
from hiif_deploy.bundle.loader import Bundle
from hiif_deploy.upscaler import RenderOptions, Upscaler
from hiif_engines.tensorrt.build import build_engine
from hiif_engines.tensorrt.profiles import BuildSizes, make_profiles, make_shared_profiles
from tensorrt_double.install import installed

SMALL = BuildSizes((40, 48), (20, 24), queries=1024)


@dataclass
class TrtBench:
    """What a test looks at."""

    upscaler: Upscaler
    """On the double."""
    device: FakeDevice
    """Counts and checks."""
    trt: Any
    """The double's module; `trt.testing` records."""
    library: Library
    """The same, as the code under test knows it."""
    said: list[str] = field(default_factory=list)
    """Messages for the user."""


@contextmanager
def trt_bench(
    bundle: Bundle, *, precision: Precision = "fp16", sizes: BuildSizes = SMALL, gpu_memory: int | None = None,
    options: RenderOptions | None = None, version: str = "11.4.0.106", **device: Any,
) -> Iterator[TrtBench]:  # fmt: skip
    """Build every engine, open them, and at the end prove that everything was given back."""
    fake = FakeDevice(**device)
    fake.needs_current = True
    with installed(fake, version) as trt, logged() as said:
        library = load_library()
        engines = build_engines(bundle, library, precision, sizes)
        chosen = EngineOptions(engine="tensorrt", threads=1, precision=precision, gpu_memory=gpu_memory)
        backend = TrtBackend(bundle, precision, engines, library, fake, chosen)
        trt.testing.calls.clear()
        with Upscaler(bundle, engine=chosen, options=options, backend=backend) as upscaler:
            yield TrtBench(upscaler, fake, trt, library, said)
        assert +fake.live == {}


@contextmanager
def logged() -> Iterator[list[str]]:
    """Messages for the user, as they come."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("hiif_deploy")
    logger.addHandler(handler)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)


def build_engines(bundle: Bundle, library: Library, precision: Precision, sizes: BuildSizes) -> dict[str, bytes]:
    """Graph name → serialised engine."""
    profiles = make_profiles(bundle.contract, precision, sizes) | make_shared_profiles(bundle.contract, sizes)
    graphs = trt_graphs(bundle, precision)
    return {name: build_engine(library, *graphs[name], profile) for name, profile in profiles.items()}
