"""The article's chat room, as it was printed: one `send_text` per connection and message.

Strategy: the code is the article's, mended only as far as it must be: formatted, annotated, and
the connections are copied before the loop, because a connection that leaves while `send_text`
waits changes the list. uvicorn runs it on its fastest settings (`servers.UVICORN`).
"""

from fastapi import FastAPI, WebSocket
from fastapi.websockets import WebSocketDisconnect

__all__ = ("ConnectionManager", "app")


class ConnectionManager:
    """The article's list of connections; used from one event loop."""

    def __init__(self) -> None:
        self.active_connections: list[WebSocket] = []

    async def connect(self, websocket: WebSocket) -> None:
        """Accept a connection and remember it."""
        await websocket.accept()
        self.active_connections.append(websocket)

    def disconnect(self, websocket: WebSocket) -> None:
        """Forget a connection."""
        self.active_connections.remove(websocket)

    async def broadcast(self, message: str) -> None:
        """Send a text to every connection, one after the other."""
        for connection in list(self.active_connections):
            await connection.send_text(message)


manager = ConnectionManager()
app = FastAPI()


@app.websocket("/ws/{client_id}")
async def websocket_endpoint(websocket: WebSocket, client_id: int) -> None:
    """Send what one client says to all of them."""
    await manager.connect(websocket)
    try:
        while True:
            data = await websocket.receive_text()
            await manager.broadcast(f"Client {client_id}: {data}")
    except WebSocketDisconnect:
        manager.disconnect(websocket)
        await manager.broadcast(f"Client {client_id} left the chat")
