"""A session that runs an exported graph's module in PyTorch, which rounds every tensor where the graph does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray

from hiif_export.graphs.graph import Graph
from hiif_export.parity.graph_parity import typed_feeds


class TorchSession:
    """Answers as the graph's contract promises."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """As `hiif_deploy.decoding.session.Session.run`."""
        inputs = typed_feeds(dict(feeds), self._graph)
        with torch.no_grad():
            answer = self._graph.module(*(torch.from_numpy(value) for value in inputs.values()))
        outputs = answer if isinstance(answer, tuple) else (answer,)
        return {name: value.numpy() for name, value in zip(self._graph.outputs, outputs, strict=True)}
