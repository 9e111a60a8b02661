"""ONNX operations in PyTorch, one function each, as the exported graphs use them (opset 20).

A function takes the operation's tensors and attributes. Lists of sizes and axes are int64 tensors that stay on the
host, so that no operation waits for a GPU to read them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Attributes = Mapping[str, Any]
Operation = Callable[[Sequence[Tensor], Attributes], Tensor | Sequence[Tensor]]

TYPES = {
    1: torch.float32, 2: torch.uint8, 6: torch.int32, 7: torch.int64, 9: torch.bool, 10: torch.float16,
    11: torch.float64, 16: torch.bfloat16,
}  # fmt: skip
"""ONNX's number of an element type → PyTorch dtype."""


def convolution(x: Sequence[Tensor], attributes: Attributes) -> Tensor:
    """Convolve [B, C, h, w] with equal padding before and after, as PyTorch supports; ValueError otherwise."""
    pads = attributes.get("pads", [0, 0, 0, 0])
    if pads[:2] != pads[2:] or attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise ValueError(f"Conv with pads {pads}: expected explicit ones, equal before and after")
    return functional.conv2d(
        x[0], x[1], x[2] if len(x) > 2 else None, attributes.get("strides", [1, 1]), pads[:2],
        attributes.get("dilations", [1, 1]), attributes.get("group", 1),
    )  # fmt: skip


def gemm(x: Sequence[Tensor], attributes: Attributes) -> Tensor:
    """Return alpha · A @ B + beta · C for A [n, k], B [k, m]."""
    a = x[0].T if attributes.get("transA", 0) else x[0]
    b = x[1].T if attributes.get("transB", 0) else x[1]
    alpha, beta = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
    if len(x) == 2:
        return torch.mul(a @ b, alpha)
    return torch.addmm(x[2], a, b, beta=beta, alpha=alpha)


def gather(x: Sequence[Tensor], attributes: Attributes) -> Tensor:
    """Return slices of the first tensor [...] by non-negative indices [...]."""
    data, index, axis = x[0], x[1], attributes.get("axis", 0)
    if index.ndim == 0 and index.device.type == "cpu":
        return data.select(axis, int(index))
    if axis == 0 and data.ndim == 2:
        return functional.embedding(index.to(data.device), data)
    axis %= data.ndim
    found: Tensor = data.index_select(axis, index.to(data.device).flatten())
    return found.reshape(*data.shape[:axis], *index.shape, *data.shape[axis + 1 :])


def reshape(x: Sequence[Tensor], attributes: Attributes) -> Tensor:
    """Reshape [...]: 0 keeps a size, unless `allowzero`; one −1 is inferred."""
    sizes = x[1].tolist()
    if not attributes.get("allowzero", 0):
        sizes = [x[0].shape[n] if size == 0 else size for n, size in enumerate(sizes)]
    return x[0].reshape(sizes)


def sliced(x: Sequence[Tensor], _: Attributes) -> Tensor:
    """Slice [...] by tensors of starts, ends, axes and positive steps; ValueError for backward steps."""
    y, starts, ends = x[0], x[1].tolist(), x[2].tolist()
    axes = x[3].tolist() if len(x) > 3 else range(len(starts))
    steps = x[4].tolist() if len(x) > 4 else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step < 1:
            raise ValueError(f"Slice with step {step}: expected a positive one")
        y = y[(slice(None),) * (axis % y.ndim) + (slice(start, end, step),)]
    return y


