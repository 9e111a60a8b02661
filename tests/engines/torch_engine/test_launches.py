"""How often the GPU is called for a frame of a clip: by the operations that PyTorch dispatches, each one a launch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from hiif_deploy import EngineOptions, Upscaler
from hiif_deploy.bundle.loader import open_bundle
from hiif_deploy.images.samples import sample

torch = pytest.importorskip("torch")
pytest.importorskip("triton", reason="Triton is not installed")
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from attention_model import ATTENTION_MODEL  # noqa: E402
from hiif_engines.torch_engine.backend import TorchBackend  # noqa: E402
from hiif_engines.torch_engine.plan import make_torch_plan, map_pixels  # noqa: E402

OPTIONS = EngineOptions(engine="torch", device="cpu", precision="fp16", threads=1)
IMAGE = sample("astronaut")[100:106, 100:105]
MOST = 40
"""Launches and replays of a frame."""
MOST_COPIES = 20
"""Copies from and to the host, and those that would be none on one device."""
VIEWS = {
    "alias", "as_strided", "detach", "expand", "narrow", "permute", "select", "slice", "split", "split_with_sizes",
    "squeeze", "t", "transpose", "unbind", "unsqueeze", "view", "_unsafe_view", "_reshape_alias", "empty", "empty_like",
    "new_empty", "lift_fresh", "is_pinned", "resolve_conj", "resolve_neg",
}  # fmt: skip
"""Operations that launch nothing."""


class Launches(TorchDispatchMode):
    """Counts operations, but those of recorded work."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        name = function.overloadpacket.__name__
        if name not in VIEWS:
            self.counts[name] += 1
        return function(*args, **(kwargs or {}))


@dataclass
class Recorder:
    """Runs recorded work again, as one launch."""

    launches: Launches

    def record(self, work: Callable[[], dict[str, torch.Tensor]]) -> Recording:
        with torch.inference_mode():
            return Recording(self.launches, work, work())


@dataclass
class Recording:
    launches: Launches
    work: Callable[[], dict[str, torch.Tensor]]
    outputs: dict[str, torch.Tensor]

    def replay(self) -> None:
        before = self.launches.counts.copy()
        for name, value in self.work().items():
            self.outputs[name].copy_(value)
        self.launches.counts = before + Counter({"replay": 1})


@pytest.mark.parametrize("name", [ATTENTION_MODEL, "hiif-video"])
def test_a_frame_of_a_clip_takes_few_launches(name: str) -> None:
    launches = Launches()
    bundle = open_bundle(name)
    backend = TorchBackend(bundle, OPTIONS, fused=True, recorder=Recorder(launches))
    with Upscaler(bundle, backend=backend) as upscaler:
        frames = [upscaler.upscale(IMAGE, scale=2) for _ in range(2)]
        with launches:
            frames.append(upscaler.upscale(IMAGE, scale=2))
        launches.counts.clear()
        with launches:
            frames.append(upscaler.upscale(IMAGE, scale=2))
    for frame in frames[1:]:
        np.testing.assert_array_equal(frame, frames[0])
    # Encoder, maps, one per statistics pass, colours.
    assert launches.counts["replay"] == 3 + bundle.contract.decoder.statistics_passes
    copies = launches.counts.pop("to") + launches.counts.pop("_to_copy", 0)
    assert copies <= MOST_COPIES
    assert launches.counts.total() <= MOST, launches.counts


def test_a_frame_of_1080p_is_one_tile_and_one_block_on_a_large_gpu() -> None:
    contract = open_bundle(ATTENTION_MODEL).contract
    full = replace(
        contract,
        encoder=replace(contract.encoder, channels=64, memory_channels=512, receptive_field=35),
        decoder=replace(contract.decoder, map_channels=4 * 256 + 2 + 2 * 256, query_channels=8 * 256),
    )
    allowed = (139 << 30) // 4
    plan = make_torch_plan(full, (1080, 1920), "fp16", allowed, records=True, fused=True)
    assert plan.encoder_tile >= (1080, 1920)
    assert plan.decoder_tile >= (1080, 1920)
    assert plan.query_block >= 2160 * 3840
    # Maps are made in so many calls, each a launch and a copy of the features.
    assert -(-1080 * 1920 // map_pixels(full, "fp16", allowed)) <= 3
