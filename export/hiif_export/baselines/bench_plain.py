"""The PyTorch reference module as the benchmark's baseline: whole grid, chunks, and float64 to measure deviations."""

import copy
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from types import MappingProxyType
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
from hiif_export.parity.parity import denormalised
from hiif_training.checkpoints.checkpoint import load_checkpoint
from hiif_training.models.hiif import Hiif
from hiif_training.models.implicit import ImplicitModel, skip
from hiif_training.models.registry import make_model
from hiif_training.queries.axis import Queries, grid_queries

CHUNK = 2048
"""Queries per call of the chunked baseline, as in the demos of the public code."""


class Baseline(ABC):
    """Base of `Runner`s that compute in fp32 or wider and time encoding, decoding and conversion themselves."""

    arithmetic: ComputePrecision = "fp32"
    _stages: Mapping[str, float] = MappingProxyType({})

    @abstractmethod
    def encode(self, image: Image) -> Any:
        """Return what `decode` reads of an RGB picture [h, w, 3]."""

    @abstractmethod
    def decode(self, image: Image, encoded: Any, size: Size) -> NDArray[Any]:
        """Return unclamped float colours [H, W, 3] of an RGB picture [h, w, 3], 1 being white."""

    def upscale(self, image: Image, size: Size) -> Image:
        """Upscale an RGB picture [h, w, 3] to [H, W, 3] of the same dtype."""
        began = time.perf_counter()
        encoded = self.encode(image)
        after_encoder = time.perf_counter()
        colours = self.decode(image, encoded, size)
        after_decoder = time.perf_counter()
        frame = from_unit(colours.astype(np.float32, copy=False), FrameFormat.of(image))
        self._stages = {
            "encode": after_encoder - began, "decode": after_decoder - after_encoder,
            "conversion": time.perf_counter() - after_decoder,
        }  # fmt: skip
        return frame

    def colours(self, image: Image, size: Size) -> NDArray[Any]:
        """Return unclamped float colours [H, W, 3] of an RGB picture [h, w, 3], 1 being white."""
        return self.decode(image, self.encode(image), size)

    def stages(self) -> Mapping[str, float]:
        """Seconds of the last `upscale`: encode, decode and conversion."""
        return self._stages

    def close(self) -> None:  # noqa: B027 (nothing to override)
        """Nothing to release; required by `Runner`."""


