"""Frames to the encoder's input and decoded colours to frames, by the shared graphs."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.bundle.contract import Contract
from hiif_deploy.decoding.executor import DecodedBlock
from hiif_deploy.decoding.job import Job, Window
from hiif_deploy.decoding.output_check import ColourRange
from hiif_deploy.decoding.session import Session, Tensors
from hiif_deploy.geometry.grid import Axis
from hiif_deploy.pixels import Frame

Array = NDArray[np.float32]
RANGE = ("low", "high", "total")
"""Outputs of a `finish` graph that describe the colours before the clamp, as `ColourRange` holds them."""


class FrameConverter:
    """Runs the shared graphs on the sessions that an engine opens for them, each when it is first needed."""

    def __init__(self, contract: Contract, open_graph: Callable[[str], Session]) -> None:
        """`open_graph` loads a shared graph by its name."""
        self._contract, self._open_graph = contract, open_graph
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()

    def image(self, frame: Frame) -> Array:
        """[h, w, 1 or 3] uint8, uint16 or float32 in [0, 1] → normalised [1, 3, h, w] float32."""
        feeds = {"frame": frame, **prepare_vectors(self._contract)}
        image: Array = self._session(f"prepare-{frame.dtype}").run(feeds)["image"]
        return image

    def block(self, job: Job, window: Window, rows: Axis, columns: Axis, colours: Array) -> DecodedBlock:
        """The decoder's output [R, W, 3] for the queries of `window` → values of the job's frame type.

        `rows` and `columns` are the axis tables of those queries.
        """
        feeds = finish_feeds(self._contract, job.frame, rows, columns)
        feeds["colour"] = colours.reshape(-1, 3)
        found = self._session(finish_name(job)).run(feeds)
        return DecodedBlock(window, found["values"], colour_range(found))

    def wrap(self, wrap: Callable[[str, Session], Session]) -> None:
        """Put `wrap(name, session)` in the place of every session."""
        open_graph = self._open_graph
        self._open_graph = lambda name: wrap(name, open_graph(name))
        with self._lock:
            self._sessions = {name: wrap(name, session) for name, session in self._sessions.items()}

    def _session(self, name: str) -> Session:
        with self._lock:
            if name not in self._sessions:
                self._sessions[name] = self._open_graph(name)
            return self._sessions[name]


def finish_name(job: Job, dtype: np.dtype[Any] | None = None) -> str:
    """The shared graph that makes values of this job's frame, of the element type that holds it in an engine."""
    if not job.clamps:
        return "finish-colours"
    return f"finish-{dtype or job.frame.dtype}{'-grey' if job.frame.shape[2] == 1 else ''}"


def prepare_vectors(contract: Contract) -> dict[str, Array]:
    """Inputs `mean` and `std` of a `prepare` graph."""
    normalisation = contract.normalisation
    return {"mean": np.array(normalisation.mean, np.float32), "std": np.array(normalisation.std, np.float32)}


def finish_feeds(contract: Contract, frame: Frame, rows: Axis, columns: Axis) -> dict[str, NDArray[Any]]:
    """Inputs of a `finish` graph beside `colour`: de-normalisation, and the part of the frame that the skip reads."""
    part = skip_part(contract, rows, columns)
    pixels = np.zeros((1, 1, frame.shape[2]), frame.dtype) if part is None else frame[part]
    return {"frame": pixels, **finish_tables(contract, rows, columns)}


def skip_part(contract: Contract, rows: Axis, columns: Axis) -> tuple[slice, slice] | None:
    """Rows and columns of the frame that the skip of these queries reads; None where the decoder has no skip."""
    return (_local(rows)[0], _local(columns)[0]) if contract.decoder.skip == "bilinear" else None


def finish_tables(contract: Contract, rows: Axis, columns: Axis) -> dict[str, NDArray[Any]]:
    """Inputs of a `finish` graph beside `colour` and `frame`; taps count from the first pixel of `skip_part`."""
    mean, std = prepare_vectors(contract).values()
    if contract.decoder.skip == "bilinear":
        # A skip replaces the mean.
        offset, row_taps, column_taps = np.zeros(3, np.float32), _local(rows)[1], _local(columns)[1]
        weights = rows.skip_weight, columns.skip_weight
    else:
        offset = mean
        row_taps, column_taps = np.zeros((2, rows.count), np.int32), np.zeros((2, columns.count), np.int32)
        weights = np.zeros(rows.count, np.float32), np.zeros(columns.count, np.float32)
    return {
        "offset": offset, "std": std,
        "row_skip_lower": row_taps[0], "row_skip_upper": row_taps[1], "row_skip_weight": weights[0][:, None, None],
        "column_skip_lower": column_taps[0], "column_skip_upper": column_taps[1],
        "column_skip_weight": weights[1][:, None],
    }  # fmt: skip


def colour_range(found: Tensors) -> ColourRange:
    """Range of the colours before the clamp, from a `finish` graph's outputs."""
    return ColourRange(*(float(found[name]) for name in RANGE))


def _local(axis: Axis) -> tuple[slice, NDArray[np.int32]]:
    """Source pixels that the skip reads along an axis, and its taps counted from the first of them."""
    first = int(axis.skip_taps.min())
    return slice(first, int(axis.skip_taps.max()) + 1), axis.skip_taps - first
