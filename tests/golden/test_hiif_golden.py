"""HIIF against the public implementation's own outputs: in PyTorch, and through the exported graphs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from hiif_deploy.upscaler import Upscaler
from hiif_export.export import export_bundle
from hiif_export.parity.parity import cases
from hiif_training.checkpoints.checkpoint import LoadedCheckpoint, load_checkpoint
from hiif_training.queries.axis import Queries, grid_queries

torch.set_num_threads(1)

CASES = ("case_a", "case_c", "case_e_whole")
TOLERANCE = 2e-5
"""Of the PyTorch module. The public code in float32 and in float64 differ by up to 4.4e-6."""
EXPORTED_TOLERANCE = 1e-4
"""Of the graphs, in the network's domain."""

Case = dict[str, NDArray[np.float32]]


@pytest.fixture(scope="module")
def golden(shared: Path) -> Path:
    return shared / "data" / "golden" / "hiif-edsr"


@pytest.fixture(scope="module")
def checkpoint(golden: Path) -> LoadedCheckpoint:
    loaded = load_checkpoint(golden / "checkpoint.pth")
    loaded.model.requires_grad_(False)
    return loaded


@pytest.fixture(scope="module")
def upscaler(checkpoint: LoadedCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upscaler]:
    """The checkpoint as a bundle, exported once."""
    folder = tmp_path_factory.mktemp("golden") / "hiif"
    suite = cases(sizes=((6, 9),), scales=(2.0,))
    export_bundle(
        checkpoint.model, checkpoint.spec, folder, name="golden", provenance={"weights": "random"}, suite=suite
    )
    with Upscaler(folder) as opened:
        yield opened


@pytest.fixture(scope="module")
def intermediates(golden: Path) -> Case:
    return read(golden, "case_f_intermediates")


def read(golden: Path, name: str) -> Case:
    with np.load(golden / f"{name}.npz") as arrays:
        return {key: arrays[key] for key in arrays.files}


def asked(case: Case) -> Queries:
    return grid_queries(case["input_u8"].shape[:2], case["output"].shape[2:], bits="reference")


def as_picture(answer: Tensor, case: Case) -> NDArray[np.float32]:
    """[1, N, 3] → [1, 3, H, W]."""
    return answer.reshape(1, *case["output"].shape[2:], 3).permute(0, 3, 1, 2).numpy()


@pytest.mark.parametrize("name", CASES)
def test_the_public_bits_are_met_exactly(golden: Path, name: str) -> None:
    case = read(golden, name)
    expected = case["bits"].reshape(6, -1, 2).transpose(1, 0, 2)
    np.testing.assert_array_equal(asked(case).bits[0].numpy(), expected)


@pytest.mark.parametrize("name", CASES)
def test_the_public_cell_is_met(golden: Path, name: str) -> None:
    case = read(golden, name)
    cell = case["cell"] * np.array(case["input"].shape[2:], dtype=np.float32)
    np.testing.assert_allclose(asked(case).cell.numpy(), cell, rtol=1e-7)


@pytest.mark.parametrize("name", CASES)
def test_the_public_output_is_met_in_pytorch(golden: Path, checkpoint: LoadedCheckpoint, name: str) -> None:
    case = read(golden, name)
    answer = checkpoint.model(torch.from_numpy(case["input"]), asked(case))
    np.testing.assert_allclose(as_picture(answer, case), case["output"], atol=TOLERANCE, rtol=0)


def test_the_exact_bit_rule_would_not_meet_the_public_output(golden: Path, checkpoint: LoadedCheckpoint) -> None:
    case = read(golden, "case_a")
    exact = grid_queries((24, 32), (48, 64), bits="exact")
    answer = checkpoint.model(torch.from_numpy(case["input"]), exact)
    assert np.abs(as_picture(answer, case) - case["output"]).max() > 100 * TOLERANCE


@pytest.fixture(scope="module")
def captured(checkpoint: LoadedCheckpoint, golden: Path) -> dict[str, Tensor]:
    """What the parts of the module answer in case a."""
    model, case = checkpoint.model, read(golden, "case_a")
    parts = {
        "encoder": "encoder", "freq": "freq", "after_fc0": "fc_layers.0",
        "after_conv0": "conv0", "after_conv1": "conv1",
    }  # fmt: skip
    found: dict[str, Tensor] = {}
    hooks = [
        model.get_submodule(path).register_forward_hook(
            lambda _module, _inputs, output, name=name: found.update({name: output})
        )
        for name, path in parts.items()
    ]
    model(torch.from_numpy(case["input"]), asked(case))
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("name", ["encoder", "freq", "after_fc0", "after_conv0", "after_conv1"])
def test_every_intermediate_tensor_is_met(captured: dict[str, Tensor], intermediates: Case, name: str) -> None:
    np.testing.assert_allclose(captured[name].numpy(), intermediates[name], atol=TOLERANCE, rtol=0)


def test_the_local_coordinates_and_their_bits_are_met_exactly(intermediates: Case) -> None:
    found = grid_queries((24, 32), (48, 64), bits="reference")
    np.testing.assert_array_equal(found.local.numpy(), intermediates["local_coord"])
    np.testing.assert_array_equal(found.bits.permute(2, 0, 1, 3).numpy(), intermediates["bits"])


@pytest.mark.parametrize("name", CASES)
def test_the_public_output_is_met_by_the_exported_graphs(golden: Path, upscaler: Upscaler, name: str) -> None:
    case = read(golden, name)
    features = upscaler.encode(np.asarray(case["input_u8"], dtype=np.uint8))
    height, width = case["output"].shape[2:]
    colours = upscaler.render_unclamped(features, size=(height, width))
    answer = ((colours - 0.5) / 0.5).transpose(2, 0, 1)[None]
    np.testing.assert_allclose(answer, case["output"], atol=EXPORTED_TOLERANCE, rtol=0)


def test_the_public_features_are_met_by_the_exported_encoder(
    golden: Path, upscaler: Upscaler, intermediates: Case
) -> None:
    features = upscaler.encode(np.asarray(read(golden, "case_a")["input_u8"], dtype=np.uint8))
    np.testing.assert_allclose(features.encoded[None], intermediates["encoder"], atol=EXPORTED_TOLERANCE, rtol=0)
