"""Streams over HTTP responses on real servers: what arrives when, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import struct
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from tests import servers
from tests.integration.clients import WAIT_SECONDS, complaints, eventually, http, our_failures

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    import httpx2

    from tests.servers import Server

pytestmark = pytest.mark.anyio

APP = "tests.integration.stream_app:app"
UVICORN = ("wirebell-http", "wirebell-asyncio-h11", "uvicorn-websockets-sansio")
KINDS = (*UVICORN, "hypercorn", "granian")
"""Both of uvicorn's HTTP classes and ours, on both loops, and the others."""

ENV = {
    "WIREBELL_CLOSE_TIMEOUT_SECONDS": "1",
    "WIREBELL_DRAIN_WINDOW_SECONDS": "0.5",
    "WIREBELL_REQUEST_TIMEOUT_SECONDS": "1",
    "WIREBELL_PING_INTERVAL_SECONDS": "1",
}
PATHS = ("sse", "http_stream", "uni_sse", "uni_http_stream")
GROWTH_BYTES = 32 * 2**20
"""More than a server with bounds grows by."""

ORIGIN = {"Origin": "https://app.example"}
FOREIGN = {"Origin": "https://evil.example"}
CORS = {"access-control-allow-origin": "", "access-control-allow-credentials": "true"}


@pytest.fixture(scope="module", params=KINDS)
def running(request: pytest.FixtureRequest) -> Iterator[tuple[str, Server]]:
    """Serve the app under one kind of server, with its kind."""
    with servers.serve(APP, str(request.param), env=ENV) as server:
        yield str(request.param), server


@pytest.fixture
def kind(running: tuple[str, Server]) -> str:
    """Name the server under test."""
    return running[0]


@pytest.fixture
def server(running: tuple[str, Server]) -> Iterator[Server]:
    """Hand out the server; afterwards it lives and has nothing to complain about."""
    server = running[1]
    yield server
    assert server.process.poll() is None, server.log()
    assert ([], 0) == (complaints(server), our_failures(server)), server.log()[-4_000:]


class Stream:
    """One open response."""

    def __init__(self, response: httpx2.Response) -> None:
        self.response = response
        self.pieces = response.aiter_raw()
        self.rest = b""

    async def read(self, count: int) -> bytes:
        """Return exactly so many bytes."""
        async with asyncio.timeout(WAIT_SECONDS):
            while len(self.rest) < count:
                self.rest += await anext(self.pieces)
        found, self.rest = self.rest[:count], self.rest[count:]
        return found

    async def read_all(self) -> bytes:
        """Return what comes until the body ends."""
        async with asyncio.timeout(WAIT_SECONDS):
            return self.rest + b"".join([piece async for piece in self.pieces])


@contextlib.asynccontextmanager
async def stream(
    client: httpx2.AsyncClient,
    transport: str,
    connect: Mapping[str, Any],
    headers: Mapping[str, str] | None = None,
) -> AsyncIterator[Stream]:
    """Open a stream, by GET where that is a way."""
    path, first = f"/connection/{transport}", json.dumps(connect)
    if transport.endswith("sse"):
        request = client.stream("GET", path, params={"cf_connect": first}, headers=headers)
    else:
        request = client.stream("POST", path, content=first, headers=headers)
    async with request as response:
        yield Stream(response)


def fresh() -> str:
    """Return a name that no other test uses."""
    return uuid.uuid4().hex[:8]


def frame(transport: str, text: str) -> bytes:
    """Write a message as a transport does."""
    return (f"data: {text}\n\n" if transport.endswith("sse") else f"{text}\n").encode()


def prelude(transport: str) -> bytes:
    """Return the first bytes of a body."""
    return b"\r\n" if transport.endswith("sse") else b""


