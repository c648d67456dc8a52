"""The same room and an echo on picows, on its best settings.

Strategy: its own server on uvloop with `aiofastnet`'s transports, which it chooses itself. The room
builds the frame of a publication once and writes it to every subscriber's transport, which spares
a header for each. Its read buffers begin with 1 KiB and grow, which takes half the memory of the
default of 16 KiB and is as fast. It pings silent peers every 20 s, as uvicorn does; that is off by
default, and a server that never asks cannot be compared with those that do.
"""

import logging
import sys

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

__all__ = ("Echo", "Member", "main")

room: set[WSTransport] = set()


def encode_text(payload: bytes) -> bytes:
    """Encode a text frame of at most 65,535 bytes (RFC 6455 section 5.2)."""
    length = len(payload)
    if length < 126:
        return b"\x81%c%b" % (length, payload)
    return b"\x81\x7e%b%b" % (length.to_bytes(2), payload)


class Member(WSListener):  # type: ignore[misc]
    """One connection in the room; called by the event loop only."""

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Join."""
        room.add(transport)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """Leave."""
        room.discard(transport)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Send what one client says to all of them."""
        if frame.msg_type == WSMsgType.TEXT:
            encoded = encode_text(frame.get_payload_as_bytes())
            for member in room:
                member.underlying_transport.write(encoded)
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()


class Echo(WSListener):  # type: ignore[misc]
    """One connection that hears itself; called by the event loop only."""

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Answer a text by itself."""
        if frame.msg_type == WSMsgType.TEXT:
            transport.send(WSMsgType.TEXT, frame.get_payload_as_memoryview())
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()


def create_listener(request: WSUpgradeRequest) -> WSListener:
    """Choose by path."""
    return Echo() if request.path == b"/echo" else Member()


async def main() -> None:
    """Listen on the port that the command line names."""
    server = await ws_create_server(
        create_listener,
        "127.0.0.1",
        int(sys.argv[1]),
        enable_auto_ping=True,
        auto_ping_idle_timeout=20,
        auto_ping_reply_timeout=20,
        read_buffer_init_size=1024,
        backlog=2048,
    )
    await server.serve_forever()


if __name__ == "__main__":
    # A connection that is reset during its handshake is not worth a traceback.
    logging.getLogger("picows").setLevel(logging.CRITICAL)
    uvloop.run(main())
