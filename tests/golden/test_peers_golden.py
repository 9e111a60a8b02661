"""LIIF, LTE, SRNO and MetaSR against the public implementations' outputs: in PyTorch, and through exported graphs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hiif_deploy.upscaler import Upscaler
from hiif_export.export import export_bundle
from hiif_export.parity.parity import cases
from hiif_training.checkpoints.checkpoint import LoadedCheckpoint, load_checkpoint

torch.set_num_threads(1)

TOLERANCE = 1e-4
"""In the network's domain. The public code in float32 and in float64 differ by up to 1e-5."""
CASES = dict.fromkeys(("liif", "lte", "metasr"), ("case_a", "case_c")) | {"srno": ("case_a", "case_c", "case_e_whole")}
NAMED_CASES = [(name, case) for name, found in CASES.items() for case in found]

Case = dict[str, NDArray[np.float32]]


@pytest.fixture(scope="module")
def checkpoints(shared: Path) -> dict[str, LoadedCheckpoint]:
    golden = shared / "data" / "golden"
    return {name: load_checkpoint(golden / f"{name}-edsr" / "checkpoint.pth") for name in CASES}


@pytest.fixture(scope="module", params=CASES)
def exported(
    request: pytest.FixtureRequest, checkpoints: dict[str, LoadedCheckpoint], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Upscaler]]:
    """A checkpoint as a bundle."""
    name, folder = request.param, tmp_path_factory.mktemp("golden") / request.param
    loaded, suite = checkpoints[name], cases(sizes=((6, 9),), scales=(2.0,))
    export_bundle(loaded.model, loaded.spec, folder, name=name, provenance={"weights": "random"}, suite=suite)
    with Upscaler(folder) as opened:
        yield name, opened


def read(shared: Path, name: str, case: str) -> Case:
    with np.load(shared / "data" / "golden" / f"{name}-edsr" / f"{case}.npz") as arrays:
        found = {key: arrays[key] for key in arrays.files}
    height, width = (found["coord"].shape[1:3]) if found["coord"].ndim == 4 else (0, 0)
    if not height:
        height, width = {"case_a": (48, 64), "case_c": (64, 64)}[case]
        found["output"] = found["output"].reshape(1, height, width, 3).transpose(0, 3, 1, 2)
    return found


@pytest.mark.parametrize(("name", "case"), NAMED_CASES)
def test_the_public_output_is_met_in_pytorch(
    shared: Path, checkpoints: dict[str, LoadedCheckpoint], name: str, case: str
) -> None:
    found, model = read(shared, name, case), checkpoints[name].model.eval()
    size = found["output"].shape[2:]
    with torch.no_grad():
        answer = model(torch.from_numpy(found["input"]), model.make_queries(found["input"].shape[2:], size))
    answer = answer.reshape(1, *size, 3).permute(0, 3, 1, 2).numpy()
    np.testing.assert_allclose(answer, found["output"], atol=TOLERANCE, rtol=0)


def test_the_public_outputs_are_met_by_the_exported_graphs(shared: Path, exported: tuple[str, Upscaler]) -> None:
    name, upscaler = exported
    for case in CASES[name]:
        found = read(shared, name, case)
        features = upscaler.encode(np.asarray(found["input_u8"], dtype=np.uint8))
        colours = upscaler.render_unclamped(features, size=(found["output"].shape[2], found["output"].shape[3]))
        answer = ((colours - 0.5) / 0.5).transpose(2, 0, 1)[None]
        np.testing.assert_allclose(answer, found["output"], atol=TOLERANCE, rtol=0)