class EagerBaseline(Baseline):
    """The reference module in eager PyTorch, fp32."""

    resolved = "plain"

    def __init__(self, model: BenchModel, threads: int, chunk: int | None) -> None:
        """`chunk`: queries per call, which changes the picture where queries are coupled; None runs all in one call."""
        torch.set_num_threads(threads)
        self._contract, self._model = model.bundle.contract, load_model(model)
        self._chunk = chunk
        how = "the whole grid" if chunk is None else f"{chunk} queries per call"
        self.detail = f"PyTorch {torch.__version__}, eager, fp32, {how}"

    def encode(self, image: Image) -> tuple[Tensor, Tensor]:
        """Return the normalised network input [1, 3, h, w] and the maps [1, C, h, w] of an RGB picture [h, w, 3]."""
        with torch.inference_mode():
            network_input, features = encode(self._model, self._contract, image)
            return network_input, query_maps(self._model, features)

    def decode(self, image: Image, encoded: tuple[Tensor, Tensor], size: Size) -> NDArray[Any]:
        """Decode the outputs of `encode`, [1, 3, h, w] and [1, C, h, w], to float32 colours [H, W, 3]."""
        network_input, maps = encoded
        parts = []
        with torch.inference_mode():
            for queries in self._queries((image.shape[0], image.shape[1]), size):
                part = decode_maps(self._model, maps, queries)
                parts.append(part + skip(network_input, queries) if self._model.traits.skip == "bilinear" else part)
            return denormalised(self._contract, parts[0] if len(parts) == 1 else torch.cat(parts, dim=1), size)

    def render(self, encoded: tuple[Tensor, Tensor], image: Image, size: Size) -> Image:
        """Decode the outputs of `encode` to a picture [H, W, 3] in the format of `image` [h, w, 3]."""
        return from_unit(self.decode(image, encoded, size), FrameFormat.of(image))

    def work(self, image: Image, size: Size) -> Work:
        """Count multiplications and bytes for an RGB picture [h, w, 3]; runs shapes only, on the meta device."""
        shapes = copy.deepcopy(self._model).to("meta")
        counter, traffic = FlopCounterMode(display=False), _Traffic()
        source = (image.shape[0], image.shape[1])
        with torch.inference_mode(), counter, traffic:
            network_input = torch.zeros(1, 3, *padded_size(source, self._contract.encoder.size_multiple), device="meta")
            maps = query_maps(shapes, shapes.encode(network_input)[:, :, : source[0], : source[1]])
            for queries in self._queries(source, size):
                decode_maps(shapes, maps, queries.to(torch.device("meta")))
        return Work(counter.get_total_flops() // 2, traffic.bytes)

    def _queries(self, source: Size, size: Size) -> Iterator[Any]:
        return chunks(self._model, source, size, self._chunk)


class ChunkedEagerBaseline(EagerBaseline):
    """The reference module run in chunks, as most people run it: faster, but the picture differs for coupled
    queries."""

    def __init__(self, model: BenchModel, threads: int, chunk: int | None) -> None:
        super().__init__(model, threads, chunk or CHUNK)
        self.resolved = f"plain-chunked:{chunk or CHUNK}"


class Float64Reference(Baseline):
    """The reference module in float64. Queries run in groups, but attention averages over all of them."""

    detail = "PyTorch, eager, float64"
    resolved = "float64"

    def __init__(self, model: BenchModel, threads: int, chunk: int | None) -> None:
        torch.set_num_threads(threads)
        self._contract, self._model = model.bundle.contract, load_model(model).double()
        self._chunk = chunk or 8 * CHUNK

    def encode(self, image: Image) -> tuple[Tensor, Tensor]:
        """Return the network input [1, 3, h, w] and features [1, C, h, w] of an RGB picture [h, w, 3]."""
        with torch.inference_mode():
            return encode(self._model, self._contract, image)

    def decode(self, image: Image, encoded: tuple[Tensor, Tensor], size: Size) -> NDArray[Any]:
        """Return unclamped float64 colours [H, W, 3] of an RGB picture [h, w, 3], 1 being white."""
        source = (image.shape[0], image.shape[1])
        with torch.inference_mode():
            if isinstance(self._model, Hiif):
                colours = self._passes(self._model, *encoded, size)
            else:
                step = None if self._contract.decoder.statistics_passes else self._chunk
                groups = (part.to(dtype=torch.float64) for part in chunks(self._model, source, size, step))
                colours = [self._model.decode_with_skip(*encoded, queries) for queries in groups]
            return denormalised(self._contract, torch.cat(colours, dim=1), size)

    def work(self, image: Image, size: Size) -> None:
        """Not measured: returns None for any picture [h, w, 3]."""
        del image, size

    def _passes(self, model: Hiif, network_input: Tensor, features: Tensor, size: Size) -> list[Tensor]:
        maps, source = model.freq(features), (network_input.shape[2], network_input.shape[3])
        groups = [part.to(dtype=torch.float64) for part in chunks(model, source, size, self._chunk)]
        states = [_level(model, 0, model.query_input(maps, queries), queries) for queries in groups]
        for attention in model.attention:
            totals = torch.stack([attention.products(*attention.split(x)[1:]) for x in states])
            average = totals.sum(0) / (size[0] * size[1])
            states = [attention.mix(x, attention.split(x)[0], average) for x in states]
        for n in range(1, model.config.levels):
            states = [_level(model, n, x, queries) for x, queries in zip(states, groups, strict=True)]
        return [x + skip(network_input, queries) for x, queries in zip(states, groups, strict=True)]


def _level(model: Hiif, n: int, x: Tensor, queries: Queries) -> Tensor:
    state: Tensor = model.fc_layers[n](torch.cat([x, model.position(queries, n).double()], dim=-1))
    return state


def load_model(model: BenchModel) -> ImplicitModel:
    """Return the bundle's model in PyTorch, with the checkpoint's weights or, without one, random weights."""
    if model.checkpoint is not None:
        return load_checkpoint(model.checkpoint).model
    torch.manual_seed(0)
    return make_model(model.bundle.contract.model).eval()


def query_maps(model: ImplicitModel, features: Tensor) -> Tensor:
    """Return what every chunk shares, computed once: HIIF's `freq` of the features [1, C, h, w], else the features.

    The public code of the other decoders has no such part, or none that saves time on a whole grid.
    """
    return model.freq(features) if isinstance(model, Hiif) else features


def decode_maps(model: ImplicitModel, maps: Tensor, queries: Any) -> Tensor:
    """Decode `query_maps`' output [1, C, h, w] to colours [1, N, 3] in the normalised domain, without the skip."""
    if isinstance(model, Hiif):
        return model.decode_inputs(model.query_input(maps, queries), queries)
    return model.decode(maps, queries)


def chunks(model: ImplicitModel, source: Size, size: Size, chunk: int | None) -> Iterator[Any]:
    """Yield the queries of the whole output grid, `chunk` at a time (None: all at once)."""
    count = size[0] * size[1]
    step = chunk or count
    for start in range(0, count, step):
        yield model.make_queries(source, size, np.arange(start, min(start + step, count)))


def encode(model: ImplicitModel, contract: Contract, image: Image) -> tuple[Tensor, Tensor]:
    """Return the network input [1, 3, h, w] and features [1, C, h, w] of an RGB picture [h, w, 3], in the model's
    dtype."""
    height, width = image.shape[:2]
    dtype = next(model.parameters()).dtype
    padded = mirror(to_unit(image), padded_size((height, width), contract.encoder.size_multiple))
    network_input = torch.from_numpy(normalise(contract, padded)).to(dtype)
    return network_input[:, :, :height, :width], model.encode(network_input)[:, :, :height, :width]


def contract_queries(contract: Contract, source: Size, size: Size) -> Queries:
    """Return the queries of the whole output grid, with the contract's levels and bits."""
    return grid_queries(source, size, levels=contract.decoder.levels, bits=contract.decoder.bits)


class _Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all tensors that operations read and write; views move nothing."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        output = function(*args, **(kwargs or {}))
        if not function.is_view:
            leaves = torch.utils._pytree.tree_leaves((args, kwargs, output))
            self.bytes += sum(leaf.numel() * leaf.element_size() for leaf in leaves if isinstance(leaf, Tensor))
        return output
