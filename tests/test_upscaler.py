"""The upscaler: exactness does not depend on how the work is cut, and frames come back as they went in."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hiif_deploy import EngineOptions, FrameError, OptionError, RenderOptions, ScaleError, Upscaler
from hiif_deploy.geometry.sizes import output_size, published_size

SIZE = (65, 83)


@pytest.fixture(scope="module")
def frame() -> NDArray[np.uint8]:
    """A picture with edges and gradients, [26, 33, 3]."""
    y, x = np.mgrid[0:26, 0:33]
    colours = np.stack([y * 9, x * 7, 127 + 120 * np.sin(y * x / 9)], axis=-1)
    return colours.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def upscaler(tiny_bundle: Path) -> Iterator[Upscaler]:
    with Upscaler(tiny_bundle, engine=EngineOptions(engine="onnxruntime", threads=2)) as opened:
        yield opened


@pytest.fixture(scope="module")
def whole(upscaler: Upscaler, frame: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The whole picture in one tile and one block, unclamped."""
    options = RenderOptions(query_block=SIZE[0] * SIZE[1], tile_rows=64)
    with Upscaler(upscaler.bundle, options=options) as single:
        return single.render_unclamped(single.encode(frame), size=SIZE)


def test_features_do_not_depend_on_what_the_caller_does_with_the_frame(
    upscaler: Upscaler, frame: NDArray[np.uint8]
) -> None:
    expected, buffer = upscaler.upscale(frame, size=SIZE), frame.copy()
    features = upscaler.encode(buffer)
    buffer[:] = 0
    np.testing.assert_array_equal(upscaler.render(features, size=SIZE), expected)


@pytest.mark.parametrize("rows", [1, 7, 64, 1000])
@pytest.mark.parametrize("tile_rows", [1, 8, 64])
def test_the_output_does_not_depend_on_rows_per_block(
    upscaler: Upscaler, frame: NDArray[np.uint8], whole: NDArray[np.float32], rows: int, tile_rows: int
) -> None:
    options = RenderOptions(query_block=rows * SIZE[1], tile_rows=tile_rows)
    with Upscaler(upscaler.bundle, options=options) as other:
        answer = other.render_unclamped(other.encode(frame), size=SIZE)
    assert np.abs(answer - whole).max() <= 1e-5


@pytest.mark.parametrize("memory", [192 << 10, 300 << 10, 1 << 20])
def test_the_output_does_not_depend_on_the_memory_budget(
    upscaler: Upscaler, frame: NDArray[np.uint8], whole: NDArray[np.float32], memory: int
) -> None:
    with Upscaler(
        upscaler.bundle,
        engine=EngineOptions(engine="onnxruntime", threads=1),
        options=RenderOptions(memory=memory, query_block=10),
    ) as other:
        plan = other.plan((26, 33))
        assert memory > 300 << 10 or plan.encoder_tile != (26, 33), "the encoder should have to tile"
        answer = other.render_unclamped(other.encode(frame), size=SIZE)
    assert np.abs(answer - whole).max() <= 1e-5


def test_the_output_does_not_depend_on_threads(
    upscaler: Upscaler, frame: NDArray[np.uint8], whole: NDArray[np.float32]
) -> None:
    for threads in (1, 3):
        with Upscaler(upscaler.bundle, engine=EngineOptions(engine="onnxruntime", threads=threads)) as other:
            answer = other.render_unclamped(other.encode(frame), size=SIZE)
        assert np.abs(answer - whole).max() <= 1e-5


def test_naive_batches_would_change_the_picture(
    upscaler: Upscaler, frame: NDArray[np.uint8], whole: NDArray[np.float32]
) -> None:
    """Otherwise the tests above could not fail: statistics per group of rows are another picture."""
    with Upscaler(upscaler.bundle, options=RenderOptions(group_rows=16)) as naive:
        answer = naive.render_unclamped(naive.encode(frame), size=SIZE)
    assert np.abs(answer - whole).max() > 1e-3


