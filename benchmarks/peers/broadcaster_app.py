"""Rooms on broadcaster with Redis, as its documentation shows a chat room.

Strategy: a Starlette endpoint with one task that publishes what the client says and one that sends
what it hears; the channel is what its query names. Who only publishes is spared the subscription
and the second task. Clients subscribe one after the other: of several that are the first of a
channel at the same time, broadcaster would remember one. Two channels that nobody uses are
subscribed to ahead: its listener goes to sleep when it wakes before the first subscription is
sent, and the second one wakes it again.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
from broadcaster import Broadcast
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from peers.publishing import Publish, list_rooms

__all__ = ("app", "publishing")

# A publication takes a connection while it waits for its answer; the driver's bound is 100.
broadcast = Broadcast(f"{os.environ['REDIS_URL']}?max_connections=1000")
subscribing = asyncio.Lock()


async def member(websocket: WebSocket) -> None:
    """Serve one client."""
    room = websocket.query_params["room"]
    if websocket.query_params["joins"] == "0":
        await websocket.accept()
        await publish_all(websocket, room)
        return
    async with AsyncExitStack() as stack:
        async with subscribing:
            subscriber = await stack.enter_async_context(broadcast.subscribe(room))
        group = await stack.enter_async_context(anyio.create_task_group())
        await websocket.accept()

        async def pass_on() -> None:
            async for event in subscriber:
                await websocket.send_text(event.message)

        group.start_soon(pass_on)
        await publish_all(websocket, room)
        group.cancel_scope.cancel()


async def publish_all(websocket: WebSocket, room: str) -> None:
    """Publish what a client says until it leaves."""
    async for text in websocket.iter_text():
        await broadcast.publish(room, text)


@asynccontextmanager
async def lifespan(_app: Starlette) -> AsyncIterator[None]:
    """Be connected while the application runs."""
    async with broadcast, broadcast.subscribe("first"), broadcast.subscribe("second"):
        yield


app = Starlette(routes=[WebSocketRoute("/", member)], lifespan=lifespan)


@asynccontextmanager
async def publishing(text: str) -> AsyncIterator[Publish]:
    """Publish from a process without clients."""
    names = list_rooms()
    async with broadcast:

        async def publish(number: int) -> None:
            await broadcast.publish(names[number], text)

        yield publish
