"""Shared by all tests: where the read-only companions lie, and a tiny bundle exported once."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from imitated_processor import ISAS, imitate, lacking

# Triton reads this when it is first imported: kernels then run as numpy, block by block, without a GPU.
os.environ.setdefault("TRITON_INTERPRET", "1")
# One thread per worker: two of them share two cores, and more threads only get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")

EXPORTED = {"tiny_model", "tiny_bundle", "half_bundle", "pairs", "encoder_bundle"}
"""Fixtures that need PyTorch and an export."""
HEAVY = re.compile(
    r"^\s*(?:import|from) (?:torch|onnx|hiif_(?:training|export|engines)|decoder_pairs|tensorrt_double|tolerances|"
    r"double_bench|checkpoint_files)\b",
    re.MULTILINE,
)
"""What a test imports that needs more than the runtime."""

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


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="only tests that need no export and no PyTorch")
    parser.addoption("--slow", action="store_true", help="also what is marked slow: too long for every run")
    parser.addoption(
        "--isa", choices=list(ISAS), help="only tests that depend on the processor, as if it were this one"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Imitate a processor, before any library is imported that looks at it; HIIF_TEST_ISA does so for all tests."""
    name = config.getoption("--isa") or os.environ.get("HIIF_TEST_ISA")
    if name and not lacking(name):
        imitate(name)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With --quick: whether a file needs more than the light install."""
    if config.getoption("--quick") and collection_path.suffix == ".py" and collection_path.name.startswith("test_"):
        return True if HEAVY.search(collection_path.read_text(encoding="utf-8")) else None
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Files with long tests begin, so that no worker is left with one at the end; slow tests run with --slow only."""
    quick, with_slow = config.getoption("--quick"), config.getoption("--slow")
    isa = config.getoption("--isa")
    absent = lacking(isa) if isa else frozenset()
    early = {item.path for item in items if item.get_closest_marker("early")}
    chosen, left = list[pytest.Item](), list[pytest.Item]()
    for item in items:
        is_slow, is_long = (item.get_closest_marker(name) is not None for name in ("slow", "early"))
        needs_export = bool(EXPORTED & set(getattr(item, "fixturenames", ())))
        is_left = (quick and (is_long or needs_export)) or (is_slow and not with_slow)
        is_left = is_left or (isa is not None and item.get_closest_marker("processor") is None)
        if absent:
            item.add_marker(pytest.mark.skip(reason=f"imitating {isa} needs {', '.join(sorted(absent))}"))
        (left if is_left else chosen).append(item)
    config.hook.pytest_deselected(items=left)
    items[:] = sorted(chosen, key=lambda item: item.path not in early)


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> Iterator[None]:
    """Ctrl-C works as in the foreground: shells ignore it for background jobs, and children would inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session", autouse=True)
def cached_exports() -> None:
    """Exports take graphs that were traced before from a cache."""
    if all(find_spec(name) for name in ("torch", "onnxscript")):
        from cached_export import use_cached_exports

        use_cached_exports()


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
def tiny_bundle(tiny_model: Any) -> Path:
    """`tiny_model` as a bundle; tests only read it."""
    pytest.importorskip("onnxscript")
    from cached_export import shared_bundle

    return shared_bundle(tiny_model, TINY_SPEC, "tiny")


@pytest.fixture(scope="session")
def half_bundle(tiny_model: Any) -> Path:
    """`tiny_model` as a bundle in both precisions; tests only read it."""
    pytest.importorskip("onnxscript")
    from cached_export import shared_bundle

    return shared_bundle(tiny_model, TINY_SPEC, "half", precisions=("fp32", "fp16"))


@pytest.fixture(scope="session")
def pairs() -> Any:
    """`decoder_pairs.Pairs`: each is trained and exported once."""
    pytest.importorskip("onnxscript")
    from decoder_pairs import Pairs

    return Pairs()


@pytest.fixture(scope="session")
def native() -> None:
    """Skips where there is no native code, because of what is installed or of the processor."""
    pytest.importorskip("llvmlite", reason="llvmlite is not installed")
    from hiif_deploy.errors import EngineError
    from hiif_engines.native.compile import choose_target

    try:
        choose_target("fp32")
    except EngineError as error:
        pytest.skip(str(error))