def test_groups_of_rows_repeat_the_published_evaluation(
    upscaler: Upscaler, tiny_model: Any, frame: NDArray[np.uint8]
) -> None:
    torch = pytest.importorskip("torch")
    from hiif_deploy.decoding.compose import normalise
    from hiif_deploy.pixels import to_unit
    from hiif_training.models.implicit import skip
    from hiif_training.queries.axis import grid_queries

    image = torch.from_numpy(normalise(upscaler.contract, to_unit(frame)))
    parts = []
    with torch.no_grad():
        features = tiny_model.encode(image)
        for start in range(0, SIZE[0], 30):
            queries = grid_queries((26, 33), SIZE, rows=slice(start, start + 30), bits="exact")
            parts.append((tiny_model.decode(features, queries) + skip(image, queries))[0])
    expected = torch.cat(parts).reshape(*SIZE, 3).numpy() * 0.5 + 0.5
    with Upscaler(upscaler.bundle, options=RenderOptions(group_rows=30)) as published:
        answer = published.render_unclamped(published.encode(frame), size=SIZE)
    assert np.abs(answer - expected).max() <= 1e-5


def test_a_clipped_cell_is_that_of_the_largest_training_scale(
    upscaler: Upscaler, tiny_model: Any, frame: NDArray[np.uint8]
) -> None:
    torch = pytest.importorskip("torch")
    from hiif_deploy.decoding.compose import normalise
    from hiif_deploy.pixels import to_unit
    from hiif_training.queries.axis import grid_queries

    small, size = frame[:9, :8], (54, 48)
    image = torch.from_numpy(normalise(upscaler.contract, to_unit(small)))
    queries = grid_queries((9, 8), size, bits="exact")
    with torch.no_grad():
        expected = tiny_model(image, dataclasses.replace(queries, cell=queries.cell * 1.5)).numpy()
    with Upscaler(upscaler.bundle, options=RenderOptions(clip_cell=True)) as published:
        answer = published.render_unclamped(published.encode(small), size=size)
    assert np.abs(answer - (expected.reshape(*size, 3) * 0.5 + 0.5)).max() <= 1e-5


def test_the_published_evaluation_of_window_transformers_pads_a_whole_window_and_wants_whole_scales() -> None:
    assert published_size((16, 13), (32, 26), 8) == ((24, 16), (48, 32))
    with pytest.raises(ScaleError, match="whole-number scales only"):
        published_size((16, 13), (33, 26), 8)


@pytest.mark.parametrize("region", [(0, 0, 65, 83), (10, 20, 30, 40), (64, 82, 1, 1), (0, 5, 65, 3)])
def test_a_region_equals_that_region_of_the_whole(
    upscaler: Upscaler, frame: NDArray[np.uint8], region: tuple[int, int, int, int]
) -> None:
    features = upscaler.encode(frame.astype(np.float32) / 255)
    statistics = upscaler.statistics(features, SIZE)
    top, left, height, width = region
    part = upscaler.render(features, size=SIZE, region=region, statistics=statistics)
    whole = upscaler.render(features, size=SIZE)
    assert part.shape == (height, width, 3)
    assert np.abs(part - whole[top : top + height, left : left + width]).max() <= 1e-5
    assert np.abs(part - upscaler.render(features, size=SIZE, region=region)).max() <= 1e-6


def test_a_region_with_groups_of_rows_equals_that_region_of_the_whole(
    upscaler: Upscaler, frame: NDArray[np.uint8]
) -> None:
    with Upscaler(upscaler.bundle, options=RenderOptions(group_rows=16)) as published:
        features = published.encode(frame.astype(np.float32) / 255)
        whole = published.render(features, size=SIZE)
        part = published.render(features, size=SIZE, region=(10, 5, 40, 60))
    assert np.abs(part - whole[10:50, 5:65]).max() <= 1e-5


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [("uint8", (9, 11, 3)), ("uint8", (9, 11)), ("uint16", (9, 11, 1)), ("float32", (9, 11, 3)), ("float16", (9, 11))],
)
def test_a_frame_comes_back_as_it_went_in(upscaler: Upscaler, dtype: str, shape: tuple[int, ...]) -> None:
    noise = np.random.default_rng(3).random(shape)
    top = np.iinfo(dtype).max if dtype.startswith("u") else 1
    answer = upscaler.upscale((noise * top).astype(dtype), scale=2.5)
    assert answer.dtype == dtype
    assert answer.shape == (22, 28, *shape[2:])


def test_sixteen_bits_are_finer_than_eight(upscaler: Upscaler, frame: NDArray[np.uint8]) -> None:
    deep = upscaler.upscale(frame.astype(np.uint16) * 257, scale=2.0)
    shallow = upscaler.upscale(frame, scale=2.0)
    assert np.abs(deep / 257 - shallow).max() <= 0.502
    assert len(np.unique(deep)) > 2 * len(np.unique(shallow))


