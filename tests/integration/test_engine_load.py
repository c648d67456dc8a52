"""Connections that our class took over: what they cost at rest, and how they are closed."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from typing import TYPE_CHECKING

import pytest

from tests import servers
from tests.integration.clients import (
    OPCODES,
    Raw,
    connect,
    eventually,
    http,
    open_connections,
    raw,
    receive,
    samples,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.servers import Server

pytestmark = pytest.mark.anyio

APP = "tests.integration.attach_app:app"
KIND = "wirebell-uvloop-httptools"

IDLE_COUNT = 2_000
IDLE_BYTES_MAX = 3_072
"""What an idle connection may cost in all."""

DRAIN_COUNT, DRAIN_SECONDS = 500, 2.0

REQUEST = (
    "GET /listen/x HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nUpgrade: websocket\r\n"
    "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    "Sec-WebSocket-Version: 13\r\n\r\n"
)


async def open_many(server: Server, count: int) -> list[Raw]:
    """Open connections to one room, fifty at a time."""
    request = REQUEST.format(server.port).encode()

    async def one() -> Raw:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(request)
        async with asyncio.timeout(20):
            response = await reader.readuntil(b"\r\n\r\n")
        assert response.startswith(b"HTTP/1.1 101")
        return Raw(reader, writer, response)

    crowd: list[Raw] = []
    while len(crowd) < count:
        crowd += await asyncio.gather(*(one() for _ in range(min(50, count - len(crowd)))))
    return crowd


def abort(crowd: list[Raw]) -> None:
    """Let go of all."""
    for ws in crowd:
        ws.writer.transport.abort()
    gc.collect()


async def test_an_idle_connection_costs_little(
    record_property: Callable[[str, object], None],
) -> None:
    """Resident memory of the server grows by at most 3,072 bytes for each of 2,000."""
    env = {"WIREBELL_DRAIN_WINDOW_SECONDS": "0"}
    with servers.serve(APP, KIND, env=env, path="/realtime/health") as s:
        # What the first hundreds make the process load and keep is not of one connection.
        warm = await open_many(s, 300)
        before = s.resident_bytes()
        crowd = await open_many(s, IDLE_COUNT)
        async with http(s) as client:
            assert await open_connections(client) == IDLE_COUNT + 300
        each = (s.resident_bytes() - before) / IDLE_COUNT
        abort(warm + crowd)

    record_property("bytes_per_idle_connection", each)
    print(f"an idle connection costs {each:,.0f} bytes")  # noqa: T201 - pytest shows it with -rP
    assert each <= IDLE_BYTES_MAX


@pytest.mark.parametrize("kind", [KIND, "wirebell-asyncio-h11"])
async def test_a_slow_reader_that_wakes_up_learns_why(kind: str) -> None:
    """It is cut with 3008, others hear everything, and the close frame is the last it reads."""
    env = {"WIREBELL_SEND_QUEUE_BYTES_MAX": "262144"}
    async with contextlib.AsyncExitStack() as stack:
        server = stack.enter_context(servers.serve(APP, kind, env=env, path="/realtime/health"))
        client = await stack.enter_async_context(http(server))
        slow = await stack.enter_async_context(raw(server, "/listen/x", receive_buffer_bytes=4_096))
        healthy = await stack.enter_async_context(connect(server, "/listen/x"))
        slow.writer.transport.pause_reading()  # type: ignore[attr-defined]
        count = 0

        async def cut() -> bool:
            nonlocal count
            await client.post("/burst/x", params={"count": 5, "size": 40_000})
            count += 5
            for _ in range(5):
                await receive(healthy)
            return any("3008" in key for key in await samples(client))

        await eventually(cut, "the slow reader is cut")
        slow.writer.transport.resume_reading()  # type: ignore[attr-defined]
        code = await slow.read_until_end()
        read = [payload for opcode, payload in slow.frames if opcode == OPCODES["text"]]

    assert code == 3008
    assert read
    # What it read is the beginning, without a hole.
    assert [int(text.split()[0]) for text in read] == [n % 5 for n in range(len(read))]
    assert len(read) < count


async def test_a_stop_is_spread_over_its_window() -> None:
    """500 sockets hear 1012 over two seconds, evenly, and new ones are not accepted."""
    env = {"WIREBELL_DRAIN_WINDOW_SECONDS": str(DRAIN_SECONDS)}
    with servers.serve(APP, KIND, env=env, path="/realtime/health") as server:
        crowd = await open_many(server, DRAIN_COUNT)
        arrivals: list[float] = []

        async def leave(ws: Raw) -> int | None:
            code = await ws.read_until_end()
            arrivals.append(time.monotonic())
            return code

        endings = [asyncio.create_task(leave(ws)) for ws in crowd]
        started = time.monotonic()
        stopping = asyncio.create_task(asyncio.to_thread(server.stop))
        codes = {await ending for ending in endings}
        await stopping
        abort(crowd)

    first, last = min(arrivals), max(arrivals)
    middle = sum(
        first + 0.25 * (last - first) < at < last - 0.25 * (last - first) for at in arrivals
    )
    assert codes == {1012}
    assert DRAIN_SECONDS * 0.7 < last - first < DRAIN_SECONDS * 2
    assert last - started < DRAIN_SECONDS * 3
    assert DRAIN_COUNT * 0.3 < middle < DRAIN_COUNT * 0.7, "half of them come in the middle half"


async def test_nobody_can_hold_up_a_stop() -> None:
    """Peers that never answer, never read, or sit in a handshake: the process ends in time."""
    env = {"WIREBELL_DRAIN_WINDOW_SECONDS": "1", "WIREBELL_CLOSE_TIMEOUT_SECONDS": "2"}
    with servers.serve(APP, KIND, env=env, path="/realtime/health") as server:
        crowd = await open_many(server, 200)
        half, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /listen/x HTTP/1.1\r\nHost: x\r\n")
        async with (
            raw(server, "/listen/x", receive_buffer_bytes=4_096) as stuck,
            connect(server, "/sync") as polite,
            http(server) as client,
        ):
            stuck.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await client.post("/burst/x", params={"count": 10, "size": 100_000})
            await polite.send("x")
            assert await receive(polite) == "sync x"
            seconds = await asyncio.to_thread(server.stop)
            assert await half.read() == b""
        opcodes = {(await last_frame(ws))[0] for ws in crowd}
        abort(crowd)
        writer.transport.abort()

    assert seconds < 1 + 2 + 3
    assert opcodes == {OPCODES["close"]}


async def last_frame(ws: Raw) -> tuple[int, bytes]:
    """Read to the end, and return the last frame."""
    frame = (-1, b"")
    try:
        while True:
            frame = await ws.read_frame()
    except (EOFError, ConnectionError):
        return frame


async def test_a_stop_under_load_loses_no_close() -> None:
    """While publications pour in, every subscriber reads whole frames and then 1012."""
    env = {"WIREBELL_DRAIN_WINDOW_SECONDS": "1"}
    with servers.serve(APP, KIND, env=env, path="/realtime/health") as server:
        crowd = await open_many(server, 100)
        endings = [asyncio.create_task(ws.read_until_end()) for ws in crowd]
        async with http(server) as client:
            pouring = asyncio.create_task(client.post("/burst/x", params={"count": 3_000}))

            async def flows() -> bool:
                return len(crowd[0].frames) > 10

            await eventually(flows, "the flow has begun")
            stopping = asyncio.create_task(asyncio.to_thread(server.stop))
            codes = {await ending for ending in endings}
            await asyncio.gather(pouring, return_exceptions=True)
        seconds = await stopping
        orders = [numbers(ws) for ws in crowd]
        abort(crowd)

    assert codes == {1012}
    assert seconds < 10
    for order in orders:
        assert order == list(range(len(order)))


def numbers(ws: Raw) -> list[int]:
    """Return the numbers of the texts that a socket read."""
    return [int(payload) for opcode, payload in ws.frames if opcode == OPCODES["text"]]
