"""What only our own class does with a socket that it took over.

Raw clients look at frames and at times: pings, order, joining, compression, limits and garbage.
`test_engine_load` looks at many connections at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import time
import uuid
import zlib
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from tests import servers
from tests.integration.clients import (
    OPCODES,
    Raw,
    complaints,
    connect,
    eventually,
    gauges,
    http,
    our_failures,
    raw,
    receive,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers import Server

pytestmark = pytest.mark.anyio

APP = "tests.integration.attach_app:app"
KINDS = ("wirebell-uvloop-httptools", "wirebell-asyncio-h11")
"""Both loops, whose transports differ in when they write and what they tell."""

PING_SECONDS, PONG_SECONDS, IDLE_SECONDS = 0.5, 2.0, 1.5
ENV = {
    "WIREBELL_PING_INTERVAL_SECONDS": str(PING_SECONDS),
    "WIREBELL_PONG_TIMEOUT_SECONDS": str(PONG_SECONDS),
    "WIREBELL_COMPRESSION": "true",
    "WIREBELL_COMPRESSION_BYTES_MIN": "512",
}
SLACK_SECONDS = 3.0
"""What a loaded machine may add to an interval."""

DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits{}\r\n"


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Name the server under test."""
    return str(request.param)


@pytest.fixture(scope="module")
def running(kind: str) -> Iterator[Server]:
    """Serve the app."""
    with servers.serve(APP, kind, env=ENV, path="/realtime/health") as server:
        yield server


@pytest.fixture
def server(running: Server) -> Iterator[Server]:
    """Hand out the server; afterwards it lives, and nothing broke in it."""
    yield running
    assert running.process.poll() is None, running.log()
    assert 0 == our_failures(running), running.log()[-4_000:]
    assert [] == complaints(running)


def fresh() -> str:
    """Return a name that no other test uses."""
    return uuid.uuid4().hex[:8]


async def publish(server: Server, name: str, text: str) -> None:
    """Publish by HTTP, and require that it worked."""
    async with http(server) as client:
        answer = await client.post(f"/publish/{name}", params={"text": text})
        assert answer.status_code == 200, answer.text


async def ask_list(server: Server, path: str) -> list[str]:
    """Read a list over HTTP."""
    async with http(server) as client:
        found: list[str] = (await client.get(path)).json()
        return found


async def next_data(ws: Raw) -> tuple[int, bytes]:
    """Return first byte and payload of the next frame that is no ping, answering pings."""
    while True:
        first, payload = await ws.read_first_byte_and_payload()
        if first & 0x0F != OPCODES["ping"]:
            return first, payload
        ws.send(ws.frame(OPCODES["pong"], payload))


async def test_the_endpoint_returns_while_its_socket_lives(server: Server) -> None:
    """The `yield` dependency ends at the take-over, not at the end of the socket."""
    name = fresh()
    async with connect(server, f"/holds/{name}") as ws:

        async def released() -> bool:
            return name in await ask_list(server, "/released")

        await eventually(released, "the dependency has ended")
        await ws.send("x")

        assert await receive(ws) == f"{name} x"
    assert (await ask_list(server, "/released")).count(name) == 1


async def test_no_task_belongs_to_a_connection(server: Server) -> None:
    """Fifty connections that have talked leave the loop with as many tasks as before."""
    async with http(server) as client, contextlib.AsyncExitStack() as stack:
        before = (await client.get("/tasks")).json()
        crowd = [await stack.enter_async_context(connect(server, "/async")) for _ in range(50)]
        for ws in crowd:
            await ws.send("x")
            assert await receive(ws) == "async x"

        async def as_before() -> bool:
            return bool((await client.get("/tasks")).json() <= before)

        await eventually(as_before, "tasks are as many as before")


async def test_messages_wait_behind_a_handler_and_reading_goes_on(server: Server) -> None:
    """Hundreds that come while a handler runs are answered in order, and the next one too."""
    async with raw(server, "/async") as ws:
        for burst in range(3):
            numbers = [burst * 300 + number for number in range(300)]
            ws.send(b"".join(ws.frame(OPCODES["text"], b"%d" % number) for number in numbers))
            for number in numbers:
                assert await next_data(ws) == (0x81, b"async %d" % number)
        ws.send(ws.frame(OPCODES["close"], b"\x03\xe8"))

        assert await ws.read_until_end() == 1000


async def test_a_peer_is_pinged_at_our_interval(server: Server) -> None:
    """Pings come at the interval, and whoever answers stays."""
    async with raw(server, "/listen/quiet") as ws:
        times = []
        for _ in range(4):
            assert (await ws.read_frame())[0] == OPCODES["ping"]
            times.append(time.monotonic())
            ws.send(ws.frame(OPCODES["pong"]))
        gaps = [later - earlier for earlier, later in pairwise(times)]

    assert all(PING_SECONDS / 2 < gap < PING_SECONDS + SLACK_SECONDS for gap in gaps), gaps
    assert PING_SECONDS * 0.8 < sum(gaps) / 3 < PING_SECONDS * 2


