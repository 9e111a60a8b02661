"""The hardest baseline of the benchmark: the decoder exported the obvious way, as one ONNX graph run in chunks.

The encoder graph includes `freq` and returns rows of pixels, so that no chunk repeats work. As in every decoder that is
run in chunks, attention averages over a chunk and not over the picture, which changes the picture.
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hiif_deploy.bench.case import BenchModel, Image, Work
from hiif_deploy.bench.work import count_calls
from hiif_deploy.decoding.compose import finish, normalise
from hiif_deploy.decoding.job import Window
from hiif_deploy.decoding.queries import query_axes
from hiif_deploy.decoding.session import Tensors
from hiif_deploy.errors import CheckpointError
from hiif_deploy.geometry.sizes import Size, padded_size
from hiif_deploy.pixels import mirror, to_unit
from hiif_export.baselines.bench_plain import Baseline, contract_queries, load_model
from hiif_export.graphs.exporter import encoder_graph
from hiif_export.graphs.graph import Graph
from hiif_export.graphs.onnx_file import to_onnx
from hiif_training.models.hiif import Hiif
from hiif_training.queries.axis import Queries

CHUNKS = (2048, 8192, 32768)
"""Candidate numbers of queries per call; the fastest one depends on the machine and the model."""
TRIAL = 1 << 16
"""Queries that each candidate is timed on."""


class NaiveOnnxBaseline(Baseline):
    """One graph on ONNX Runtime that uses all threads inside one call."""

    def __init__(self, model: BenchModel, threads: int, chunk: int | None) -> None:
        """`chunk`: queries per call; None chooses the fastest of `CHUNKS` on the first picture."""
        self._contract, self._threads, self._chunk = model.bundle.contract, threads, chunk
        loaded = load_model(model)
        if not isinstance(loaded, Hiif):
            raise CheckpointError(f"{model.name}: a {type(loaded).__name__}; the naive graph is written for HIIF only")
        self._graphs = [to_onnx(graph).SerializeToString() for graph in (_encoder(loaded), _decoder(loaded))]
        self._encoder, self._decoder = (_session(graph, threads) for graph in self._graphs)

    @property
    def detail(self) -> str:
        """Versions and settings, for the report."""
        return f"ONNX Runtime {ort.__version__}, fp32, {self._chunk} queries per call"

    @property
    def resolved(self) -> str:
        """Name with the number of queries per call, once it is known."""
        return f"naive-onnx:{self._chunk}" if self._chunk else "naive-onnx"

    def work(self, image: Image, size: Size) -> Work:
        """Count multiplications and bytes for an RGB picture [h, w, 3] upscaled to `size`."""
        rows = self.encode(image)
        first, *others = self._calls((image.shape[0], image.shape[1]), rows, size, self._best(image, rows, size))
        encoder, decoder = self._graphs
        total = count_calls(encoder, [self._network_input(image)], self._threads)
        # All calls but the last have the same size, so one is counted for all of them.
        if others:
            total += len(others) * count_calls(decoder, [first], self._threads)
        return total + count_calls(decoder, [[first, *others][-1]], self._threads)

    def _network_input(self, image: Image) -> Tensors:
        size = padded_size((image.shape[0], image.shape[1]), self._contract.encoder.size_multiple)
        return {"image": normalise(self._contract, mirror(to_unit(image), size))}

    def encode(self, image: Image) -> NDArray[np.float32]:
        """Return the encoder's maps of an RGB picture [h, w, 3] as rows [h · w, width]."""
        height, width = image.shape[:2]
        (maps,) = self._encoder.run(None, dict(self._network_input(image)))
        return np.ascontiguousarray(maps[:height, :width]).reshape(height * width, -1)

    def _best(self, image: Image, rows: NDArray[np.float32], size: Size) -> int:
        if self._chunk is None:
            source, seconds = (image.shape[0], image.shape[1]), {}
            for chunk in CHUNKS:
                calls = self._calls(source, rows, size, chunk)
                self._run(next(calls))
                trial = list(islice(calls, TRIAL // chunk)) or list(islice(self._calls(source, rows, size, chunk), 1))
                began = time.perf_counter()
                count = sum(len(self._run(feeds)) for feeds in trial)
                seconds[chunk] = (time.perf_counter() - began) / count
            self._chunk = min(seconds, key=seconds.__getitem__)
        return self._chunk

    def decode(self, image: Image, encoded: NDArray[np.float32], size: Size) -> NDArray[np.float32]:
        """Return unclamped float32 colours [H, W, 3] of an RGB picture [h, w, 3] and its rows [h · w, width]."""
        source, chunk = (image.shape[0], image.shape[1]), self._best(image, encoded, size)
        parts = [self._run(feeds) for feeds in self._calls(source, encoded, size, chunk)]
        colours = np.concatenate(parts).reshape(*size, 3)
        axes = query_axes(self._contract, source, size, Window((0, size[0]), (0, size[1])))
        return finish(self._contract, colours, to_unit(image), *axes)

    def _run(self, feeds: Tensors) -> NDArray[np.float32]:
        # The exporter drops inputs that the model does not read (bits or local, depending on the variant).
        names = [node.name for node in self._decoder.get_inputs()]
        (colours,) = self._decoder.run(None, {name: feeds[name] for name in names})
        return np.asarray(colours)

    def _calls(self, source: Size, rows: NDArray[np.float32], size: Size, chunk: int) -> Iterator[Tensors]:
        queries = contract_queries(self._contract, source, size)
        index, weight, bits, local = (
            tensor[0].numpy() for tensor in (queries.index, queries.weight, queries.bits, queries.local)
        )
        for start in range(0, size[0] * size[1], chunk):
            part = slice(start, start + chunk)
            yield {
                "rows": rows, "index": index[:, part], "weight": weight[:, part], "bits": bits[part],
                "local": local[part], "cell": queries.cell[0].numpy(),
            }  # fmt: skip


def _session(graph: bytes, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


class _Encoder(nn.Module):
    def __init__(self, model: Hiif) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        """[1, 3, h, w] → maps [h, w, width]."""
        maps: Tensor = self.model.freq(self.model.encode(image))
        return maps[0].permute(1, 2, 0)


class _Decoder(nn.Module):
    def __init__(self, model: Hiif) -> None:
        super().__init__()
        self.model = model

    def forward(self, rows: Tensor, index: Tensor, weight: Tensor, bits: Tensor, local: Tensor, cell: Tensor) -> Tensor:
        """Return the colours [N, 3] of one chunk of N queries; `rows` [P, C], `index` and `weight` [4, N], `cell`
        [2]."""
        count = index.shape[1]
        corners = rows.index_select(0, index.flatten()).view(4, count, rows.shape[1]) * weight[..., None]
        x = torch.cat([*corners.unbind(0), cell.expand(count, 2)], dim=-1)[None]
        unread, weights = weight[None, ..., None].expand(-1, -1, -1, 2), weight[None]
        queries = Queries(index[None], unread, weights, bits[None], local[None], cell[None], index[None], weights)
        return self.model.decode_inputs(x, queries)[0]


def _encoder(model: Hiif) -> Graph:
    outputs: dict[str, tuple[str | int, ...]] = {"rows": ("height", "width", model.config.hidden_dim)}
    return replace(encoder_graph(model), module=_Encoder(model), outputs=outputs)


def _decoder(model: Hiif) -> Graph:
    config, count = model.config, 35
    inputs: dict[str, tuple[Tensor, tuple[str | int, ...]]] = {
        "rows": (torch.ones(48, config.hidden_dim), ("pixels", config.hidden_dim)),
        "index": (torch.zeros(4, count, dtype=torch.int64), (4, "queries")),
        "weight": (torch.ones(4, count), (4, "queries")),
        "bits": (torch.ones(count, config.levels, 2), ("queries", config.levels, 2)),
        "local": (torch.ones(count, 2), ("queries", 2)),
        "cell": (torch.ones(2), (2,)),
    }
    return Graph("decoder", _Decoder(model), inputs, {"colour": ("queries", 3)}, {})
