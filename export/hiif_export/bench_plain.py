"""The plain module as the benchmark's baseline: on the whole grid, in chunks, and in float64 to measure deviations."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from hiif_deploy.bench.case import BenchModel, Image, Work
from hiif_deploy.contract import Contract
from hiif_deploy.encode import normalise
from hiif_deploy.errors import CheckpointError
from hiif_deploy.pixels import FrameFormat, from_unit, mirror, to_unit
from hiif_deploy.session import Arithmetic
from hiif_deploy.sizes import Size, padded_size
from hiif_training.checkpoint import load_checkpoint
from hiif_training.models.hiif import Hiif, skip
from hiif_training.models.registry import make_model
from hiif_training.queries import Queries, grid_queries

CHUNK = 2048
"""Queries per call, where people cut the work: what the public code's demos do."""


class Plain:
    """The reference module, eager, in fp32."""

    arithmetic: Arithmetic = "fp32"
    resolved = "plain"

    def __init__(self, model: BenchModel, threads: int, chunk: int | None) -> None:
        """`chunk`: queries per call, which changes the picture; None: the whole grid at once, as is right."""
        torch.set_num_threads(threads)
        self._contract, self._model = model.bundle.contract, load_model(model)
        self._chunk = chunk
        self._stages: dict[str, float] = {}
        how = "the whole grid" if chunk is None else f"{chunk} queries per call"
        self.detail = f"PyTorch {torch.__version__}, eager, fp32, {how}"

    def upscale(self, image: Image, size: Size) -> Image:
        """See `Runner`."""
        marks = [time.perf_counter()]
        with torch.inference_mode():
            given, features = self._encode(image)
            marks.append(time.perf_counter())
            colours = self._decode(given, features, size)
            marks.append(time.perf_counter())
        frame = from_unit(_unit(self._contract, colours, size), FrameFormat.of(image))
        marks.append(time.perf_counter())
        names = ("encode", "decode", "conversion")
        self._stages = {name: marks[n + 1] - marks[n] for n, name in enumerate(names)}
        return frame

    def colours(self, image: Image, size: Size) -> NDArray[Any]:
        """See `Runner`."""
        with torch.inference_mode():
            return _unit(self._contract, self._decode(*self._encode(image), size), size)

    def stages(self) -> Mapping[str, float]:
        """See `Runner`: encode, decode and conversion."""
        return self._stages

    def work(self, image: Image, size: Size) -> Work:
        """See `Runner`. Nothing is computed: shapes alone go through the module."""
        shapes = copy.deepcopy(self._model).to("meta")
        counter, traffic = FlopCounterMode(display=False), _Traffic()
        source = (image.shape[0], image.shape[1])
        with torch.inference_mode(), counter, traffic:
            given = torch.zeros(1, 3, *padded_size(source, self._contract.encoder.size_multiple), device="meta")
            maps = shapes.freq(shapes.encode(given)[:, :, : source[0], : source[1]])
            for queries in self._queries(source, size):
                queries = queries.to(torch.device("meta"))
                shapes.answer_inputs(shapes.query_input(maps, queries), queries)
        return Work(counter.get_total_flops() // 2, traffic.bytes)

    def close(self) -> None:
        """See `Runner`."""

    def _encode(self, image: Image) -> tuple[Tensor, Tensor]:
        """Network input, and maps [1, width, h, w]: `freq` belongs to the decoder, but no chunk needs its own."""
        given, features = encode(self._model, self._contract, image)
        return given, self._model.freq(features)

    def _decode(self, given: Tensor, maps: Tensor, size: Size) -> Tensor:
        source = (given.shape[2], given.shape[3])
        parts = [
            self._model.answer_inputs(self._model.query_input(maps, queries), queries) + skip(given, queries)
            for queries in self._queries(source, size)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _queries(self, source: Size, size: Size) -> Iterator[Queries]:
        whole = contract_queries(self._contract, source, size)
        count = size[0] * size[1]
        step = self._chunk or count
        for start in range(0, count, step):
            yield whole if step >= count else part_of(whole, slice(start, start + step))


class Chunked(Plain):
    """The eager way that people use: faster than the whole grid, and another picture."""

    def __init__(self, model: BenchModel, threads: int, chunk: int | None) -> None:
        super().__init__(model, threads, chunk or CHUNK)
        self.resolved = f"plain-chunked:{chunk or CHUNK}"


class Double:
    """The reference module in float64. Queries go in groups, but averages over all of them."""

    arithmetic: Arithmetic = "fp32"
    detail = "PyTorch, eager, float64"
    resolved = "float64"

    def __init__(self, model: BenchModel, threads: int, chunk: int | None) -> None:
        torch.set_num_threads(threads)
        self._contract, self._model = model.bundle.contract, load_model(model).double()
        self._chunk = chunk or 8 * CHUNK

    def upscale(self, image: Image, size: Size) -> Image:
        """See `Runner`."""
        return from_unit(self.colours(image, size).astype(np.float32), FrameFormat.of(image))

    def colours(self, image: Image, size: Size) -> NDArray[Any]:
        """See `Runner`: [H, W, 3] float64."""
        with torch.inference_mode():
            given, features = encode(self._model, self._contract, image)
            maps = self._model.freq(features)
            groups = list(self._groups((image.shape[0], image.shape[1]), size))
            states = [self._level(0, self._model.query_input(maps, queries), queries) for queries in groups]
            for attention in self._model.attention:
                totals = torch.stack([attention.products(*attention.split(x)[1:]) for x in states])
                average = totals.sum(0) / (size[0] * size[1])
                states = [attention.mix(x, attention.split(x)[0], average) for x in states]
            for n in range(1, self._model.config.levels):
                states = [self._level(n, x, queries) for x, queries in zip(states, groups, strict=True)]
            answers = [x + skip(given, queries) for x, queries in zip(states, groups, strict=True)]
            return _unit(self._contract, torch.cat(answers, dim=1), size)

    def stages(self) -> Mapping[str, float]:
        """See `Runner`."""
        return {}

    def work(self, image: Image, size: Size) -> None:
        """See `Runner`: nobody asks."""
        del image, size

    def close(self) -> None:
        """See `Runner`."""

    def _level(self, n: int, x: Tensor, queries: Queries) -> Tensor:
        answer: Tensor = self._model.fc_layers[n](torch.cat([x, self._model.position(queries, n).double()], dim=-1))
        return answer

    def _groups(self, source: Size, size: Size) -> Iterator[Queries]:
        whole = contract_queries(self._contract, source, size).to(dtype=torch.float64)
        for start in range(0, size[0] * size[1], self._chunk):
            yield part_of(whole, slice(start, start + self._chunk))


def load_model(model: BenchModel) -> Hiif:
    """The bundle's model in PyTorch, with the checkpoint's weights or random ones. CheckpointError where it is not one
    that passes are known for."""
    if model.checkpoint is not None:
        loaded = load_checkpoint(model.checkpoint).model
    else:
        torch.manual_seed(0)
        loaded = make_model(model.bundle.contract.model).eval()
    if not isinstance(loaded, Hiif):
        raise CheckpointError(f"{model.name}: a {type(loaded).__name__}; the benchmark's baselines know HIIF only")
    return loaded


def encode(model: Hiif, contract: Contract, image: Image) -> tuple[Tensor, Tensor]:
    """Network input [1, 3, h, w] and features [1, C, h, w], in the model's dtype."""
    height, width = image.shape[:2]
    dtype = next(model.parameters()).dtype
    padded = mirror(to_unit(image), padded_size((height, width), contract.encoder.size_multiple))
    given = torch.from_numpy(normalise(contract, padded)).to(dtype)
    return given[:, :, :height, :width], model.encode(given)[:, :, :height, :width]


def contract_queries(contract: Contract, source: Size, size: Size) -> Queries:
    """The whole grid, with the contract's bits."""
    return grid_queries(source, size, levels=contract.decoder.levels, bits=contract.decoder.bits)


def part_of(queries: Queries, part: slice) -> Queries:
    """Some of the queries, in order."""
    return Queries(
        queries.index[:, :, part], queries.weight[:, :, part], queries.bits[:, part], queries.local[:, part],
        queries.cell, queries.skip_index[:, :, part], queries.skip_weight[:, :, part],
    )  # fmt: skip


def _unit(contract: Contract, answer: Tensor, size: Size) -> NDArray[Any]:
    """Network colours [1, N, 3] → [H, W, 3], 1 being white."""
    colours, scale = answer.numpy().reshape(*size, 3), contract.normalisation
    std, mean = (np.array(values, dtype=colours.dtype) for values in (scale.std, scale.mean))
    return np.asarray(colours * std + mean)


class _Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of all tensors that operations read and write; views move nothing."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        answer = function(*args, **(kwargs or {}))
        if not function.is_view:
            leaves = torch.utils._pytree.tree_leaves((args, kwargs, answer))
            self.bytes += sum(leaf.numel() * leaf.element_size() for leaf in leaves if isinstance(leaf, Tensor))
        return answer
