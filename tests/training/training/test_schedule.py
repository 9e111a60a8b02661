"""The learning rate of every step, by each schedule."""

from __future__ import annotations

import dataclasses

import pytest

from hiif_training.training.recipe import Recipe
from hiif_training.training.schedule import learning_rate


@pytest.fixture
def recipe() -> Recipe:
    return Recipe(model={}, steps=6, learning_rate=3e-3, warmup=2)


def test_the_learning_rate_rises_linearly_to_its_peak(recipe: Recipe) -> None:
    recipe = dataclasses.replace(recipe, steps=100, warmup=4, learning_rate=8.0, final_learning_rate=0.5)
    assert [learning_rate(recipe, n) for n in range(5)] == [2.0, 4.0, 6.0, 8.0, 8.0]


def test_the_learning_rate_falls_by_half_a_cosine_to_the_final_one(recipe: Recipe) -> None:
    recipe = dataclasses.replace(recipe, steps=104, warmup=4, learning_rate=8.0, final_learning_rate=0.5)
    found = [learning_rate(recipe, n) for n in range(4, 105)]
    assert found == sorted(found, reverse=True)
    assert found[50] == pytest.approx(4.25)
    assert found[25] == pytest.approx(0.5 + 7.5 * (2 + 2**0.5) / 4)
    assert found[100] == pytest.approx(0.5)


def test_without_warm_up_the_first_step_has_the_peak_rate(recipe: Recipe) -> None:
    assert learning_rate(dataclasses.replace(recipe, warmup=0), 0) == recipe.learning_rate


def test_a_warm_up_longer_than_the_run_never_reaches_the_peak(recipe: Recipe) -> None:
    recipe = dataclasses.replace(recipe, warmup=100)
    assert max(learning_rate(recipe, n) for n in range(6)) == pytest.approx(0.06 * recipe.learning_rate)


def test_a_stepped_rate_decays_at_each_milestone() -> None:
    recipe = Recipe(model={}, steps=10, warmup=0, learning_rate=8.0, schedule="steps", milestones=(3, 5), decay=0.5)
    assert [learning_rate(recipe, n) for n in range(7)] == [8, 8, 8, 4, 4, 2, 2]


def test_the_published_cosine_counts_epochs_from_zero_and_joins_below_the_peak() -> None:
    """timm's CosineLRScheduler(t_initial=1050, warmup_t=50, warmup_lr_init=lr_min=2e-6), worked out by hand."""
    recipe = Recipe(
        model={}, steps=2100, warmup=100, learning_rate=4e-4, final_learning_rate=2e-6, schedule="published-cosine",
        schedule_every=2,
    )  # fmt: skip
    assert learning_rate(recipe, 0) == learning_rate(recipe, 1) == 2e-6
    assert learning_rate(recipe, 50) == pytest.approx(2e-6 + 3.98e-4 / 2)
    assert learning_rate(recipe, 100) == pytest.approx(2e-6 + 1.99e-4 * (1 + 0.98883083))
    assert learning_rate(recipe, 1050) == pytest.approx(2.01e-4)
    assert learning_rate(recipe, 2099) == pytest.approx(2e-6, abs=2e-9)
