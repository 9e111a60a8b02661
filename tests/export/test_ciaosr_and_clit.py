"""CiaoSR and CLIT as bundles: parity on weights with structure, any size and cut, tiles, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn.functional import l1_loss

from hiif_deploy import OptionError, RenderOptions, Upscaler
from hiif_deploy.demo import sample
from hiif_deploy.verify import compare_stored
from hiif_export.export import export_bundle
from hiif_export.parity import cases
from hiif_training.models.implicit import ImplicitModel
from hiif_training.models.registry import make_model
from hiif_training.torch_engine import enlarge

torch.set_num_threads(1)

ENCODER = {"name": "edsr-mini", "args": {"no_upsampling": True}}
NETWORK = {"name": "mlp", "args": {"out_dim": 3, "hidden_list": [16, 16], "act": "gelu"}}
CODE = {"name": "posenc", "args": {"enc_dims": 16, "posenc_scale": 4}}
SPECS: dict[str, dict[str, Any]] = {
    "ciaosr": {"name": "ciaosr", "args": {"encoder_spec": ENCODER, "hidden_list": [16, 16]}},
    "clit": {
        "name": "clit",
        "args": {
            "encoder_spec": ENCODER, "imnet_spec": NETWORK, "pb_spec": CODE, "base_dim": 16, "head": 2, "r": 3,
            "imnet_num": 2, "conv_num": 2,
        },
    },
}  # fmt: skip
STEPS = 12
"""Of training: enough that the answer is a picture, not noise."""


def trained(name: str) -> ImplicitModel:
    """A tiny model that has seen one picture at ×2, and for CLIT at ×6 too."""
    torch.manual_seed(0)
    model = make_model(SPECS[name])
    mean, std = torch.tensor(model.traits.mean), torch.tensor(model.traits.std)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for step in range(STEPS):
        scale = (2, 6)[step % 2] if name == "clit" else 2
        top = 6 * step
        large = torch.from_numpy(sample("chelsea")[top : top + 8 * scale, 20 : 20 + 8 * scale].copy()).float() / 255
        large = (large - mean) / std
        small = torch.nn.functional.avg_pool2d(large.permute(2, 0, 1)[None], scale)
        answer = model(small, model.ask((8, 8), (8 * scale, 8 * scale)))
        loss = l1_loss(answer, large.reshape(1, -1, 3))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module", params=list(SPECS))
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[ImplicitModel, Path]:
    folder = tmp_path_factory.mktemp("bundles") / request.param
    model = trained(request.param)
    suite = cases(sizes=((1, 1), (7, 5), (13, 16)), scales=(1.0, 2.5, 4.0, 6.0, (1.5, 2.75)))
    found = export_bundle(model, SPECS[request.param], folder, name=request.param, provenance={}, suite=suite)
    assert len(found) == 15
    assert max(deviation.colours for deviation in found) <= 1e-4
    return model, folder


def frame(height: int, width: int) -> NDArray[np.uint8]:
    return np.ascontiguousarray(sample("chelsea")[40 : 40 + height, 60 : 60 + width])


def test_a_bundle_is_verified_without_pytorch(exported: tuple[ImplicitModel, Path]) -> None:
    with Upscaler(exported[1]) as upscaler:
        assert all(difference.largest <= 1e-4 for difference in compare_stored(upscaler).values())


@pytest.mark.parametrize("options", [RenderOptions(query_block=97), RenderOptions(tile_rows=2, query_block=400)])
def test_the_answer_does_not_depend_on_how_queries_are_cut(
    exported: tuple[ImplicitModel, Path], options: RenderOptions
) -> None:
    size = (61, 85)
    with Upscaler(exported[1]) as whole, Upscaler(exported[1], options=options) as cut:
        expected = whole.render_unclamped(whole.encode(frame(9, 14)), size=size)
        found = cut.render_unclamped(cut.encode(frame(9, 14)), size=size)
        region = cut.render(cut.encode(frame(9, 14)), size=size, region=(10, 20, 30, 40))
        part = whole.render(whole.encode(frame(9, 14)), size=size)[10:40, 20:60]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert np.abs(region.astype(int) - part.astype(int)).max() <= 1


def test_upscale_gives_pytorchs_picture(exported: tuple[ImplicitModel, Path]) -> None:
    model, folder = exported
    with Upscaler(folder) as upscaler:
        found = upscaler.upscale(frame(11, 14), scale=3.3)
    expected = np.rint(enlarge(model, frame(11, 14), (found.shape[0], found.shape[1])) * 255)
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_half_precision_is_refused_by_name(exported: tuple[ImplicitModel, Path], tmp_path: Path) -> None:
    spec = SPECS[exported[1].name]
    with pytest.raises(OptionError, match="cannot be written in fp16, only in fp32"):
        export_bundle(exported[0], spec, tmp_path / "x", name="x", provenance={}, precisions=("fp32", "fp16"))
