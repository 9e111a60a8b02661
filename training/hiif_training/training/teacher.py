"""Distillation: the output of a trained model as a second target."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hiif_deploy.errors import OptionError
from hiif_training.checkpoints.checkpoint import load_checkpoint
from hiif_training.checkpoints.shipped import find_checkpoint
from hiif_training.models.implicit import ImplicitModel
from hiif_training.training.data import TURNS, Sample, turned
from hiif_training.training.recipe import Recipe


@dataclass(frozen=True)
class Teacher:
    """A trained model that is not trained further. It is no submodule, so that no state file contains it."""

    model: ImplicitModel
    """In evaluation mode, without gradients."""
    weight: float
    """Share of the teacher in the loss."""

    def answer(self, sample: Sample) -> Tensor:
        """Return the teacher's output [B, N, 3] float32 on the sample's device: the mean over the turns of the crop for
        which the sample has queries."""
        model, queries = self.model.to(sample.image.device), sample.teacher_queries or ()
        with torch.no_grad():
            outputs = [
                model(turned(sample.image, turn), part).float() for turn, part in zip(TURNS, queries, strict=False)
            ]
        return torch.stack(outputs).mean(0)

    def loss(self, output: Tensor, sample: Sample) -> Tensor:
        """Return (1 − weight)·L1(target) + weight·L1(teacher's output), a scalar [ ]; output [B, N, 3] float32."""
        wanted = self.answer(sample) if sample.taught is None else sample.taught
        target = nn.functional.l1_loss(output, sample.colours)
        return (1 - self.weight) * target + self.weight * nn.functional.l1_loss(output, wanted)


def open_teacher(recipe: Recipe, model: ImplicitModel) -> Teacher | None:
    """Load the recipe's teacher, None where it names none; OptionError where `model` normalises pictures otherwise."""
    if not recipe.teacher:
        return None
    teacher = load_checkpoint(find_checkpoint(recipe.teacher)).model.requires_grad_(False)
    norms = [(traits.mean, traits.std) for traits in (teacher.traits, model.traits)]
    if norms[0] != norms[1]:
        raise OptionError(
            f"teacher {recipe.teacher}: normalises pictures by mean and standard deviation {norms[0]}, the model by "
            f"{norms[1]}; choose a teacher with those of the model"
        )
    return Teacher(teacher, recipe.teacher_weight)
