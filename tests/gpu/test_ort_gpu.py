"""ONNX Runtime's CUDA provider with tensors that stay on the GPU, against the processor."""

from __future__ import annotations

import numpy as np
import pytest

from attention_model import ATTENTION_MODEL
from hiif_deploy import EngineOptions, RenderOptions, Upscaler
from hiif_deploy.backends.host import HostBackend
from hiif_deploy.backends.onnxruntime_device import DeviceBackend
from hiif_deploy.bundle.contract import Precision
from hiif_deploy.bundle.loader import open_bundle
from hiif_deploy.images.samples import sample
from hiif_deploy.rendering.verify import measure

ort = pytest.importorskip("onnxruntime")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        "CUDAExecutionProvider" not in ort.get_available_providers(), reason="this ONNX Runtime has no CUDA provider"
    ),
]

IMAGE, SIZE = sample("astronaut")[:101, :110], (350, 371)


@pytest.mark.parametrize("name", [ATTENTION_MODEL, "hiif-video"])
@pytest.mark.parametrize(("precision", "least"), [("fp32", 100), ("fp16", 60)])
@pytest.mark.parametrize("statistics", ["exact", "sampled"])
def test_pictures_are_those_of_the_processor(name: str, precision: Precision, least: float, statistics: str) -> None:
    bundle, options = open_bundle(name), RenderOptions(statistics=statistics, samples=20_000)  # type: ignore[arg-type]
    engine = EngineOptions(engine="onnxruntime", provider="cuda", precision=precision, threads=2)
    with (
        Upscaler(bundle, engine=engine, options=options) as upscaler,
        Upscaler(bundle, options=options) as processor,
    ):
        assert "with I/O binding" in upscaler.description
        found = upscaler.render_unclamped(upscaler.encode(IMAGE), size=SIZE)
        expected = processor.render_unclamped(processor.encode(IMAGE), size=SIZE)
    assert measure(found, expected).psnr > least


def test_tensors_that_stay_give_the_picture_of_those_that_travel() -> None:
    bundle = open_bundle(ATTENTION_MODEL)
    engine, options = (
        EngineOptions(engine="onnxruntime", provider="cuda", precision="fp16", threads=2),
        RenderOptions(query_block=4096),
    )
    found = []
    for kind in (HostBackend, DeviceBackend):
        with Upscaler(bundle, engine=engine, options=options, backend=kind(bundle, engine)) as upscaler:
            found.append(upscaler.render_unclamped(upscaler.encode(IMAGE), size=SIZE))
    # The same kernels on the same numbers; their choice may depend on where inputs lie.
    assert np.abs(found[0] - found[1]).max() < 1e-3
