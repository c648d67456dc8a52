"""A small app that uses `Realtime.attach` in every form; `test_attach` serves it everywhere."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import Depends, FastAPI, WebSocket

from wirebell import Denied, Identity, Realtime

rt = Realtime()
app = FastAPI(lifespan=rt.lifespan)
rt.mount(app, "/realtime")

left: list[str] = []
"""Names given to ``/closing/{name}`` whose sockets have gone, oldest first."""


released: list[str] = []
"""Names given to ``/holds/{name}`` whose dependency has ended, oldest first."""

visitor: ContextVar[str] = ContextVar("visitor", default="nobody")
"""Set by the endpoint ``/context/{name}``."""


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


@app.websocket("/slow")
async def slow(websocket: WebSocket) -> None:
    """Take four seconds for the text "wait", and no time for others."""

    async def answer(text: str) -> str:
        await asyncio.sleep(4 if text == "wait" else 0)
        return f"slow {text}"

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


async def hold(name: str) -> AsyncIterator[str]:
    """Hold something, as a database session is held, until the endpoint has returned."""
    yield name
    released.append(name)


@app.websocket("/holds/{name}")
async def holds(websocket: WebSocket, name: Annotated[str, Depends(hold)]) -> None:
    """Echo, with a dependency that ends when the endpoint returns."""
    await rt.attach(websocket, on_text=lambda text: f"{name} {text}")


@app.websocket("/context/{name}")
async def context(websocket: WebSocket, name: str) -> None:
    """Answer by what the endpoint's context variable says."""
    visitor.set(name)

    async def answer(_: str) -> str:
        await asyncio.sleep(0)
        return visitor.get()

    await rt.attach(websocket, on_text=answer)


@app.websocket("/both/{name}")
async def both(websocket: WebSocket, name: str) -> None:
    """Publish what the peer says to everybody here, then answer it."""

    async def answer(text: str) -> str:
        await rt.publish(f"room:{name}", f"published {text}")
        return f"answered {text}"

    await rt.attach(websocket, channels=[f"room:{name}"], on_text=answer)


@app.get("/released")
async def who_was_released() -> list[str]:
    """List whose dependency of ``/holds`` has ended."""
    return released


@app.get("/tasks")
async def count_tasks() -> int:
    """Count the tasks of this event loop."""
    return len(asyncio.all_tasks())


@app.get("/sockets")
async def sockets() -> dict[int, int]:
    """Map each client's port to ``TCP_USER_TIMEOUT`` of its socket, in milliseconds."""
    found: dict[int, int] = {}
    for number in map(int, os.listdir("/proc/self/fd")):
        # A descriptor of the listing itself, and what closed since, are gone.
        with contextlib.suppress(OSError):
            if not stat.S_ISSOCK(os.fstat(number).st_mode):
                continue
            link = socket.socket(fileno=os.dup(number))
            with link:
                if link.family == socket.AF_INET and link.type == socket.SOCK_STREAM:
                    port = link.getpeername()[1]
                    found[port] = link.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
    return found


@app.get("/left")
async def who_left() -> list[str]:
    """List who left ``/closing``."""
    return left


@app.post("/publish/{name}")
async def publish(name: str, text: str) -> dict[str, int]:
    """Publish one text."""
    position = await rt.publish(f"room:{name}", text)
    return {"offset": position.offset}


@app.post("/tick/{name}")
async def tick(name: str, count: int, size: int = 0) -> int:
    """Publish texts "0 xxx", "1 xxx" and so on within one turn of the event loop."""
    padding = "x" * size
    publishing = [rt.publish(f"room:{name}", f"{number} {padding}") for number in range(count)]
    await asyncio.gather(*publishing)
    return count


@app.post("/burst/{name}")
async def burst(name: str, count: int, size: int = 0) -> int:
    """Publish texts "0 xxx", "1 xxx" and so on, as fast as it goes."""
    padding = "x" * size
    for number in range(count):
        await rt.publish(f"room:{name}", f"{number} {padding}")
        await asyncio.sleep(0)
    return count