def split(x: Sequence[Tensor], attributes: Attributes) -> Sequence[Tensor]:
    """Split [...] by a list of sizes, or into a number of equal parts."""
    axis = attributes.get("axis", 0)
    if len(x) > 1:
        return torch.split_with_sizes(x[0], x[1].tolist(), axis)
    size = x[0].shape[axis]
    part = -(-size // attributes["num_outputs"])
    return torch.split_with_sizes(x[0], [min(part, size - start) for start in range(0, size, part)], axis)


def reduced(function: Callable[..., Tensor]) -> Operation:
    """Return a reduction of [...] over the axes of the second tensor, or over all without one."""

    def reduce(x: Sequence[Tensor], attributes: Attributes) -> Tensor:
        axes = x[1].tolist() if len(x) > 1 else list(range(x[0].ndim))
        return function(x[0], dim=axes, keepdim=bool(attributes.get("keepdims", 1)))

    return reduce


def unsqueeze(x: Sequence[Tensor], _: Attributes) -> Tensor:
    """Insert axes of size 1 into [...], counted in the result."""
    y, rank = x[0], x[0].ndim + x[1].numel()
    for axis in sorted(axis % rank for axis in x[1].tolist()):
        y = y.unsqueeze(axis)
    return y


def transpose(x: Sequence[Tensor], attributes: Attributes) -> Tensor:
    """Permute [...] by `perm`; reverse the axes without it."""
    return x[0].permute(attributes.get("perm", list(reversed(range(x[0].ndim)))))


def gelu(x: Sequence[Tensor], attributes: Attributes) -> Tensor:
    """Return x · Φ(x) for [...], by erf unless the graph says `tanh`."""
    return functional.gelu(x[0], approximate=attributes.get("approximate", b"none").decode())


def layer_norm(x: Sequence[Tensor], attributes: Attributes) -> Tensor:
    """Normalise [...] over the last axes, from `axis` on."""
    shape = x[0].shape[attributes.get("axis", -1) :]
    return functional.layer_norm(x[0], shape, x[1], x[2] if len(x) > 2 else None, attributes.get("epsilon", 1e-5))


def pick(function: Callable[..., Tensor]) -> Operation:
    """Return an operation that applies `function` to its tensors [...] alone."""
    return lambda x, _: function(*x)


OPERATIONS: dict[str, Operation] = {
    "Add": pick(torch.add),
    "Cast": lambda x, a: x[0].to(TYPES[a["to"]]),
    "Clip": lambda x, _: torch.clamp(x[0], x[1], x[2]),
    "Concat": lambda x, a: torch.cat(list(x), a["axis"]),
    "Conv": convolution,
    "Cos": pick(torch.cos),
    "Div": pick(torch.div),
    "Erf": pick(torch.erf),
    "Exp": pick(torch.exp),
    "Expand": lambda x, _: torch.broadcast_to(x[0], x[1].tolist()),
    "Flatten": lambda x, a: x[0].reshape(x[0].shape[: a.get("axis", 1)].numel(), -1),
    "Gather": gather,
    "Gelu": gelu,
    "Gemm": gemm,
    "Identity": lambda x, _: x[0],
    "LayerNormalization": layer_norm,
    "LeakyRelu": lambda x, a: functional.leaky_relu(x[0], a.get("alpha", 0.01)),
    "MatMul": pick(torch.matmul),
    "Mul": pick(torch.mul),
    "Neg": pick(torch.neg),
    "Reciprocal": pick(torch.reciprocal),
    "ReduceMax": reduced(torch.amax),
    "ReduceMean": reduced(torch.mean),
    "ReduceMin": reduced(torch.amin),
    "ReduceSum": reduced(torch.sum),
    "Relu": pick(torch.relu),
    "Reshape": reshape,
    "Round": pick(torch.round),
    "Shape": lambda x, a: torch.tensor(x[0].shape[a.get("start", 0) : a.get("end")], dtype=torch.int64),
    "Sigmoid": pick(torch.sigmoid),
    "Sin": pick(torch.sin),
    "Slice": sliced,
    "Softmax": lambda x, a: torch.softmax(x[0], a.get("axis", -1)),
    "Split": split,
    "Sqrt": pick(torch.sqrt),
    "Sub": pick(torch.sub),
    "Tanh": pick(torch.tanh),
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
}
"""Name of each supported operation → its function."""