async def test_a_peer_that_does_not_pong_is_dropped_in_time(server: Server) -> None:
    """Within an interval, a time-out and one step of the ring; another peer is not."""
    async with raw(server, "/listen/quiet") as ws, connect(server, "/sync") as other:
        started = time.monotonic()
        await ws.read_until_end()
        seconds = time.monotonic() - started
        await other.send("x")

        assert await receive(other) == "sync x"
    assert [OPCODES["ping"]] == sorted({opcode for opcode, _ in ws.frames})
    assert seconds < PING_SECONDS + PONG_SECONDS + SLACK_SECONDS


async def test_any_sign_of_life_is_enough(server: Server) -> None:
    """A peer that sends texts and never a pong stays."""
    async with raw(server, "/sync") as ws:
        pings = 0
        while pings < 5:
            opcode, _ = await ws.read_frame()
            pings += opcode == OPCODES["ping"]
            if opcode == OPCODES["ping"]:
                ws.send(ws.frame(OPCODES["text"], b"still here"))


async def test_a_peer_is_not_dropped_because_its_handler_is_slow(server: Server) -> None:
    """Past the bound the socket is not read, so that its pongs cannot be heard: it stays."""
    async with connect(server, "/slow") as ws:
        await ws.send("wait")
        for number in range(200):
            await ws.send(f"{number} " + "x" * 10_000)

        assert await receive(ws) == "slow wait"
        heard = [(await receive(ws)).split()[1] for _ in range(200)]
        assert heard == [str(number) for number in range(200)]


async def test_a_tick_comes_in_one_piece_and_in_order(server: Server) -> None:
    """Publications of one turn of the loop are joined: 200 frames in a few reads."""
    name = fresh()
    async with raw(server, f"/listen/{name}") as ws, http(server) as client:
        await client.post(f"/tick/{name}", params={"count": 200})
        data, reads = b"", 0
        async with asyncio.timeout(10):
            while data.count(b" ") < 200:
                data += await ws.reader.read(65_536)
                reads += 1
        texts = re.findall(rb"\x81.(\d+) ", data)

    assert texts == [b"%d" % number for number in range(200)]
    assert reads <= 4, "pings may come between"


async def test_a_reply_comes_after_what_was_published_before_it(server: Server) -> None:
    """Within one turn of the loop too: publication, reply, publication, reply."""
    name = fresh()
    async with raw(server, f"/both/{name}") as ws:
        ws.send(b"".join(ws.frame(OPCODES["text"], b"%d" % number) for number in range(50)))
        heard = [(await next_data(ws))[1] for _ in range(100)]

    expected = [f"{word} {n}" for n in range(50) for word in ("published", "answered")]
    assert [text.decode() for text in heard] == expected


async def test_long_texts_are_compressed_and_short_ones_are_not(server: Server) -> None:
    """RSV1 stands on what inflates to the text; without an offer nothing is compressed."""
    name, text = fresh(), "wirebell " * 100
    async with (
        raw(server, f"/listen/{name}", headers=DEFLATE.format("")) as ws,
        raw(server, f"/listen/{name}") as plain,
    ):
        await publish(server, name, text)
        await publish(server, name, "short")
        first, payload = await next_data(ws)

        assert b"\r\nsec-websocket-extensions: permessage-deflate" in ws.response.lower()
        assert b"no_context_takeover" in ws.response
        assert b"extensions" not in plain.response.lower()
        assert first == 0xC1
        assert zlib.decompressobj(-15).decompress(payload + b"\0\0\xff\xff") == text.encode()
        assert len(payload) < len(text) / 4
        assert await next_data(ws) == (0x81, b"short")
        assert await next_data(plain) == (0x81, text.encode())


async def test_windows_are_as_negotiated(server: Server) -> None:
    """A peer with a window of 9 bits can inflate what it gets; equal windows share the bytes."""
    name = fresh()
    noise = random.Random(5)  # noqa: S311 - a repeatable text
    text = "".join(noise.choices("abcdefgh", k=20_000))
    small = "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=9\r\n"
    async with (
        raw(server, f"/listen/{name}", headers=small) as one,
        raw(server, f"/listen/{name}", headers=small) as two,
        raw(server, f"/listen/{name}", headers=DEFLATE.format("=10")) as wide,
    ):
        await publish(server, name, text)
        payloads = [(await next_data(ws))[1] for ws in (one, two, wide)]

    for payload, bits in zip(payloads, (9, 9, 15), strict=True):
        inflated = zlib.decompressobj(-bits).decompress(payload + b"\0\0\xff\xff")
        assert inflated == text.encode()
    assert payloads[0] == payloads[1]


