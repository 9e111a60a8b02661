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
from hiif_deploy.bundle.contract import Contract
from hiif_deploy.decoding.compose import normalise
from hiif_deploy.decoding.session import ComputePrecision
from hiif_deploy.geometry.sizes import Size, padded_size
from hiif_deploy.pixels import FrameFormat, from_unit, mirror, to_unit
from hiif_training.checkpoints.checkpoint import load_checkpoint
from hiif_training.models.hiif import Hiif
from hiif_training.models.implicit import ImplicitModel, skip
from hiif_training.models.registry import make_model
from hiif_training.queries.axis import Queries, grid_queries

CHUNK = 2048
"""Queries per call, where people cut the work: what the public code's demos do."""


class Plain:
    """The reference module, eager, in fp32."""

    arithmetic: ComputePrecision = "fp32"
    resolved = "plain"

    def __init__(self, model: BenchModel, threads: int, chunk: int | None) -> None:
        """`chunk`: queries per call, which changes the picture where queries are coupled; None: all at once."""
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
            given, features = self.encode(image)
            marks.append(time.perf_counter())
            colours = self._decode(given, features, size)
            marks.append(time.perf_counter())
        frame = from_unit(_unit(self._contract, colours, size), FrameFormat.of(image))
        marks.append(time.perf_counter())
        names = ("encode", "decode", "conversion")
        self._stages = {name: marks[n + 1] - marks[n] for n, name in enumerate(names)}
        return frame

    def encode(self, image: Image) -> tuple[Tensor, Tensor]:
        """Network input [1, 3, h, w], and what `prepared` gives."""
        given, features = encode(self._model, self._contract, image)
        return given, prepared(self._model, features)

    def render(self, given: Tensor, maps: Tensor, image: Image, size: Size) -> Image:
        """What `encode` gave of the picture → [H, W, 3]."""
        return from_unit(_unit(self._contract, self._decode(given, maps, size), size), FrameFormat.of(image))

    def colours(self, image: Image, size: Size) -> NDArray[Any]:
        """See `Runner`."""
        with torch.inference_mode():
            return _unit(self._contract, self._decode(*self.encode(image), size), size)

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
            maps = prepared(shapes, shapes.encode(given)[:, :, : source[0], : source[1]])
            for queries in self._queries(source, size):
                answered(shapes, maps, queries.to(torch.device("meta")))
        return Work(counter.get_total_flops() // 2, traffic.bytes)

    def close(self) -> None:
        """See `Runner`."""

    def _decode(self, given: Tensor, maps: Tensor, size: Size) -> Tensor:
        parts = []
        for queries in self._queries((given.shape[2], given.shape[3]), size):
            colours = answered(self._model, maps, queries)
            parts.append(colours + skip(given, queries) if self._model.traits.skip == "bilinear" else colours)
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _queries(self, source: Size, size: Size) -> Iterator[Any]:
        return chunks(self._model, source, size, self._chunk)


class Chunked(Plain):
    """The eager way that people use: faster than the whole grid, and another picture."""

    def __init__(self, model: BenchModel, threads: int, chunk: int | None) -> None:
        super().__init__(model, threads, chunk or CHUNK)
        self.resolved = f"plain-chunked:{chunk or CHUNK}"


class Double:
    """The reference module in float64. Queries go in groups, but averages over all of them."""

    arithmetic: ComputePrecision = "fp32"
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
            source = (image.shape[0], image.shape[1])
            if isinstance(self._model, Hiif):
                answers = self._passes(self._model, given, features, size)
            else:
                step = None if self._contract.decoder.statistics_passes else self._chunk
                groups = (part.to(dtype=torch.float64) for part in chunks(self._model, source, size, step))
                answers = [self._model.answer(given, features, queries) for queries in groups]
            return _unit(self._contract, torch.cat(answers, dim=1), size)

    def stages(self) -> Mapping[str, float]:
        """See `Runner`."""
        return {}

    def work(self, image: Image, size: Size) -> None:
        """See `Runner`: nobody asks."""
        del image, size

    def close(self) -> None:
        """See `Runner`."""

    def _passes(self, model: Hiif, given: Tensor, features: Tensor, size: Size) -> list[Tensor]:
        maps, source = model.freq(features), (given.shape[2], given.shape[3])
        groups = [part.to(dtype=torch.float64) for part in chunks(model, source, size, self._chunk)]
        states = [_level(model, 0, model.query_input(maps, queries), queries) for queries in groups]
        for attention in model.attention:
            totals = torch.stack([attention.products(*attention.split(x)[1:]) for x in states])
            average = totals.sum(0) / (size[0] * size[1])
            states = [attention.mix(x, attention.split(x)[0], average) for x in states]
        for n in range(1, model.config.levels):
            states = [_level(model, n, x, queries) for x, queries in zip(states, groups, strict=True)]
        return [x + skip(given, queries) for x, queries in zip(states, groups, strict=True)]


def _level(model: Hiif, n: int, x: Tensor, queries: Queries) -> Tensor:
    answer: Tensor = model.fc_layers[n](torch.cat([x, model.position(queries, n).double()], dim=-1))
    return answer


def load_model(model: BenchModel) -> ImplicitModel:
    """The bundle's model in PyTorch, with the checkpoint's weights or random ones."""
    if model.checkpoint is not None:
        return load_checkpoint(model.checkpoint).model
    torch.manual_seed(0)
    return make_model(model.bundle.contract.model).eval()


def prepared(model: ImplicitModel, features: Tensor) -> Tensor:
    """What no chunk needs to make again: HIIF's `freq`. The public codes of other decoders have no such part, or none
    that is worth it on a whole grid."""
    return model.freq(features) if isinstance(model, Hiif) else features


def answered(model: ImplicitModel, maps: Tensor, queries: Any) -> Tensor:
    """Colours without the skip, from what `prepared` gave."""
    if isinstance(model, Hiif):
        return model.answer_inputs(model.query_input(maps, queries), queries)
    return model.decode(maps, queries)


def chunks(model: ImplicitModel, source: Size, size: Size, chunk: int | None) -> Iterator[Any]:
    """The whole grid's queries, `chunk` at a time; None: all at once."""
    count = size[0] * size[1]
    step = chunk or count
    for start in range(0, count, step):
        yield model.ask(source, size, np.arange(start, min(start + step, count)))


def encode(model: ImplicitModel, contract: Contract, image: Image) -> tuple[Tensor, Tensor]:
    """Network input [1, 3, h, w] and features [1, C, h, w], in the model's dtype."""
    height, width = image.shape[:2]
    dtype = next(model.parameters()).dtype
    padded = mirror(to_unit(image), padded_size((height, width), contract.encoder.size_multiple))
    given = torch.from_numpy(normalise(contract, padded)).to(dtype)
    return given[:, :, :height, :width], model.encode(given)[:, :, :height, :width]


def contract_queries(contract: Contract, source: Size, size: Size) -> Queries:
    """The whole grid, with the contract's bits."""
    return grid_queries(source, size, levels=contract.decoder.levels, bits=contract.decoder.bits)


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
