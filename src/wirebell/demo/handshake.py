"""Uvicorn's protocol classes, with an answer where they have none."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from wirebell.demo.settings import DemoSettings

__all__ = ("HTTPProtocol", "WebSocketProtocol")

TOO_LONG = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"Content-Type: application/json\r\nContent-Length: 62\r\nConnection: close\r\n\r\n"
    b'{"detail":"a line of the handshake is longer than 8192 bytes"}'
)


SILENCE_SECONDS = DemoSettings().request_timeout_seconds


class HTTPProtocol(HttpToolsProtocol):
    """Drops a client that connects and does not ask for anything; uvicorn waits for ever."""

    silence: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self.silence = self.loop.call_later(SILENCE_SECONDS, transport.abort)

    def on_headers_complete(self) -> None:
        """Have the first request."""
        self._stop_waiting()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the client."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _stop_waiting(self) -> None:
        """Cancel the timer; idempotent."""
        if self.silence is not None:
            self.silence.cancel()
            self.silence = None


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """Answers a handshake with too long a line; uvicorn leaves it open, without a word."""

    def data_received(self, data: bytes) -> None:
        """Read what came; answer and close if no handshake can come of it."""
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            self.transport.write(TOO_LONG)
            self.transport.close()
