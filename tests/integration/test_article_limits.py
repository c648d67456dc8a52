"""The article's last row: connection limits, heartbeats, pings and compression."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

import pytest

from tests import servers
from tests.integration.clients import (
    OPCODES,
    assert_echoes,
    connect,
    eventually,
    gauges,
    http,
    open_connections,
    raw,
    receive,
    refused,
    samples,
    told,
    until_closed,
    wait_quiet,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.servers import Server

pytestmark = pytest.mark.anyio

CONNECTIONS_MAX = 6
PER_ADDRESS_MAX = 4
ROUTES = ("/ws", "/ws/1", "/ws/notifications/tasks", "/ws/secure/tasks", "/ws/redis/news")


@pytest.fixture(scope="module")
def small_demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run the demo with room for six sockets, four of one address, and one more origin."""
    env = {
        "WIREBELL_CONNECTIONS_MAX": str(CONNECTIONS_MAX),
        "WIREBELL_CONNECTIONS_PER_ADDRESS_MAX": str(PER_ADDRESS_MAX),
        "WIREBELL_ALLOWED_ORIGINS": "https://app.example, http://localhost:3000",
    }
    with servers.demo(tmp_path_factory.mktemp("small"), env=env) as server:
        yield server


@pytest.mark.parametrize("path", ROUTES)
async def test_at_the_connection_limit_a_socket_is_told_why_and_closed_1013(
    small_demo: Server, path: str
) -> None:
    """The seventh socket learns why; the six others and all HTTP requests are served on."""
    await wait_quiet(small_demo)
    async with http(small_demo) as client, contextlib.AsyncExitStack() as stack:
        crowd = [
            await stack.enter_async_context(
                connect(small_demo, "/ws", local_addr=(f"127.0.0.{2 + n % 3}", 0))
            )
            for n in range(CONNECTIONS_MAX)
        ]
        async with connect(small_demo, path, local_addr=("127.0.0.9", 0)) as extra:
            reason = await told(extra, 1013)
        answers = await asyncio.gather(*(client.get("/tasks") for _ in range(20)))
        created = await client.post("/tasks", json={"title": "still", "description": ""})
        for ws in crowd:
            await ws.send("still here")

        assert str(CONNECTIONS_MAX) in reason or "limit" in reason
        assert {answer.status_code for answer in answers} == {200}
        assert created.status_code == 201
        assert [await receive(ws) for ws in crowd] == ["Message received: still here"] * 6


async def test_a_socket_that_leaves_lets_the_next_one_in(small_demo: Server) -> None:
    """Closed and vanished sockets both make room, and refused ones take none."""
    await wait_quiet(small_demo)
    async with contextlib.AsyncExitStack() as stack:
        crowd = [
            await stack.enter_async_context(
                connect(small_demo, "/ws", local_addr=(f"127.0.0.{2 + n % 3}", 0))
            )
            for n in range(CONNECTIONS_MAX)
        ]
        for leave in (crowd[0].close, crowd[1].transport.abort):
            async with connect(small_demo, "/ws") as extra:
                assert await told(extra, 1013)
            left = leave()
            if left is not None:
                await left
            newcomer = await enter_when_possible(small_demo)
            await stack.enter_async_context(newcomer)


async def enter_when_possible(server: Server) -> connect:  # type: ignore[valid-type]
    """Try until a socket is let in: the server may need a moment to see that one left."""
    deadline = time.monotonic() + 10
    while True:
        ws = await connect(server, "/ws")
        await ws.send("in?")
        ended_or_text = await receive(ws)
        if ended_or_text == "Message received: in?":
            return ws
        assert (await until_closed(ws)).code == 1013
        assert time.monotonic() < deadline


@pytest.mark.parametrize("path", ROUTES)
async def test_one_address_cannot_take_all(small_demo: Server, path: str) -> None:
    """The fifth socket of one address is told why and closed 1013; another address gets in."""
    await wait_quiet(small_demo)
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(PER_ADDRESS_MAX):
            await stack.enter_async_context(connect(small_demo, "/ws"))
        async with connect(small_demo, path) as extra:
            assert await told(extra, 1013)
        await assert_echoes(small_demo, "127.0.0.2")


async def test_many_attempts_of_one_address_get_a_bounded_answer(small_demo: Server) -> None:
    """Of 1,000 sockets of one address four get in, the others are closed, and others are served."""
    await wait_quiet(small_demo)
    gate = asyncio.Semaphore(100)
    inside = asyncio.Event()
    outcomes: list[int | None] = []

    async def attempt() -> None:
        async with gate, raw(small_demo, "/ws/notifications/tasks", address="127.0.0.7") as ws:
            reading = asyncio.create_task(ws.read_until_end())
            closing = asyncio.create_task(inside.wait())
            await asyncio.wait([reading, closing], return_when="FIRST_COMPLETED")
            closing.cancel()
            if reading.done():
                outcomes.append(reading.result())
            else:
                reading.cancel()
                outcomes.append(None)

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for _ in range(1_000):
            group.create_task(attempt())
        while len(outcomes) < 1_000 - PER_ADDRESS_MAX:
            await assert_echoes(small_demo)
        inside.set()

    assert outcomes.count(1013) == 1_000 - PER_ADDRESS_MAX
    assert outcomes.count(None) == PER_ADDRESS_MAX
    await wait_quiet(small_demo)


async def test_refusals_are_counted(small_demo: Server) -> None:
    """Nothing is refused in silence: a counter rises by one."""
    await wait_quiet(small_demo)
    async with http(small_demo) as client, contextlib.AsyncExitStack() as stack:
        for _ in range(PER_ADDRESS_MAX):
            await stack.enter_async_context(connect(small_demo, "/ws"))
        before = await samples(client)
        async with connect(small_demo, "/ws") as extra:
            await told(extra, 1013)
        after = await samples(client)

    risen = {key for key in after if after[key] - before.get(key, 0) == 1}
    assert any("1013" in key or "refus" in key for key in risen), risen


