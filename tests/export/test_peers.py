"""LIIF, LTE, LTE+, SRNO and MetaSR as bundles, after a little training: equal to their plain modules at any size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hiif_deploy.contract import expected_stages
from hiif_deploy.demo import sample
from hiif_deploy.session import EngineOptions
from hiif_deploy.upscaler import RenderOptions, Upscaler
from hiif_export.export import export_bundle
from hiif_export.parity import cases
from hiif_training.models.implicit import ImplicitModel
from hiif_training.models.registry import make_model
from hiif_training.torch_engine import enlarge

torch.set_num_threads(1)

ENCODER = {"name": "edsr-mini", "args": {"n_resblocks": 1, "no_upsampling": True}}
NETWORK = {"name": "mlp", "args": {"out_dim": 3, "hidden_list": [24, 20]}}
ARGS: dict[str, dict[str, Any]] = {
    "liif": {"imnet_spec": NETWORK},
    "lte": {"imnet_spec": NETWORK, "hidden_dim": 24},
    "lte-plus": {"hidden_dim": 24},
    "sronet": {"width": 32, "blocks": 4},
    "metasr": {},
}
STEPS = 100
SIZE = (40, 52)


def trained(name: str) -> tuple[ImplicitModel, dict[str, Any]]:
    """A small model after some steps on one picture, and its spec."""
    spec = {"name": name, "args": {"encoder_spec": ENCODER, **ARGS[name]}}
    torch.manual_seed(5)
    model = make_model(spec)
    picture = torch.from_numpy(sample("astronaut")[:24, :32].copy()).permute(2, 0, 1)[None] / 127.5 - 1
    small = torch.nn.functional.avg_pool2d(picture, 2)
    wanted, queries = picture.flatten(2).transpose(1, 2), model.ask((12, 16), (24, 32))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = (model(small, queries) - wanted).abs().mean()
        loss.backward()
        optimizer.step()
    return model.eval().requires_grad_(False), spec


@pytest.fixture(scope="module", params=ARGS)
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[ImplicitModel, Path]:
    """A trained model and its bundle in both precisions, verified at whole, broken and anisotropic scales."""
    model, spec = trained(request.param)
    folder = tmp_path_factory.mktemp("peers") / request.param
    suite = cases(sizes=((1, 1), (7, 5)), scales=(1.0, 2.0, 3.3, 8.0, (1.5, 2.75)))
    found = export_bundle(
        model, spec, folder, name=request.param, provenance={"weights": "test"}, suite=suite,
        precisions=("fp32", "fp16"),
    )  # fmt: skip
    assert max(case.colours for case in found) < 1e-4
    return model, folder


def rendered(folder: Path, picture: NDArray[np.uint8], **options: Any) -> NDArray[np.float32]:
    with Upscaler(folder, options=RenderOptions(**options), engine=EngineOptions(threads=1)) as upscaler:
        return upscaler.render_unclamped(upscaler.encode(picture), size=SIZE)


def test_the_answer_is_pytorchs_however_the_work_is_cut(bundle: tuple[ImplicitModel, Path]) -> None:
    model, folder = bundle
    picture = sample("astronaut")[40:53, 60:77]
    expected = enlarge(model, picture, SIZE)
    for cut in ({}, {"query_block": 64}):
        np.testing.assert_allclose(rendered(folder, picture, **cut).clip(0, 1), expected, atol=1e-4, rtol=0)


def test_the_contract_records_what_the_published_model_does(bundle: tuple[ImplicitModel, Path]) -> None:
    model, folder = bundle
    with Upscaler(folder) as upscaler:
        decoder, stages = upscaler.contract.decoder, upscaler.contract.stages
    assert (decoder.skip, decoder.clips_cell) == (model.traits.skip, model.traits.clips_cell)
    coupled = "sronet" in folder.name
    assert decoder.statistics_passes == (2 if coupled else 0)
    assert list(stages) == (expected_stages(2) if coupled else [])
