"""Shared by all tests: where the read-only companions lie, and a tiny bundle exported once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

# Triton reads this when it is first imported: kernels then run as numpy, block by block, without a GPU.
os.environ.setdefault("TRITON_INTERPRET", "1")

SHARED = Path(__file__).resolve().parents[1] / ".." / "shared"

TINY_SPEC: dict[str, Any] = {
    "name": "hiif",
    "args": {
        "encoder_spec": {"name": "edsr-mini", "args": {"n_resblocks": 2, "no_upsampling": True}},
        "blocks": 4,
        "hidden_dim": 32,
        "mlp_dim": 48,
        "bits": "exact",
    },
}


@pytest.fixture(scope="session")
def shared() -> Path:
    """Test pictures and golden data; skips where they are absent, as on a user's machine."""
    if not (SHARED / "data").is_dir():
        pytest.skip("needs ../shared/data (golden data and test pictures), which is not here")
    return SHARED


@pytest.fixture(scope="session")
def tiny_model() -> Any:
    """A small HIIF with weights that make every part of it matter."""
    torch = pytest.importorskip("torch")
    from hiif_training.models.registry import make_model

    torch.manual_seed(7)
    model = make_model(TINY_SPEC).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter)) if parameter.dim() == 1 else parameter.mul_(1.5)
    return model


@pytest.fixture(scope="session")
def tiny_bundle(tiny_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_model` as a bundle, exported once per run of the tests."""
    pytest.importorskip("onnxscript")
    from hiif_export.export import export_bundle
    from hiif_export.parity import cases

    folder = tmp_path_factory.mktemp("bundle") / "tiny"
    suite = cases(sizes=((6, 9),), scales=(2.0, 3.3))
    export_bundle(tiny_model, TINY_SPEC, folder, name="tiny", provenance={"weights": "random"}, suite=suite)
    return folder


@pytest.fixture(scope="session")
def half_bundle(tiny_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_model` as a bundle in both precisions, exported once per run of the tests."""
    pytest.importorskip("onnxscript")
    from hiif_export.export import export_bundle
    from hiif_export.parity import cases

    folder = tmp_path_factory.mktemp("bundle") / "half"
    suite = cases(sizes=((6, 9),), scales=(2.0, 3.3))
    export_bundle(
        tiny_model, TINY_SPEC, folder, name="half", provenance={"weights": "random"}, suite=suite,
        precisions=("fp32", "fp16"),
    )  # fmt: skip
    return folder


@pytest.fixture
def native() -> None:
    """Skips where there is no native code, because of what is installed or of the processor."""
    pytest.importorskip("llvmlite", reason="llvmlite is not installed")
    from hiif_deploy.errors import EngineError
    from hiif_engines.native.arithmetic import FP32
    from hiif_engines.native.compile import require_processor

    try:
        require_processor(FP32, "fp32")
    except EngineError as error:
        pytest.skip(str(error))