async def test_allowed_origins_let_other_pages_in(small_demo: Server) -> None:
    """A listed origin passes, and only the listed ones."""
    await wait_quiet(small_demo)
    for origin in ("https://app.example", "http://localhost:3000"):
        async with connect(small_demo, "/ws", origin=origin) as ws:
            await ws.send("hi")
            assert await receive(ws) == "Message received: hi"
    for origin in ("https://app.example.evil", "http://app.example", "http://localhost:3001"):
        assert (await refused(small_demo, "/ws", origin=origin))[0] == 403


async def test_a_thousand_sockets_of_one_address_fit_the_demo(demo: Server) -> None:
    """The demo's own limits leave room for 1,000 sockets of one machine; all hear a publication."""
    async with http(demo) as client, contextlib.AsyncExitStack() as stack:
        crowd = []
        for _ in range(20):
            crowd += await asyncio.gather(
                *(
                    stack.enter_async_context(raw(demo, "/ws/notifications/tasks"))
                    for _ in range(50)
                )
            )
        assert await open_connections(client) == 1_000
        await client.post("/tasks", json={"title": "for all", "description": ""})
        heard = await asyncio.gather(*(ws.read_text() for ws in crowd))

        assert heard == ["New task created: for all"] * 1_000


@pytest.mark.parametrize("path", ROUTES[:3])
async def test_protocol_pings_arrive_again_and_again(short_demo: Server, path: str) -> None:
    """Every socket is pinged by the protocol's own frames; a peer that answers stays."""
    async with raw(short_demo, path) as ws:
        pings = 0
        started = time.monotonic()
        while pings < 4:
            opcode, payload = await ws.read_frame()
            if opcode == OPCODES["ping"]:
                pings += 1
                ws.send(ws.frame(OPCODES["pong"], payload))
            else:
                assert (opcode, payload) == (OPCODES["text"], b"heartbeat")

        assert time.monotonic() - started < 10
        ws.send(ws.frame(OPCODES["ping"], b"still there?"))
        while (frame := await ws.read_frame())[0] != OPCODES["pong"]:
            continue
        assert frame == (OPCODES["pong"], b"still there?")


@pytest.mark.parametrize("path", ROUTES[:3])
async def test_a_peer_that_never_pongs_is_dropped_and_forgotten(
    short_demo: Server, path: str
) -> None:
    """Past the pong deadline the connection ends, and the gauges fall back."""
    async with http(short_demo) as client:
        await wait_quiet(short_demo)
        before = await gauges(client)
        async with raw(short_demo, path) as ws:
            started = time.monotonic()
            await ws.read_until_end()

            assert time.monotonic() - started < 8
            assert OPCODES["ping"] in [opcode for opcode, _ in ws.frames]

            async def forgotten() -> bool:
                return await gauges(client) == before

            await eventually(forgotten, "the dead peer is forgotten while its link is still open")


async def test_compression_is_negotiated_when_offered(demo: Server) -> None:
    """A client that offers permessage-deflate gets it, and large texts come through unchanged."""
    text = "compress me " * 4_000
    async with connect(demo, "/ws", compression="deflate") as ws:
        await ws.send(text)

        assert ws.response is not None
        assert "permessage-deflate" in ws.response.headers["Sec-WebSocket-Extensions"]
        assert await receive(ws) == f"Message received: {text}"


async def test_compression_is_not_forced(demo: Server) -> None:
    """Without the offer there is no extension."""
    async with connect(demo, "/ws") as ws:
        assert ws.response is not None
        assert "Sec-WebSocket-Extensions" not in ws.response.headers


async def test_compressed_and_plain_peers_share_a_room(demo: Server) -> None:
    """The same texts reach both, in the same order."""
    async with connect(demo, "/ws/1", compression="deflate") as one, connect(demo, "/ws/2") as two:
        for number in range(50):
            await one.send(f"{number} " + "x" * 500)
        heard = [[await receive(ws) for _ in range(50)] for ws in (one, two)]

        assert heard[0] == heard[1] == [f"Client 1: {n} " + "x" * 500 for n in range(50)]


async def test_the_limit_holds_for_what_a_compressed_message_becomes(demo: Server) -> None:
    """64 MiB of zeros in 64 KiB of deflate get 1009, and cost no 64 MiB of memory."""
    before = demo.resident_bytes()
    async with connect(demo, "/ws", compression="deflate") as ws:
        with contextlib.suppress(Exception):
            await ws.send("0" * 2**26)
        ended = await until_closed(ws)

    assert ended.code == 1009
    assert demo.resident_bytes() - before < 48 * 2**20
    await assert_echoes(demo)


async def test_a_stop_closes_sockets_and_ends_quickly(tmp_path: Path) -> None:
    """SIGTERM with open sockets of every route ends the process within its deadline."""
    with servers.demo(tmp_path) as server:
        async with contextlib.AsyncExitStack() as stack:
            crowd = [
                await stack.enter_async_context(connect(server, path))
                for path in ROUTES
                for _ in "ab"
            ]
            stuck = await stack.enter_async_context(raw(server, "/ws/notifications/tasks"))
            endings = [asyncio.create_task(until_closed(ws, 20)) for ws in crowd]
            seconds = await asyncio.to_thread(server.stop)
            codes = {(await ending).code for ending in endings}
            assert stuck.response
        log = server.log()

    assert seconds < 12
    assert codes <= {1001, 1012}
    assert "Traceback" not in log
