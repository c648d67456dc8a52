"""An ASGI app with every endpoint of `wirebell.endpoints`, whose receiver does what a test says.

A peer's first message is JSON with its ``name``, and ``GET /report/NAME`` tells what became of it.
``POST /tell/NAME`` writes the lines of its body in one tick, ``POST /flood/NAME`` writes until the
queue is full, ``POST /close/NAME?code=`` ends it.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, cast
from urllib.parse import parse_qs

from wirebell.endpoints import (
    SSE,
    Emulation,
    Handshake,
    HTTPStreaming,
    StreamHost,
    UniHTTPStream,
    UniSSE,
)
from wirebell.errors import Disconnect, DisconnectCode, HandshakeError
from wirebell.interfaces import Receiver
from wirebell.liveness import PingRing
from wirebell.model import Frames
from wirebell.options import (
    ConnectResponse,
    EmulationOptions,
    StreamOptions,
    UnidirectionalStreamOptions,
)
from wirebell.portable import Writers
from wirebell.settings import Settings
from wirebell.transports.emulation import Sessions
from wirebell.transports.http_stream import HTTPStream, Streams

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

BODY_BYTES_MAX = 1_000
FLOOD_MESSAGES_MAX = 4_000
PIECE = json.dumps({"x": "y" * 30_000})

reports: dict[str, dict[str, Any]] = defaultdict(dict)
peers: dict[str, EchoReceiver] = {}
releases: dict[str, asyncio.Event] = defaultdict(asyncio.Event)


class EchoReceiver:
    """Says back what it hears, in the peer's own encoding."""

    def __init__(self, carrier: HTTPStream, handshake: Handshake) -> None:
        self.carrier = carrier
        self.handshake = handshake
        self.name = ""
        self.report: dict[str, Any] = {}

    def write(self, text: str) -> bool:
        """Write one message."""
        data = text.encode()
        is_binary = self.handshake.is_binary
        return self.carrier.write(
            Frames.from_message(bytes([len(data)]) + data if is_binary else text)
        )

    def receive_open(self) -> None:
        """Nothing."""

    def receive_text(self, text: str) -> Awaitable[None] | None:
        """Connect by the first message; say back the rest."""
        if self.name:
            self.report.setdefault("heard", []).append(text)
            if text == "wait":
                return self.wait()
            self.write(json.dumps({"echo": text}))
            return None
        try:
            connect = json.loads(text)
        except ValueError:
            connect = {"name": "nobody", "code": 3501}
        self.name = connect.get("name", "nobody")
        self.report = reports[self.name]
        self.report |= {"first": connect, "eof": 0}
        peers[self.name] = self
        if "code" in connect:
            if not self.carrier.refuse_connect(connect["code"]):
                self.close(Disconnect(connect["code"], "refused"))
            return None
        sessions.add(self.name, self.carrier)
        self.write(connect.get("greeting", '{"connect":{}}'))
        return None

    async def wait(self) -> None:
        """Wait until a test lets go."""
        await releases[self.name].wait()
        self.write('{"waited":true}')

    def receive_bytes(self, data: bytes) -> Awaitable[None] | None:
        """Take protobuf, which here is text behind a byte that is its length."""
        return self.receive_text(data[1:].decode())

    def send_ping(self) -> bool:
        """Ping in JSON."""
        self.write("{}")
        return True

    def receive_writable(self) -> None:
        """Nothing."""

    def receive_shutdown(self) -> None:
        """Send the peer away."""
        self.close(Disconnect(DisconnectCode.SHUTDOWN, "shutdown"))

    def close(self, disconnect: Disconnect) -> None:
        """End it, with a notice."""
        notice = json.dumps({"disconnect": {"code": int(disconnect.code)}})
        data = bytes([len(notice)]) + notice.encode()
        self.carrier.close(disconnect, notice=data if self.handshake.is_binary else notice)

    def receive_leave(self) -> None:
        """Nothing: there is nothing to leave."""

    async def receive_eof(self) -> None:
        """Count."""
        self.report["eof"] = self.report.get("eof", 0) + 1
        sessions.remove(self.name)

    async def flood(self) -> None:
        """Write a tick after the other until the queue is full, as a node does."""
        count = 0
        while count < FLOOD_MESSAGES_MAX and self.write(PIECE):
            count += 1
            self.report["flooded"] = count
            await asyncio.sleep(0)
        self.report["is_slow"] = count < FLOOD_MESSAGES_MAX
        self.close(Disconnect(DisconnectCode.SLOW, "slow"))


