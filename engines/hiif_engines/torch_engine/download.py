"""Tensors on their way to the host."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


class Download:
    """Copies that run beside what is queued later."""

    def __init__(self, *tensors: Tensor) -> None:
        # From a GPU they go to pinned memory and arrive later.
        self._host = [tensor.to("cpu", non_blocking=True) for tensor in tensors]
        self._done: torch.cuda.Event | None = None
        if tensors[0].device.type == "cuda":
            self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._done.record(torch.cuda.current_stream(tensors[0].device))

    def wait(self) -> list[NDArray[Any]]:
        """The arrays, once they are there."""
        if self._done is not None:
            self._done.synchronize()
        return [tensor.numpy() for tensor in self._host]
