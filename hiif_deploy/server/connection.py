"""Connections that are closed where their client is too slow. Uvicorn is imported when the first one is made."""

from __future__ import annotations

import math
import socket
from typing import Any

HEADER_SECONDS = 10.0
"""Seconds from a connection, or the first byte of a request on it, to the end of the request's headers."""
STALLED_SECONDS = 60.0
"""Seconds between two looks at a client that the server waits for."""
SLOWEST = 1024
"""Bytes per second of a response that a client reads at least."""

LOW_WATER = getattr(socket, "TCP_NOTSENT_LOWAT", None)
UNSENT = 1 << 16
"""Bytes that the system takes before it sends them: with megabytes, whether a client reads would show late."""


def impatient_protocol() -> type[Any]:
    """Return uvicorn's protocol of h11, strict about what it parses, with limits of time that it lacks."""
    import h11
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class ImpatientProtocol(H11Protocol):
        """Closes connections whose headers do not come, and those whose response is hardly read."""

        _headers: Any = None
        _stalled: Any = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if LOW_WATER is not None:
                transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, LOW_WATER, UNSENT)
            self._expect_headers()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._expect_headers()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._watch_reading()

        def resume_writing(self) -> None:
            super().resume_writing()
            _cancel(self._stalled)

        def connection_lost(self, exc: Exception | None) -> None:
            _cancel(self._headers)
            _cancel(self._stalled)
            super().connection_lost(exc)

        def _watch_reading(self, before: float = math.inf) -> None:
            """Leave a client that has read too little of the `before` bytes since the last look."""
            left = self.transport.get_write_buffer_size()
            if before - left < SLOWEST * STALLED_SECONDS:
                self.transport.abort()
            else:
                self._stalled = self.loop.call_later(STALLED_SECONDS, self._watch_reading, left)

        def _expect_headers(self) -> None:
            """Run the clock while the next request's headers are expected, or a body that was refused goes on."""
            is_answered = self.cycle is not None and self.cycle.response_complete
            if self.conn.their_state is not h11.IDLE and not is_answered:
                _cancel(self._headers)
                self._headers = None
            elif self._headers is None:
                self._headers = self.loop.call_later(HEADER_SECONDS, self.transport.close)

    return ImpatientProtocol


def _cancel(timer: Any) -> None:
    if timer is not None:
        timer.cancel()
