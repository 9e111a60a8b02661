"""Frames cross the bus as they are: what each uploads, runs and downloads, and that its values are the host's."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from fake_device import SCHEDULES
from hiif_deploy import RenderOptions, Upscaler
from hiif_deploy.backends.tensorrt.executor import TrtExecutor
from hiif_deploy.backends.tensorrt.plan import make_trt_plan
from hiif_deploy.bundle.loader import Bundle, open_bundle
from hiif_deploy.decoding.job import TileQueries, Window
from hiif_deploy.decoding.queries import query_axes
from hiif_deploy.geometry.sizes import Size
from hiif_deploy.geometry.tiling import decoder_tiles
from hiif_deploy.images.samples import sample
from hiif_deploy.pixels import Frame, FrameFormat, from_unit
from hiif_deploy.rendering.verify import TOLERANCES, check_difference, measure
from hiif_engines.tensorrt.profiles import PRESETS, BuildSizes
from trt_bench import TrtBench, trt_bench

MANY_BLOCKS = BuildSizes((40, 48), (20, 24), queries=256)


@pytest.fixture(scope="module")
def bundle(half_bundle: Path) -> Bundle:
    return open_bundle(half_bundle)


def picture(height: int, width: int) -> Frame:
    return np.ascontiguousarray(sample("coffee")[30 : 30 + height, 20 : 20 + width])


def of_every_type(image: Frame) -> list[Frame]:
    deep = image.astype(np.uint16) * 257
    unit = (image / 255).astype(np.float32)
    return [frame[..., :channels] for frame in (image, deep, unit) for channels in (3, 1)]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("size", "target"), [((24, 31), (79, 103)), ((40, 48), (40, 48)), ((1, 3), (4, 12))])
def test_values_of_every_type_are_those_of_the_host_bit_for_bit(
    bundle: Bundle, schedule: str, size: Size, target: Size
) -> None:
    with trt_bench(bundle, sizes=MANY_BLOCKS, schedule=schedule) as bench:
        for frame in of_every_type(picture(*size)):
            features = bench.upscaler.encode(frame)
            found = bench.upscaler.render(features, size=target)
            expected = from_unit(bench.upscaler.render_unclamped(features, size=target), FrameFormat.of(frame))
            np.testing.assert_array_equal(found, expected)
            assert found.dtype == frame.dtype


def test_a_decoder_without_skip_adds_the_mean(bundle: Bundle) -> None:
    decoder = dataclasses.replace(bundle.contract.decoder, skip="none")
    plain = dataclasses.replace(bundle, contract=dataclasses.replace(bundle.contract, decoder=decoder))
    image = picture(24, 31)
    with Upscaler(plain) as exact, trt_bench(plain, sizes=MANY_BLOCKS) as bench:
        expected = exact.render_unclamped(exact.encode(image), size=(48, 62))
        answer = bench.upscaler.render_unclamped(bench.upscaler.encode(image), size=(48, 62))
        check_difference("no skip", measure(answer, expected), TOLERANCES["fp16"])


def test_sampled_statistics_are_those_of_the_processor(bundle: Bundle, half_bundle: Path) -> None:
    options, image = RenderOptions(statistics="sampled", samples=300), picture(40, 48)
    with (
        Upscaler(half_bundle, options=options) as exact,
        trt_bench(bundle, precision="fp32", options=options, sizes=MANY_BLOCKS, gpu_memory=20 * 48 * 800) as bench,
    ):
        expected = exact.render_unclamped(exact.encode(image), size=(120, 144))
        answer = bench.upscaler.render_unclamped(bench.upscaler.encode(image), size=(120, 144))
        assert np.abs(answer - expected).max() <= 1e-5
        assert bench.upscaler.steps((40, 48), (120, 144)) > 4, "several tiles"
        assert "sampled statistics" in bench.upscaler.description


def traffic(bench: TrtBench, frame: Frame, scale: float) -> tuple[int, int, int, int, int]:
    """Bytes up and down, copies up and down, and engines run, of one frame."""
    device, names = bench.device, ("upload", "download")
    copied, queued = device.copied.copy(), list(device.queued)
    bench.upscaler.upscale(frame, scale=scale)
    new = [name for name, _ in list(device.queued)[len(queued) :]]
    up, down = ((device.copied - copied)[name] for name in names)
    return up, down, *(new.count(name) for name in names), sum(name.startswith("execute") for name in new)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_frame_goes_up_once_and_its_values_come_down_once(bundle: Bundle, dtype: type) -> None:
    frame = picture(40, 48).astype(dtype)
    values = frame.nbytes * 4 * (1 if dtype == np.uint8 else 2)
    with trt_bench(bundle, log_size=None) as bench:
        blocks = len(blocks_of(bench, (40, 48), (80, 96)))
        runs = [traffic(bench, frame, 2) for _ in range(3)]
    up, down, uploads, downloads, engines = runs[-1]
    assert runs[-1] == runs[-2]
    # TensorRT has no uint16, so 16 bits travel as 32.
    sent = values // 4
    passes = bundle.contract.decoder.statistics_passes
    assert sent < up < sent + 200 * 80 + 20_000, "the frame, tables per row and column, folded matrices"
    assert values < down < values + 4096 * blocks * passes + 1000 * blocks
    assert downloads == blocks + passes, "every block's values, and the sums of a pass at once"
    assert uploads < 100
    assert engines == 1 + 1 + 1 + passes * blocks + 2 * blocks, "prepare, encoder, maps; statistics; decoder and finish"


def blocks_of(bench: TrtBench, source: Size, target: Size) -> list[object]:
    """Blocks of a pass over a picture."""
    executor = bench.upscaler.backend.decoder.executor  # type: ignore[attr-defined]
    assert isinstance(executor, TrtExecutor)
    plan = bench.upscaler.plan(source)
    window = Window((0, target[0]), (0, target[1]))
    rows, columns = query_axes(bench.upscaler.contract, source, target, window)
    blocks: list[object] = []
    for tile in decoder_tiles(rows, columns, plan.decoder_tile, plan.tile_queries):
        queries = TileQueries(window, tile, rows[tile.rows], columns[tile.columns])
        blocks += executor._blocks(executor._sessions["decoder"], plan, queries)
    return blocks


@pytest.mark.parametrize(
    ("source", "scale", "most"),
    [((1080, 1920), 2, 64), ((1080, 1920), 4, 256), ((720, 1280), 3, 100), ((540, 960), 2, 32)],
)
def test_a_4k_frame_takes_few_calls(bundle: Bundle, source: Size, scale: int, most: int) -> None:
    target = source[0] * scale, source[1] * scale
    with trt_bench(bundle, sizes=PRESETS["1080p"]) as bench:
        blocks = blocks_of(bench, source, target)
        assert len(blocks) <= most
        assert max(block.shape[0] * block.shape[1] for block in blocks) <= 131_072  # type: ignore[attr-defined]


def test_a_call_has_fewer_queries_where_memory_is_short(bundle: Bundle) -> None:
    with trt_bench(bundle, sizes=PRESETS["1080p"]) as bench:
        sessions = bench.upscaler.backend._sessions  # type: ignore[attr-defined]
        small, large = (
            make_trt_plan(bundle.contract, sessions, (540, 960), memory).query_block for memory in (30 << 20, 8 << 30)
        )
    assert 2048 <= small < 65_536 < large <= 131_072
    assert 4 * small * bundle.contract.decoder.query_channels <= 30 << 20
