"""A whole picture through TensorRT's API on the recording double: right, bounded, and healed where half fails.

The fake GPU runs what is queued as late, as early and as unfairly as CUDA may: a missing wait gives wrong pictures.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from fake_device import SCHEDULES
from hiif_deploy import EngineError, OptionError, RenderOptions, Upscaler
from hiif_deploy.bundle.loader import Bundle, open_bundle
from hiif_deploy.decoding.job import Window
from hiif_deploy.images.samples import sample
from hiif_deploy.rendering.verify import TOLERANCES, check_difference, measure
from hiif_engines.tensorrt.profiles import BuildSizes
from trt_bench import trt_bench

MANY_BLOCKS = BuildSizes((40, 48), (20, 24), queries=256)
"""So few queries per call that every picture takes many, some of them cut in both directions."""


@pytest.fixture(scope="module")
def bundle(half_bundle: Path) -> Bundle:
    return open_bundle(half_bundle)


@pytest.fixture(scope="module")
def exact(bundle: Bundle) -> Upscaler:
    """fp32 on the processor."""
    return Upscaler(bundle)


def picture(height: int, width: int) -> np.ndarray:
    return np.ascontiguousarray(sample("coffee")[30 : 30 + height, 20 : 20 + width])


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("size", "scale"), [((24, 31), 2.0), ((24, 31), 3.3), ((1, 1), 4.0), ((40, 48), 1.0)])
def test_a_whole_picture_is_right_whatever_the_order_of_the_streams(
    bundle: Bundle, exact: Upscaler, schedule: str, size: tuple[int, int], scale: float
) -> None:
    image = picture(*size)
    target = (round(size[0] * scale), round(size[1] * scale))
    expected = exact.render_unclamped(exact.encode(image), size=target)
    with trt_bench(bundle, sizes=MANY_BLOCKS, schedule=schedule) as bench:
        upscaler = bench.upscaler
        for _ in range(3):
            answer = upscaler.render_unclamped(upscaler.encode(image), size=target)
            check_difference("double", measure(answer, expected), TOLERANCES["fp16"])
        assert upscaler.fallback_blocks == 0


def test_fp32_engines_answer_as_onnx_runtime_does(bundle: Bundle, exact: Upscaler) -> None:
    image = picture(20, 33)
    expected = exact.render_unclamped(exact.encode(image), size=(66, 109))
    with trt_bench(bundle, precision="fp32", sizes=MANY_BLOCKS) as bench:
        answer = bench.upscaler.render_unclamped(bench.upscaler.encode(image), size=(66, 109))
    assert np.abs(answer - expected).max() <= 1e-5


@pytest.mark.parametrize("version", ["10.13.3.9", "10.16.1.11", "11.4.0.106"])
def test_every_supported_version_takes_the_same_path(bundle: Bundle, version: str) -> None:
    with trt_bench(bundle, version=version) as bench:
        frame = bench.upscaler.upscale(picture(12, 14), scale=2)
        assert frame.shape == (24, 28, 3)
        assert f"tensorrt {version}, fp16" in bench.upscaler.description


def test_pictures_larger_than_the_profile_are_cut_and_stay_right(bundle: Bundle, exact: Upscaler) -> None:
    image = picture(70, 90)
    expected = exact.render_unclamped(exact.encode(image), size=(140, 225))
    with trt_bench(bundle) as bench:
        assert bench.upscaler.steps((70, 90), (140, 225)) > 4
        done: list[int] = []
        features = bench.upscaler.encode(image, advance=done.append)
        answer = bench.upscaler.render_unclamped(features, size=(140, 225))
        check_difference("cut", measure(answer, expected), TOLERANCES["fp16"])
        bench.upscaler.upscale(image, size=(140, 225), advance=done.append)
        assert sum(done) == bench.upscaler.steps((70, 90), (140, 225)) + len(range(0, 70, 28)) * len(range(0, 90, 36))


def test_a_region_equals_that_part_of_the_whole(bundle: Bundle) -> None:
    image = picture(24, 31)
    with trt_bench(bundle, sizes=MANY_BLOCKS) as bench:
        features = bench.upscaler.encode(image)
        whole = bench.upscaler.render(features, scale=2.5)
        part = bench.upscaler.render(features, scale=2.5, region=(11, 7, 30, 40))
    assert np.abs(whole[11:41, 7:47].astype(int) - part).max() <= 1


def test_features_are_encoded_once_and_rendered_at_many_sizes(bundle: Bundle) -> None:
    with trt_bench(bundle) as bench:
        features = bench.upscaler.encode(picture(16, 18))
        for scale in (2.0, 3.3):
            bench.upscaler.render(features, scale=scale)
        assert bench.trt.testing.runs["features"] == 1
        assert features.encoded.shape == (16, 16, 18)
        assert np.asarray(features.encoded).dtype == np.float16


def test_maps_are_made_once_for_all_passes_over_a_picture(bundle: Bundle) -> None:
    with trt_bench(bundle, sizes=MANY_BLOCKS) as bench:
        features = bench.upscaler.encode(picture(24, 31))
        bench.upscaler.render(features, scale=2)
        assert bench.trt.testing.runs["map_0"] == 1
        assert bench.trt.testing.runs["colour"] > 3


def test_little_memory_for_maps_means_more_tiles_and_the_same_picture(bundle: Bundle, exact: Upscaler) -> None:
    image = picture(24, 31)
    expected = exact.render_unclamped(exact.encode(image), size=(48, 62))
    with trt_bench(bundle, gpu_memory=6 * 31 * (4 * 48 * 2 + 8)) as bench:
        answer = bench.upscaler.render_unclamped(bench.upscaler.encode(image), size=(48, 62))
        check_difference("tiled", measure(answer, expected), TOLERANCES["fp16"])
        assert bench.trt.testing.runs["map_0"] > 3


def test_too_little_memory_for_two_rows_is_refused_with_what_is_needed(bundle: Bundle) -> None:
    with (
        trt_bench(bundle, gpu_memory=1000) as bench,
        pytest.raises(OptionError, match=r"maps of two rows of 31 pixels need .* MiB of GPU memory"),
    ):
        bench.upscaler.upscale(picture(24, 31), scale=2)


def test_the_published_evaluation_runs_in_groups_of_rows(bundle: Bundle, half_bundle: Path) -> None:
    image = picture(24, 31)
    with Upscaler(half_bundle, options=RenderOptions(group_rows=16)) as grouped:
        expected = grouped.upscale(image, scale=2)
    with trt_bench(bundle, options=RenderOptions(group_rows=16)) as bench:
        found = bench.upscaler.upscale(image, scale=2)
    assert np.abs(found.astype(int) - expected).max() <= 2


@pytest.mark.parametrize("call", [0, 3])
def test_a_block_of_colours_that_is_no_number_is_recomputed_in_fp32(bundle: Bundle, exact: Upscaler, call: int) -> None:
    image = picture(24, 31)
    expected = exact.render_unclamped(exact.encode(image), size=(48, 62))
    with trt_bench(bundle, sizes=MANY_BLOCKS) as bench:
        bench.trt.testing.poison("colour", call=call)
        answer = bench.upscaler.render_unclamped(bench.upscaler.encode(image), size=(48, 62))
        check_difference("healed", measure(answer, expected), TOLERANCES["fp16"])
        assert bench.upscaler.fallback_blocks == 1
        assert [line for line in bench.said if "recomputing those blocks in fp32" in line] == bench.said


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_statistics_that_are_no_numbers_are_recomputed_in_fp32(bundle: Bundle, exact: Upscaler, value: float) -> None:
    image = picture(24, 31)
    expected = exact.render_unclamped(exact.encode(image), size=(48, 62))
    with trt_bench(bundle, sizes=MANY_BLOCKS) as bench:
        bench.trt.testing.poison("outer", call=2, value=value)
        answer = bench.upscaler.render_unclamped(bench.upscaler.encode(image), size=(48, 62))
        check_difference("healed", measure(answer, expected), TOLERANCES["fp16"])
        assert bench.upscaler.fallback_blocks == 1


def test_features_that_are_no_numbers_are_healed_wherever_they_reach(bundle: Bundle, exact: Upscaler) -> None:
    image = picture(12, 14)
    expected = exact.render_unclamped(exact.encode(image), size=(24, 28))
    with trt_bench(bundle, sizes=MANY_BLOCKS) as bench:
        bench.trt.testing.poison("features", call=0)
        answer = bench.upscaler.render_unclamped(bench.upscaler.encode(image), size=(24, 28))
        check_difference("healed", measure(answer, expected), TOLERANCES["fp16"])
        assert bench.upscaler.fallback_blocks > 1


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_nothing_grows_over_hundreds_of_frames(bundle: Bundle, schedule: str) -> None:
    frame = picture(3, 4)
    with trt_bench(bundle, schedule=schedule) as bench:
        for _ in range(10):
            first = bench.upscaler.upscale(frame, scale=2)
        held = bench.upscaler.memory_bytes
        live, total, peak = bench.device.live.copy(), bench.device.total.copy(), bench.device.peak_bytes
        for _ in range(300 if schedule == "late" else 50):
            last = bench.upscaler.upscale(frame, scale=2)
        assert (bench.device.live, bench.device.total, bench.device.peak_bytes) == (live, total, peak)
        assert bench.upscaler.memory_bytes == held > 0
    np.testing.assert_array_equal(first, last)


def test_a_consumer_that_stops_early_leaves_nothing_in_flight(bundle: Bundle) -> None:
    with trt_bench(bundle, sizes=MANY_BLOCKS) as bench:
        features = bench.upscaler.encode(picture(24, 31))
        parts = bench.upscaler._parts(bench.upscaler._job(features, (48, 62)), Window((0, 48), (0, 62)), None)
        next(parts)
        parts.close()
        assert bench.upscaler.render(features, scale=2).shape == (48, 62, 3)


def test_features_of_another_engine_are_refused(bundle: Bundle, exact: Upscaler) -> None:
    image = picture(12, 14)
    with trt_bench(bundle) as bench, pytest.raises(EngineError, match="encoded by another engine"):
        bench.upscaler.render(exact.encode(image), scale=2)


def test_memory_that_runs_out_is_an_error_with_advice_and_leaves_nothing(bundle: Bundle) -> None:
    with trt_bench(bundle, memory_limit=1 << 20) as bench:
        with pytest.raises(EngineError, match="memory"):
            bench.upscaler.upscale(picture(40, 48), scale=4)
        assert bench.upscaler.upscale(picture(4, 4), scale=2).shape == (8, 8, 3)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_several_threads_share_one_upscaler(bundle: Bundle, schedule: str) -> None:
    images = [picture(20, 23), picture(24, 27), picture(17, 20)]
    with trt_bench(bundle, sizes=MANY_BLOCKS, schedule=schedule) as bench, ThreadPoolExecutor(3) as pool:
        expected = [bench.upscaler.upscale(image, scale=2.3) for image in images]
        for _ in range(3):
            found = pool.map(lambda image: bench.upscaler.upscale(image, scale=2.3), images)
            for answer, truth in zip(found, expected, strict=True):
                np.testing.assert_array_equal(answer, truth)
