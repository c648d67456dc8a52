"""The same room on python-socketio, on its best settings.

Strategy: WebSocket transport only (no long-polling to upgrade from), no compression, no logging,
and `emit` to everybody, which encodes the packet once for all. uvicorn's settings are those of
every peer.
"""

import socketio

__all__ = ("app",)

server = socketio.AsyncServer(
    async_mode="asgi", transports=["websocket"], http_compression=False, cors_allowed_origins=[]
)
app = socketio.ASGIApp(server)


@server.on("bench")  # type: ignore[untyped-decorator]
async def bench(_sid: str, data: object) -> None:
    """Send what one client says to all of them."""
    await server.emit("bench", data)
