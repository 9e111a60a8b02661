"""Threads that share calls: everybody takes parts, all are computed when a call returns, errors reach its owner."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from hiif_deploy import EngineOptions, RenderOptions, Upscaler
from hiif_deploy.images.samples import sample
from hiif_engines.native.crew import WAKE_MACS, Crew
from hiif_engines.native.target import Target
from plane_layers import helped

LARGE = 10_000 * WAKE_MACS


class Parts:
    """Parts that threads take, each from a counter; `threads` did."""

    def __init__(self, count: int, compute: Callable[[int], object] = lambda _: None) -> None:
        self.done, self.threads = list[int](), set[int]()
        self._waiting, self._compute, self._lock = iter(range(count)), compute, threading.Lock()

    def take(self) -> None:
        while True:
            with self._lock:
                part = next(self._waiting, None)
            if part is None:
                return
            self._compute(part)
            self.threads.add(threading.get_ident())
            self.done.append(part)


def test_all_threads_take_parts_of_a_call() -> None:
    together = threading.Barrier(3, timeout=60)
    parts = Parts(3, lambda _: together.wait())  # none of them ends before three threads have begun
    with helped(3) as crew:
        crew.run(parts.take, LARGE)
    assert sorted(parts.done) == [0, 1, 2]
    assert len(parts.threads) == 3


def test_one_call_after_the_other_is_computed_when_it_returns() -> None:
    with helped(4) as crew:
        for count in range(200):
            parts = Parts(count % 7)
            crew.run(parts.take, LARGE)
            assert sorted(parts.done) == list(range(count % 7))


def test_a_thread_without_helpers_computes_all() -> None:
    parts = Parts(5)
    Crew().run(parts.take, LARGE)
    assert parts.done == [0, 1, 2, 3, 4]


def test_a_call_that_is_too_small_is_not_shared() -> None:
    parts = Parts(50)
    with helped(2) as crew:
        crew.run(parts.take, 3 * WAKE_MACS)
    assert parts.threads == {threading.get_ident()}


def test_the_error_of_a_helper_is_that_of_the_call() -> None:
    together, own = threading.Barrier(2, timeout=60), threading.get_ident()

    def compute(_: int) -> None:
        together.wait()
        if threading.get_ident() != own:
            raise MemoryError("no memory")

    with helped(2) as crew:
        with pytest.raises(MemoryError, match="no memory"):
            crew.run(Parts(2, compute).take, LARGE)
        parts = Parts(5)
        crew.run(parts.take, LARGE)
        assert sorted(parts.done) == list(range(5))


def test_threads_help_until_all_works_of_their_phase_are_finished() -> None:
    crew = Crew()
    with ThreadPoolExecutor(1) as pool, crew.phase() as phase:
        phase.begin()
        phase.begin()
        helper = pool.submit(crew.help, phase)
        phase.finish()
        assert not phase.is_over
        phase.finish()
        helper.result(timeout=60)
        # Who comes when it is over, or when it was given up, has nothing to wait for.
        pool.submit(crew.help, phase).result(timeout=60)
    with ThreadPoolExecutor(1) as pool:
        with crew.phase() as left:
            left.begin()
            helper = pool.submit(crew.help, left)
        helper.result(timeout=60)


def test_no_call_is_made_in_the_thread_that_ctrl_c_interrupts(monkeypatch: pytest.MonkeyPatch) -> None:
    threads, run = set[int](), Crew.run

    def noted(crew: Crew, take: Callable[[], None], macs: int) -> None:
        threads.add(threading.get_ident())
        run(crew, take, macs)

    with Upscaler("hiif-compact", engine=EngineOptions(engine="native", threads=3)) as upscaler:
        monkeypatch.setattr(Crew, "run", noted)
        upscaler.upscale(sample("astronaut")[:40, :30], scale=2)
    assert len(threads) > 1
    assert threading.get_ident() not in threads


def test_a_closed_upscaler_has_no_threads() -> None:
    before = set(threading.enumerate())
    upscaler = Upscaler("hiif-live", engine=EngineOptions(engine="native", threads=3))
    image = sample("astronaut")[:40, :30]
    features = upscaler.encode(image)
    upscaler.render(features, scale=2)
    upscaler.close()
    assert set(threading.enumerate()) <= before


@pytest.mark.processor
@pytest.mark.parametrize("name", ["hiif-compact", "hiif-live"])
def test_a_picture_has_the_same_bits_with_any_number_of_threads(own_target: Target, name: str) -> None:
    # One tile, which all threads share.
    image, options = sample("astronaut")[:40, :30], RenderOptions(tile_rows=40)
    pictures = []
    for threads in (1, 2, 5):
        engine = EngineOptions(engine="native", threads=threads, isa=own_target.name)
        with Upscaler(name, engine=engine, options=options) as upscaler:
            pictures.append(upscaler.render_unclamped(upscaler.encode(image), size=(131, 97)))
    for picture in pictures[1:]:
        np.testing.assert_array_equal(picture, pictures[0])
