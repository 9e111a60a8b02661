"""A teacher's output as a second target, for a decoder of another kind than the model's."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hiif_deploy.errors import OptionError
from hiif_training.checkpoints.checkpoint import save_checkpoint
from hiif_training.models.implicit import ModelTraits
from hiif_training.models.liif import Liif
from hiif_training.models.registry import make_model
from hiif_training.training.data import TURNS, Crops, Sample, turned, turned_pixels
from hiif_training.training.recipe import Recipe
from hiif_training.training.teacher import Teacher, open_teacher
from training_runs import MODEL, noise_pictures

LIIF = {"name": "liif", "args": {"encoder_spec": MODEL["args"]["encoder_spec"], "imnet_spec": {
    "name": "mlp", "args": {"out_dim": 3, "hidden_list": [8]}}}}  # fmt: skip


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    torch.manual_seed(3)
    save_checkpoint(tmp_path / "teacher.pth", make_model(LIIF), LIIF)
    return Recipe(
        model=MODEL, data=(str(noise_pictures(tmp_path / "data")),), patch=6, steps=4, batch=2,
        teacher=str(tmp_path / "teacher.pth"), teacher_weight=0.25,
    )  # fmt: skip


def opened(recipe: Recipe) -> Teacher:
    teacher = open_teacher(recipe, make_model(recipe.model))
    assert teacher is not None
    return teacher


def drawn(recipe: Recipe, teacher: Teacher) -> Sample:
    crops = Crops(recipe, make_model(recipe.model).make_queries, teacher_queries=teacher.model.make_queries)
    return Sample.concatenate([crops[0], crops[1]])


def answer(teacher: Teacher, sample: Sample) -> Tensor:
    """The teacher's output for the crops as they are."""
    assert sample.teacher_queries is not None
    output: Tensor = teacher.model(sample.image, sample.teacher_queries[0])
    return output


def test_a_recipe_without_a_teacher_has_none(recipe: Recipe) -> None:
    alone = dataclasses.replace(recipe, teacher="", teacher_weight=0.0)
    model = make_model(MODEL)
    assert open_teacher(alone, model) is None
    assert Crops(alone, model.make_queries)[0].teacher_queries is None


def test_the_loss_is_shared_by_the_target_and_the_teacher(recipe: Recipe) -> None:
    teacher = opened(recipe)
    sample = drawn(recipe, teacher)
    output = torch.zeros_like(sample.colours)
    wanted = answer(teacher, sample)
    expected = 0.75 * nn.functional.l1_loss(output, sample.colours) + 0.25 * wanted.abs().mean()
    assert float(teacher.loss(output, sample)) == pytest.approx(float(expected), rel=1e-6)


def test_the_teacher_answers_the_queries_of_the_sample(recipe: Recipe) -> None:
    teacher = opened(recipe)
    sample = drawn(recipe, teacher)
    assert sample.teacher_queries is not None
    (queries,) = sample.teacher_queries
    assert queries.index.equal(sample.queries.index)  # type: ignore[attr-defined]
    wanted = answer(teacher, sample)
    assert float(dataclasses.replace(teacher, weight=1.0).loss(wanted, sample)) == 0


def test_a_teacher_has_no_gradients(recipe: Recipe) -> None:
    teacher = opened(recipe)
    output = torch.zeros(2, 36, 3, requires_grad=True)
    teacher.loss(output, drawn(recipe, teacher)).backward()  # type: ignore[no-untyped-call]
    assert output.grad is not None
    assert not teacher.model.training
    assert all(parameter.grad is None for parameter in teacher.model.parameters())


def test_a_teacher_with_another_normalisation_is_refused(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Liif, "traits", ModelTraits(std=(1.0, 1.0, 1.0)))
    with pytest.raises(OptionError, match=r"teacher\.pth: normalises pictures by .*choose a teacher with those of the"):
        open_teacher(recipe, make_model(MODEL))


@pytest.mark.parametrize("turn", TURNS)
def test_turned_pixels_are_those_of_the_turned_picture(turn: tuple[int, int, int]) -> None:
    picture = torch.arange(3 * 25).reshape(1, 3, 5, 5)
    pixels = np.random.default_rng(0).permutation(25)[:11]
    found = turned(picture, turn).flatten(2)[..., turned_pixels(pixels, 5, turn)]
    assert found.equal(picture.flatten(2)[..., pixels])


def test_an_ensemble_is_the_mean_over_the_turned_crops(recipe: Recipe) -> None:
    teacher = opened(recipe)
    alone, sample = drawn(recipe, teacher), drawn(dataclasses.replace(recipe, teacher_ensemble=True), teacher)
    assert sample.teacher_queries is not None
    outputs = [
        teacher.model(turned(sample.image, turn), queries)
        for turn, queries in zip(TURNS, sample.teacher_queries, strict=True)
    ]
    assert outputs[0].equal(answer(teacher, alone))
    assert not outputs[1].allclose(outputs[0], atol=1e-3)
    torch.testing.assert_close(teacher.answer(sample), sum(outputs) / 8)


def test_an_ensemble_answers_the_same_whichever_way_the_picture_is_turned(recipe: Recipe) -> None:
    """Scale 2, where no query lies halfway between two source pixels, which one of them would win."""
    recipe = dataclasses.replace(recipe, teacher_ensemble=True, scale=(2.0, 2.0))
    teacher = opened(recipe)
    sample = drawn(recipe, teacher)
    make, pixels = teacher.model.make_queries, np.arange(144)
    outputs = []
    for turn in (TURNS[0], TURNS[5]):
        queries = tuple(
            make((6, 6), (12, 12), turned_pixels(turned_pixels(pixels, 12, turn), 12, other)) for other in TURNS
        )
        picture = dataclasses.replace(sample, image=turned(sample.image, turn)[:1], teacher_queries=queries)
        outputs.append(teacher.answer(picture))
    # Eight sums in another order.
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-5, rtol=0)
