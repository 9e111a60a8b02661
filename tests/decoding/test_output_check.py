"""What is no picture is an error: values that are no numbers or no colours, black answers, outputs of a wrong shape."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hiif_deploy import BundleError, EngineError, EngineOptions, Upscaler
from hiif_deploy.backends.host import HostBackend
from hiif_deploy.backends.options import check_outputs
from hiif_deploy.bundle.contract import GraphContract, TensorContract
from hiif_deploy.bundle.loader import open_bundle
from hiif_deploy.cli import main
from hiif_deploy.decoding.output_check import NotAPictureError
from hiif_deploy.images.io import Picture, write_image
from hiif_deploy.images.samples import sample

ONE = EngineOptions(engine="onnxruntime", threads=1)
FRAME = np.full((9, 8, 3), 100, np.uint8)


class Spoiled:
    """A session whose output has one value replaced."""

    def __init__(self, session: Any, name: str, value: Any) -> None:
        self.session, self.name, self.value = session, name, value

    def run(self, feeds: Any) -> dict[str, Any]:
        """The real answer, spoiled."""
        outputs = dict(self.session.run(feeds))
        array = np.array(outputs[self.name])
        if isinstance(self.value, tuple):
            array = np.resize(array, self.value)
        else:
            array[(0,) * array.ndim] = self.value
        outputs[self.name] = array
        return outputs


def spoiled(graph: str, value: Any) -> Upscaler:
    """hiif-video on the real engine, with one graph's answers spoiled."""
    backend = HostBackend(open_bundle("hiif-video"), ONE)
    output = "features" if graph == "encoder" else "colour"
    backend.sessions[graph] = Spoiled(backend.sessions[graph], output, value)
    return Upscaler("hiif-video", backend=backend, engine=ONE)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("graph", ["encoder", "tail"])
def test_an_output_that_is_no_number_is_an_error(graph: str, value: float) -> None:
    with spoiled(graph, value) as upscaler, pytest.raises(EngineError, match=r"no numbers \(NaN or infinite\): check"):
        upscaler.upscale(FRAME, scale=2)


@pytest.mark.parametrize("value", [1e30, -1e30])
def test_an_output_far_from_any_colour_is_an_error(value: float) -> None:
    message = r"bundle hiif-video \(ONNX Runtime, cpu, fp32\) gave colours of .*, where black is 0 and white 1"
    with spoiled("tail", value) as upscaler, pytest.raises(EngineError, match=message):
        upscaler.upscale(FRAME, scale=2)


def test_a_whole_output_in_black_is_an_error_and_a_part_is_not() -> None:
    class Black(HostBackend):
        def frames(self, *arguments: Any) -> Iterator[Any]:
            for rows, columns, part in super().frames(*arguments):
                yield rows, columns, part * 0

    with Upscaler("hiif-video", backend=Black(open_bundle("hiif-video"), ONE), engine=ONE) as upscaler:
        with pytest.raises(EngineError, match="all black though the input is not"):
            upscaler.upscale(FRAME, scale=2)
        assert not upscaler.upscale(FRAME, scale=2, region=(0, 0, 3, 3)).any()
        assert not upscaler.upscale(FRAME * 0, scale=2).any()


@pytest.mark.parametrize("shape", [(1, 32, 3, 3), (1, 5, 9, 8)])
def test_features_of_a_wrong_shape_are_refused(shape: tuple[int, ...]) -> None:
    with spoiled("encoder", shape) as upscaler, pytest.raises(BundleError, match="graph encoder: it gave features"):
        upscaler.upscale(FRAME, scale=2)


def test_colours_of_a_wrong_shape_are_refused() -> None:
    with spoiled("tail", (5, 3)) as upscaler, pytest.raises(BundleError, match=r"the decoder gave \[5, 3\] for "):
        upscaler.upscale(FRAME, scale=2)


def test_an_output_that_the_contract_does_not_promise_is_refused() -> None:
    with Upscaler("hiif-video", engine=ONE) as upscaler:
        backend = upscaler._backend
        assert isinstance(backend, HostBackend)
        session: Any = backend.sessions["encoder"]
        session._graph = replace(
            session._graph, outputs=(replace(session._graph.outputs[0], shape=(1, 7, "height", "width")),)
        )
        with pytest.raises(BundleError, match=r"graph encoder: it gave features of shape \[1, 48, 9, 8\]"):
            upscaler.encode(FRAME)


@pytest.mark.parametrize(
    ("shape", "fits"),
    [((2, 5, 4), True), ((2, 6, 4), False), ((2, 5, 5), False), ((2, 5), False), ((2, 5, 4, 1), False)],
)
def test_equal_names_agree_within_one_call(shape: tuple[int, ...], fits: bool) -> None:
    inputs = (TensorContract("x", "float32", ("n", 3)),)
    graph = GraphContract("g", "g.onnx", "", inputs, (TensorContract("y", "float32", ("any", "n", 4)),))
    feeds, outputs = {"x": np.zeros((5, 3))}, {"y": np.zeros(shape)}
    if fits:
        check_outputs(graph, feeds, outputs)
    else:
        with pytest.raises(BundleError, match=re.escape(f"graph g: it gave y of shape {list(shape)}")):
            check_outputs(graph, feeds, outputs)


def test_the_error_comes_whole_from_another_process() -> None:
    error = NotAPictureError("no numbers", "frame 3")
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.what) == (str(error), "no numbers")


def test_the_command_fails_where_a_picture_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "a.png", Picture(sample("chelsea")[:12, :12].copy()))
    opened = HostBackend.__init__

    def spoil(self: HostBackend, *arguments: Any) -> None:
        opened(self, *arguments)
        self.sessions["tail"] = Spoiled(self.sessions["tail"], "colour", np.nan)

    monkeypatch.setattr(HostBackend, "__init__", spoil)
    words = ["upscale", tmp_path / "a.png", "--scale", "2", "--bundle", "hiif-video", "-o", tmp_path / "b.png"]
    with pytest.raises(SystemExit) as stop:
        main([*map(str, words), "--engine", "onnxruntime"])
    assert stop.value.code == 1
    assert "no numbers" in capsys.readouterr().err
    assert not (tmp_path / "b.png").exists()
