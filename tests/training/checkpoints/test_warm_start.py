"""Weights of a checkpoint as the start of another model: which are taken, what is reported, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hiif_deploy.errors import CheckpointError
from hiif_training.checkpoints.checkpoint import save_checkpoint
from hiif_training.checkpoints.warm_start import ENCODER, init_weights
from hiif_training.models.implicit import ImplicitModel
from hiif_training.models.registry import make_model


def spec(name: str = "hiif", *, features: int = 4, scale: float = 1.0, **args: Any) -> dict[str, Any]:
    """A small model around EDSR with one block."""
    encoder = {"n_resblocks": 1, "n_feats": features, "res_scale": scale, "no_upsampling": True}
    sizes = {"blocks": 2, "hidden_dim": 8, "mlp_dim": 8} if name == "hiif" else {}
    return {"name": name, "args": {"encoder_spec": {"name": "edsr-mini", "args": encoder}, **sizes, **args}}


def model(chosen: dict[str, Any], seed: int) -> ImplicitModel:
    torch.manual_seed(seed)
    return make_model(chosen)


def saved(folder: Path, chosen: dict[str, Any], seed: int = 1) -> Path:
    save_checkpoint(folder / "from.pth", model(chosen, seed), chosen)
    return folder / "from.pth"


def taken(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    """Parts of the model whose weights changed."""
    return {name.partition(".")[0] for name, value in after.items() if not value.equal(before[name])}


def test_a_model_of_the_same_kind_is_copied_whole(tmp_path: Path) -> None:
    own = model(spec(), 2)
    match = init_weights(own, saved(tmp_path, spec()))
    expected = model(spec(), 1).state_dict()
    assert match.left == {}
    assert all(value.equal(expected[name]) for name, value in own.state_dict().items())


def test_of_another_decoders_checkpoint_the_encoder_is_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "hiif_training")
    own, donor = model(spec(), 2), model(spec("liif"), 1)
    before = {name: value.clone() for name, value in own.state_dict().items()}
    match = init_weights(own, saved(tmp_path, spec("liif")))
    assert taken(before, own.state_dict()) == {"encoder"}
    assert own.encoder.head[0].weight.equal(donor.encoder.head[0].weight)  # type: ignore[union-attr]
    assert match.has_whole_encoder
    path = tmp_path / "from.pth"
    assert caplog.messages == [
        f"{path}: took 8 tensors (encoder 8)",
        f"{path}: 58 tensors start from the seed: freq 2, fc_layers 36, conv0 10, conv1 10 not in the checkpoint",
        f"{path}: 10 of its tensors have no use here (imnet 10)",
    ]


def test_the_encoder_alone_is_taken_where_that_is_chosen(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "hiif_training")
    own = model(spec(), 2)
    before = {name: value.clone() for name, value in own.state_dict().items()}
    init_weights(own, saved(tmp_path, spec()), ENCODER)
    assert taken(before, own.state_dict()) == {"encoder"}
    assert "freq 2, fc_layers 36, conv0 10, conv1 10 not below encoder." in caplog.text


def test_tensors_of_another_shape_are_left_and_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "hiif_training")
    match = init_weights(model(spec(), 2), saved(tmp_path, spec(mlp_dim=6)))
    assert match.left["fc_layers.0.fc1.weight"] == "of another shape in the checkpoint"
    assert "fc_layers.0.norm.weight" in match.taken
    assert "fc_layers 18 of another shape in the checkpoint" in caplog.text


def test_a_checkpoint_without_a_fitting_tensor_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, spec("liif", features=6))
    with pytest.raises(CheckpointError) as caught:
        init_weights(model(spec(), 2), path)
    message = str(caught.value)
    assert message.startswith(f"{path}: none of its tensors (encoder 12, imnet 10) fits the model to be trained (")
    assert "encoder 8 of another shape in the checkpoint" in message
    assert message.endswith("choose a checkpoint with the same encoder or decoder, or change the recipe's model")


def test_settings_that_no_shape_reveals_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    init_weights(model(spec(bits="exact"), 2), saved(tmp_path, spec(scale=0.5)))
    path = tmp_path / "from.pth"
    assert caplog.messages == [
        f"{path}: the encoder has other settings in this recipe: residual_scale 0.5 → 1.0",
        f"{path}: the decoder has other settings in this recipe: bits 'reference' → 'exact'",
    ]


def deep(blocks: int) -> dict[str, Any]:
    encoder = {"n_resblocks": blocks, "n_feats": 4, "res_scale": 1.0, "no_upsampling": True}
    args = {"encoder_spec": {"name": "edsr-mini", "args": encoder}, "blocks": 2, "hidden_dim": 8, "mlp_dim": 8}
    return {"name": "hiif", "args": args}


def test_a_shorter_encoder_starts_from_chosen_blocks(tmp_path: Path) -> None:
    own, donor = model(deep(2), 2), model(deep(4), 1)
    match = init_weights(own, saved(tmp_path, deep(4)), blocks=(0, 3))
    assert match.left == {}
    before, after = donor.encoder.state_dict(), own.encoder.state_dict()
    # Number 4, and 2 of the shorter encoder, is the convolution behind the blocks.
    for new, old in ((0, 0), (1, 3), (2, 4)):
        for name in (name for name in after if name.startswith(f"body.{new}.")):
            assert after[name].equal(before[name.replace(f"body.{new}.", f"body.{old}.")])


@pytest.mark.parametrize("blocks", [(0, 4), (0, 1, 2)])
def test_blocks_that_do_not_fit_are_refused(tmp_path: Path, blocks: tuple[int, ...]) -> None:
    with pytest.raises(CheckpointError, match=r"expected 2 blocks, .* out of the checkpoint's 0 to 3"):
        init_weights(model(deep(2), 2), saved(tmp_path, deep(4)), blocks=blocks)


def test_an_encoder_of_another_value_range_gives_the_same_features_inside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "hiif_training")
    encoder = spec()["args"]["encoder_spec"]
    donor_spec = {"name": "pixelshuffle", "args": {"scale": 2, "encoder_spec": encoder}}
    donor, own = model(donor_spec, 1).double(), model(spec(), 2)
    init_weights(own, saved(tmp_path, donor_spec))
    picture = torch.rand(1, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    mean, std = torch.tensor(donor.traits.mean)[:, None, None], donor.traits.std[0]
    with torch.no_grad():
        features = own.double().encode((picture - 0.5) / 0.5)
        expected = donor.encode((picture - mean) / std)
    reach = own.encoder.receptive_field
    inside = (..., slice(reach, -reach), slice(reach, -reach))
    # The adapted weights are rounded to float32: a sum of 27 values up to 255.
    torch.testing.assert_close(features[inside], expected[inside], rtol=1e-5, atol=27 * 255 * 2**-24)
    assert any("first layer was adapted" in message for message in caplog.messages)
