"""Uvicorn's WebSocket class, with an answer for handshakes that it cannot read."""

from __future__ import annotations

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

__all__ = ("WebSocketProtocol",)

ANSWER = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"Content-Type: application/json\r\nContent-Length: 62\r\nConnection: close\r\n\r\n"
    b'{"detail":"a line of the handshake is longer than 8192 bytes"}'
)


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """Answers a handshake with too long a line; uvicorn leaves it open, without a word."""

    def data_received(self, data: bytes) -> None:
        """Read what came; answer and close if no handshake can come of it."""
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            self.transport.write(ANSWER)
            self.transport.close()
