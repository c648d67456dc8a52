"""What Autobahn's cases talk to: a plain FastAPI app that sends back what it gets."""

from fastapi import FastAPI, WebSocket

app = FastAPI()


@app.websocket("/")
async def echo(websocket: WebSocket) -> None:
    """Send back texts as texts and bytes as bytes, until the peer goes."""
    await websocket.accept()
    while (message := await websocket.receive())["type"] == "websocket.receive":
        if message.get("text") is not None:
            await websocket.send_text(message["text"])
        else:
            await websocket.send_bytes(message["bytes"])