async def wait_report(client: httpx2.AsyncClient, name: str, **expected: Any) -> dict[str, Any]:
    """Wait until the app tells this of a peer, and return all that it tells."""
    seen: dict[str, Any] = {}

    async def told() -> bool:
        seen.update((await client.get(f"/report/{name}")).json())
        return expected.items() <= seen.items()

    await eventually(told, f"{name} has {expected}")
    return seen


@pytest.mark.parametrize("transport", PATHS)
async def test_messages_arrive_as_they_are_written(server: Server, transport: str) -> None:
    """Status, headers and first message come at once, each later tick comes as one piece."""
    name = fresh()
    async with http(server) as client, stream(client, transport, {"name": name}) as peer:
        first = prelude(transport) + frame(transport, '{"connect":{}}')
        assert first == await peer.read(len(first))
        await client.post(f"/tell/{name}", content=b'{"a":1}\n{"b":2}')
        both = frame(transport, '{"a":1}') + frame(transport, '{"b":2}')
        assert both == await anext(peer.pieces)
        headers = peer.response.headers

    assert 200 == peer.response.status_code
    kind = "text/event-stream" if transport.endswith("sse") else "text/plain"
    assert f"{kind}; charset=utf-8" == headers["content-type"]
    assert "no" == headers["x-accel-buffering"]
    assert "private, no-cache, no-store, must-revalidate, max-age=0" == headers["cache-control"]
    assert CORS.items() <= dict(headers).items()


async def test_protobuf_is_answered_by_protobuf(server: Server) -> None:
    """A body of octets is bytes to the receiver, and the answer has no line feeds."""
    body = b'\x0c{"name":"b"}'
    octets = {"Content-Type": "application/octet-stream"}
    async with (
        http(server) as client,
        client.stream("POST", "/connection/http_stream", content=body, headers=octets) as response,
    ):
        assert b'\x0e{"connect":{}}' == await Stream(response).read(15)

    assert "application/octet-stream" == response.headers["content-type"]


@pytest.mark.parametrize("transport", PATHS)
async def test_a_peer_that_leaves_is_noticed_at_once(server: Server, transport: str) -> None:
    """The receiver learns of the end, once, without a word being written."""
    name = fresh()
    async with http(server) as other:
        async with http(server) as client, stream(client, transport, {"name": name}) as peer:
            await peer.read(1)
        started = time.monotonic()
        report = await wait_report(other, name, eof=1)

    assert time.monotonic() - started < 2
    assert 1 == report["eof"]


