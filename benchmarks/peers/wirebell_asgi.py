"""The same room on Wirebell, over the portable ASGI transport.

Strategy: the endpoint a user would write, on the uvicorn protocol class and settings of every
peer, so that the difference is Wirebell's and not the server's. Limits are the library's
defaults.
"""

from fastapi import FastAPI, WebSocket

from wirebell import Realtime

__all__ = ("app",)

rt = Realtime()
app = FastAPI(lifespan=rt.lifespan)


@app.websocket("/bench")
async def bench(websocket: WebSocket) -> None:
    """Join the room; what the client says is published there."""
    await rt.attach(websocket, channels=["bench"], publish="bench")
