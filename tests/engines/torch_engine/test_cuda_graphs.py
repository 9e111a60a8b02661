"""Blocks recorded once and replayed, with a stand-in for CUDA graphs that knows as little of the tensors as they do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from hiif_deploy import EngineOptions, RenderOptions, Upscaler
from hiif_deploy.bundle.contract import Precision, is_fold
from hiif_deploy.bundle.loader import Bundle, open_bundle
from hiif_deploy.decoding.job import Window
from hiif_deploy.decoding.shared_graphs import contracts, model
from hiif_deploy.images.samples import sample
from hiif_deploy.pixels import to_unit
from hiif_deploy.rendering.renderer import Features

torch = pytest.importorskip("torch")

from attention_model import ATTENTION_MODEL  # noqa: E402
from hiif_engines.torch_engine.backend import TorchBackend  # noqa: E402
from hiif_engines.torch_engine.cuda_graphs import CudaGraphCache  # noqa: E402
from hiif_engines.torch_engine.plan import make_torch_plan  # noqa: E402
from hiif_engines.torch_graph.interpreter import TorchGraph  # noqa: E402

OPTIONS = EngineOptions(engine="torch", device="cpu", threads=1, gpu_memory=1 << 20)
"""So little memory that a picture takes many blocks."""
SIZE = (70, 61)
IMAGE = sample("astronaut")[100:124, 100:120]
OTHER = sample("astronaut")[10:34, 60:80]

Work = Callable[[], dict[str, torch.Tensor]]


@dataclass
class Rerun:
    """Runs recorded work again, on the tensors that it had; what one recording answers, the next replay destroys."""

    made: list[RerunRecording] = field(default_factory=list)

    def record(self, work: Work) -> RerunRecording:
        with torch.inference_mode():
            outputs = {name: spoilt(torch.empty_like(value)) for name, value in work().items()}
        self.made.append(RerunRecording(self, work, outputs))
        return self.made[-1]

    @property
    def replays(self) -> list[int]:
        return [recording.count for recording in self.made]


def spoilt(value: torch.Tensor) -> torch.Tensor:
    """The tensor [...] full of values that no work gives."""
    return value.fill_(float("nan") if value.is_floating_point() else 77)


@dataclass
class RerunRecording:
    recorder: Rerun
    work: Work
    outputs: dict[str, torch.Tensor]
    count: int = 0

    def replay(self) -> None:
        self.count += 1
        for other in self.recorder.made:
            for value in other.outputs.values():
                spoilt(value)
        for name, value in self.work().items():
            self.outputs[name].copy_(value)


class Refusing(Rerun):
    """Records nothing, so that every block runs plainly, cut as if it were recorded."""

    def record(self, work: Work) -> RerunRecording:
        del work
        raise RuntimeError("operation not permitted when stream is capturing\nmore")


def backend_of(bundle: Bundle, recorder: Rerun | None) -> TorchBackend:
    return TorchBackend(bundle, OPTIONS, recorder=recorder or False)


def unit(features: Features) -> Features:
    """The same with the picture in float32, of which colours are decoded without clamping."""
    return replace(features, frame=to_unit(features.frame))


def pictures(bundle: Bundle, recorder: Rerun | None, *images: np.ndarray) -> list[np.ndarray]:
    with Upscaler(bundle, backend=backend_of(bundle, recorder)) as upscaler:
        found = [upscaler.render_unclamped(upscaler.encode(image), size=SIZE) for image in images]
        assert upscaler.fallback_blocks == 0
        return found


def test_pictures_of_recorded_blocks_are_those_of_plain_ones_bit_for_bit(tiny_bundle: Path) -> None:
    bundle, recorder = open_bundle(tiny_bundle), Rerun()
    found, plain = pictures(bundle, recorder, IMAGE, OTHER), pictures(bundle, Refusing(), IMAGE, OTHER)
    for one, other in zip(found, plain, strict=True):
        np.testing.assert_array_equal(one, other)
    assert np.abs(plain[0] - plain[1]).max() > 0.1


def test_the_next_picture_of_a_size_is_replayed_from_its_first_block_on(tiny_bundle: Path) -> None:
    bundle, recorder = open_bundle(tiny_bundle), Rerun()
    with Upscaler(bundle, backend=backend_of(bundle, recorder)) as upscaler:
        counts = []
        for image in (IMAGE, OTHER, IMAGE):
            upscaler.render(upscaler.encode(image), size=SIZE)
            counts.append((len(recorder.made), sum(recorder.replays)))
    (first, _), (second, after_two), (third, after_three) = counts
    # Shapes that a picture has but once, the encoder's and its last blocks', are recorded when the second one comes.
    assert 0 < first <= second == third
    with Upscaler(bundle, backend=backend_of(bundle, Refusing())) as upscaler:
        calls: list[str] = []
        executor = upscaler._backend._executor  # type: ignore[attr-defined]
        for name, graph in list(executor._graphs.items()):
            executor._graphs[name] = Counted(graph, calls)
        executor._maps._graph = executor._graphs["maps"]
        for _ in range(2):
            calls.clear()
            upscaler.render(upscaler.encode(IMAGE), size=SIZE)
    assert set(calls) >= {"encoder", "maps", "decoder", "statistics_0"}
    assert after_three - after_two == len(calls)


class Counted:
    """A graph that notes its calls."""

    def __init__(self, graph: TorchGraph, calls: list[str]) -> None:
        self.graph, self.contract, self.calls = graph, graph.contract, calls

    def __call__(self, feeds: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        self.calls.append(self.contract.name)
        return self.graph(feeds)


def test_two_pictures_decoded_in_turns_keep_their_own_maps(tiny_bundle: Path) -> None:
    bundle, recorder = open_bundle(tiny_bundle), Rerun()
    expected = pictures(bundle, Refusing(), IMAGE, OTHER)
    with Upscaler(bundle, backend=backend_of(bundle, recorder)) as upscaler:
        found = [np.zeros((*SIZE, 3), np.float32) for _ in range(2)]
        encoded = [upscaler.encode(image) for image in (IMAGE, OTHER)]
        statistics = [upscaler.statistics(features, SIZE) for features in encoded]
        whole = Window((0, SIZE[0]), (0, SIZE[1]))
        ways = [
            upscaler._parts(upscaler._job(unit(features), SIZE, clamps=False), whole, known)
            for features, known in zip(encoded, statistics, strict=True)
        ]
        for pair in zip(*ways, strict=True):
            for picture, (rows, columns, part) in zip(found, pair, strict=True):
                picture[rows, columns] = part
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def doubled(feeds: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {"sum": feeds["map"].sum() + 2 * feeds["x"]}


def test_the_first_block_runs_plainly_the_second_is_recorded_the_third_replayed() -> None:
    recorder, map_0 = Rerun(), {"map": torch.ones(3)}
    replays = CudaGraphCache(recorder)
    for n, expected in enumerate([[], [1], [2], [3]]):
        answer = replays.run("g", doubled, map_0, {"x": torch.full((2,), float(n))})
        assert answer["sum"].tolist() == [3 + 2 * n] * 2
        assert recorder.replays == expected


def test_an_answer_survives_the_next_replay() -> None:
    replays = CudaGraphCache(Rerun())
    given = [{"x": torch.full((2,), float(n))} for n in range(4)]
    map_0 = {"map": torch.ones(3)}
    found = [replays.run("g", doubled, map_0, feeds) for feeds in given]
    assert [answer["sum"].tolist() for answer in found] == [[3 + 2 * n] * 2 for n in range(4)]


@pytest.mark.parametrize("moved", [torch.full((3,), 5.0), torch.full((6,), 5.0)[::2], torch.full((4,), 5.0)])
def test_maps_at_another_address_or_of_another_form_are_recorded_anew(moved: torch.Tensor) -> None:
    recorder = Rerun()
    replays, x = CudaGraphCache(recorder), torch.ones(1)
    for maps in ({"map": torch.ones(3)}, {"map": moved}):
        for _ in range(3):
            assert replays.run("g", doubled, maps, {"x": x})["sum"].item() == maps["map"].sum() + 2
    assert recorder.replays == [2, 2]


def test_maps_at_the_same_address_with_other_strides_are_recorded_anew() -> None:
    replays, x, memory = CudaGraphCache(Rerun()), torch.ones(1), torch.arange(6.0)
    for part, total in ((memory[:3], 3), (memory[::2], 6)):
        for _ in range(3):
            assert replays.run("g", doubled, {"map": part}, {"x": x})["sum"].item() == total + 2


def test_maps_changed_in_place_are_read_anew() -> None:
    replays, maps, x = CudaGraphCache(Rerun()), {"map": torch.ones(3)}, torch.ones(1)
    for n in range(5):
        maps["map"].fill_(n)
        assert replays.run("g", doubled, maps, {"x": x})["sum"].item() == 3 * n + 2


def test_recordings_are_bounded_and_the_one_used_longest_ago_goes_first() -> None:
    recorder, maps = Rerun(), {"map": torch.ones(3)}
    replays = CudaGraphCache(recorder, most=2)
    for size in (1, 2, 1, 2, 3, 3, 2, 1):
        replays.run("g", doubled, maps, {"x": torch.ones(size)})
    # The last block of size 1 is seen as if for the first time.
    assert recorder.replays == [1, 2, 1]
    assert len(replays._kept) == 2


def test_where_nothing_can_be_recorded_that_is_said_once_and_blocks_run_plainly(
    tiny_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = open_bundle(tiny_bundle)
    backend = TorchBackend(bundle, OPTIONS, recorder=Refusing())
    with Upscaler(bundle, backend=backend) as upscaler:
        found = upscaler.render_unclamped(upscaler.encode(IMAGE), size=SIZE)
    # Without recordings blocks are larger, so sums are rounded another way.
    np.testing.assert_allclose(found, pictures(bundle, None, IMAGE)[0], atol=1e-5)
    (line,) = caplog.messages
    assert "no CUDA graphs (operation not permitted when stream is capturing): operations" in line


def test_sampled_statistics_and_recorded_colours_go_together(tiny_bundle: Path) -> None:
    bundle, options = open_bundle(tiny_bundle), RenderOptions(statistics="sampled", samples=100)
    found = []
    for recorder in (Rerun(), Refusing()):
        with Upscaler(bundle, backend=backend_of(bundle, recorder), options=options) as upscaler:
            found.append(upscaler.render_unclamped(upscaler.encode(IMAGE), size=SIZE))
    np.testing.assert_array_equal(*found)


READ_BY_HOST = {
    "Expand": (1,), "Concat": (0, 1, 2, 3), "Reshape": (1,), "Slice": (1, 2, 3, 4), "Split": (1,), "ReduceSum": (1,),
    "ReduceMean": (1,), "ReduceMin": (1,), "ReduceMax": (1,), "Unsqueeze": (1,),
}  # fmt: skip
"""Operation → its inputs that are sizes or axes; sizes are put together on the host."""


@pytest.mark.parametrize("name", [ATTENTION_MODEL, "hiif-video"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_recorded_graphs_bring_nothing_from_the_host(name: str, precision: Precision) -> None:
    # A capture refuses copies from pageable memory.
    bundle = open_bundle(name)
    graphs = {key: (graph, bundle.graphs[graph.key]) for key, graph in bundle.contract.chain(precision).items()}
    graphs |= {key: (graph, model(key)) for key, graph in contracts().items() if key.startswith(("prepare", "finish"))}
    for key, (contract, data) in graphs.items():
        if is_fold(key):
            continue
        graph = TorchGraph(contract, data, torch.device("cpu"))
        for step in graph._steps:
            for place, tensor in enumerate(step.inputs):
                weight = graph.weights.get(tensor)
                if weight is None or weight.dtype != torch.int64:
                    continue
                is_scalar_index = step.kind == "Gather" and weight.ndim == 0
                assert is_scalar_index or place in READ_BY_HOST.get(step.kind, ()), (key, step.kind)


def test_what_recordings_hold_is_planned() -> None:
    contract = open_bundle(ATTENTION_MODEL).contract
    small = replace(contract, decoder=replace(contract.decoder, query_channels=1 << 14))
    plain, recorded = (make_torch_plan(small, (64, 64), "fp16", 1 << 30, records=on) for on in (False, True))
    # Half as many, less what the recorded encoder keeps.
    assert recorded.query_block == pytest.approx(plain.query_block / 2, rel=0.01)
    # Up to the queries of half a block.
    assert recorded.working_bytes == pytest.approx(plain.working_bytes, rel=1e-3)
