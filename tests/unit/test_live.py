"""The live endpoints through plain ASGI: who gets in, in which encoding, and who answers."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self
from urllib.parse import quote

import pytest
from fastapi import FastAPI

from tests.transcripts.framing import decode_frame
from tests.unit.clients import encode_frame
from tests.unit.clocks import turns
from tests.unit.fakes import FakePeer
from tests.unit.streams import FakeRequest
from wirebell import NotRunning, Realtime, Settings
from wirebell.admission import Limit
from wirebell.errors import Disconnect
from wirebell.live import Live
from wirebell.options import (
    ClientOptions,
    ConnectResponse,
    TransportOptions,
    UnidirectionalStreamOptions,
    UnidirectionalWebSocketOptions,
)
from wirebell.protocol import find_protobuf
from wirebell.protocol.json import JSON
from wirebell.protocol.protobuf import PROTOBUF

pytestmark = pytest.mark.anyio

WS, UNI = "/connection/websocket", "/connection/uni_websocket"
ALL = TransportOptions.create_all()
CONNECT = {"id": 1, "connect": {}}
DENIAL: dict[str, dict[str, str]] = {"websocket.http.response": {}}
"""The server lets an application refuse a handshake in its own words."""


@asynccontextmanager
async def running(settings: Settings | None = None, **options: Any) -> AsyncIterator[Realtime]:
    """Run an application without a server."""
    rt = Realtime(settings or Settings(), **options)
    async with rt.lifespan(FastAPI()):
        yield rt


def scope_of(kind: str, path: str, query: str = "", **headers: str) -> dict[str, Any]:
    """Make a scope."""
    return {
        "type": kind,
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "ws" if kind == "websocket" else "http",
        "path": path,
        "query_string": query.encode(),
        "headers": [
            (b"host", b"app.example"),
            *((name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()),
        ],
        "client": ("10.0.0.1", 1),
    }


class Socket:
    """A WebSocket's peer, and the endpoint that serves it."""

    def __init__(self, live: Live, path: str, query: str = "", **how: Any) -> None:
        self.peer = FakePeer()
        self.scope = scope_of("websocket", path, query, **how.pop("headers", {}))
        self.scope |= how
        self.live = live

    async def __aenter__(self) -> FakePeer:
        """Open it, and run until everybody waits."""
        application = self.live.applications()[self.scope["path"]]
        work = application(self.scope, self.peer.receive, self.peer.send)
        self.task = asyncio.create_task(work)
        await turns()
        return self.peer

    async def __aexit__(self, *_: object) -> None:
        """End the link."""
        self.peer.leave()
        await self.task


def heard(peer: FakePeer) -> list[Any]:
    """Return what a peer was sent."""
    frames = [
        message.get("text") or message.get("bytes")
        for message in peer.sent
        if message["type"] == "websocket.send"
    ]
    return [item for frame in frames if frame is not None for item in decode_frame(frame)]


async def say(peer: FakePeer, frame: str | bytes) -> None:
    """Send a frame, and run until everybody waits."""
    name = "text" if isinstance(frame, str) else "bytes"
    peer.put({"type": "websocket.receive", name: frame})
    await turns()


@pytest.mark.parametrize(
    ("query", "offered", "answered", "is_binary"),
    [
        ("", None, None, False),
        ("", [], None, False),
        ("", ["centrifuge-json"], "centrifuge-json", False),
        ("", ["centrifuge-protobuf"], "centrifuge-protobuf", True),
        ("", ["other", "centrifuge-protobuf", "centrifuge-json"], "centrifuge-protobuf", True),
        ("", ["other"], None, False),
        ("format=protobuf", [], None, True),
        ("cf_protocol=protobuf", [], None, True),
        ("format=json&x=%ff", [], None, False),
        ("&".join(f"a{number}=1" for number in range(200)), [], None, False),
    ],
)
async def test_the_encoding(
    query: str, offered: list[str] | None, answered: str | None, is_binary: bool
) -> None:
    """The subprotocol or the query chooses it; a query nobody could mean chooses nothing."""
    how = {} if offered is None else {"subprotocols": offered}
    async with running() as rt, Socket(rt.live, WS, query, **how) as peer:
        await say(peer, encode_frame(PROTOBUF if is_binary else JSON, CONNECT))

        assert answered == peer.sent[0]["subprotocol"]
        assert [1] == [reply["id"] for reply in heard(peer)]
        assert is_binary == ("bytes" in peer.sent[1])