def deflated(text: bytes) -> bytes:
    """Compress a message as RFC 7692 wants it."""
    compressor = zlib.compressobj(wbits=-15)
    data = compressor.compress(text) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return data.removesuffix(b"\0\0\xff\xff")


async def test_compressed_input_is_read_and_a_bomb_is_not(server: Server) -> None:
    """What inflates beyond the limit ends the socket with 1009 and costs no memory."""
    before, bomb = server.resident_bytes(), deflated(bytes(60 * 2**20))
    assert len(bomb) < 65_536, "the frame alone is within the limit"
    async with raw(server, "/sync", headers=DEFLATE.format("")) as ws:
        ws.send(ws.frame(OPCODES["text"], deflated(b"hello"), rsv=4))
        assert (await next_data(ws))[1] == b"sync hello"
        ws.send(ws.frame(OPCODES["text"], bomb, rsv=4))

        assert await ws.read_until_end() == 1009
    assert server.resident_bytes() - before < 16 * 2**20


GARBAGE = {
    "unmasked": (b"\x81\x01x", 1002),
    "reserved opcode": (b"\x83\x80\0\0\0\0", 1002),
    "reserved bit": (b"\xa1\x80\0\0\0\0", 1002),
    "fragmented ping": (b"\x09\x80\0\0\0\0", 1002),
    "a continuation of nothing": (b"\x80\x80\0\0\0\0", 1002),
    "a length of 2^63": (b"\x81\xff" + b"\xff" * 8 + b"\0" * 4, None),
    "too long": (b"\x81\xff" + (70_000).to_bytes(8) + b"\0" * 4, 1009),
    "bad utf-8 in an unfinished frame": (b"\x81\xbf\0\0\0\0abc\xff", 1007),
}


@pytest.mark.parametrize("name", GARBAGE)
async def test_garbage_ends_its_own_socket_with_a_code(server: Server, name: str) -> None:
    """The mistake is named as soon as it is seen, though the peer goes on sending."""
    data, code = GARBAGE[name]
    async with raw(server, "/sync") as ws, connect(server, "/sync") as other:
        ws.send(data)
        ws.send(b"\0" * 500_000)
        seen = await ws.read_until_end()
        await other.send("x")

        assert await receive(other) == "sync x"
    assert seen in ({1002, 1009} if code is None else {code})


async def test_noise_is_bounded(server: Server) -> None:
    """A hundred sockets of random bytes are closed, and nothing of them stays."""
    noise = random.Random(11)  # noqa: S311 - a repeatable noise

    async def shout() -> None:
        async with raw(server, "/sync") as ws:
            with contextlib.suppress(ConnectionError):
                ws.send(b"\xf3" + noise.randbytes(20_000))
                await ws.read_until_end()

    async with asyncio.timeout(30):
        await asyncio.gather(*(shout() for _ in range(100)))
    async with http(server) as client:

        async def nobody() -> bool:
            return set((await gauges(client)).values()) == {0.0}

        await eventually(nobody, "all gauges are 0 again")


async def test_a_peer_that_vanishes_is_forgotten_whatever_it_was_doing(server: Server) -> None:
    """In the middle of a frame, of a message, of a handler, or silent: `on_close` runs once."""
    names = [fresh() for _ in range(4)]
    halves = [b"", b"\x81", b"\x81\x85\0\0\0\0he", b"\x01\x82\0\0\0\0he"]
    for name, half in zip(names, halves, strict=True):
        async with raw(server, f"/closing/{name}") as ws:
            ws.send(half)
            await ws.writer.drain()
            ws.abort()

    async def reported() -> bool:
        return set(names) <= set(await ask_list(server, "/left"))

    await eventually(reported, "all have left")
    left = await ask_list(server, "/left")
    assert [left.count(name) for name in names] == [1] * 4


async def test_an_idle_peer_is_closed(kind: str) -> None:
    """Past the limit without a message, pongs or not; whoever talks stays."""
    env = ENV | {"WIREBELL_IDLE_TIMEOUT_SECONDS": str(IDLE_SECONDS)}
    with servers.serve(APP, kind, env=env, path="/realtime/health") as server:
        async with connect(server, "/sync") as talks, connect(server, "/sync") as idle:
            started = time.monotonic()
            closing = asyncio.create_task(idle.wait_closed())
            while not closing.done():
                await talks.send("x")
                assert await receive(talks) == "sync x"
                await asyncio.wait({closing}, timeout=0.2)
                assert time.monotonic() - started < IDLE_SECONDS + PING_SECONDS + SLACK_SECONDS
            seconds = time.monotonic() - started
            await talks.send("still")
            assert await receive(talks) == "sync still"

    assert seconds >= IDLE_SECONDS * 0.6
    assert (idle.close_code or 0) >= 3000
    assert "no message" in (idle.close_reason or "")
