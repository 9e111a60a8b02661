"""Learning rate of every step (design/model.md T1, T3)."""

from __future__ import annotations

import math

from hiif_training.training.recipe import Recipe


def learning_rate(recipe: Recipe, step: int) -> float:
    """Return the rate of the step with that number, counted from 0."""
    step -= step % recipe.schedule_every
    if recipe.schedule == "published-cosine":
        return _published_cosine(recipe, step)
    if step < recipe.warmup:
        return recipe.learning_rate * (step + 1) / recipe.warmup
    if recipe.schedule == "steps":
        return float(recipe.learning_rate * recipe.decay ** sum(step >= milestone for milestone in recipe.milestones))
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return _half_cosine(recipe, done)


def _published_cosine(recipe: Recipe, step: int) -> float:
    """Return the published rate: warm-up starts at the final rate, and the cosine counts from step 0, below the
    peak."""
    span = recipe.learning_rate - recipe.final_learning_rate
    if step < recipe.warmup:
        return recipe.final_learning_rate + span * step / recipe.warmup
    return _half_cosine(recipe, step / recipe.steps)


def _half_cosine(recipe: Recipe, done: float) -> float:
    span = recipe.learning_rate - recipe.final_learning_rate
    return recipe.final_learning_rate + span * (1 + math.cos(math.pi * done)) / 2
