"""Frames through PyTorch: their values are those of the host but for roundings of the decoder."""

from __future__ import annotations

import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hiif_deploy import EngineOptions, Upscaler
from hiif_deploy.backends.host import HostBackend
from hiif_deploy.bundle.loader import open_bundle
from hiif_deploy.images.samples import sample
from hiif_deploy.pixels import from_unit

torch = pytest.importorskip("torch")

from hiif_engines.torch_engine import executor, features, launcher  # noqa: E402
from hiif_engines.torch_engine.backend import TorchBackend  # noqa: E402

OPTIONS = EngineOptions(engine="torch", device="cpu", threads=1)
IMAGE = sample("astronaut")[100:124, 100:120]
SIZE = (70, 61)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float16", "float32"])
@pytest.mark.parametrize("grey", [False, True])
def test_a_frame_is_that_of_its_colours_and_the_hosts_but_for_single_steps(
    dtype: str, grey: bool, tiny_bundle: Path
) -> None:
    bundle = open_bundle(tiny_bundle)
    white = 1 if dtype.startswith("float") else np.iinfo(dtype).max
    frame = (IMAGE / 255 * white).astype(dtype)
    frame = frame[..., 0] if grey else frame
    with (
        Upscaler(bundle, backend=TorchBackend(bundle, OPTIONS)) as upscaler,
        Upscaler(bundle, backend=HostBackend(bundle, EngineOptions(engine="onnxruntime", threads=1))) as host,
    ):
        encoded = upscaler.encode(frame)
        found = upscaler.render(encoded, size=SIZE)
        colours = upscaler.render_unclamped(encoded, size=SIZE)
        np.testing.assert_array_equal(found, from_unit(colours, encoded.format))
        expected = host.upscale(frame, size=SIZE)
    assert (found.dtype, found.shape) == (frame.dtype, SIZE if grey else (*SIZE, 3))
    # The decoders differ by roundings of float32, 1e-5 at most, which only moves values beside a half.
    step = float(np.finfo(np.float16).eps) if dtype == "float16" else 1e-5 if white == 1 else max(1, 1e-5 * white)
    assert np.abs(found.astype(np.float64) - expected).max() <= step
    if dtype == "uint8":
        assert (found != expected).mean() < 1e-2


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("mib", [1, 64])
def test_a_frame_goes_up_once_and_its_values_come_down_once(
    dtype: str, mib: int, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, frame = open_bundle(tiny_bundle), IMAGE.astype(dtype)
    backend = TorchBackend(bundle, replace(OPTIONS, gpu_memory=mib << 20))
    traffic = Traffic(monkeypatch)
    with Upscaler(bundle, backend=backend) as upscaler:
        first, second = (upscaler.upscale(frame, size=SIZE) for _ in range(2))
        traffic.clear()
        third = upscaler.upscale(frame, size=SIZE)
    np.testing.assert_array_equal(first, third)
    np.testing.assert_array_equal(first, second)
    # Beside pixels: folded matrices up, sums and ranges down. The tables of a size stay on the device.
    assert frame.nbytes <= traffic.up <= frame.nbytes + (1 << 17)
    assert third.nbytes <= traffic.down <= third.nbytes + (1 << 17)


class Traffic:
    """Counts the bytes that the engine copies to and from its device."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.up = self.down = 0

        def upload(value: np.ndarray, device: torch.device) -> torch.Tensor:
            self.up += value.nbytes
            return launcher.upload(value, device)

        def counted(*tensors: torch.Tensor) -> launcher.Download:
            self.down += sum(tensor.nbytes for tensor in tensors)
            return launcher.Download(*tensors)

        for module in (features, executor):
            monkeypatch.setattr(module, "upload", upload)
        monkeypatch.setattr(
            launcher.Launcher, "upload", lambda this, host: {k: upload(v, this.device) for k, v in host.items()}
        )
        monkeypatch.setattr(executor, "Download", counted)

    def clear(self) -> None:
        self.up = self.down = 0


def test_a_closed_backend_is_freed_at_once(tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    backend = TorchBackend(bundle, OPTIONS)
    with Upscaler(bundle, backend=backend) as upscaler:
        upscaler.upscale(IMAGE, size=SIZE)
    alive = weakref.ref(backend)
    del backend, upscaler
    assert alive() is None


@pytest.mark.parametrize("turned", [IMAGE[::-1], IMAGE[..., ::-1]])
def test_frames_with_negative_strides_are_upscaled(turned: np.ndarray, tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    with Upscaler(bundle, backend=TorchBackend(bundle, OPTIONS)) as upscaler:
        expected = upscaler.upscale(np.ascontiguousarray(turned), size=SIZE)
        np.testing.assert_array_equal(upscaler.upscale(turned, size=SIZE), expected)


def test_the_fallback_encodes_a_buffer_again_that_holds_the_next_frame(tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    backend = TorchBackend(bundle, OPTIONS)
    weights = backend._graphs["decoder"].weights
    weights["second.bias"] = weights["second.bias"] * float("nan")
    buffer = IMAGE.copy()
    with Upscaler(bundle, backend=backend) as upscaler, Upscaler(bundle) as host:
        upscaler.upscale(buffer, size=SIZE)
        buffer[:] = 255 - IMAGE
        found = upscaler.upscale(buffer, size=SIZE)
        assert np.abs(found.astype(int) - host.upscale(buffer, size=SIZE)).max() <= 1


def test_a_block_that_is_no_number_is_recomputed_as_part_of_the_frame(tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    backend = TorchBackend(bundle, OPTIONS)
    weights = backend._graphs["decoder"].weights
    weights["second.bias"] = weights["second.bias"] * float("nan")
    with Upscaler(bundle, backend=backend) as upscaler, Upscaler(bundle) as host:
        found = upscaler.upscale(IMAGE, size=SIZE)
        assert upscaler.fallback_blocks == 1
        assert np.abs(found.astype(int) - host.upscale(IMAGE, size=SIZE)).max() <= 1
