"""The endpoints of the client protocol over HTTP, request by request."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import pytest

from tests.unit.clocks import turns
from tests.unit.streams import FakeRequest, PingedReceiver
from wirebell.endpoints import (
    SSE,
    Emulation,
    Endpoint,
    Handshake,
    HTTPStreaming,
    Request,
    StreamEndpoint,
    StreamHost,
    UniHTTPStream,
    UniSSE,
)
from wirebell.errors import Disconnect, HandshakeError
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
from wirebell.protocol import find_protobuf
from wirebell.settings import Settings
from wirebell.transports.http_stream import HTTPStream, Streams

pytestmark = pytest.mark.anyio

OCTETS = [(b"content-type", b"Application/Octet-Stream; x=y")]


class FakeConnector:
    """Gives every carrier a receiver that keeps what it hears."""

    def __init__(self) -> None:
        self.carriers: list[HTTPStream] = []
        self.handshakes: list[Handshake] = []
        self.receiver = PingedReceiver()
        self.failure: Exception | None = None
        self.is_closing = False

    async def connect(self, carrier: HTTPStream, handshake: Handshake) -> Receiver | None:
        """Keep what is given."""
        if self.failure is not None:
            raise self.failure
        self.carriers.append(carrier)
        self.handshakes.append(handshake)
        if self.is_closing:
            carrier.close(Disconnect(3504, "connection limit"), notice="full")
            return None
        carrier.write(Frames.from_text("{}"))
        return self.receiver


class Site:
    """The endpoints with what they need."""

    def __init__(self) -> None:
        self.connector = FakeConnector()
        self.settings = Settings()
        writers: Any = Writers()
        pings = PingRing(25, 8)
        self.host = StreamHost(
            self.settings,
            writers,
            streams=Streams(self.settings),
            pings=lambda: pings,
            allow_origin=self.allow,
            connector=self.connector,
        )
        self.delivered: list[tuple[str, str, bytes, bool]] = []
        bound = EmulationOptions(body_bytes_max=200)
        self.emulation = Emulation(self.allow, self.settings, bound, self.deliver)

    @staticmethod
    def allow(scope: Any) -> str | None:
        """Allow one origin, and requests without any."""
        origin = dict(scope["headers"]).get(b"origin", b"").decode()
        if origin == "null":
            raise HandshakeError(403, "in words of its own")
        return origin if origin in {"", "https://a"} else None

    async def deliver(self, node: str, session: str, data: bytes, is_binary: bool) -> bool:
        """Keep commands; know one node."""
        self.delivered.append((node, session, data, is_binary))
        return node == "n"

    def create(self, kind: type[StreamEndpoint]) -> StreamEndpoint:
        """Create an endpoint with a bound of 50 bytes."""
        return kind(self.host, StreamOptions(path="/x", body_bytes_max=50))

    def create_uni(self, kind: type[UniSSE | UniHTTPStream], **options: Any) -> StreamEndpoint:
        """Create a unidirectional endpoint with a bound of 50 bytes."""
        return kind(self.host, UnidirectionalStreamOptions(path="/x", body_bytes_max=50, **options))


async def ask(
    endpoint: Endpoint,
    *pieces: bytes,
    method: str = "GET",
    query: bytes = b"",
    headers: list[tuple[bytes, bytes]] | None = None,
    leaves: bool = True,
) -> FakeRequest:
    """Serve one request of a peer that then leaves."""
    request = FakeRequest(*pieces)
    scope = {"type": "http", "method": method, "query_string": query, "headers": headers or []}
    if leaves:
        asyncio.get_running_loop().call_later(1, request.leave)
    await endpoint(scope, request.receive, request.send)
    return request


@pytest.mark.parametrize("kind", [SSE, UniSSE])
async def test_a_get_is_one_message(kind: type[SSE | UniSSE]) -> None:
    """It is what the query says, and the answer is an event stream."""
    site = Site()
    endpoint = site.create(SSE) if kind is SSE else site.create_uni(UniSSE)
    request = await ask(endpoint, query=b"x=1&cf_connect=%7B%22name%22:%22a+b%22%7D&cf_connect=2")

    assert ["open", '{"name":"a b"}', "eof"] == site.connector.receiver.calls
    assert [b"\r\ndata: {}\n\n"] == request.pieces
    assert b"text/event-stream; charset=utf-8" == request.headers[b"content-type"]
    handshake = site.connector.handshakes[0]
    assert (False, kind is UniSSE) == (handshake.is_binary, handshake.is_unidirectional)


async def test_a_post_is_one_message() -> None:
    """Text unless it says that it is protobuf, whole when it came in pieces."""
    site = Site()
    await ask(site.create(SSE), b"a", b"b", method="POST")
    lines = await ask(site.create(HTTPStreaming), b"c\xff", method="POST")
    octets = await ask(site.create(HTTPStreaming), b"\x00", method="POST", headers=OCTETS)
    await ask(site.create_uni(UniSSE), b"null", method="POST")
    await ask(site.create_uni(UniHTTPStream), b'{"name":"d"}', method="POST")

    heard = [call for call in site.connector.receiver.calls if call not in {"open", "eof"}]
    assert ["ab", "c\ufffd", "bytes 1", "{}", '{"name":"d"}'] == heard
    assert [b"{}\n"] == lines.pieces
    assert [b"{}"] == octets.pieces
    assert [True] == [each.is_binary for each in site.connector.handshakes if each.is_binary]


async def test_an_event_source_comes_back() -> None:
    """Positions of the header go into the request, and an id of another server does no harm."""
    site = Site()
    endpoint = site.create_uni(UniSSE)
    for event_id in (b"2.x.a", b"42"):
        await ask(endpoint, headers=[(b"last-event-id", event_id)])

    first, second = [call for call in site.connector.receiver.calls if call.startswith("{")]
    assert {"subs": {"a": {"recover": True, "offset": 2, "epoch": "x"}}} == json.loads(first)
    assert "{}" == second


@pytest.mark.parametrize(
    ("kind", "method", "query", "body", "status"),
    [
        (SSE, "GET", b"", b"", 400),
        (SSE, "GET", b"cf_connect=", b"", 400),
        (SSE, "GET", b"&".join([b"a"] * 101), b"", 400),
        (SSE, "GET", b"cf_connect=" + b"x" * 51, b"", 413),
        (SSE, "POST", b"", b"x" * 51, 413),
        (SSE, "OPTIONS", b"", b"", 405),
        (HTTPStreaming, "GET", b"", b"", 405),
        (HTTPStreaming, "POST", b"", b"x" * 51, 413),
        (UniSSE, "GET", b"cf_connect=%7B", b"", 400),
        (UniSSE, "POST", b"", b"", 400),
        (UniHTTPStream, "POST", b"", b"{bad", 400),
        (UniHTTPStream, "GET", b"", b"", 405),
    ],
)
async def test_wrong_requests(
    kind: Any, method: str, query: bytes, body: bytes, status: int
) -> None:
    """They are answered by a status, and nobody is admitted."""
    site = Site()
    create: Any = site.create_uni if kind in {UniSSE, UniHTTPStream} else site.create
    request = await ask(create(kind), body, method=method, query=query)

    assert (status, [b""], []) == (request.status, request.pieces, site.connector.carriers)
    assert b"" == request.headers[b"access-control-allow-origin"]
    assert (status == 405) == (b"allow" in request.headers)


async def test_a_length_that_is_too_much_is_not_waited_for() -> None:
    """The header is enough."""
    length = [(b"content-length", b"51")]
    request = await ask(Site().create(SSE), method="POST", headers=length, leaves=False)

    assert 413 == request.status


async def test_a_length_that_is_no_number() -> None:
    """A digit that is none in ASCII is no reason to fail: the body is counted."""
    length = [(b"content-length", b"\xb2")]
    request = await ask(Site().create(SSE), b"{}", method="POST", headers=length)

    assert 200 == request.status


async def test_a_body_that_does_not_come() -> None:
    """It is waited for as long as for a request's head; without a limit for ever."""
    request = await ask(Site().create(SSE), method="POST", leaves=False)
    assert 408 == request.status

    endless = Request({"headers": []}, FakeRequest(b"x").receive, FakeRequest().send)
    assert b"x" == await endless.read_body(10, 0)


