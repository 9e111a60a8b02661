"""How a picture is cut on a PyTorch device, so that everything held at once stays within the memory allowed."""

from __future__ import annotations

from hiif_deploy.bundle.contract import Contract, Precision
from hiif_deploy.decoding.plan import UNBOUNDED, Plan, encoder_tiles
from hiif_deploy.errors import OptionError
from hiif_deploy.geometry.sizes import Size

MAX_QUERIES = 1 << 16
"""Of a block whose operations run one by one: its float32 sums stay exact enough (design/precision.md)."""
FUSED_QUERY_BYTES = 64
"""A query of a fused block: its colour, and what the `finish` graph holds of it at once, 48 bytes as measured."""
MAPS_SHARE = 16
"""The part of the memory that a call of the maps graph may take beside its outputs."""
PIXEL_BYTES = 12
"""A pixel of the frame, as float32 at most."""


def make_torch_plan(
    contract: Contract, source: Size, precision: Precision, allowed: int, *, records: bool = False, fused: bool = False
) -> Plan:
    """Plan for a (height, width) picture within `allowed` bytes. OptionError where that is too little.

    Where calls are recorded as CUDA graphs (`records`), these hold as much as a call beside one that runs plainly;
    where kernels are `fused`, no state of a query is stored.
    """
    features = (_item(precision) * contract.encoder.channels + PIXEL_BYTES) * source[0] * source[1]
    keeps = features <= allowed // 2
    kept, twice = features if keeps else 0, 2 if records else 1
    left = allowed - allowed // MAPS_SHARE - kept
    tile, overlap, blended, encoder_bytes = encoder_tiles(contract, source, left // 2 // twice)
    if blended:
        raise OptionError(
            f"this encoder sees the whole picture and does not fit {allowed >> 20} MiB of GPU memory: allow more "
            "(gpu_memory), or use --engine onnxruntime, which blends tiles"
        )
    # The maps of the picture before stay where those of the next one go, and recorded work keeps its memory.
    left -= twice * encoder_bytes
    pixel = _item(precision) * contract.decoder.map_channels
    query = twice * (FUSED_QUERY_BYTES if fused else 4 * contract.decoder.query_channels)
    cell = _cell(source, (left - min(MAX_QUERIES * query, left // 2)) // pixel)
    # A tile of n source pixels per axis needs the maps of n + 1.
    maps = pixel * min(cell[0] + 1, source[0]) * min(cell[1] + 1, source[1])
    block = min((left - maps) // query, UNBOUNDED if fused else MAX_QUERIES)
    if block < 1 or min(cell) < 1:
        raise OptionError(
            f"{allowed >> 20} MiB of GPU memory are too little for a picture of {source[1]}x{source[0]} pixels: allow "
            f"at least {(kept + 2 * (query + 4 * pixel) >> 20) + 1} MiB (gpu_memory)"
        )
    return Plan(
        encoder_tile=tile, overlap=overlap, blended=False, decoder_tile=cell, tile_queries=UNBOUNDED, query_block=block,
        cache_bytes=0, working_bytes=allowed // MAPS_SHARE + kept + twice * encoder_bytes + maps + block * query,
        keeps_features=keeps,
    )  # fmt: skip


def map_pixels(contract: Contract, precision: Precision, allowed: int) -> int:
    """Source pixels per call of the maps graph, whose inner tensors get a sixteenth of the memory."""
    return max(1, allowed // MAPS_SHARE // (_item(precision) * contract.decoder.map_channels))


def _item(precision: Precision) -> int:
    return 2 if precision == "fp16" else 4


def _cell(source: Size, pixels: int) -> Size:
    """The largest tile whose maps hold at most so many pixels: whole rows where two of them fit."""
    columns = min(source[1], pixels // 2 - 1)
    width = min(columns + 1, source[1])
    if columns < 1:
        return 0, 0
    rows = source[0] if source[0] * width <= pixels else pixels // width - 1
    return rows, columns
