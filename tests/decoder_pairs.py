"""Every decoder around every kind of encoder, small, briefly trained and exported once."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, l1_loss

from cached_export import shared_bundle
from hiif_deploy.bundle.contract import Precision
from hiif_deploy.images.samples import sample
from hiif_export.parity.parity import cases
from hiif_training.models.encoders.encoder import Encoder
from hiif_training.models.implicit import ImplicitModel
from hiif_training.models.registry import make_encoder, make_model
from shared_cache import GRAPH_SOURCES, shared, sources_key

ENCODERS: dict[str, dict[str, Any]] = {
    "edsr-baseline": {"n_resblocks": 1, "n_feats": 16},
    "rdn": {"G0": 16, "D": 2, "C": 2, "G": 8},
    "swinir": {"embed_dim": 12, "depths": [2, 2], "num_heads": [2, 2], "num_feat": 16},
}
"""All of them answer 16 channels: a decoder's graphs are then the same around each."""
NETWORK = {"name": "mlp", "args": {"out_dim": 3, "hidden_list": [16, 16]}}
GELU = {"name": "mlp", "args": {"out_dim": 3, "hidden_list": [16, 16], "act": "gelu"}}
CODE = {"name": "posenc", "args": {"enc_dims": 16, "posenc_scale": 4}}
DECODERS: dict[str, dict[str, Any]] = {
    "liif": {"imnet_spec": NETWORK},
    "hiif": {"blocks": 2, "hidden_dim": 16, "mlp_dim": 16, "levels": 3, "attention_blocks": 1},
    "lte": {"imnet_spec": NETWORK, "hidden_dim": 16},
    "lte-plus": {"hidden_dim": 16},
    "sronet": {"width": 16, "blocks": 4},
    "metasr": {},
    "ciaosr": {"hidden_list": [16, 16], "non_local_attn": False},
    "ciaosr-non-local": {"hidden_list": [16, 16]},
    "clit": {
        "imnet_spec": GELU, "pb_spec": CODE, "base_dim": 16, "head": 2, "r": 3, "imnet_num": 2, "conv_num": 2,
    },
}  # fmt: skip
HALF = ("liif", "lte", "lte-plus", "sronet", "metasr")
"""Exported in fp16 too, around EDSR."""
STEPS = 90
"""Of training, around each encoder in turn: enough that the answer is a picture and not noise."""


def spec(decoder: str, encoder: str) -> dict[str, Any]:
    """As a checkpoint holds it."""
    kind = {"name": encoder, "args": {**ENCODERS[encoder], "no_upsampling": True}}
    return {"name": decoder, "args": {**DECODERS[variant(decoder, encoder)], "encoder_spec": kind}}


def variant(decoder: str, encoder: str) -> str:
    """CiaoSR has its non-local branch around SwinIR alone: it takes long to trace, and around each encoder anew."""
    return "ciaosr-non-local" if (decoder, encoder) == ("ciaosr", "swinir") else decoder


class Pairs:
    """Models and bundles, made when they are used first. LIIF trains the encoders, the others find them trained."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(5)
        self._encoders = {name: make_encoder(spec("liif", name)["args"]["encoder_spec"]) for name in ENCODERS}
        self._decoders = {"liif": self._trained("liif", "rdn")}
        for encoder in self._encoders.values():
            encoder.eval().requires_grad_(False)

    def model(self, decoder: str, encoder: str) -> ImplicitModel:
        """The decoder's weights are the same around each encoder."""
        if (known := variant(decoder, encoder)) not in self._decoders:
            self._decoders[known] = self._trained(decoder, encoder)
        around = {f"encoder.{key}": value for key, value in self._encoders[encoder].state_dict().items()}
        model = make_model(spec(decoder, encoder))
        model.load_state_dict({**self._decoders[known], **around})
        return model.eval().requires_grad_(False)

    def bundle(self, decoder: str, encoder: str) -> Path:
        """Verified at sizes and scales that no graph was traced with."""
        suite = cases(sizes=((1, 1), (7, 5)), scales=(2.0, 3.3, 6.0, (1.5, 2.75)))
        half = decoder in HALF and encoder == "edsr-baseline"
        precisions: tuple[Precision, ...] = ("fp32", "fp16") if half else ("fp32",)
        return shared_bundle(
            self.model(decoder, encoder), spec(decoder, encoder), f"{decoder}-{encoder}", provenance={}, suite=suite,
            precisions=precisions,
        )  # fmt: skip

    def _trained(self, decoder: str, encoder: str) -> dict[str, Tensor]:
        """Weights of a decoder, and of the encoders where it is LIIF, after some steps; kept between runs."""
        described = spec(decoder, encoder)
        key = f"{sources_key(GRAPH_SOURCES)} {STEPS} {described} {ENCODERS}"

        def make(folder: Path) -> None:
            folder.mkdir()
            found = {"decoder": train(described, self._encoders)}
            encoders = {name: model.state_dict() for name, model in self._encoders.items()}
            torch.save({**found, "encoders": encoders}, folder / "weights.pt")

        found = torch.load(shared(f"weights-{decoder}", key, make) / "weights.pt", weights_only=True)
        for name, weights in found["encoders"].items():
            self._encoders[name].load_state_dict(weights)
        decoder_weights: dict[str, Tensor] = found["decoder"]
        return decoder_weights


def train(described: dict[str, Any], encoders: dict[str, Encoder]) -> dict[str, Tensor]:
    """The decoder's weights after some steps on crops of a picture, at ×2 (CLIT at ×6 too), each encoder in turn."""
    torch.manual_seed(5)
    model = make_model(described)
    mean, std = torch.tensor(model.traits.mean), torch.tensor(model.traits.std)
    learnt = [*model.parameters(), *(value for encoder in encoders.values() for value in encoder.parameters())]
    optimizer = torch.optim.Adam(learnt, 2e-3)
    for step, encoder in zip(range(STEPS), itertools.cycle(encoders.values()), strict=False):
        model.encoder = encoder
        scale, top = (6 if described["name"] == "clit" and step % 10 == 0 else 2), 40 + step % 40
        crop = sample("chelsea")[top : top + 8 * scale, 60 : 60 + 8 * scale].copy()
        large = (torch.from_numpy(crop).float() / 255 - mean) / std
        small = avg_pool2d(large.permute(2, 0, 1)[None], scale)
        optimizer.zero_grad()
        l1_loss(model(small, model.make_queries((8, 8), crop.shape[:2])), large.reshape(1, -1, 3)).backward()
        optimizer.step()
    return {key: value for key, value in model.state_dict().items() if not key.startswith("encoder.")}
