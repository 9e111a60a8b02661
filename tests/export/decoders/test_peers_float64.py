"""What is restructured of LIIF, LTE, LTE+, SRNO and MetaSR is equal, not close: in float64 only rounding is left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from hiif_deploy.geometry.axes import AXES
from hiif_deploy.geometry.grid import relative_cell
from hiif_export.graphs.exporter import make_exporter
from hiif_training.models.implicit import ImplicitModel
from hiif_training.models.registry import make_model

torch.set_num_threads(1)

ENCODER = {"name": "edsr-mini", "args": {"n_resblocks": 1, "n_feats": 8, "no_upsampling": True}}
NETWORK = {"name": "mlp", "args": {"out_dim": 3, "hidden_list": [16, 16]}}
SPECS: dict[str, dict[str, Any]] = {
    "liif": {"imnet_spec": NETWORK},
    "lte": {"imnet_spec": NETWORK, "hidden_dim": 16},
    "lte-plus": {"hidden_dim": 16},
    "sronet": {"width": 16, "blocks": 4},
    "metasr": {},
}
SOURCE, TARGET = (5, 6), (13, 11)


@pytest.mark.parametrize("name", SPECS)
def test_the_graphs_equal_the_plain_module(name: str) -> None:
    torch.manual_seed(2)
    spec = {"name": name, "args": {"encoder_spec": ENCODER, **SPECS[name]}}
    model = make_model(spec).eval()
    features = torch.randn(1, 8, *SOURCE, dtype=torch.float64)
    with torch.no_grad():
        answer = by_graphs(model, spec, features)
        model = model.double()
        expected = model.decode(features, model.make_queries(SOURCE, TARGET).to(dtype=torch.float64))[0]
    # Composed weights are stored in float32, and so are the tables: nothing else is.
    assert (answer - expected).abs().max() < 2e-6 * max(1, expected.abs().max())


def by_graphs(model: ImplicitModel, spec: Mapping[str, Any], features: Tensor) -> Tensor:
    """Colours of all queries by the exporter's graphs in float64."""
    exporter = make_exporter(model, spec)
    halo, rule = exporter.contract().halo, AXES[exporter.contract().axes]
    known = {
        "features": torch.nn.functional.pad(features, (halo,) * 4),
        "cell": torch.from_numpy(relative_cell(SOURCE, TARGET)).double(),
        "count": torch.tensor([TARGET[0] * TARGET[1]], dtype=torch.float64),
    }
    for axis, name, stride, shape in ((0, "row", SOURCE[1], (-1, TARGET[0], 1)), (1, "column", 1, (-1, 1, TARGET[1]))):
        table = rule(SOURCE[axis], TARGET[axis])
        known[f"{name}_tap"] = torch.from_numpy(table.taps).reshape(shape) * stride
        for value in ("relative", "distance", "local"):
            known[f"{name}_{value}"] = torch.from_numpy(getattr(table, value)).double().reshape(shape)
    for graph in exporter.graphs()[1:]:
        answer = graph.module.double()(*(known[name] for name in graph.inputs))
        answers = answer if isinstance(answer, tuple) else (answer,)
        known.update(zip(graph.outputs, (value.double() for value in answers), strict=True))
    return known["colour"]
