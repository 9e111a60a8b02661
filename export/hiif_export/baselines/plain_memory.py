"""Determines the memory that the PyTorch module needs by running it with shapes only."""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hiif_deploy.errors import HiifError
from hiif_deploy.geometry.sizes import Size, padded_size
from hiif_deploy.support.system_table import table_bytes
from hiif_export.baselines.bench_plain import chunks, decode_maps, query_maps
from hiif_training.models.implicit import ImplicitModel

BESIDES = 3 << 29
"""Estimated bytes of interpreter, libraries, weights and deployed graphs."""
MEMINFO = Path("/proc/meminfo")


def check_memory(model: ImplicitModel, source: Size, size: Size, chunk: int | None) -> None:
    """HiifError where PyTorch needs more memory than is free; no check where the system does not report free memory."""
    free, needed = table_bytes(MEMINFO, "MemAvailable"), plain_bytes(model, source, size, chunk) + BESIDES
    if free is not None and needed > free:
        raise HiifError(
            f"PyTorch's plain way takes {needed / 1e9:.1f} GB for {source[1]}x{source[0]} → {size[1]}x{size[0]}, and "
            f"{free / 1e9:.1f} GB are free: choose a smaller --input or --scale"
        )


def plain_bytes(model: ImplicitModel, source: Size, size: Size, chunk: int | None) -> int:
    """Return the peak bytes of live tensors while a picture is upscaled, `chunk` queries at a time (None: all)."""
    shapes, meta = copy.deepcopy(model).to("meta"), torch.device("meta")
    with torch.inference_mode(), Alive() as alive:
        network_input = torch.zeros(1, 3, *padded_size(source, model.encoder.size_multiple), device=meta)
        maps = query_maps(shapes, shapes.encode(network_input)[:, :, : source[0], : source[1]])
        # One chunk is enough: all need the same memory, and the colours that accumulate are small.
        decode_maps(shapes, maps, next(chunks(model, source, size, chunk)).to(meta))
    return int(alive.most)


class Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Tracks the bytes of tensors from their creation until nothing refers to them any more."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._storages: dict[int, tuple[StorageWeakRef, int]] = {}
        self.most: int = 0
        """Peak bytes of live tensors so far."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        output = function(*args, **(kwargs or {}))
        self._storages = {key: kept for key, kept in self._storages.items() if not kept[0].expired()}  # type: ignore[no-untyped-call]
        for leaf in tree_leaves(output):
            if isinstance(leaf, Tensor):
                reference = StorageWeakRef(leaf.untyped_storage())  # type: ignore[no-untyped-call]
                self._storages[reference.cdata] = (reference, leaf.untyped_storage().nbytes())
        self.most = max(self.most, sum(size for _, size in self._storages.values()))
        return output
