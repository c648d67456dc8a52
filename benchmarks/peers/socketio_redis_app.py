"""Rooms on python-socketio with its Redis manager, on their best settings.

Strategy: as `socketio_app`, with `AsyncRedisManager` between the nodes. What a client sends goes
to the room that its query names, which it joins where that says so. Events of one client are
handled one after the other, which saves a task for each and keeps their order. The manager
delivers to this node's own clients directly and publishes everything to one channel of Redis,
which every node reads.
"""

import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs

import socketio

from peers.publishing import Publish, list_rooms

__all__ = ("app", "publishing")

URL = os.environ["REDIS_URL"]
# A publication takes a connection while it waits for its answer; the driver's bound is 100.
OPTIONS = {"max_connections": 1000}

server = socketio.AsyncServer(
    async_mode="asgi",
    async_handlers=False,
    client_manager=socketio.AsyncRedisManager(URL, redis_options=OPTIONS),
    transports=["websocket"],
    http_compression=False,
    cors_allowed_origins=[],
)
app = socketio.ASGIApp(server)
rooms: dict[str, str] = {}


@server.event  # type: ignore[untyped-decorator]
async def connect(sid: str, environ: Mapping[str, Any], _auth: object) -> None:
    """Join, where the client wants to hear something."""
    query = parse_qs(environ["QUERY_STRING"])
    rooms[sid] = query["room"][0]
    if query["joins"] == ["1"]:
        await server.enter_room(sid, rooms[sid])


@server.event  # type: ignore[untyped-decorator]
async def disconnect(sid: str, *_reason: object) -> None:
    """Forget the client."""
    rooms.pop(sid, None)


@server.on("bench")  # type: ignore[untyped-decorator]
async def bench(sid: str, data: object) -> None:
    """Send what one client says to its room, on all nodes."""
    await server.emit("bench", data, room=rooms[sid])


@asynccontextmanager
async def publishing(text: str) -> AsyncIterator[Publish]:
    """Publish from a process without clients, as the documentation has it."""
    manager = socketio.AsyncRedisManager(URL, write_only=True, redis_options=OPTIONS)
    data, names = json.loads(text), list_rooms()

    async def publish(number: int) -> None:
        await manager.emit("bench", data, room=names[number])

    yield publish
