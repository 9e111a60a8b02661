"""The guide in design/decoders.md, followed to the letter: its one file and its one line make a decoder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hiif_deploy.images.samples import sample
from hiif_deploy.upscaler import Upscaler
from hiif_export.export import export_bundle
from hiif_export.parity.parity import cases
from hiif_training.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from hiif_training.models.registry import DECODERS, DecoderEntry, make_model

torch.set_num_threads(1)

GUIDE = Path(__file__).parents[2] / ".github" / "design" / "decoders.md"
ENCODER = {"name": "edsr-mini", "args": {"n_resblocks": 1, "no_upsampling": True}}
SPEC: dict[str, Any] = {"name": "blend", "args": {"encoder_spec": ENCODER, "width": 16}}


@pytest.fixture
def followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the guide says to do."""
    file, line = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "blend.py").write_text(file, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    known: dict[str, Any] = {"DecoderEntry": DecoderEntry}
    exec("from blend import make_blend", known)
    entries: dict[str, DecoderEntry] = eval("{" + line.strip() + "}", known)
    assert len(line.strip().splitlines()) == 1
    for name, decoder in entries.items():
        monkeypatch.setitem(DECODERS, name, decoder)


@pytest.mark.usefixtures("followed")
def test_one_file_and_one_line_load_export_verify_and_upscale_a_decoder(tmp_path: Path) -> None:
    torch.manual_seed(3)
    save_checkpoint(tmp_path / "blend.pth", make_model(SPEC), SPEC)
    loaded = load_checkpoint(tmp_path / "blend.pth")
    suite = cases(sizes=((1, 1), (7, 5)), scales=(1.0, 3.3, (1.5, 2.75)))
    found = export_bundle(
        loaded.model, loaded.spec, tmp_path / "bundle", name="blend", provenance={}, suite=suite,
        precisions=("fp32", "fp16"),
    )  # fmt: skip
    assert max(case.colours for case in found) < 1e-4
    picture = sample("astronaut")[:9, :14]
    with Upscaler(tmp_path / "bundle") as upscaler:
        assert upscaler.upscale(picture, scale=2.5).shape == (22, 35, 3)


@pytest.mark.usefixtures("followed")
def test_the_decoder_learns() -> None:
    torch.manual_seed(3)
    model = make_model(SPEC)
    image = torch.rand(2, 3, 6, 6)
    queries = model.make_queries((6, 6), (12, 12))
    queries = type(queries).concatenate([queries, queries])
    wanted = torch.full((2, 144, 3), 0.25)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(8):
        loss = (model(image, queries) - wanted).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
