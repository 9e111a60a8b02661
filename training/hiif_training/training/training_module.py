"""The model in training as a LightningModule: initial weights, loss, optimizer, schedule."""

from __future__ import annotations

from typing import Any, Self

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from hiif_deploy.errors import OptionError
from hiif_training.checkpoints.shipped import find_checkpoint
from hiif_training.checkpoints.warm_start import ENCODER, init_weights
from hiif_training.models.encoders.branches import add_branches
from hiif_training.models.registry import make_model
from hiif_training.training.data import Sample
from hiif_training.training.muon import Muon, is_matrix
from hiif_training.training.recipe import Recipe
from hiif_training.training.schedule import learning_rate
from hiif_training.training.teacher import open_teacher


class TrainingModule(LightningModule):
    """Trains with L1 in the normalised domain, Adam and the recipe's schedule (design/model.md T1)."""

    def __init__(self, recipe: Recipe, *, is_resumed: bool = False) -> None:
        """Initialise the weights from the recipe's seed and its `init`, which a resumed run does not read again."""
        super().__init__()
        self.recipe = recipe
        torch.manual_seed(recipe.seed)
        self.model = make_model(recipe.model)
        if recipe.zero_output:
            self._zero_output()
        if recipe.init and not is_resumed:
            self._init_weights()
        if recipe.branches:
            add_branches(self.model.encoder, recipe.branches)
        self.teacher = open_teacher(recipe, self.model)
        self.is_frozen = recipe.freeze == "encoder"
        if self.is_frozen:
            # Without a parameter that needs a gradient, autograd records no graph of the encoder.
            self.model.encoder.requires_grad_(False)
        self.train()

    def _zero_output(self) -> None:
        if (layer := self.model.output_layer) is None:
            raise OptionError(f"recipe: zero_output is for HIIF; leave it out for {self.recipe.model['name']}")
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)

    def normalise_features(self, images: Tensor) -> None:
        """Scale the encoder's last layer by what it gives for pictures [B, 3, h, w]: mean 0, deviation ½ (after the
        data-dependent initialisation of Mishkin and Matas 2015, arXiv 1511.06422)."""
        layer = self.model.encoder.output_layer
        if layer is None or layer.bias is None:
            name = self.recipe.model["args"]["encoder_spec"]["name"]
            raise OptionError(f"recipe: normalise_features needs an encoder with a last layer; leave it out for {name}")
        with torch.no_grad():
            deviation, mean = torch.std_mean(self.model.encode(images), dim=(0, 2, 3))
            scale = 0.5 / deviation.clamp(min=1e-6)
            layer.weight *= scale[:, None, None, None]
            layer.bias.sub_(mean).mul_(scale)

    def _init_weights(self) -> None:
        recipe = self.recipe
        prefix = ENCODER if recipe.init_part == "encoder" else ""
        match = init_weights(self.model, find_checkpoint(recipe.init), prefix, recipe.init_blocks)
        if recipe.freeze == "encoder" and not match.has_whole_encoder:
            raise OptionError(
                f"{recipe.init}: lacks weights of the encoder to be frozen; choose a checkpoint with the recipe's "
                "encoder, or leave out freeze"
            )

    def train(self, mode: bool = True) -> Self:
        """Set the training mode; a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.is_frozen:
            self.model.encoder.eval()
        return self

    def training_step(self, sample: Sample, number: int) -> Tensor:
        """Return the L1 loss of one part of a step, a scalar [ ], the teacher's share included."""
        del number
        if sample.features is None:
            output = self.model(sample.image, sample.queries).float()
        else:
            output = self.model.decode_with_skip(sample.image, sample.features, sample.queries).float()
        if self.teacher is not None:
            return self.teacher.loss(output, sample)
        return nn.functional.l1_loss(output, sample.colours)

    def fixed_values(self, sample: Sample) -> tuple[Tensor | None, Tensor | None]:
        """Return what no step changes: features [B, C, patch, patch] of a frozen encoder, the teacher's output
        [B, N, 3]; None for what the recipe does not have. Always in float32."""
        with torch.no_grad():
            features = self.model.encode(sample.image) if self.is_frozen else None
        return features, None if self.teacher is None else self.teacher.answer(sample)

    def configure_optimizers(self) -> Any:
        """Return the recipe's optimizer with the rate of its schedule."""
        recipe = self.recipe
        optimizer = Muon(self._groups(), lr=recipe.learning_rate)
        # Multiplies each group's own rate.
        schedule = LambdaLR(optimizer, lambda step: learning_rate(recipe, step) / recipe.learning_rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _groups(self) -> list[dict[str, Any]]:
        """Return the trained parameters by their rate and by what trains them, those of an encoder with a lower rate
        last."""
        recipe = self.recipe
        groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
        for name, value in self.model.named_parameters():
            is_encoder = name.startswith(ENCODER)
            is_muon = recipe.optimizer == "muon" or (recipe.optimizer == "muon-decoder" and not is_encoder)
            key = (recipe.encoder_rate if is_encoder else 1.0, is_muon and is_matrix(value))
            if value.requires_grad:
                groups.setdefault(key, []).append(value)
        return [
            {"params": values, "lr": recipe.learning_rate * rate, "muon": is_muon}
            for (rate, is_muon), values in sorted(groups.items(), key=lambda entry: entry[0], reverse=True)
        ]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the recipe and the random state to the state file."""
        checkpoint["recipe"] = self.recipe.plain()
        checkpoint["random_state"] = torch.get_rng_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the random state from the state file."""
        torch.set_rng_state(checkpoint["random_state"])