def test_one_encoding_renders_many_sizes(upscaler: Upscaler, frame: NDArray[np.uint8]) -> None:
    features = upscaler.encode(frame)
    for size in ((26, 33), (60, 40), (52, 99)):
        assert np.array_equal(upscaler.render(features, size=size), upscaler.upscale(frame, size=size))


def test_threads_share_an_upscaler(upscaler: Upscaler, frame: NDArray[np.uint8]) -> None:
    scales = [1.5, 2.0, 2.5, 3.0]
    expected = [upscaler.upscale(frame, scale=scale) for scale in scales]
    found: dict[int, NDArray[np.uint8]] = {}

    def work(n: int) -> None:
        found[n] = upscaler.upscale(frame, scale=scales[n])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n in range(4):
        assert np.abs(found[n].astype(int) - expected[n]).max() <= 1


def test_steps_foretell_what_advance_reports(upscaler: Upscaler, frame: NDArray[np.uint8]) -> None:
    for options in (RenderOptions(), RenderOptions(group_rows=20, tile_rows=3)):
        with Upscaler(upscaler.bundle, options=options) as other:
            told: list[int] = []
            other.upscale(frame, size=SIZE, advance=told.append)
            assert sum(told) == other.steps((26, 33), SIZE)


def test_scale_one_and_a_single_pixel_work(upscaler: Upscaler) -> None:
    pixel = np.full((1, 1, 3), 99, np.uint8)
    assert upscaler.upscale(pixel, scale=1.0).shape == (1, 1, 3)
    assert upscaler.upscale(pixel, size=(5, 7)).shape == (5, 7, 3)


@pytest.mark.parametrize("scale", [0.0, -2.0, 0.99, float("nan"), float("inf"), (2.0, float("nan"))])
def test_an_impossible_scale_is_refused(upscaler: Upscaler, frame: NDArray[np.uint8], scale: Any) -> None:
    with pytest.raises(ScaleError, match="expected a finite number of at least 1"):
        upscaler.upscale(frame, scale=scale)


def test_shrinking_is_refused(upscaler: Upscaler, frame: NDArray[np.uint8]) -> None:
    with pytest.raises(ScaleError, match="this model only upscales"):
        upscaler.upscale(frame, size=(25, 99))


def test_scale_and_size_together_or_neither_are_refused(upscaler: Upscaler, frame: NDArray[np.uint8]) -> None:
    with pytest.raises(ScaleError, match="either scale or size"):
        upscaler.upscale(frame)
    with pytest.raises(ScaleError, match="either scale or size"):
        upscaler.upscale(frame, scale=2.0, size=SIZE)


def test_an_output_over_the_limit_is_refused_before_any_work(upscaler: Upscaler, frame: NDArray[np.uint8]) -> None:
    told: list[int] = []
    with pytest.raises(ScaleError, match=r"over the limit of 1,073,741,824; raise max_output_pixels"):
        upscaler.upscale(frame, scale=1e6, advance=told.append)
    assert told == []


@pytest.mark.parametrize("region", [(-1, 0, 5, 5), (0, 0, 66, 5), (0, 80, 5, 4), (0, 0, 0, 5)])
def test_a_region_outside_the_output_is_refused(
    upscaler: Upscaler, frame: NDArray[np.uint8], region: tuple[int, int, int, int]
) -> None:
    with pytest.raises(ScaleError, match="does not lie inside the output of 65 rows and 83 columns"):
        upscaler.upscale(frame, size=SIZE, region=region)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((4, 4, 4), np.uint8), "four channels"),
        (np.zeros((0, 4, 3), np.uint8), "holds no pixels"),
        (np.zeros((4, 4, 3), np.int32), "dtype int32"),
        (np.full((4, 4), np.nan, np.float32), "frame is nan at"),
        ([[1, 2]], "expected a numpy array"),
    ],
)
def test_what_is_no_frame_is_refused(upscaler: Upscaler, bad: Any, message: str) -> None:
    with pytest.raises(FrameError, match=message):
        upscaler.upscale(bad, scale=2.0)


def test_a_group_of_no_rows_is_refused() -> None:
    with pytest.raises(OptionError, match="group rows is 0"):
        RenderOptions(group_rows=0)


def test_a_fractional_size_is_refused() -> None:
    with pytest.raises(ScaleError, match="2 whole numbers of pixels"):
        output_size((4, 4), size=(8.5, 9))  # type: ignore[arg-type]
