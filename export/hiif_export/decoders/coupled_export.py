"""Exports decoders with Galerkin attention, whose queries depend on each other: a statistics pass and a fold per block.

Between passes the decoder is also split into stages, so that the results of one pass can be cached for the next, and
each part can run in a precision of its own.
"""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hiif_deploy.bundle.contract import Precision
from hiif_export.decoders.hiif_modules import Fold
from hiif_export.graphs.exporter import COLOUR, DecoderExporter, Inputs, Shapes, make_graph, shapes
from hiif_export.graphs.graph import Graph
from hiif_export.graphs.precision import COMPUTE
from hiif_training.models.hiif import LinearAttention


class CoupledExporter(DecoderExporter):
    """A decoder with one statistics and one fold graph per attention block."""

    @property
    @abstractmethod
    def blocks(self) -> Sequence[LinearAttention]:
        """Attention blocks, in order."""

    @abstractmethod
    def state_widths(self) -> Sequence[int]:
        """Width of each state that is handed over between passes."""

    @abstractmethod
    def applied(self, count: int, compute: torch.dtype) -> nn.Module:
        """The decoder with `count` blocks applied: it returns the sums of the next block, or colours after the last."""

    @abstractmethod
    def stage(self, kind: str, n: int) -> nn.Module:
        """Module of a stage: `first`, `sums` or `mix` of block `n`, or `tail`."""

    def tail_geometry(self) -> Inputs:
        """Geometry that the tail reads; none by default."""
        return {}

    def statistics_graphs(self, precision: Precision) -> list[Graph]:
        """One statistics graph per attention block."""
        count = len(self.blocks)
        return [self._decoder(f"statistics_{n}", n, shapes(self._sums()), precision) for n in range(count)]

    def fold_graphs(self) -> list[Graph]:
        """One fold graph per attention block, in float64."""
        found, count = [], torch.ones(1, dtype=torch.float64)
        for n, block in enumerate(self.blocks):
            inputs: Inputs = {**self._sums(), "count": (count, (1,))}
            # Not `make_graph`, which would convert the module to float32.
            found.append(Graph(f"fold_{n}", Fold(block).eval(), inputs, shapes(self._folded([n], torch.float32)), {}))
        return found

    def decoder_graph(self, precision: Precision) -> Graph:
        """Maps, geometry and folded attention → colours."""
        return self._decoder("decoder", len(self.blocks), COLOUR, precision)

    def stage_graphs(self) -> list[Graph]:
        """The statistics and decoder graphs split between passes (fp32)."""
        float32, count, states = torch.float32, len(self.blocks), [*map(self._state, range(len(self.state_widths())))]
        inputs = {**self.maps(float32), **self.geometry()}
        found = [make_graph("first", self.stage("first", 0), inputs, shapes(states[0]))]
        for n in range(count):
            found.append(make_graph(f"sums_{n}", self.stage("sums", n), states[n], shapes(self._sums())))
            if n + 1 < count:
                inputs = {**states[n], **self._folded([n], float32)}
                found.append(make_graph(f"mix_{n}", self.stage("mix", n), inputs, shapes(states[n + 1])))
        last = max(0, count - 1)
        inputs = {**states[last], **self.tail_geometry(), **self._folded(range(count)[last:], float32)}
        return [*found, make_graph("tail", self.stage("tail", last), inputs, COLOUR)]

    def _decoder(self, name: str, applied: int, outputs: Shapes, precision: Precision) -> Graph:
        compute = COMPUTE[precision]
        inputs = {**self.maps(compute), **self.geometry(), **self._folded(range(applied), compute)}
        return make_graph(name, self.applied(applied, compute), inputs, outputs, precision)

    def _state(self, n: int) -> Inputs:
        width = self.state_widths()[n]
        return {f"state_{n}": (torch.ones(35, width), ("queries", width))}

    def _folded(self, blocks: Sequence[int], compute: torch.dtype) -> Inputs:
        found: Inputs = {}
        for n in blocks:
            width = self.blocks[n].qkv_proj.in_features
            found[f"attention_{n}_weight"] = torch.zeros(width, width, dtype=compute), (width, width)
            found[f"attention_{n}_bias"] = torch.zeros(width, dtype=compute), (width,)
        return found

    def _sums(self) -> Inputs:
        block = self.blocks[0]
        heads, size = block.heads, block.qkv_proj.in_features // block.heads

        def zeros(*shape: int) -> tuple[Tensor, tuple[str | int, ...]]:
            return torch.zeros(*shape, dtype=torch.float64), shape

        return {"outer": zeros(heads, size, size), "key": zeros(heads, size), "value": zeros(heads, size)}
