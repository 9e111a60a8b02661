"""From a memory budget to encoder tiles, decoder tiles and query blocks."""

import math
from dataclasses import dataclass

from hiif_deploy.bundle.contract import FIRST_STAGE, Contract
from hiif_deploy.errors import OptionError

DEFAULT_BUDGET = 1 << 30
"""Bytes of working memory where the user names none."""
QUERY_BLOCK = 2048
"""Queries per decoder call: what fits a core's L2 cache (design/decoding.md §3e)."""
TILE_ROWS = 8
"""Source rows of a decoder tile; its maps are shared by all queries between them."""
BLOCKS_PER_TILE = 32
"""Query blocks of a decoder tile at most, so that its colours stay small at any scale."""
UNBOUNDED = 1 << 62
"""Queries of a tile where only its blocks are bounded."""
BLEND_OVERLAP = 32
"""Source pixels over which tiles are blended where no overlap is exact."""


@dataclass(frozen=True)
class PlanLimits:
    """Limits that a plan keeps to."""

    memory: int = DEFAULT_BUDGET
    """Bytes of working memory on the host, beside input, features and output."""
    query_block: int | None = None
    """Most queries per decoder call; None: the engine's own."""
    tile_rows: int | None = None
    """Source rows per decoder tile; None: the engine's own."""


@dataclass(frozen=True)
class Plan:
    """How one picture is cut; the result does not depend on it, except for blended encoder tiles."""

    encoder_tile: tuple[int, int]
    """Source pixels (rows, columns) that one encoder call contributes."""
    overlap: int
    """Source pixels that it sees beyond them to every side, inside the picture."""
    blended: bool
    """Whether tiles are blended over the overlap because no overlap would be exact."""
    decoder_tile: tuple[int, int]
    """Source pixels (rows, columns) between whose centres one decoder tile's queries lie."""
    tile_queries: int
    """Most queries per decoder tile: at large scales a tile of source pixels is cut further."""
    query_block: int
    """Most queries per decoder call."""
    cache_bytes: int
    """Maps kept between the passes instead of being computed again."""
    working_bytes: int
    """Estimate of memory beside input, features and output, without cached states."""
    state_cache_bytes: int = 0
    """States of queries kept from one pass to the next at most, instead of being computed again."""
    keeps_features: bool = True
    """Whether a picture's features stay on the device, where there is one; else tiles of them are uploaded."""
    averaged: bool = False
    """Whether encoder tiles are those that the contract names: they share `overlap` pixels and are averaged there."""


