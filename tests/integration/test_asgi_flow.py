"""ASGI under pressure: peers that do not read, apps that do not receive, and uvicorn's flags.

As in `test_asgi` for any app, on our class and on uvicorn's newest own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from typing import TYPE_CHECKING

import pytest

from tests import servers
from tests.integration.asgi_app import FLOOD_BYTES
from tests.integration.clients import (
    OPCODES,
    Raw,
    complaints,
    connect,
    eventually,
    http,
    raw,
    receive,
    report,
    until_closed,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers import Server

pytestmark = pytest.mark.anyio

APP = "tests.integration.asgi_app:app"
SANSIO = "uvicorn-websockets-sansio"
KINDS = ("wirebell-uvloop-httptools", "wirebell-asyncio-h11", SANSIO)
"""Both loops: their transports differ in when they are full, and nothing else matters here."""

MIB = 2**20
KERNEL_BYTES = 24 * MIB
"""More than the kernel and a server with bounds take on the way between two processes; Linux'
own limits are 4 MiB to send and 6 MiB to receive."""
GROWTH_BYTES = 32 * MIB
"""More than a server with bounds grows by, and much less than what is sent."""

MESSAGE_BYTES_MAX = 65_536
FLAGS = (
    *("--ws-max-size", str(MESSAGE_BYTES_MAX)),
    *("--ws-ping-interval", "0.4", "--ws-ping-timeout", "1.5"),
    *("--ws-per-message-deflate", "false"),
)


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Name the server under test."""
    return str(request.param)


@pytest.fixture(scope="module")
def running(kind: str) -> Iterator[Server]:
    """Serve the app with uvicorn's defaults."""
    with servers.serve(APP, kind) as server:
        yield server


@pytest.fixture(scope="module")
def flagged(kind: str) -> Iterator[Server]:
    """Serve the app with every flag that speaks of WebSockets."""
    with servers.serve(APP, kind, arguments=FLAGS) as server:
        yield server
        if kind in servers.OUR_KINDS:
            assert [] == complaints(server)


@pytest.fixture
def server(kind: str, running: Server) -> Iterator[Server]:
    """Hand out the server; afterwards it lives and has not complained."""
    yield running
    assert running.process.poll() is None, running.log()
    if kind in servers.OUR_KINDS:
        assert [] == complaints(running)


def fresh() -> str:
    """Return an id that no other test uses."""
    return uuid.uuid4().hex[:8]


async def wait_stalled(server: Server, name: str) -> int:
    """Wait until the app's flood makes no progress for half a second; return the bytes sent."""
    last, since = -1, time.monotonic()
    while time.monotonic() - since < 0.5:
        sent = await report(server, name, "sent")
        if sent != last:
            last, since = sent, time.monotonic()
        await asyncio.sleep(0.02)  # between two polls, not to make sure of anything
    return last


async def test_an_app_that_floods_waits_for_its_peer(server: Server) -> None:
    """100 MiB to a peer that reads nothing stop early, cost little, and arrive whole later."""
    name, before = fresh(), server.resident_bytes()
    async with raw(server, f"/?do=flood&id={name}", receive_buffer_bytes=65_536) as ws:
        stalled = await wait_stalled(server, name)
        grown = server.resident_bytes() - before
        received = 0
        while (frame := await ws.read_frame())[0] == OPCODES["binary"]:
            received += len(frame[1])

        assert frame == (OPCODES["close"], b"\x03\xe8")
    assert received == FLOOD_BYTES
    assert stalled < KERNEL_BYTES
    assert grown < GROWTH_BYTES


async def test_an_app_that_is_stuck_in_a_send_hears_of_the_end(server: Server) -> None:
    """A peer that vanishes while the app waits to send ends that wait."""
    name = fresh()
    async with raw(server, f"/?do=flood&id={name}", receive_buffer_bytes=4_096) as ws:
        await wait_stalled(server, name)
        ws.abort()

        assert await report(server, name, "ended") == "OSError"


