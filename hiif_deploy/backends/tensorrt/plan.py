"""How a picture is cut for TensorRT: by the engines' profiles and by the GPU memory that its maps may take."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hiif_deploy.backends.tensorrt.session import TrtSession
from hiif_deploy.bundle.contract import Contract
from hiif_deploy.decoding.plan import QUERY_BLOCK, UNBOUNDED, Plan
from hiif_deploy.errors import EngineError, OptionError
from hiif_deploy.geometry.sizes import Size, padded_size


def make_trt_plan(contract: Contract, sessions: Mapping[str, TrtSession], source: Size, memory: int) -> Plan:
    """Plan for a (height, width) picture whose maps take at most `memory` bytes, and so do a call's activations.

    EngineError where the picture is larger than the engines were built for and tiles would not be exact, OptionError
    where the memory does not hold two rows of maps.
    """
    tile = _encoder_tile(contract, sessions["encoder"], source)
    cell = _decoder_tile(sessions, source, memory)
    maps = _pixel_bytes(sessions["maps"]) * source[0] * source[1]
    return Plan(
        encoder_tile=tile, overlap=contract.encoder.receptive_field or 0, blended=False, decoder_tile=cell,
        tile_queries=UNBOUNDED, query_block=_query_block(contract, sessions["decoder"], memory),
        cache_bytes=maps if cell == source else 0, working_bytes=min(memory, maps),
    )  # fmt: skip


def _query_block(contract: Contract, decoder: TrtSession, memory: int) -> int:
    """Queries per call: as many as the engine was optimised for, or fewer where memory is short."""
    rows, columns = decoder.limits["row_tap"][1][1], decoder.limits["column_tap"][1][2]
    return min(rows * columns, max(QUERY_BLOCK, memory // (4 * contract.decoder.query_channels)))


def _encoder_tile(contract: Contract, session: TrtSession, size: Size) -> Size:
    """Source pixels that one encoder call contributes: the whole picture where the profile takes it."""
    field, multiple = contract.encoder.receptive_field, contract.encoder.size_multiple
    high = session.limits["image"][-1]
    most = (high[2] // multiple * multiple, high[3] // multiple * multiple)
    if all(padded <= limit for padded, limit in zip(padded_size(size, multiple), most, strict=True)):
        return size
    if field is None:
        raise EngineError(
            f"picture of {size[1]}x{size[0]}: the encoder's engine takes at most {most[1]}x{most[0]}, and this "
            f"encoder has no exact tiles; build it with --max-input {size[1]}x{size[0]}"
        )
    tile = [limit if side <= limit else limit - 2 * field for side, limit in zip(size, most, strict=True)]
    if min(tile) < 1:
        raise EngineError(
            f"picture of {size[1]}x{size[0]}: the encoder's engine takes at most {most[1]}x{most[0]}, less than "
            f"twice the overlap of {field} pixels; build it with a larger --max-input"
        )
    return tile[0], tile[1]


def _decoder_tile(sessions: Mapping[str, TrtSession], source: Size, memory: int) -> Size:
    """Source (rows, columns) of a tile: what profiles and memory for maps allow, the whole picture at best."""
    _, _, most_rows, most_columns = sessions["encoder"].limits["image"][-1]
    pixel_bytes = _pixel_bytes(sessions["maps"])
    # A tile of n source pixels per axis needs the maps of n + 1.
    columns = source[1] if source[1] <= most_columns else most_columns - 1
    pixels = min(sessions["decoder"].limits["map_0"][-1][0], memory // pixel_bytes)
    most_rows = min(most_rows, pixels // min(columns + 1, source[1]))
    rows = source[0] if source[0] <= most_rows else most_rows - 1
    if min(rows, columns) < 1:
        needed = 2 * (columns + 1) * pixel_bytes
        raise OptionError(
            f"the maps of two rows of {source[1]} pixels need {needed >> 20} MiB of GPU memory, and "
            f"{memory >> 20} MiB are allowed: allow more (gpu_memory)"
        )
    return rows, columns


def _pixel_bytes(maps: TrtSession) -> int:
    return sum(int(tensor.shape[1]) * np.dtype(tensor.dtype).itemsize for tensor in maps.graph.outputs)
