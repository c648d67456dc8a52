"""One endpoint on more and more of what stands before it: bare ASGI, Starlette, FastAPI.

Strategy: each application serves one path, so that no other route is asked first. Those that keep
their socket wait for its end; the others hand it to `Realtime.attach`.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, WebSocket
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute

from peers.dependencies import CurrentVisitor, CurrentWork
from wirebell import Realtime

__all__ = ("bare", "bare_attached", "page", "routed", "solved", "solved_kept", "starlette_app")

Message = MutableMapping[str, Any]  # of ASGI: a dictionary of its specification
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

rt = Realtime()


@asynccontextmanager
async def run_node(_app: object = None) -> AsyncIterator[None]:
    """Run the node beside an application that is not FastAPI's."""
    async with rt.lifespan(FastAPI()):
        yield


async def live(receive: Receive, send: Send) -> None:
    """Answer the server's start and stop."""
    await receive()
    async with run_node():
        await send({"type": "lifespan.startup.complete"})
        await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def bare(scope: Message, receive: Receive, send: Send) -> None:
    """Accept and keep the socket: what the server's classes cost."""
    if scope["type"] == "lifespan":
        await live(receive, send)
        return
    await receive()
    await send({"type": "websocket.accept"})
    while (await receive())["type"] != "websocket.disconnect":
        pass


async def attach(websocket: WebSocket, user_id: str = "") -> None:
    """Join the room, as `peers.wirebell_app` does."""
    await rt.attach(websocket, channels=["bench"], publish="bench", user_id=user_id)


async def bare_attached(scope: Message, receive: Receive, send: Send) -> None:
    """Join the room without any framework."""
    if scope["type"] == "lifespan":
        await live(receive, send)
        return
    await attach(WebSocket(scope, receive, send))


async def attach_plainly(websocket: WebSocket) -> None:
    """Join the room; the endpoint of the two applications without dependencies."""
    await attach(websocket)


starlette_app = Starlette(routes=[WebSocketRoute("/", attach_plainly)], lifespan=run_node)

routed = FastAPI(lifespan=rt.lifespan)
routed.add_api_websocket_route("/", attach_plainly)

solved = FastAPI(lifespan=rt.lifespan)


@solved.websocket("/")
async def attach_somebody(websocket: WebSocket, visitor: CurrentVisitor, work: CurrentWork) -> None:
    """Join the room as somebody."""
    work.done.append(visitor.user_id)
    await attach(websocket, visitor.user_id)


solved_kept = FastAPI()


@solved_kept.websocket("/")
async def keep_somebody(websocket: WebSocket, visitor: CurrentVisitor, work: CurrentWork) -> None:
    """Accept somebody and keep the socket, without Wirebell in the application."""
    work.done.append(visitor.user_id)
    await websocket.accept()
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass


page = FastAPI()


@page.get("/")
async def read_page(visitor: CurrentVisitor, work: CurrentWork) -> dict[str, str]:
    """Answer a plain request with the same dependencies."""
    work.done.append(visitor.user_id)
    return {"user": visitor.user_id}
