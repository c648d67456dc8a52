"""A small app that uses `Realtime.attach` in every form; `test_attach` serves it everywhere."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from fastapi import FastAPI, WebSocket

from wirebell import Denied, Identity, Realtime

rt = Realtime()
app = FastAPI(lifespan=rt.lifespan)
rt.mount(app, "/realtime")

left: list[str] = []
"""Names given to ``/closing/{name}`` whose sockets have gone, oldest first."""


@app.websocket("/room/{name}")
async def room(websocket: WebSocket, name: str) -> None:
    """Publish what the peer says to everybody here."""
    await rt.attach(websocket, channels=[f"room:{name}"], publish=f"room:{name}")


@app.websocket("/listen/{name}")
async def listen(websocket: WebSocket, name: str) -> None:
    """Let the peer hear only."""
    await rt.attach(websocket, channels=[f"room:{name}"])


@app.websocket("/two/{one}/{two}")
async def two_channels(websocket: WebSocket, one: str, two: str) -> None:
    """Let the peer hear two channels."""
    await rt.attach(websocket, channels=[f"room:{one}", f"room:{two}"])


@app.websocket("/sync")
async def sync(websocket: WebSocket) -> None:
    """Answer by a plain function."""
    await rt.attach(websocket, on_text=lambda text: f"sync {text}")


@app.websocket("/async")
async def asynchronous(websocket: WebSocket) -> None:
    """Answer by a coroutine that lets others run in between."""

    async def answer(text: str) -> str:
        await asyncio.sleep(0)
        return f"async {text}"

    await rt.attach(websocket, on_text=answer)


@app.websocket("/odd")
async def odd_only(websocket: WebSocket) -> None:
    """Answer odd numbers, keep silent for even ones, refuse -1, break on anything else."""

    def answer(text: str) -> str | None:
        if text == "-1":
            raise Denied("minus one is not welcome")
        return text if int(text) % 2 else None

    await rt.attach(websocket, on_text=answer)


@app.websocket("/accepted/{name}")
async def accepted(websocket: WebSocket, name: str) -> None:
    """Attach a socket that the endpoint has accepted and greeted itself."""
    await websocket.accept()
    await websocket.send_text("hello")
    await rt.attach(websocket, channels=[f"room:{name}"], publish=f"room:{name}")


@app.websocket("/subprotocol")
async def subprotocol(websocket: WebSocket) -> None:
    """Choose one of the offered subprotocols."""
    await rt.attach(websocket, on_text=lambda text: text, subprotocol="chat.v2")


@app.websocket("/sign-in/{name}")
async def sign_in(websocket: WebSocket, name: str) -> None:
    """Take the first text as a password."""

    async def first(text: str) -> Identity:
        await asyncio.sleep(0)
        if text != "sesame":
            raise Denied("wrong password")
        return Identity("ali")

    await rt.attach(websocket, channels=[f"room:{name}"], publish=f"room:{name}", first_text=first)


@app.websocket("/expires/{milliseconds}")
async def expires(websocket: WebSocket, milliseconds: int) -> None:
    """End the peer's welcome after a while."""
    end = datetime.now(UTC) + timedelta(milliseconds=milliseconds)
    await rt.attach(websocket, on_text=lambda text: text, expires_at=end)


@app.websocket("/user/{user_id}")
async def user(websocket: WebSocket, user_id: str) -> None:
    """Count against the limit of one user."""
    await rt.attach(websocket, on_text=lambda text: text, user_id=user_id)


@app.websocket("/closing/{name}")
async def closing(websocket: WebSocket, name: str) -> None:
    """Remember who left; tell the others."""

    async def on_close() -> None:
        left.append(name)
        await rt.publish("room:closing", f"{name} left")

    await rt.attach(websocket, channels=["room:closing"], on_close=on_close)


@app.websocket("/heartbeat")
async def heartbeat(websocket: WebSocket) -> None:
    """Beat."""
    await rt.attach(websocket, on_text=lambda text: text, heartbeat="thump")


@app.get("/left")
async def who_left() -> list[str]:
    """List who left ``/closing``."""
    return left


@app.post("/publish/{name}")
async def publish(name: str, text: str) -> dict[str, int]:
    """Publish one text."""
    position = await rt.publish(f"room:{name}", text)
    return {"offset": position.offset}


@app.post("/burst/{name}")
async def burst(name: str, count: int, size: int = 0) -> int:
    """Publish texts "0 xxx", "1 xxx" and so on, as fast as it goes."""
    padding = "x" * size
    for number in range(count):
        await rt.publish(f"room:{name}", f"{number} {padding}")
        await asyncio.sleep(0)
    return count
