"""The model in training as a LightningModule: loss, optimizer, schedule."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from hiif_training.models.registry import make_model
from hiif_training.training.data import Sample
from hiif_training.training.recipe import Recipe
from hiif_training.training.schedule import learning_rate


class TrainingModule(LightningModule):
    """Trains with L1 in the normalised domain, Adam and the recipe's schedule (design/model.md T1)."""

    def __init__(self, recipe: Recipe) -> None:
        """Initialise the weights from the recipe's seed."""
        super().__init__()
        self.recipe = recipe
        torch.manual_seed(recipe.seed)
        self.model = make_model(recipe.model).train()

    def training_step(self, sample: Sample, number: int) -> Tensor:
        """Return the L1 loss of one part of a step, a scalar [ ]."""
        del number
        output = self.model(sample.image, sample.queries)
        return nn.functional.l1_loss(output.float(), sample.colours)

    def configure_optimizers(self) -> Any:
        """Return Adam with the rate of the recipe's schedule."""
        recipe = self.recipe
        trainable = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.Adam(trainable, lr=recipe.learning_rate)
        schedule = LambdaLR(optimizer, lambda step: learning_rate(recipe, step) / recipe.learning_rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the recipe and the random state to the state file."""
        checkpoint["recipe"] = self.recipe.plain()
        checkpoint["random_state"] = torch.get_rng_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the random state from the state file."""
        torch.set_rng_state(checkpoint["random_state"])
