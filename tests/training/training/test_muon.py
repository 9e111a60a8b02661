"""Muon: orthogonal steps of Adam's size for matrices, Adam's own for the rest."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from hiif_training.checkpoints.checkpoint import load_checkpoint
from hiif_training.training.loop import train
from hiif_training.training.muon import ADAM_SIZE, Muon, is_matrix, orthogonalised
from hiif_training.training.recipe import OptimizerName, Recipe
from hiif_training.training.training_module import TrainingModule
from training_runs import MODEL, noise_pictures

torch.set_num_threads(1)


@pytest.mark.parametrize("shape", [(4, 4), (5, 40), (40, 5)])
def test_an_orthogonalised_matrix_keeps_its_directions_and_loses_their_lengths(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    lengths = torch.diag(left.mT @ orthogonalised(matrix) @ right.mT)
    # Jordan's polynomial leaves each singular value within 0.68 and 1.13, and vectors as they are.
    assert float(values.max() / values.min()) > 1.5
    assert 0.67 < float(lengths.min()) <= float(lengths.max()) < 1.14
    torch.testing.assert_close(orthogonalised(matrix), left @ torch.diag(lengths) @ right, rtol=1e-4, atol=1e-5)


def test_matrices_and_kernels_are_muons_and_vectors_and_colours_are_not() -> None:
    sizes = {(8, 5): True, (8, 3, 3, 3): True, (8,): False, (3, 8): False}
    assert {size: is_matrix(torch.zeros(size)) for size in sizes} == sizes


def test_a_step_has_the_size_of_adams_and_its_vectors_are_adams() -> None:
    generator = torch.Generator().manual_seed(4)
    matrix, vector = (torch.nn.Parameter(torch.zeros(size)) for size in ((16, 48), (16,)))
    alone = torch.nn.Parameter(torch.zeros(16))
    muon = Muon([{"params": [matrix], "muon": True}, {"params": [vector]}], lr=1e-2)
    adam = torch.optim.Adam([alone], lr=1e-2)
    for _ in range(2):
        matrix.grad = torch.randn(16, 48, generator=generator)
        vector.grad = torch.randn(16, generator=generator)
        alone.grad = vector.grad.clone()
        before = matrix.detach().clone()
        muon.step()
        adam.step()
        # 16 orthogonal rows of length 1, up to the polynomial's 0.67 to 1.14.
        change = float((matrix.detach() - before).pow(2).mean().sqrt()) / (1e-2 * ADAM_SIZE)
        assert 0.67 <= change <= 1.14
    assert vector.equal(alone)


@pytest.mark.parametrize(("name", "muons"), [("adam", 0), ("muon", 22), ("muon-decoder", 18)])
def test_a_recipe_chooses_what_muon_trains(name: OptimizerName, muons: int) -> None:
    groups = TrainingModule(Recipe(model=MODEL, optimizer=name)).configure_optimizers()["optimizer"].param_groups
    trained = [value for group in groups if group["muon"] for value in group["params"]]
    assert len(trained) == muons
    assert all(map(is_matrix, trained))


def test_a_run_by_muon_resumes_exactly(tmp_path: Path) -> None:
    noise_pictures(tmp_path / "data")
    recipe = Recipe(
        model=MODEL, data=(str(tmp_path / "data"),), seed=5, steps=4, batch=2, patch=6, learning_rate=3e-3, warmup=0,
        schedule="steps", milestones=(100,), save_every=2, optimizer="muon",
    )  # fmt: skip
    whole = train(recipe, tmp_path / "whole", show_progress=False)
    train(dataclasses.replace(recipe, steps=2), tmp_path / "parts", show_progress=False)
    resumed = train(recipe, tmp_path / "parts", show_progress=False)
    pairs = zip(*(load_checkpoint(path).model.state_dict().values() for path in (whole, resumed)), strict=True)
    assert all(one.equal(other) for one, other in pairs)
