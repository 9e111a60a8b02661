"""Engine torch on a real GPU: compiled kernels against ONNX Runtime on the processor."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")

from attention_model import ATTENTION_MODEL  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no GPU"),
]

WHOLE_PICTURE = """
import io
import logging
import sys
from hiif_deploy import EngineOptions, Upscaler
from hiif_deploy.bundle.loader import open_bundle
from hiif_deploy.decoding.plan import PlanLimits
from hiif_deploy.images.samples import sample
from hiif_deploy.pixels import from_unit
from hiif_deploy.rendering.verify import measure
from hiif_engines.torch_engine.backend import TorchBackend

name, device, precision, fused, recorded = sys.argv[1:]
bundle, image, size = open_bundle(name), sample("astronaut")[:201, :210], (700, 731)
options = EngineOptions(engine="torch", device=device, precision=precision)
logged = io.StringIO()
logging.basicConfig(stream=logged)
backend = TorchBackend(bundle, options, fused=fused == "fused", recorder=recorded == "recorded")
with Upscaler(bundle, backend=backend) as upscaler, Upscaler(bundle) as plain:
    plan = backend.plan(image.shape[:2], PlanLimits())
    # A fused pass is one launch, whatever the size.
    assert (plan.query_block < size[0] * size[1]) == (fused != "fused"), plan
    for turn in range(3):
        # The third picture is replayed.
        found = upscaler.render_unclamped(upscaler.encode(image), size=size)
    features = upscaler.encode(image)
    frame = upscaler.render(features, size=size)
    # Rounded on the GPU as on the host.
    assert (frame == from_unit(upscaler.render_unclamped(features, size=size), features.format)).all()
    assert not logged.getvalue(), logged.getvalue()
    print(measure(found, plain.render_unclamped(plain.encode(image), size=size)).psnr)
"""


@pytest.mark.parametrize("name", [ATTENTION_MODEL, "hiif-video"])
@pytest.mark.parametrize(
    ("precision", "fused", "least"),
    [("fp32", "by-operation", 100), ("fp16", "by-operation", 60), ("fp16", "fused", 60)],
)
@pytest.mark.parametrize("recorded", ["recorded", "launched"])
def test_whole_pictures_are_those_of_the_processor(
    name: str, precision: str, least: float, fused: str, recorded: str
) -> None:
    # A process of its own: in this one Triton interprets (conftest.py).
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", WHOLE_PICTURE, name, "cuda", precision, fused, recorded],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) > least