async def test_an_app_that_does_not_receive_makes_the_server_stop_reading(server: Server) -> None:
    """What the app does not take stays with the peer, and is in order when it does."""
    name, before = fresh(), server.resident_bytes()
    async with raw(server, f"/?do=deaf&id={name}") as ws, http(server) as client:
        sent = await push(ws, 100 * MIB)
        grown = server.resident_bytes() - before
        await client.post(f"/release/{name}")
        ws.send(ws.frame(OPCODES["text"], b"end"))

        answer = json.loads(await ws.read_text())
    assert sent * 65_536 < KERNEL_BYTES
    assert grown < GROWTH_BYTES
    assert answer == {"count": sent, "in_order": True}


async def push(ws: Raw, bytes_max: int) -> int:
    """Send numbered messages of 64 KiB until nothing is taken for half a second; count them."""
    sent = 0
    while sent * 65_536 < bytes_max:
        ws.send(ws.frame(OPCODES["binary"], b"%08d" % sent + bytes(65_528)))
        sent += 1
        try:
            async with asyncio.timeout(0.5):
                await ws.writer.drain()
        except TimeoutError:
            break
    return sent


async def test_pings_are_answered_while_the_app_is_busy(server: Server) -> None:
    """The server answers, with the payload, and does not wait for the app."""
    name = fresh()
    async with raw(server, f"/?do=deaf&id={name}") as ws, http(server) as client:
        for number in range(100):
            ws.send(ws.frame(OPCODES["ping"], b"%d" % number))
        pongs = [await ws.read_frame() for _ in range(100)]
        await client.post(f"/release/{name}")

    assert pongs == [(OPCODES["pong"], b"%d" % number) for number in range(100)]


async def test_a_message_queue_does_not_hold_up_pings(server: Server, kind: str) -> None:
    """With one message waiting for the app, our class still reads and answers pings."""
    name = fresh()
    async with raw(server, f"/?do=deaf&id={name}") as ws, http(server) as client:
        ws.send(ws.frame(OPCODES["binary"], b"%08d" % 0))
        await client.get("/")  # answered after the message was read: one loop serves both
        ws.send(ws.frame(OPCODES["ping"], b"?"))
        try:
            async with asyncio.timeout(5 if kind in servers.OUR_KINDS else 0.3):
                answer = await ws.read_frame()
        except TimeoutError:
            answer = None
        await client.post(f"/release/{name}")

    if kind in servers.OUR_KINDS:
        assert answer == (OPCODES["pong"], b"?")
    else:
        assert answer is None, "uvicorn's class reads no further than one message: say so here"


async def test_a_message_over_the_flag_closes_with_1009(flagged: Server) -> None:
    """``--ws-max-size`` bytes pass, one more does not, in one frame or in many."""
    async with connect(flagged, "/?do=echo") as ws:
        await ws.send(b"x" * MESSAGE_BYTES_MAX)
        assert await ws.recv() == b"x" * MESSAGE_BYTES_MAX
        await ws.send(b"x" * (MESSAGE_BYTES_MAX + 1))
        assert (await until_closed(ws)).code == 1009
    async with connect(flagged, "/?do=echo") as ws:
        await ws.send([b"x" * 40_000, b"x" * 40_000])
        assert (await until_closed(ws)).code == 1009


async def test_a_peer_that_answers_pings_stays(flagged: Server) -> None:
    """Four pings later the connection is as good as before."""
    async with raw(flagged, "/?do=echo") as ws:
        for _ in range(4):
            opcode, payload = await ws.read_frame()
            assert opcode == OPCODES["ping"]
            ws.send(ws.frame(OPCODES["pong"], payload))
        ws.send(ws.frame(OPCODES["text"], b"x"))

        assert await ws.read_text() == "x"


async def test_a_peer_that_never_pongs_is_closed_with_1011(flagged: Server) -> None:
    """Within interval and time-out (1.9 s together) and some slack, and the app hears of it."""
    name = fresh()
    async with raw(flagged, f"/?do=disconnect&id={name}") as ws:
        started = time.monotonic()
        code = await ws.read_until_end()
        seconds = time.monotonic() - started
        event = await report(flagged, name, "disconnect")

    assert code == 1011
    assert ws.frames[0][0] == OPCODES["ping"]
    assert 1.4 < seconds < 5
    assert event["code"] in {1006, 1011, 1005}