@pytest.mark.parametrize("kind", [SSE, HTTPStreaming, UniSSE, UniHTTPStream, Emulation])
async def test_who_leaves_before_the_body_is_not_answered(kind: Any) -> None:
    """Nothing is sent and nobody is admitted."""
    site = Site()
    if kind is Emulation:
        endpoint: Endpoint = site.emulation
    elif kind in {SSE, HTTPStreaming}:
        endpoint = site.create(kind)
    else:
        endpoint = site.create_uni(kind)
    request = await ask(endpoint, method="POST")

    assert ([], [], []) == (request.sent, site.connector.carriers, site.delivered)


async def test_preflight() -> None:
    """A browser learns what it may do; where nothing is asked nothing is said."""
    asked = [(b"origin", b"https://a"), (b"access-control-request-headers", b"x-a, x-b")]
    request = await ask(Site().emulation, method="OPTIONS", headers=asked)
    bare = await ask(Site().emulation, method="OPTIONS")

    assert (204, 204, [b""]) == (request.status, bare.status, request.pieces)
    assert {
        b"access-control-allow-origin": b"https://a",
        b"access-control-allow-credentials": b"true",
        b"access-control-allow-headers": b"x-a, x-b",
        b"access-control-allow-methods": b"POST, OPTIONS",
        b"access-control-max-age": b"300",
    } == request.headers
    assert b"access-control-allow-headers" not in bare.headers