async def test_a_peer_that_vanishes_is_noticed(server: Server) -> None:
    """A reset ends the stream as well."""
    name = fresh()
    sock = dial(server, name)
    async with http(server) as client:
        await wait_report(client, name, eof=0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()

        await wait_report(client, name, eof=1)


def dial(server: Server, name: str) -> socket.socket:
    """Open an SSE stream by hand, with little room for what comes."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    sock.connect(("127.0.0.1", server.port))
    target = f"/connection/sse?cf_connect=%7B%22name%22:%22{name}%22%7D"
    sock.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return sock


async def test_a_peer_that_does_not_read_is_cut_and_others_are_not(server: Server) -> None:
    """The queue is bounded, the stream ends within its time, and others hear on."""
    name, other = fresh(), fresh()
    before = server.resident_bytes()
    with dial(server, name):
        async with http(server) as client, stream(client, "sse", {"name": other}) as peer:
            await peer.read(len(b'\r\ndata: {"connect":{}}\n\n'))
            await wait_report(client, name, eof=0)
            report = (await client.post(f"/flood/{name}")).json()
            grown = server.resident_bytes() - before
            await client.post(f"/tell/{other}", content=b'{"still":1}')
            await read_event(peer, b'data: {"still":1}\n\n')
            await wait_report(client, name, eof=1)

    assert report["is_slow"]
    assert grown < GROWTH_BYTES


async def read_event(peer: Stream, event: bytes) -> None:
    """Read pings until an event comes."""
    while event not in peer.rest:
        peer.rest += await anext(peer.pieces)


@pytest.mark.parametrize("transport", PATHS)
async def test_a_close_says_why_and_ends_the_body(server: Server, transport: str) -> None:
    """What waits comes first, then why, then the end; the receiver learns of it."""
    name = fresh()
    async with http(server) as client, stream(client, transport, {"name": name}) as peer:
        await peer.read(1)
        await client.post(f"/tell/{name}", content=b'{"last":1}')
        await client.post(f"/close/{name}?code=3500")
        body = await peer.read_all()
        await wait_report(client, name, eof=1)

    expected = frame(transport, '{"last":1}') + frame(transport, '{"disconnect": {"code": 3500}}')
    assert body.endswith(expected)


@pytest.mark.parametrize("transport", ["sse", "http_stream"])
async def test_who_is_sent_away_learns_when_to_come_back(server: Server, transport: str) -> None:
    """A shutdown's close has a delay of its own for an EventSource, and no such line elsewhere."""
    name = fresh()
    async with http(server) as client, stream(client, transport, {"name": name}) as peer:
        await peer.read(1)
        await client.post(f"/close/{name}?code=3001")
        body = await peer.read_all()

    delays = [int(delay) for delay in re.findall(rb"retry: (\d+)\n\n", body)]
    assert (1 if transport == "sse" else 0) == len(delays)
    assert all(1_000 <= delay <= 1_500 for delay in delays)


async def test_pings_come_from_the_ring(server: Server) -> None:
    """The receiver pings in its own words, once an interval."""
    async with http(server) as client, stream(client, "http_stream", {"name": fresh()}) as peer:
        await peer.read(len(b'{"connect":{}}\n'))

        assert b"{}\n" == await peer.read(3)


@pytest.mark.parametrize(
    ("method", "target", "body", "status"),
    [
        ("GET", "/connection/sse", b"", 400),
        ("GET", "/connection/sse?cf_connect=", b"", 400),
        ("GET", "/connection/sse?" + "&".join("a" * 200), b"", 400),
        ("GET", "/connection/sse?cf_connect=" + "x" * 1_001, b"", 413),
        ("PUT", "/connection/sse", b"{}", 405),
        ("OPTIONS", "/connection/sse", b"", 405),
        ("POST", "/connection/sse", b"x" * 1_001, 413),
        ("GET", "/connection/http_stream", b"", 405),
        ("PUT", "/connection/http_stream", b"{}", 405),
        ("POST", "/connection/http_stream", b"x" * 1_001, 413),
        ("GET", "/connection/uni_sse?cf_connect=%7Bbad", b"", 400),
        ("PUT", "/connection/uni_sse", b"{}", 405),
        ("GET", "/connection/uni_http_stream", b"", 405),
        ("POST", "/connection/uni_http_stream", b"{bad", 400),
        ("POST", "/connection/uni_http_stream", b"", 400),
        ("POST", "/connection/uni_http_stream", b"x" * 1_001, 413),
        ("GET", "/emulation", b"", 405),
        ("POST", "/emulation", b"", 400),
        ("POST", "/emulation", b"{bad", 400),
        ("POST", "/emulation", b"x" * 1_001, 413),
        ("POST", "/emulation", b'{"node":"no-such-node","session":"x","data":"{}"}', 404),
        ("POST", "/emulation", b'{"node":"","session":"","data":"{}"}', 404),
        ("POST", "/emulation", b'{"node":"node-1","session":"no-such","data":"{}"}', 204),
        ("GET", "/connection/sse?full=1&cf_connect=%7B%7D", b"", 503),
    ],
)
async def test_wrong_requests(
    server: Server, method: str, target: str, body: bytes, status: int
) -> None:
    """Each is answered as the recorded server answers, without a body."""
    async with http(server) as client:
        response = await client.request(method, target, content=body)

    assert (status, b"") == (response.status_code, response.content)
    assert CORS.items() <= dict(response.headers).items()


async def test_a_body_in_pieces_is_bounded_too(server: Server) -> None:
    """Without a length the bytes are counted as they come."""

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x" * 500

    async with http(server) as client:
        response = await client.post("/connection/http_stream", content=pieces())

    assert 413 == response.status_code


async def test_a_body_that_does_not_come_is_not_waited_for(server: Server) -> None:
    """After ``request_timeout_seconds`` the answer is 408."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"POST /emulation HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
    async with asyncio.timeout(WAIT_SECONDS):
        line = await reader.readline()
    writer.transport.abort()

    assert line.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(
    "path", ["/connection/http_stream", "/connection/uni_http_stream", "/emulation"]
)
async def test_preflight(server: Server, path: str) -> None:
    """A browser may ask before it posts, and remember the answer for five minutes."""
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-a"}
    async with http(server) as client:
        response = await client.options(path, headers=ORIGIN | asked)

    assert 204 == response.status_code
    assert {
        "access-control-allow-origin": "https://app.example",
        "access-control-allow-credentials": "true",
        "access-control-allow-headers": "x-a",
        "access-control-allow-methods": "POST, OPTIONS",
        "access-control-max-age": "300",
    }.items() <= dict(response.headers).items()


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
@pytest.mark.parametrize("path", [*(f"/connection/{name}" for name in PATHS), "/emulation"])
async def test_a_foreign_origin_is_refused(server: Server, path: str, method: str) -> None:
    """Everywhere, by a text that names the setting, and without the headers of CORS."""
    async with http(server) as client:
        response = await client.request(method, path, headers=FOREIGN)

    assert 403 == response.status_code
    assert "WIREBELL_ALLOWED_ORIGINS" in response.text
    assert not [name for name in response.headers if name.startswith("access-control")]


async def test_an_allowed_origin_is_echoed(server: Server) -> None:
    """The page may read the stream, with credentials."""
    async with (
        http(server) as client,
        stream(client, "sse", {"name": fresh()}, headers=ORIGIN) as peer,
    ):
        headers = peer.response.headers

    assert "https://app.example" == headers["access-control-allow-origin"]
    assert "true" == headers["access-control-allow-credentials"]


@pytest.mark.parametrize(("code", "status", "text"), [(109, 401, "expired"), (3500, 500, None)])
async def test_a_failed_connect_has_a_status(
    server: Server, code: int, status: int, text: str | None
) -> None:
    """Where codes have answers, the response waits for the outcome of connecting."""
    connect = json.dumps({"name": fresh(), "code": code})
    async with http(server) as client:
        response = await client.post("/connection/uni_http_stream", content=connect)

    assert (status, text or "Internal Server Error") == (response.status_code, response.text)
    assert "text/plain; charset=utf-8" == response.headers["content-type"]


async def test_a_failed_connect_is_told_where_codes_have_no_answers(server: Server) -> None:
    """The stream opens only to say why it ends; what cannot be read is told so too."""
    async with http(server) as client:
        failed = await client.post("/connection/uni_sse", json={"name": fresh(), "code": 109})
        empty = await client.post("/connection/http_stream", content=b"")
        closed = await client.get("/connection/sse", params={"cf_connect": "{}", "closed": "1"})

    assert (200, b'\r\ndata: {"disconnect": {"code": 109}}\n\n') == (
        failed.status_code,
        failed.content,
    )
    assert (200, b'{"disconnect": {"code": 3501}}\n') == (empty.status_code, empty.content)
    assert (200, b'\r\ndata: {"limit":true}\n\n') == (closed.status_code, closed.content)


async def test_commands_come_by_other_requests_in_turn(server: Server) -> None:
    """A command waits for the handler of the one before, and answers come down the stream."""
    name = fresh()

    async def send(text: str) -> int:
        body = {"node": "node-1", "session": name, "data": text}
        return (await client.post("/emulation", json=body)).status_code

    async with http(server) as client, stream(client, "sse", {"name": name}) as peer:
        await peer.read(len(b'\r\ndata: {"connect":{}}\n\n'))
        assert 204 == await send("first")
        await read_event(peer, b'data: {"echo": "first"}\n\n')
        waiting = asyncio.create_task(send("wait"))
        await wait_report(client, name, heard=["first", "wait"])
        behind = asyncio.create_task(send("behind"))
        assert 204 == await send_elsewhere(client)
        await client.post(f"/release/{name}")
        assert [204, 204] == [await waiting, await behind]
        await read_event(peer, b'data: {"waited":true}\n\ndata: {"echo": "behind"}\n\n')


async def send_elsewhere(client: httpx2.AsyncClient) -> int:
    """Send a command of a session that has ended."""
    body = {"node": "node-1", "session": "over", "data": "x"}
    return (await client.post("/emulation", json=body)).status_code


async def test_an_event_source_goes_on_where_it_was(server: Server) -> None:
    """Ids say how far the peer is, and come back as the positions of its next request."""
    subs = {"a:1": {"recoverable": True, "epoch": "xyz", "offset": 4}, "b": {}}
    greeting = json.dumps({"connect": {"client": "1", "subs": subs}})
    name, again = fresh(), fresh()
    async with http(server) as client:
        async with stream(client, "uni_sse", {"name": name, "greeting": greeting}) as peer:
            await read_event(peer, f"data: {greeting}\nid: 4.xyz.a:1\n\n".encode())
            push = b'{"channel":"a:1","pub":{"data":1,"offset":5}}'
            await client.post(f"/tell/{name}", content=push)
            await read_event(peer, b"data: " + push + b"\nid: 5.xyz.a:1\n\n")
            await client.post(f"/tell/{name}", content=b'{"channel":"b","pub":{"data":1}}')
            await read_event(peer, b'data: {"channel":"b","pub":{"data":1}}\n\n')
        connect = {"name": again, "subs": {"a:1": {"recover": True, "offset": 1}}}
        async with stream(client, "uni_sse", connect, headers={"Last-Event-ID": "5.xyz.a:1"}):
            report = await wait_report(client, again, eof=0)

    assert {"a:1": {"recover": True, "offset": 5, "epoch": "xyz"}} == report["first"]["subs"]


async def test_a_stop_sends_everybody_away(kind: str, running: tuple[str, Server]) -> None:
    """Open streams do not hold up a server that stops, and uvicorn's learn when to come back.

    Granian waits for its peers, and has ``--workers-kill-timeout`` for that. The last test of this
    file: it ends the server of the others.
    """
    server = running[1]
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(http(server))
        crowd = [
            await stack.enter_async_context(stream(client, "sse", {"name": fresh()}))
            for _ in range(20)
        ]
        endings = [asyncio.create_task(read_to_the_end(peer)) for peer in crowd]
        stopping = asyncio.create_task(asyncio.to_thread(server.stop))
        if kind == "granian":
            done, _ = await asyncio.wait([stopping, *endings], timeout=2)
            assert not done, "granian does not wait any more: say so here and in the docs"
            for ending in endings:
                ending.cancel()
            await stack.aclose()
        seconds = await stopping
        bodies = await asyncio.gather(*endings, return_exceptions=True)

    assert seconds < 10
    if kind in UVICORN:
        told = b"".join(body for body in bodies if isinstance(body, bytes))
        assert len(crowd) == told.count(b'data: {"disconnect": {"code": 3001}}\n\n')
        assert len(set(re.findall(rb"retry: (\d+)\n\n", told))) > len(crowd) // 2


async def read_to_the_end(peer: Stream) -> bytes:
    """Read until the body or the link ends."""
    body = b""
    with contextlib.suppress(Exception):
        async for piece in peer.pieces:
            body += piece
    return body