async def test_protobuf_that_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The client gets JSON and no subprotocol, and the log says what to install."""
    find_protobuf.cache_clear()
    monkeypatch.setitem(sys.modules, "wirebell.protocol.protobuf", None)
    async with running() as rt:
        async with Socket(rt.live, WS, subprotocols=["centrifuge-protobuf"]) as peer:
            assert None is peer.sent[0]["subprotocol"]
        status, _ = await request(
            rt.live, "/connection/http_stream", b"\x00", content_type="application/octet-stream"
        )
    find_protobuf.cache_clear()
    assert "pip install 'wirebell[server]'" in caplog.text
    assert 415 == status


async def test_native_pings() -> None:
    """Who asks for them is not told of the protocol's."""
    async with running() as rt, Socket(rt.live, WS, "cf_ws_frame_ping_pong=true") as peer:
        await say(peer, encode_frame(JSON, CONNECT))

        (reply,) = heard(peer)
        assert {"client", "version"} == set(reply["connect"])


@pytest.mark.parametrize("path", [WS, UNI])
async def test_a_request_that_is_no_handshake(path: str) -> None:
    """It is answered 400 (``not_a_websocket_request``)."""
    async with running() as rt:
        assert (400, "Bad Request\n") == await request(rt.live, path, b"")


@pytest.mark.parametrize(
    ("is_standalone", "allowed", "origin", "status", "setting"),
    [
        (False, (), "http://evil.example", 403, "WIREBELL_ALLOWED_ORIGINS"),
        (True, (), "http://app.example", 403, "client.allowed_origins"),
        (True, ("http://app.example",), "http://app.example", None, ""),
        (False, (), "http://app.example", None, ""),
        (False, (), None, None, ""),
        (True, (), None, None, ""),
    ],
)
async def test_origins(
    is_standalone: bool,
    allowed: tuple[str, ...],
    origin: str | None,
    status: int | None,
    setting: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A foreign page is refused everywhere, and told which setting would let it in."""
    headers = {} if origin is None else {"origin": origin}
    async with running(Settings(allowed_origins=allowed), is_standalone=is_standalone) as rt:
        for path in (WS, UNI):
            socket = Socket(rt.live, path, headers=headers, extensions=DENIAL)
            async with socket as peer:
                assert status == peer.sent[0].get("status")
                if status is not None:
                    assert setting in peer.sent[1]["body"].decode()
        count = 0 if status is None else 2
        assert count == rt.node().statistics.refused_counts[Limit.ORIGIN]
        assert (count > 0) == ("is not allowed" in caplog.text)


@pytest.mark.parametrize("path", [WS, UNI])
async def test_the_limit_of_connections(path: str) -> None:
    """One too many is refused with 503 before it is a WebSocket; the place is free again later."""
    async with running(Settings(connections_max=1)) as rt:
        async with Socket(rt.live, path):
            async with Socket(rt.live, path, extensions=DENIAL) as refused:
                assert 503 == refused.sent[0]["status"]
            assert (503, "") == await request(rt.live, "/connection/uni_http_stream", b"{}")
        async with Socket(rt.live, path, extensions=DENIAL) as peer:
            assert "websocket.accept" == peer.sent[0]["type"]
        assert 2 == rt.node().statistics.refused_counts[Limit.CONNECTIONS]


async def test_a_unidirectional_connect_in_the_query() -> None:
    """The connect request may stand in the address; one that cannot be read is 400."""
    async with running() as rt:
        async with Socket(rt.live, UNI, f"cf_connect={quote('{}')}") as peer:
            assert ["connect"] == [next(iter(push)) for push in heard(peer)]
        async with Socket(rt.live, UNI, "cf_connect=x", extensions=DENIAL) as refused:
            assert 400 == refused.sent[0]["status"]


@pytest.mark.parametrize(("is_quiet", "expected"), [(False, ["disconnect"]), (True, [])])
async def test_the_end_of_a_unidirectional_socket(is_quiet: bool, expected: list[str]) -> None:
    """A push says why before the close frame, unless that is switched off; words are mapped."""
    transports = TransportOptions(
        uni_websocket=UnidirectionalWebSocketOptions(enabled=True, disable_disconnect_push=is_quiet)
    )
    clients = ClientOptions(connect_disconnects={3501: Disconnect(4001, "come again")})
    async with running(transports=transports, clients=clients) as rt:
        async with Socket(rt.live, UNI) as peer:
            await say(peer, "{}")

        assert expected == [next(iter(push)) for push in heard(peer)]
        assert [(4001, "come again")] == peer.closes


async def request(live: Live, path: str, body: bytes, **headers: str) -> tuple[int, str]:
    """Ask for something that ends by itself."""
    sender = FakeRequest(body)
    await live.applications()[path](scope_of("http", path, **headers), sender.receive, sender.send)
    assert sender.status is not None
    return sender.status, b"".join(item.get("body", b"") for item in sender.sent[1:]).decode()


class Stream:
    """A streaming request, and the endpoint that serves it."""

    def __init__(self, live: Live, path: str, body: bytes, **headers: str) -> None:
        self.sender = FakeRequest(body)
        self.scope = scope_of("http", path, **headers)
        self.live = live

    async def __aenter__(self) -> Self:
        """Open it, and run until everybody waits."""
        application = self.live.applications()[self.scope["path"]]
        work = application(self.scope, self.sender.receive, self.sender.send)
        self.task = asyncio.create_task(work)
        await turns(20)
        return self

    async def __aexit__(self, *_: object) -> None:
        """End the link."""
        self.sender.leave()
        await self.task

    @property
    def messages(self) -> list[Any]:
        """What came."""
        body = b"".join(item.get("body", b"") for item in self.sender.sent[1:])
        return [json.loads(line) for line in body.decode().splitlines() if line]


async def test_a_client_that_speaks_through_other_requests() -> None:
    """Its session is known from the connect result to the end, to this node alone."""
    async with running() as rt:
        rt.rpc("echo")(lambda caller, data: data)
        frame = str(encode_frame(JSON, CONNECT)).encode()
        async with Stream(rt.live, "/connection/http_stream", frame) as stream:
            (reply,) = stream.messages
            node, session = reply["connect"]["node"], reply["connect"]["session"]
            command = {"id": 2, "rpc": {"method": "echo", "data": 7}}
            forward = {"node": node, "session": session, "data": json.dumps(command)}

            answers = [
                await request(rt.live, "/emulation", json.dumps(forward | changes).encode())
                for changes in ({}, {"node": "other"}, {"session": "other"})
            ]

            await turns(20)
            assert [204, 404, 204] == [status for status, _ in answers]
            assert {"id": 2, "rpc": {"data": 7}} == stream.messages[1]
            (connection,) = rt.node().connections.values()
            assert "http_stream" == getattr(connection.control, "transport_name", None)
            assert {session} == set(rt.live._sessions().links)
        assert {} == rt.live._sessions().links
        assert not await rt.live.deliver("other", session, b"", False)


async def test_sessions_belong_to_a_running_node() -> None:
    """A node that was started again knows no sessions of before; one that does not run, none."""
    rt = Realtime(Settings())
    async with rt.lifespan(FastAPI()):
        first = rt.live._sessions()
        assert first is rt.live._sessions()
    async with rt.lifespan(FastAPI()):
        assert first is not rt.live._sessions()
    with pytest.raises(NotRunning):
        await rt.live.deliver("node", "session", b"", False)


async def test_a_unidirectional_stream() -> None:
    """It connects by its body; why it cannot is a status where that is configured."""
    transports = TransportOptions(
        uni_http_stream=UnidirectionalStreamOptions(
            enabled=True,
            path="/connection/uni_http_stream",
            connect_responses={3501: ConnectResponse(401, "who?")},
        )
    )
    async with running(clients=ClientOptions(), transports=transports) as rt:
        assert (401, "who?") == await request(rt.live, "/connection/uni_http_stream", b"{}")
    path = "/connection/uni_http_stream"
    async with running() as rt, Stream(rt.live, path, b"{}") as stream:
        assert ["connect"] == [next(iter(push)) for push in stream.messages]


async def test_a_stream_of_a_foreign_page() -> None:
    """Streams refuse a foreign Origin too, and name the setting (section 1.16, 1)."""
    async with running() as rt:
        status, body = await request(
            rt.live, "/connection/http_stream", b"{}", origin="http://evil.example"
        )

        assert (403, True) == (status, "WIREBELL_ALLOWED_ORIGINS" in body)
        assert 1 == rt.node().statistics.refused_counts[Limit.ORIGIN]


async def test_what_is_served() -> None:
    """Every transport that is enabled, each at its path; emulation where somebody needs it."""
    async with running() as rt:
        assert 7 == len(rt.live.applications())
    async with running(transports=TransportOptions()) as rt:
        assert [WS] == list(rt.live.applications())
