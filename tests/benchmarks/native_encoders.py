"""Encoders in native code beside ONNX Runtime: seconds of each in turns, work, and how far the features agree.

    python tests/benchmarks/native_encoders.py rdn --side 64 --side 128 --threads 1 --threads 2

Weights are random; times do not depend on them.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch

from hiif_deploy import EngineOptions
from hiif_deploy.backends.sessions.open import open_session
from hiif_deploy.bundle.contract import GraphContract
from hiif_deploy.decoding.session import Session, Tensors
from hiif_engines.native.compile import choose_target
from hiif_engines.native.crew import Crew
from hiif_engines.native.encoder import NativeEncoder
from hiif_engines.native.encoder_graph import read_encoder
from hiif_engines.native.target import TARGETS
from hiif_export.graphs.exporter import make_exporter
from hiif_export.graphs.onnx_file import tensor_contracts, to_onnx
from hiif_training.models.registry import make_model

DECODER = {"hidden_dim": 16, "mlp_dim": 16, "attention_blocks": 0}
"""Of the model around the encoder; only the encoder is run."""


def exported(name: str) -> tuple[GraphContract, bytes]:
    """The encoder in its published size."""
    torch.manual_seed(1)
    spec = {"name": "hiif", "args": {"encoder_spec": {"name": name, "args": {"no_upsampling": True}}, **DECODER}}
    model = make_model(spec).eval()
    (graph,) = (graph for graph in make_exporter(model, spec).graphs("fp32") if graph.name == "encoder")
    inputs, outputs = tensor_contracts(graph)
    return GraphContract("encoder", "encoder.onnx", "", inputs, outputs, "fp32"), to_onnx(graph).SerializeToString()


def seconds(session: Session, feeds: Tensors, threads: int) -> float:
    """Of a call; with one thread of the processor, so that other programs count less."""
    clock = time.process_time if threads == 1 else time.perf_counter
    began = clock()
    session.run(feeds)
    return clock() - began


def compare(known: Session, native: NativeEncoder, side: int, threads: int, rounds: int) -> str:
    """Medians of a square picture, in turns."""
    feeds = {"image": np.random.default_rng(1).uniform(-1, 1, (1, 3, side, side)).astype(np.float32)}
    expected, found = (one.run(feeds)["features"] for one in (known, native))
    deviation = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    turns = [[seconds(one, feeds, threads) for one in (known, native)] for _ in range(rounds)]
    library, own = (statistics.median(turn) for turn in zip(*turns, strict=True))
    macs, size = native.work(feeds)
    return (
        f"{side}x{side}, {threads} threads: ONNX Runtime {library:.3f} s, native {own:.3f} s, "
        f"ratio {library / own:.2f}; {2 * macs / own / 1e9:.0f} GFLOP/s; per pixel {macs / side**2:,.0f} products, "
        f"{size / side**2 / 1e3:.0f} KB; deviation {deviation:.1e}"
    )


def main() -> None:
    """Measure an encoder for each number of threads and each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder", nargs="?", default="rdn")
    parser.add_argument("--side", type=int, action="append", help="of the picture, pixels; repeatable")
    parser.add_argument("--threads", type=int, action="append", help="repeatable")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--isa", choices=tuple(TARGETS), help="instruction set of the native code")
    given = parser.parse_args()
    contract, model = exported(given.encoder)
    layers, target = read_encoder(model), choose_target("fp32", given.isa)
    if layers is None:
        raise SystemExit(f"{given.encoder} is left to ONNX Runtime")
    for threads in given.threads or (1, 2):
        began = time.perf_counter()
        native = NativeEncoder(contract, layers, threads, target, Crew())
        print(f"{given.encoder} ({target.name}): opened in {time.perf_counter() - began:.1f} s")
        known = open_session(contract, model, EngineOptions(engine="onnxruntime"), threads=threads, keep_memory=True)
        for side in given.side or (64, 128):
            print(compare(known, native, side, threads, given.rounds), flush=True)


if __name__ == "__main__":
    main()
