"""Skip, de-normalisation, clamp and rounding in PyTorch against the host's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hiif_deploy import EngineOptions, Upscaler
from hiif_deploy.backends.base import FrameMaker
from hiif_deploy.backends.host import HostBackend
from hiif_deploy.bundle.contract import Normalisation
from hiif_deploy.bundle.loader import open_bundle
from hiif_deploy.decoding.compose import finish
from hiif_deploy.decoding.job import Window
from hiif_deploy.decoding.queries import query_axes
from hiif_deploy.images.samples import sample
from hiif_deploy.pixels import FrameFormat, from_unit

torch = pytest.importorskip("torch")

from hiif_engines.torch_engine.backend import TorchBackend  # noqa: E402
from hiif_engines.torch_engine.finish import Download, Finish, Last  # noqa: E402

CPU = torch.device("cpu")
OPTIONS = EngineOptions(engine="torch", device="cpu", threads=1)
IMAGE = sample("astronaut")[100:124, 100:120]
SIZE = (70, 61)
RANDOM = np.random.default_rng(9)
FORMATS = [
    FrameFormat(np.dtype(dtype), channels)
    for dtype in ("uint8", "uint16", "float16", "float32", "float64")
    for channels in (None, 1, 3)
]


@pytest.mark.parametrize("skip", ["bilinear", "none"])
@pytest.mark.parametrize("region", [((0, 70), (0, 61)), ((13, 40), (5, 61))])
def test_colours_are_those_of_the_host_bit_for_bit(skip: str, region: tuple[tuple[int, int], tuple[int, int]]) -> None:
    contract = open_bundle("hiif-compact").contract
    scales = Normalisation((0.4, 0.5, 0.6), (0.3, 0.25, 0.2))
    contract = replace(contract, normalisation=scales, decoder=replace(contract.decoder, skip=skip))
    image = RANDOM.random((24, 20, 3), dtype=np.float32)
    rows, columns = query_axes(contract, (24, 20), SIZE, Window(*region))
    row, column = slice(3, 20), slice(7, 50)
    answer = RANDOM.normal(size=(17 * 43, 3)).astype(np.float32)
    found = Finish(contract, image, rows, columns, CPU)(torch.tensor(answer), row, column)
    expected = finish(contract, answer.reshape(17, 43, 3).copy(), image, rows[row], columns[column])
    np.testing.assert_array_equal(found.numpy(), expected)


@pytest.mark.parametrize("like", FORMATS, ids=lambda like: f"{like.dtype}-{like.channels}")
def test_values_of_every_format_are_those_of_the_host_bit_for_bit(like: FrameFormat) -> None:
    colours = RANDOM.uniform(-0.2, 1.2, (40, 50, 3)).astype(np.float32)
    # Halves, which both round to even.
    colours[0, :, :] = ((np.arange(50) + 0.5) / 255).astype(np.float32)[:, None]
    last = Last(like)
    (values,) = Download(last.on_device(torch.tensor(colours))).wait()
    expected = from_unit(colours, like)
    assert last.arrived(values).dtype == expected.dtype
    np.testing.assert_array_equal(last.arrived(values), expected)
    np.testing.assert_array_equal(last.on_host(colours), expected)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("grey", [False, True])
def test_a_frame_is_that_of_its_colours_and_the_hosts_but_for_single_steps(
    dtype: str, grey: bool, tiny_bundle: Path
) -> None:
    bundle = open_bundle(tiny_bundle)
    white = 1 if dtype == "float32" else np.iinfo(dtype).max
    frame = (IMAGE / 255 * white).astype(dtype)
    frame = frame[..., 0] if grey else frame
    with (
        Upscaler(bundle, backend=TorchBackend(bundle, OPTIONS)) as upscaler,
        Upscaler(bundle, backend=HostBackend(bundle, EngineOptions(threads=1))) as host,
    ):
        assert isinstance(upscaler._backend, FrameMaker)
        features = upscaler.encode(frame)
        found = upscaler.render(features, size=SIZE)
        shown: list[np.ndarray] = []
        np.testing.assert_array_equal(found, upscaler.render(features, size=SIZE, inspect=shown.append))
        assert shown
        colours = upscaler.render_unclamped(features, size=SIZE)
        np.testing.assert_array_equal(found, from_unit(colours, features.format))
        expected = host.upscale(frame, size=SIZE)
    # The decoders differ by roundings of float32, 1e-5 at most, which only moves values beside a half.
    assert np.abs(found.astype(np.float64) - expected).max() <= max(1, 1e-5 * white) / (1 if white > 1 else 1e5)
    if dtype == "uint8":
        assert (found != expected).mean() < 1e-2


def test_a_block_that_is_no_number_is_a_rescued_part_of_the_frame(tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    backend = TorchBackend(bundle, OPTIONS)
    weights = backend._graphs["decoder"].weights
    weights["second.bias"] = weights["second.bias"] * float("nan")
    with Upscaler(bundle, backend=backend) as upscaler, Upscaler(bundle) as host:
        found = upscaler.upscale(IMAGE, size=SIZE)
        assert upscaler.rescued == 1
        assert np.abs(found.astype(int) - host.upscale(IMAGE, size=SIZE)).max() <= 1
