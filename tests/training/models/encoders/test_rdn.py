"""The RDN encoder: sizes, keys, structure, export."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from hiif_deploy.errors import CheckpointError
from hiif_training.models.encoders.rdn import RDN_CONFIGS, Rdn, RdnConfig

TINY = RdnConfig(blocks=2, layers=3, growth=4, features=8)


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def seeded(config: RdnConfig) -> Rdn:
    torch.manual_seed(0)
    return Rdn(config).eval()


def test_rdn_b_has_the_published_number_of_parameters() -> None:
    assert parameters(Rdn(RDN_CONFIGS["B"])) == 21_973_952


def test_rdn_b_has_exactly_the_published_keys() -> None:
    layers = ["SFENet1", "SFENet2", "GFF.0", "GFF.1"]
    layers += [f"RDBs.{i}.convs.{j}.conv.0" for i in range(16) for j in range(8)]
    layers += [f"RDBs.{i}.LFF" for i in range(16)]
    assert set(Rdn(RdnConfig()).state_dict()) == {f"{n}.{kind}" for n in layers for kind in ("weight", "bias")}


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("SFENet1.weight", (64, 3, 3, 3)),
        ("RDBs.0.convs.0.conv.0.weight", (64, 64, 3, 3)),
        ("RDBs.15.convs.7.conv.0.weight", (64, 512, 3, 3)),
        ("RDBs.3.LFF.weight", (64, 576, 1, 1)),
        ("GFF.0.weight", (64, 1024, 1, 1)),
        ("GFF.1.bias", (64,)),
    ],
)
def test_rdn_b_tensors_have_the_published_shapes(key: str, shape: tuple[int, ...]) -> None:
    assert tuple(Rdn(RdnConfig()).state_dict()[key].shape) == shape


def test_rdn_a_has_twenty_blocks_of_six_layers_that_grow_by_32() -> None:
    state = Rdn(RDN_CONFIGS["A"]).state_dict()
    assert tuple(state["RDBs.19.convs.5.conv.0.weight"].shape) == (32, 64 + 5 * 32, 3, 3)
    assert "RDBs.20.LFF.weight" not in state
    assert "RDBs.0.convs.6.conv.0.weight" not in state


def test_rdn_equals_the_paper_written_out_with_functions() -> None:
    model = seeded(TINY)
    weights = model.state_dict()

    def conv(x: Tensor, name: str) -> Tensor:
        weight = weights[f"{name}.weight"]
        return nn.functional.conv2d(x, weight, weights[f"{name}.bias"], padding=weight.shape[-1] // 2)

    image = torch.rand(2, 3, 9, 7)
    first = conv(image, "SFENet1")
    x, fused = conv(first, "SFENet2"), []
    for i in range(2):
        dense = x
        for j in range(3):
            dense = torch.cat([dense, conv(dense, f"RDBs.{i}.convs.{j}.conv.0").relu()], dim=1)
        x = x + conv(dense, f"RDBs.{i}.LFF")
        fused.append(x)
    expected = first + conv(conv(torch.cat(fused, dim=1), "GFF.0"), "GFF.1")
    torch.testing.assert_close(model(image), expected)


def test_rdn_keeps_any_size_and_the_batch() -> None:
    assert seeded(TINY)(torch.rand(2, 3, 5, 11)).shape == (2, 8, 5, 11)


def test_rdn_b_sees_131_pixels_to_every_side() -> None:
    assert Rdn(RdnConfig()).receptive_field == 131


def test_a_feature_sees_exactly_the_receptive_field() -> None:
    model = seeded(RdnConfig(blocks=1, layers=2, growth=2, features=2))
    image = torch.rand(1, 3, 21, 21, requires_grad=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_()  # nothing is cut off by a ReLU or cancels
    model(image)[0, :, 10, 10].sum().backward()
    assert image.grad is not None
    seen = image.grad[0].abs().sum(0).sum(0).nonzero().flatten()
    assert (seen.min().item(), seen.max().item()) == (10 - model.receptive_field, 10 + model.receptive_field)


@pytest.mark.parametrize("wrong", [{"blocks": 0}, {"growth": -1}, {"features": 0}])
def test_an_rdn_size_below_one_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(CheckpointError, match=rf"RDN {next(iter(wrong))} is .*: expected at least 1"):
        RdnConfig(**wrong)


def test_an_even_kernel_is_refused() -> None:
    with pytest.raises(CheckpointError, match="RDN kernel is 4: expected an odd number"):
        RdnConfig(kernel=4)


@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")
@pytest.mark.slow
def test_one_exported_rdn_serves_every_size() -> None:
    model = seeded(TINY)
    sides = {2: torch.export.Dim("h"), 3: torch.export.Dim("w")}
    program = torch.onnx.export(
        model,
        (torch.rand(1, 3, 12, 10),),
        dynamo=True,
        dynamic_shapes=(sides,),
        opset_version=20,
        external_data=False,
        verbose=False,
    )
    assert program is not None
    content = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    for height, width in [(1, 1), (7, 16), (23, 5)]:
        image = torch.rand(1, 3, height, width)
        (answer,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
        np.testing.assert_allclose(answer, model(image).detach().numpy(), atol=1e-4)
