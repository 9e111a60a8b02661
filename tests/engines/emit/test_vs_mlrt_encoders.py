"""Every kind of encoder and decoder can be fused: the graphs of small models of each kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from hiif_deploy.bundle.loader import Bundle, open_bundle
from hiif_deploy.upscaler import Upscaler
from hiif_engines.emit.vs_mlrt import write_vs_mlrt

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

EDSR = {"name": "edsr-mini", "args": {"n_resblocks": 2, "no_upsampling": True}}
KINDS: dict[str, dict[str, Any]] = {
    "coordinates": {"encoder_spec": EDSR, "hierarchy": "coordinates"},
    "once": {"encoder_spec": EDSR, "hierarchy": "once"},
    "uncoupled": {"encoder_spec": EDSR, "attention_blocks": 0},
}


def test_a_fused_graph_around_each_encoder_agrees_with_the_runtime(encoder_bundle: Bundle, tmp_path: Path) -> None:
    agrees(encoder_bundle, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_fused_graph_of_this_kind_agrees_with_the_runtime(kind: str, tmp_path: Path) -> None:
    from cached_export import shared_bundle
    from hiif_training.models.registry import make_model

    torch.manual_seed(5)
    small = {"blocks": 2, "hidden_dim": 16, "mlp_dim": 16, "levels": 2, "attention_blocks": 1, "bits": "exact"}
    spec = {"name": "hiif", "args": {**small, **KINDS[kind]}}
    agrees(open_bundle(shared_bundle(make_model(spec).eval(), spec, kind)), tmp_path)


def agrees(bundle: Bundle, tmp_path: Path) -> None:
    image = np.random.default_rng(1).random((16, 24, 3), dtype=np.float32)
    for scale in (2, 3):
        path = tmp_path / f"x{scale}.onnx"
        # The one picture's statistics are its own, so nothing but rounding is left.
        assert write_vs_mlrt(bundle, scale, path, pictures={"own": image})["own"].largest < 1e-4
        session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        (answer,) = session.run(["output"], {"input": image.transpose(2, 0, 1)[None]})
        with Upscaler(bundle) as upscaler:
            expected = upscaler.render_unclamped(upscaler.encode(image), size=(16 * scale, 24 * scale))
        np.testing.assert_allclose(answer[0].transpose(1, 2, 0), expected.clip(0, 1), rtol=0, atol=1e-4)