async def test_a_peer_is_not_closed_because_its_app_is_slow(flagged: Server, kind: str) -> None:
    """While the server does not read, it cannot hear pongs, and must not miss them."""
    name = fresh()
    async with raw(flagged, f"/?do=deaf&id={name}") as ws, http(flagged) as client:
        sent = await push(ws, 32 * MIB)
        opcode, payload = OPCODES["ping"], b""
        # Longer than interval and time-out together.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(3):
                while opcode == OPCODES["ping"]:
                    opcode, payload = await ws.read_frame()
                    ws.send(ws.frame(OPCODES["pong"], payload))
        await client.post(f"/release/{name}")
        if kind in servers.OUR_KINDS:
            assert opcode == OPCODES["ping"], payload
            ws.send(ws.frame(OPCODES["text"], b"end"))
            assert json.loads(await ws.read_text())["count"] == sent
        else:
            assert payload == b"\x03\xf3keepalive ping timeout", "uvicorn's class closes it"


async def test_compression_can_be_switched_off(flagged: Server) -> None:
    """``--ws-per-message-deflate false``: the offer is not taken."""
    async with connect(flagged, "/?do=echo", compression="deflate") as ws:
        assert ws.response is not None
        assert "Sec-WebSocket-Extensions" not in ws.response.headers
        await ws.send("x")
        assert await receive(ws) == "x"


async def test_text_that_is_not_utf8_closes_with_1007(server: Server) -> None:
    """The app hears the end and never the text."""
    name = fresh()
    async with raw(server, f"/?do=disconnect&id={name}") as ws:
        ws.send(ws.frame(OPCODES["text"], b"abc\xff"))
        code = await ws.read_until_end()
        event = await report(server, name, "disconnect")

    assert code == 1007
    assert event["type"] == "websocket.disconnect"


async def test_half_a_closing_handshake_is_enough(server: Server) -> None:
    """A peer that never answers our close frame is dropped, and others are not held up."""
    async with raw(server, "/?do=close") as ws, connect(server, "/?do=echo") as other:
        assert (await ws.read_frame())[0] == OPCODES["close"]
        await other.send("x")
        assert await receive(other) == "x"


async def test_a_flood_of_pings_costs_no_memory(server: Server) -> None:
    """200,000 pings of a peer that reads no pong are bounded."""
    before = server.resident_bytes()
    async with raw(server, "/?do=echo", receive_buffer_bytes=4_096) as ws:
        ping = ws.frame(OPCODES["ping"], b"x" * 125)
        for _ in range(100):
            ws.send(ping * 2_000)
            try:
                async with asyncio.timeout(0.3):
                    await ws.writer.drain()
            except TimeoutError:
                break
        async with connect(server, "/?do=echo") as other:
            await other.send("x")
            assert await receive(other) == "x"

        assert server.resident_bytes() - before < GROWTH_BYTES


async def test_closed_sockets_are_forgotten(server: Server) -> None:
    """Five hundred connections later the process holds no more descriptors than before."""
    before = server.descriptors()
    for _ in range(10):
        crowd = await asyncio.gather(*(connect(server, "/?do=echo") for _ in range(50)))
        for ws in crowd[:25]:
            ws.transport.abort()
        await asyncio.gather(*(ws.close() for ws in crowd[25:]))

    async def forgotten() -> bool:
        return server.descriptors() <= before

    await eventually(forgotten, "descriptors are back where they were")


async def test_a_stop_tells_everybody_1012(running: Server) -> None:
    """Twenty sockets are told that the service restarts, and the process ends.

    The last test of this file: it ends the server of the others.
    """
    crowd = [await connect(running, "/?do=disconnect&id=x") for _ in range(20)]
    endings = [asyncio.create_task(until_closed(ws)) for ws in crowd]
    seconds = await asyncio.to_thread(running.stop)
    codes = [(await ending).code for ending in endings]

    assert codes == [1012] * 20
    assert seconds < 5