class EchoConnector:
    """Makes the receivers."""

    async def connect(self, carrier: HTTPStream, handshake: Handshake) -> Receiver | None:
        """Admit everybody but those whose query says otherwise."""
        query = handshake.scope["query_string"]
        if b"full=1" in query:
            raise HandshakeError(503, "full")
        if b"closed=1" in query:
            carrier.close(Disconnect(3504, "connection limit"), notice='{"limit":true}')
            return None
        return EchoReceiver(carrier, handshake)


def allow_origin(scope: Message) -> str | None:
    """Allow one page."""
    origin = dict(scope["headers"]).get(b"origin", b"").decode()
    return origin if origin in {"", "https://app.example"} else None


settings = Settings()
writers = Writers()
streams = Streams(settings)
pings = PingRing(settings.ping_interval_seconds, settings.pong_timeout_seconds)
sessions = Sessions("node-1")
host = StreamHost(
    settings, cast("Any", writers), streams, lambda: pings, allow_origin, EchoConnector()
)


def options(path: str) -> StreamOptions:
    """Return options with a short body."""
    return StreamOptions(enabled=True, path=path, body_bytes_max=BODY_BYTES_MAX)


def uni_options(path: str, **more: Any) -> UnidirectionalStreamOptions:
    """Return options with a short body."""
    return UnidirectionalStreamOptions(
        enabled=True, path=path, body_bytes_max=BODY_BYTES_MAX, **more
    )


endpoints = {
    "/connection/sse": SSE(host, options("/connection/sse")),
    "/connection/http_stream": HTTPStreaming(host, options("/connection/http_stream")),
    "/connection/uni_sse": UniSSE(host, uni_options("/connection/uni_sse")),
    "/connection/uni_http_stream": UniHTTPStream(
        host,
        uni_options(
            "/connection/uni_http_stream",
            connect_responses={109: ConnectResponse(status=401, body="expired")},
        ),
    ),
    "/emulation": Emulation(
        allow_origin, settings, EmulationOptions(body_bytes_max=BODY_BYTES_MAX), sessions.deliver
    ),
}


async def app(scope: Message, receive: Receive, send: Send) -> None:
    """Serve any ASGI scope."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] == "lifespan.startup":
            turn_ring()
            await send({"type": "lifespan.startup.complete"})
        await writers.aclose()
        await send({"type": "lifespan.shutdown.complete"})
    elif scope["path"] in endpoints:
        await endpoints[scope["path"]](scope, receive, send)
    else:
        await control(scope, receive, send)


def turn_ring() -> None:
    """Ping whose turn it is, and come back."""
    asyncio.get_running_loop().call_later(pings.step_seconds, turn_ring)
    pings.step()


async def control(scope: Message, receive: Receive, send: Send) -> None:
    """Do what a test says."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body", False):
            break
    path: list[str] = [*scope["path"].split("/"), "", ""]
    verb, name = path[1], path[2]
    query = parse_qs(scope["query_string"].decode())
    if verb == "tell":
        lines = tuple(body.decode().splitlines())
        peers[name].carrier.write(Frames(lines, len(body)))
    elif verb == "flood":
        await peers[name].flood()
    elif verb == "release":
        releases[name].set()
    elif verb == "close":
        peers[name].close(Disconnect(int(query["code"][0]), "bye"))
    report = json.dumps(reports.get(name, {})).encode()
    head = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": report})
