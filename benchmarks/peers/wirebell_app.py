"""The same room on Wirebell; also an echo, and doors with and without dependencies.

Strategy: the endpoints a user would write. Two peers run this file: `wirebell` on Wirebell's own
uvicorn class, `wirebell_asgi` on the stock class and settings of the other peers, so that the
difference to those is Wirebell's and not the server's. Limits are the library's defaults.
"""

from fastapi import FastAPI, WebSocket

from peers.dependencies import CurrentVisitor, CurrentWork
from wirebell import Realtime

__all__ = ("app",)

rt = Realtime()
app = FastAPI(lifespan=rt.lifespan)


@app.websocket("/bench")
async def bench(websocket: WebSocket) -> None:
    """Join the room; what the client says is published there."""
    await rt.attach(websocket, channels=["bench"], publish="bench")


@app.websocket("/bench/dependencies")
async def bench_with_dependencies(
    websocket: WebSocket, visitor: CurrentVisitor, work: CurrentWork
) -> None:
    """Join the room as somebody."""
    work.done.append(visitor.user_id)
    await rt.attach(websocket, channels=["bench"], publish="bench", user_id=visitor.user_id)


@app.websocket("/echo")
async def echo(websocket: WebSocket) -> None:
    """Answer every text by itself."""
    await rt.attach(websocket, on_text=lambda text: text)
