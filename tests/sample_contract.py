"""A valid contract as parsed JSON, small and complete, for tests that need no graphs."""

from __future__ import annotations

import hashlib
from typing import Any

from hiif_deploy.bundle.contract import Contract, from_json

GRAPHS = ("encoder", "maps", "statistics_0", "fold_0", "decoder")


def contract_value() -> dict[str, Any]:
    """A new copy of `bundle.json`'s contents: one statistics pass, an encoder with a receptive field."""
    return {
        "format": "hiif-deploy bundle",
        "version": 1,
        "name": "sample",
        "model": {"name": "hiif", "args": {"blocks": 4}},
        "parameters": 1234,
        "training_scales": [1.0, 4.0],
        "normalisation": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.25, 0.5]},
        "encoder": {"channels": 3, "receptive_field": 6, "size_multiple": 1, "memory_channels": 96},
        "decoder": {
            "halo": 1, "statistics_passes": 1, "map_channels": 258, "query_channels": 384,
            "levels": 6, "bits": "exact", "skip": "bilinear",
        },
        "graphs": [graph_value(name) for name in GRAPHS],
        "reference": {"file": "reference.npz", "sha256": sha256(b"reference")},
        "provenance": {"weights": "random", "opset": 18},
        "parity": {"max_error": 1e-6},
    }  # fmt: skip


def graph_value(name: str) -> dict[str, Any]:
    """One entry of `graphs`, for a file that holds `graph_bytes`."""
    return {
        "name": name,
        "file": f"{name}.onnx",
        "sha256": sha256(graph_bytes(name)),
        "inputs": [{"name": "x", "dtype": "float32", "shape": [1, "rows", 3]}],
        "outputs": [{"name": "y", "dtype": "float64", "shape": []}],
    }


def graph_bytes(name: str) -> bytes:
    """An ONNX model with a graph of that name that does nothing."""
    named = b"\x12" + bytes([len(name)]) + name.encode()
    return b"\x3a" + bytes([len(named)]) + named


def make_contract(**sections: dict[str, Any]) -> Contract:
    """The contract, with some entries of its sections changed: `make_contract(encoder={"size_multiple": 8})`."""
    value = contract_value()
    for section, changes in sections.items():
        value[section].update(changes)
    contract: Contract = from_json(Contract, value)
    return contract


def sha256(data: bytes) -> str:
    """Hexadecimal."""
    return hashlib.sha256(data).hexdigest()