@pytest.mark.parametrize("method", ["GET", "OPTIONS", "PUT"])
async def test_a_foreign_origin_is_refused(method: str) -> None:
    """Before anything else, by a text that names the setting."""
    headers = [(b"origin", b"https://evil"), (b"host", b"a")]
    request = await ask(Site().create(SSE), method=method, headers=headers)

    assert 403 == request.status
    expected = b"origin 'https://evil' is not allowed; set WIREBELL_ALLOWED_ORIGINS"
    assert [expected] == request.pieces
    assert b"access-control-allow-origin" not in request.headers
    told = await ask(Site().create(SSE), method=method, headers=[(b"origin", b"null")])
    assert (403, [b"in words of its own"]) == (told.status, told.pieces)


async def test_a_connector_that_refuses() -> None:
    """By a status, or by a word on the stream."""
    site = Site()
    endpoint = site.create(SSE)
    site.connector.failure = HandshakeError(503, "full", [(b"retry-after", b"1")])
    refused = await ask(endpoint, query=b"cf_connect=x")
    site.connector.failure, site.connector.is_closing = None, True
    closed = await ask(endpoint, query=b"cf_connect=x")

    assert (503, b"1") == (refused.status, refused.headers[b"retry-after"])
    assert (200, [b"\r\ndata: full\n\n"]) == (closed.status, closed.pieces)
    assert [] == site.connector.receiver.calls


async def test_connect_responses_reach_the_carrier() -> None:
    """The operator's answers are for unidirectional transports."""
    site = Site()
    answers = {109: ConnectResponse(status=401)}
    await ask(site.create_uni(UniHTTPStream, connect_responses=answers), b"{}", method="POST")
    await ask(site.create(SSE), query=b"cf_connect=x")

    assert [answers, None] == [carrier.connect_responses for carrier in site.connector.carriers]


async def test_emulation() -> None:
    """Commands go to whoever has the session; what cannot be read is answered 400."""
    site = Site()
    body = b'{"node":"n","session":"s","data":"{}"}'
    known = await ask(site.emulation, body, method="POST")
    unknown = await ask(site.emulation, body.replace(b'"n"', b'"m"'), method="POST")
    binary = await ask(
        site.emulation, b"\x0a\x01n\x12\x01s\x1a\x01\x00", method="POST", headers=OCTETS
    )
    broken = await ask(site.emulation, b"{", method="POST")
    wrong = await ask(site.emulation)

    statuses = [each.status for each in (known, unknown, binary, broken, wrong)]
    assert [204, 404, 204, 400, 405] == statuses
    assert b"content-length" not in known.headers
    assert [
        ("n", "s", b"{}", False),
        ("m", "s", b"{}", False),
        ("n", "s", b"\x00", True),
    ] == site.delivered


async def test_protobuf_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer says that the encoding is not spoken."""
    # What Python itself does for a module that is not there.
    monkeypatch.setitem(sys.modules, "wirebell.protocol.protobuf", None)
    find_protobuf.cache_clear()
    request = await ask(Site().emulation, b"", method="POST", headers=OCTETS)
    find_protobuf.cache_clear()

    assert 415 == request.status


async def test_a_websocket_is_turned_away() -> None:
    """Whoever opens one at an HTTP endpoint gets a plain refusal."""
    request = FakeRequest()
    request.put({"type": "websocket.connect"})
    await Site().emulation({"type": "websocket"}, request.receive, request.send)

    assert [{"type": "websocket.close", "code": 1000, "reason": ""}] == request.sent


async def test_bases_serve_nothing() -> None:
    """What an endpoint reads and writes is said by each."""
    site = Site()
    request = Request({"headers": [], "method": "POST"}, FakeRequest().receive, FakeRequest().send)
    stream = StreamEndpoint(site.host, StreamOptions(path="/x"))

    with pytest.raises(NotImplementedError):
        await Endpoint(site.allow, site.settings, body_bytes_max=1).serve(request)
    with pytest.raises(NotImplementedError):
        await stream.read_first(request)
    with pytest.raises(NotImplementedError):
        stream.create_framing(request, is_binary=False)
    await turns()