def make_plan(
    contract: Contract,
    source: tuple[int, int],
    *,
    budget: int = DEFAULT_BUDGET,
    threads: int = 1,
    query_block: int = QUERY_BLOCK,
    tile_rows: int = TILE_ROWS,
) -> Plan:
    """Cut a (height, width) picture. OptionError where the budget is too small for even the smallest tiles."""
    if query_block < 1 or tile_rows < 1:
        raise OptionError(f"query block {query_block} and tile rows {tile_rows} must be at least 1")
    decoder = contract.decoder
    query_bytes = 4 * decoder.query_channels * query_block
    pixel_bytes = 4 * decoder.map_channels
    share = budget // 2 // threads - query_bytes
    columns = min(source[1], max(8, 8 * query_block // tile_rows), share // pixel_bytes // (tile_rows + 1))
    if columns < 1:
        needed = 2 * threads * (query_bytes + pixel_bytes * (tile_rows + 1) * 8)
        needed = max(needed, _least_encoder_bytes(contract, source))
        raise OptionError(
            f"memory budget of {budget >> 20} MiB is too small for {threads} threads: "
            f"allow at least {(needed >> 20) + 1} MiB, or use fewer threads"
        )
    tile, overlap, blended, encoder_bytes = encoder_tiles(contract, source, budget)
    working = threads * (query_bytes + pixel_bytes * (tile_rows + 1) * (columns + 1))
    cache = min(max(0, budget - working), pixel_bytes * (source[0] + source[0] // tile_rows + 1) * (source[1] + 1))
    if decoder.statistics_passes == 0:
        cache = 0
    return Plan(
        encoder_tile=tile,
        overlap=overlap,
        blended=blended,
        averaged=contract.encoder.tile is not None and tile != source,
        decoder_tile=(tile_rows, columns),
        tile_queries=BLOCKS_PER_TILE * query_block,
        query_block=query_block,
        cache_bytes=cache,
        working_bytes=max(encoder_bytes, working + cache),
        state_cache_bytes=max(0, budget - working - cache) if contract.stages and decoder.statistics_passes else 0,
    )


def large_query_block(contract: Contract, budget: int, threads: int, most: int, least: int = QUERY_BLOCK) -> int:
    """Queries per decoder call where large calls are wanted: what a quarter of the budget holds for `threads` calls at
    once, but not more than `most`, nor fewer than `least`."""
    fitting = budget // 4 // threads // (4 * contract.decoder.query_channels)
    return max(least, min(most, fitting))


def cached_state_bytes(contract: Contract, plan: Plan, queries: int) -> int:
    """Bytes of hidden state that `queries` leave in the cache from one pass to the next under this plan."""
    if plan.state_cache_bytes == 0:
        return 0
    width = int(contract.graph(FIRST_STAGE).outputs[0].shape[1])
    return min(plan.state_cache_bytes, 4 * width * queries)


def encoder_tiles(contract: Contract, source: tuple[int, int], budget: int) -> tuple[tuple[int, int], int, bool, int]:
    """(rows, columns) per tile, overlap, whether it is blended, bytes of one call: the cheapest cut that fits."""
    encoder = contract.encoder
    multiple = encoder.size_multiple
    pixel_bytes = 4 * encoder.memory_channels
    allowed = budget // pixel_bytes
    if encoder.tile is not None:
        return _contract_tiles(contract, encoder.tile, source, budget)
    height, width = _padded(source[0], multiple), _padded(source[1], multiple)
    if height * width <= allowed:
        return source, 0, False, pixel_bytes * height * width
    overlap = _overlap(contract)
    best: tuple[int, tuple[int, int], int] | None = None
    for columns in _tile_columns(source[1], multiple):
        seen = _padded(min(source[1], columns + 2 * overlap), multiple)
        most = allowed // seen // multiple * multiple
        rows = height if most >= height else (most - 2 * overlap) // multiple * multiple
        if rows < multiple:
            continue
        area = seen * _padded(min(source[0], rows + 2 * overlap), multiple)
        cost = math.ceil(source[0] / rows) * math.ceil(source[1] / columns) * area
        if best is None or cost < best[0]:
            best = (cost, (rows, columns), area)
    if best is None:
        raise OptionError(
            f"memory budget of {budget >> 20} MiB is too small for this encoder, which needs tiles with "
            f"{overlap} pixels of overlap: allow at least {(_least_encoder_bytes(contract, source) >> 20) + 1} MiB"
        )
    return best[1], overlap, encoder.receptive_field is None, pixel_bytes * best[2]


def _contract_tiles(
    contract: Contract, side: int, source: tuple[int, int], budget: int
) -> tuple[tuple[int, int], int, bool, int]:
    """`encoder_tiles` for an encoder whose features depend on its tiles, which memory does not make smaller."""
    multiple = contract.encoder.size_multiple
    tile = min(side, source[0]), min(side, source[1])
    needed = 4 * contract.encoder.memory_channels * _padded(tile[0], multiple) * _padded(tile[1], multiple)
    if needed > budget:
        raise OptionError(
            f"memory budget of {budget >> 20} MiB is too small for this encoder, which needs tiles of "
            f"{tile[1]}x{tile[0]} pixels: allow at least {(needed >> 20) + 1} MiB"
        )
    return tile, contract.encoder.tile_overlap, False, needed


def tile_starts(size: int, side: int, overlap: int) -> list[int]:
    """First pixel of every tile of `side` along an axis of `size`; they share `overlap`, and the last one, which ends
    where the axis does, more."""
    return [*range(0, size - side, max(side - overlap, 1)), size - side]


def _least_encoder_bytes(contract: Contract, source: tuple[int, int]) -> int:
    """Memory of an encoder call on the smallest tile that `encoder_tiles` considers."""
    multiple, twice = contract.encoder.size_multiple, 2 * _overlap(contract)
    columns = min(_tile_columns(source[1], multiple))
    sides = min(source[0], multiple + twice), min(source[1], columns + twice)
    return 4 * contract.encoder.memory_channels * _padded(sides[0], multiple) * _padded(sides[1], multiple)


def _overlap(contract: Contract) -> int:
    field = contract.encoder.receptive_field
    return BLEND_OVERLAP if field is None else field


def _tile_columns(width: int, multiple: int) -> list[int]:
    """Tile widths to choose from: the picture's, half of it, a third, …"""
    return [_padded(math.ceil(width / parts), multiple) for parts in range(1, width // (8 * multiple) + 2)]


def _padded(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
