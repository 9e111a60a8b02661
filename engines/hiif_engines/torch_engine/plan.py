"""How a picture is cut on a PyTorch device, so that everything held at once stays within the memory allowed."""

from __future__ import annotations

from hiif_deploy.bundle.contract import Contract, Precision
from hiif_deploy.decoding.plan import UNBOUNDED, Plan, encoder_tiles
from hiif_deploy.errors import OptionError
from hiif_deploy.geometry.sizes import Size

MAX_QUERIES = 1 << 16
"""Of a block: its activations fit an L2 cache, and its float32 sums stay exact enough (design/precision.md)."""


def make_torch_plan(
    contract: Contract, source: Size, precision: Precision, allowed: int, *, records: bool = False
) -> Plan:
    """Plan for a (height, width) picture within `allowed` bytes; where blocks are recorded as CUDA graphs (`records`),
    these hold as much as a block beside one that runs plainly. OptionError where that is too little."""
    item = 2 if precision == "fp16" else 4
    features = item * contract.encoder.channels * source[0] * source[1]
    keeps = features <= allowed // 2
    kept = features if keeps else 0
    left = allowed - kept
    tile, overlap, blended, encoder_bytes = encoder_tiles(contract, source, left)
    if blended:
        raise OptionError(
            f"this encoder sees the whole picture and does not fit {allowed >> 20} MiB of GPU memory: allow more "
            "(gpu_memory), or use --engine onnxruntime, which blends tiles"
        )
    pixel, query = 4 * contract.decoder.map_channels, (8 if records else 4) * contract.decoder.query_channels
    block = min(MAX_QUERIES, left // 2 // query)
    cell = _cell(source, (left - block * query) // pixel)
    if block < 1 or min(cell) < 1:
        raise OptionError(
            f"{allowed >> 20} MiB of GPU memory are too little for a picture of {source[1]}x{source[0]} pixels: allow "
            f"at least {(kept + 2 * (query + 4 * pixel) >> 20) + 1} MiB (gpu_memory)"
        )
    # A tile of n source pixels per axis needs the maps of n + 1.
    maps = pixel * min(cell[0] + 1, source[0]) * min(cell[1] + 1, source[1])
    return Plan(
        encoder_tile=tile, overlap=overlap, blended=False, decoder_tile=cell, tile_queries=UNBOUNDED, query_block=block,
        cache_bytes=0, working_bytes=kept + max(encoder_bytes, maps + block * query), keeps_features=keeps,
    )  # fmt: skip


def _cell(source: Size, pixels: int) -> Size:
    """The largest tile whose maps hold at most so many pixels: whole rows where two of them fit."""
    columns = min(source[1], pixels // 2 - 1)
    width = min(columns + 1, source[1])
    if columns < 1:
        return 0, 0
    rows = source[0] if source[0] * width <= pixels else pixels // width - 1
    return rows, columns
