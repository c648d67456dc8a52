"""An application whose users are connected, and whoever gives orders to it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.requests import HTTPConnection

from tests.unit.clocks import turns
from tests.unit.fakes import FakeTransport, Message
from wirebell.authority import Authority
from wirebell.authorization import Authorizer
from wirebell.http_api import create_api_router
from wirebell.model import ChannelOptions, ChannelPermissions, History, PublicationFormat
from wirebell.node import Node
from wirebell.operations import Operations
from wirebell.options import APIOptions, ClientOptions
from wirebell.protocol.json import JSON
from wirebell.realtime import Realtime
from wirebell.settings import Settings
from wirebell.transports.bidirectional import BidirectionalReceiver

KEY = "key-of-tests"
OPEN = ChannelPermissions(allow_subscribe_for_client=True, allow_subscribe_for_anonymous=True)
NAMESPACES = {
    "news": ChannelOptions(history=History(size=10), permissions=OPEN, force_recovery=True),
    "plain": ChannelOptions(permissions=OPEN),
    "room": ChannelOptions(presence=True, join_leave=True, permissions=OPEN),
    "object": ChannelOptions(publication_format=PublicationFormat.JSON_OBJECT),
    "binary": ChannelOptions(
        publication_format=PublicationFormat.BINARY, history=History(), permissions=OPEN
    ),
    "delta": ChannelOptions(history=History(), delta_publish=True, permissions=OPEN),
}


class Orders(Operations):
    """The operations of a `Realtime`."""

    def __init__(self, rt: Realtime) -> None:
        self.rt = rt

    @property
    def authority(self) -> Authority:
        """Say what channels there are."""
        return self.rt.authority

    def node(self) -> Node:
        """Return the running node."""
        return self.rt.node()


class Peer:
    """A client of the protocol, without a link."""

    def __init__(self, rt: Realtime, user_id: str) -> None:
        self.transport = FakeTransport()
        headers = [(b"x-user", user_id.encode())] if user_id else []
        handshake = HTTPConnection({"type": "http", "headers": headers})
        self.receiver = BidirectionalReceiver(
            rt.node(), self.transport, JSON, Authorizer(rt.authority, handshake), address="10.0.0.1"
        )
        self.client_id = self.receiver.client.client_id

    async def say(self, *commands: Mapping[str, object]) -> None:
        """Send commands in one frame, and let the answers come."""
        frame = "\n".join(json.dumps(command) for command in commands)
        answer = self.receiver.receive_text(frame)
        if answer is not None:
            await answer
        await turns()

    async def subscribe(self, channel: str) -> None:
        """Subscribe at its own wish."""
        await self.say({"id": 7, "subscribe": {"channel": channel}})

    def heard(self) -> list[dict[str, Any]]:
        """Return what arrived since the last call."""
        messages, self.transport.messages = self.transport.messages, []
        return [json.loads(line) for text in messages for line in str(text).split("\n")]

    def pushes(self) -> list[dict[str, Any]]:
        """Return the pushes among it."""
        return [message["push"] for message in self.heard() if "push" in message]

    async def leave(self) -> None:
        """End the link."""
        self.receiver.receive_eof()
        await turns()


class Board:
    """An application that runs, with the server API."""

    def __init__(self, rt: Realtime, app: FastAPI) -> None:
        self.rt = rt
        self.app = app
        self.orders = Orders(rt)

    async def connect(self, user_id: str = "", **fields: object) -> Peer:
        """Connect a client."""
        peer = Peer(self.rt, user_id)
        await peer.say({"id": 1, "connect": fields})
        assert "connect" in peer.heard()[0]
        return peer

    async def ask(
        self,
        path: str,
        body: bytes | str | object = b"{}",
        *,
        headers: Mapping[str, str] | None = None,
        method: str = "POST",
        parts: int = 1,
    ) -> tuple[int, dict[str, str], bytes]:
        """Send a request to the server API; return status, headers and body."""
        if isinstance(body, str):
            body = body.encode()
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        path, _, query = path.partition("?")
        step = len(data) // parts + 1
        pieces = [data[start : start + step] for start in range(0, len(data), step)] or [b""]
        sent: list[Message] = []

        async def receive() -> Message:
            piece = pieces.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

        async def send(message: Message) -> None:
            sent.append(message)

        given = {"x-api-key": KEY} if headers is None else headers
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": f"/api{path}",
            "raw_path": b"",
            "root_path": "",
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in given.items()],
            "client": ("10.0.0.2", 1),
            "server": ("app.example", 80),
        }
        await self.app(scope, receive, send)
        answered = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return sent[0]["status"], answered, b"".join(each.get("body", b"") for each in sent)

    async def post(self, name: str, body: object = None, **headers: str) -> Any:
        """Give an order with the key; return the answer, which has status 200."""
        given = {"x-api-key": KEY, **headers}
        status, _, answer = await self.ask(f"/{name}", {} if body is None else body, headers=given)
        assert 200 == status
        return json.loads(answer)


@asynccontextmanager
async def running(
    settings: Settings | None = None, *, api: APIOptions | None = None, **limits: int
) -> AsyncIterator[Board]:
    """Run an application with the server API at ``/api``."""
    rt = Realtime(
        settings or Settings(),
        clients=ClientOptions(
            user_id_http_header="x-user", allow_anonymous_connect_without_token=True
        ),
        namespaces=NAMESPACES,
        unavailable=("map",),
    )
    rt.channel("board:{name}", history=History(size=3))
    app = FastAPI()
    board = Board(rt, app)
    router = create_api_router(board.orders, api or APIOptions(key=KEY), **limits)
    app.include_router(router, prefix="/api")
    async with rt.lifespan(app):
        yield board
