"""The uvicorn protocol class between a peer and an endpoint that does what a test says."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from tests.unit.clocks import turns
from tests.unit.sockets import FakeLink, FakeSocket, frames
from wirebell.uvicorn import WebSocketProtocol

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="  # of RFC 6455, section 1.3
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
DEFLATE = (b"Sec-WebSocket-Extensions", b"permessage-deflate; client_max_window_bits")


def request(target: bytes = b"/", *headers: tuple[bytes, bytes]) -> bytes:
    """Write a handshake."""
    lines = [
        b"GET " + target + b" HTTP/1.1",
        b"Host: app.example",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Key: " + KEY,
        b"Sec-WebSocket-Version: 13",
        *(name + b": " + value for name, value in headers),
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n"


class Endpoint:
    """An ASGI application whose ``receive`` and ``send`` a test calls."""

    def __init__(self) -> None:
        self.scope: dict[str, Any] = {}
        self.receive: Any = None
        self.send: Any = None
        self.ended = asyncio.Event()
        self.failure: BaseException | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve until the test ends it."""
        self.scope, self.receive, self.send = scope, receive, send
        await self.ended.wait()
        if self.failure is not None:
            raise self.failure

    async def end(self, failure: BaseException | None = None) -> None:
        """Return, or raise."""
        self.failure = failure
        self.ended.set()
        await turns()


def configure(application: Any, **options: Any) -> uvicorn.Config:
    """Make uvicorn's configuration, with nothing between it and the application."""
    return uvicorn.Config(
        application,
        **{
            "log_config": None,
            "interface": "asgi3",
            "lifespan": "off",
            "http": "h11",
            "ws": WebSocketProtocol,
            "proxy_headers": False,
            **options,
        },
    )


class Served:
    """One socket of a server: its peer's side, its protocol, its endpoint."""

    def __init__(
        self, *, state: ServerState | None = None, socket: FakeSocket | None = None, **options: Any
    ) -> None:
        self.endpoint = Endpoint()
        self.state = state or ServerState()
        self.config = configure(self.endpoint, **options)
        self.app_state: dict[str, Any] = {"pool": object()}
        self.protocol = WebSocketProtocol(
            config=self.config, server_state=self.state, app_state=self.app_state
        )
        self.socket = socket or FakeSocket(socket=FakeLink())
        self.socket.protocol = self.protocol
        self.protocol.connection_made(self.socket)

    async def ask(
        self, *headers: tuple[bytes, bytes], target: bytes = b"/", early: bytes = b""
    ) -> None:
        """Have the peer send its handshake, and the endpoint begin."""
        self.socket.receive(request(target, *headers) + early)
        await turns()

    async def open(self, *headers: tuple[bytes, bytes], **message: Any) -> None:
        """Have the socket accepted."""
        await self.ask(*headers)
        assert {"type": "websocket.connect"} == await self.endpoint.receive()
        await self.endpoint.send({"type": "websocket.accept", **message})

    async def say(self, text: str) -> None:
        """Have the endpoint send a text."""
        await self.endpoint.send({"type": "websocket.send", "text": text})

    @property
    def head(self) -> bytes:
        """The answer to the handshake, to its empty line."""
        return b"".join(self.socket.written).partition(b"\r\n\r\n")[0]

    @property
    def status(self) -> int:
        """The status of the answer."""
        return int(self.head.split(b" ")[1])

    @property
    def headers(self) -> dict[bytes, bytes]:
        """The headers of the answer, with lower names."""
        lines = (line.split(b": ", 1) for line in self.head.split(b"\r\n")[1:])
        return {name.lower(): value for name, value in lines}

    @property
    def body(self) -> bytes:
        """What follows the head of the answer."""
        return b"".join(self.socket.written).partition(b"\r\n\r\n")[2]

    @property
    def detail(self) -> str:
        """The words of a refusal."""
        return str(json.loads(self.body)["detail"])

    @property
    def frames(self) -> list[tuple[int, bytes]]:
        """The frames that followed the handshake."""
        return frames(self.body)

    @property
    def is_done(self) -> bool:
        """Whether the application is done."""
        return not self.state.tasks


async def opened(*headers: tuple[bytes, bytes], **options: Any) -> Served:
    """Open a socket that is not pinged unless told."""
    served = Served(**{"ws_ping_interval": None, **options})
    await served.open(*headers)
    return served
