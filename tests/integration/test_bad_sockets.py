"""Sockets that misbehave: garbage, floods, and a peer that never reads; others notice nothing."""

from __future__ import annotations

import asyncio
import json
import random
import time
from typing import TYPE_CHECKING

import pytest

from tests.integration.clients import (
    OPCODES,
    Raw,
    assert_echoes,
    connect,
    eventually,
    http,
    open_connections,
    raw,
    receive,
    samples,
    until_closed,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from websockets.asyncio.client import ClientConnection

    from tests.servers import Server

pytestmark = pytest.mark.anyio

GARBAGE: dict[str, tuple[Callable[[Raw], bytes], int]] = {
    "unmasked": (lambda ws: ws.frame(1, b"x", mask=False), 1002),
    "reserved opcode 3": (lambda ws: ws.frame(3, b"x"), 1002),
    "reserved opcode 15": (lambda ws: ws.frame(15), 1002),
    "reserved bit": (lambda ws: ws.frame(1, b"x", rsv=1), 1002),
    "compressed without the offer": (lambda ws: ws.frame(1, b"x", rsv=4), 1002),
    "continuation of nothing": (lambda ws: ws.frame(0, b"x"), 1002),
    "text inside a text": (lambda ws: ws.frame(1, b"x", fin=False) + ws.frame(1, b"x"), 1002),
    "fragmented ping": (lambda ws: ws.frame(9, b"x", fin=False), 1002),
    "long ping": (lambda ws: ws.frame(9, b"x" * 126), 1002),
    "close with one byte": (lambda ws: ws.frame(8, b"x"), 1002),
    "close with a reserved code": (lambda ws: ws.frame(8, b"\x03\xed"), 1002),
    "close with bad utf-8": (lambda ws: ws.frame(8, b"\x03\xe8\xff"), 1007),
    # RFC 6455 5.2: "the most significant bit MUST be 0".
    "length of 2^63": (lambda _: b"\x81\xff" + b"\xff" * 8 + b"\0" * 4, 1002),
    "announced 2^40 bytes": (lambda _: b"\x81\xff" + (2**40).to_bytes(8) + b"\0" * 4, 1009),
}


@pytest.mark.parametrize("name", GARBAGE)
@pytest.mark.parametrize("path", ["/ws", "/ws/notifications/tasks"])
async def test_frames_that_break_the_protocol_close_the_socket(
    healthy: Server, path: str, name: str
) -> None:
    """The connection ends with the code that RFC 6455 has for it, and nothing is delivered."""
    make, code = GARBAGE[name]
    async with raw(healthy, path) as ws:
        ws.send(make(ws))
        ended = await ws.read_until_end()

        assert ended == code, ended
        texts = [data for opcode, data in ws.frames if opcode == OPCODES["text"]]
        assert [text for text in texts if not text.startswith(b'{"error"')] == []


async def test_random_bytes_close_the_socket(healthy: Server) -> None:
    """Forty sockets that send noise are all closed, each within its bound."""
    noise = random.Random(7)  # noqa: S311 - a repeatable noise

    async def shout() -> None:
        async with raw(healthy, "/ws/notifications/tasks") as ws:
            # The first byte has reserved bits set, so that no noise is a valid frame by chance.
            ws.send(b"\xf3" + noise.randbytes(4_000))
            await ws.read_until_end()

    async with asyncio.timeout(20):
        await asyncio.gather(*(shout() for _ in range(40)))


async def test_half_a_frame_and_a_vanished_peer_leave_nothing(healthy: Server) -> None:
    """A peer that dies in the middle of a message is forgotten."""
    async with raw(healthy, "/ws/77") as ws:
        ws.send(ws.frame(1, b"x" * 1000)[:500])
        await ws.writer.drain()
        ws.abort()


async def test_a_million_tiny_fragments_are_bounded(healthy: Server) -> None:
    """Endless empty fragments cost no memory: the peer is served or closed, others never wait."""
    before = healthy.resident_bytes()
    async with raw(healthy, "/ws") as ws:
        ws.send(ws.frame(1, b"", fin=False) + ws.frame(0, b"", fin=False) * 200_000)
        async with connect(healthy, "/ws") as other:
            await other.send("x")
            assert await receive(other) == "Message received: x"
        ws.send(ws.frame(0, b"end"))
        opcode, _ = await ws.read_frame()

        assert opcode in {OPCODES["text"], OPCODES["close"]}
        assert healthy.resident_bytes() - before < 64 * 2**20


async def test_a_socket_that_never_reads_delays_nobody(healthy: Server) -> None:
    """50 MB into its room: the others get all of it, it is cut and counted, memory is bounded.

    The speaker goes on as soon as the healthy two have heard the last five messages.
    """
    padding = "x" * 60_000
    memory, slowest = healthy.resident_bytes(), 0.0
    async with (
        http(healthy) as client,
        raw(healthy, "/ws/13", receive_buffer_bytes=4_096) as stuck,
        connect(healthy, "/ws/1") as one,
        connect(healthy, "/ws/2") as two,
    ):
        assert stuck.response
        before = await samples(client)
        for burst in range(170):
            started = time.monotonic()
            texts = [f"{burst}.{number} {padding}" for number in range(5)]
            for text in texts:
                await one.send(text)
            for ws in (one, two):
                assert await hear(ws, 5) == [f"Client 1: {text}" for text in texts]
            slowest = max(slowest, time.monotonic() - started)
        grown = healthy.resident_bytes() - memory

        async def counted() -> bool:
            after = await samples(client)
            return sum(after[key] - before.get(key, 0) for key in after if "3008" in key) == 1

        async def forgotten() -> bool:
            # The two healthy ones and the bystander; the stuck one still holds its end of the link.
            return await open_connections(client) == 3

        await eventually(counted, "the stuck socket is counted with code 3008")
        await eventually(forgotten, "the stuck socket is forgotten")

    assert slowest < 2, "seconds that a healthy peer waited"
    assert grown < 64 * 2**20


async def hear(ws: ClientConnection, count: int) -> list[str]:
    """Read `count` messages, not counting that the stuck one left."""
    said: list[str] = []
    while len(said) < count:
        text = await receive(ws)
        if text != "Client 13 left the chat":
            said.append(text)
    return said


async def test_a_flood_of_messages_of_one_peer_leaves_others_served(healthy: Server) -> None:
    """20,000 messages in one go are all echoed, while a newcomer gets an answer in time."""
    async with raw(healthy, "/ws") as ws:
        ws.send(ws.frame(1, b"x") * 20_000)
        started = time.monotonic()
        await assert_echoes(healthy)

        assert time.monotonic() - started < 5
        for _ in range(20_000):
            assert await ws.read_text() == "Message received: x"


async def test_half_handshakes_hold_up_nobody(healthy: Server) -> None:
    """A hundred connections that never finish their request leave the others served."""
    links = [await asyncio.open_connection("127.0.0.1", healthy.port) for _ in range(100)]
    try:
        for _, writer in links:
            writer.write(b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n")
        await assert_echoes(healthy)
    finally:
        for _, writer in links:
            writer.close()
            await writer.wait_closed()


@pytest.mark.parametrize(
    "first",
    [
        "",
        "{}",
        "[]",
        "5",
        "null",
        "🐛",
        '{"subs": 5}',
        '{"subs":{"":{}}}',
        '{"subs":{"board":5}}',
        '{"subs":{"board":{"offset":-1,"recover":true,"epoch":"x"}}}',
    ],
)
async def test_a_page_that_starts_wrongly_is_closed_or_served(healthy: Server, first: str) -> None:
    """The live connection answers any first message with a connect push or a disconnect push."""
    async with connect(healthy, "/realtime/connection/uni_websocket") as ws:
        await ws.send(first)
        push = json.loads((await receive(ws)).split("\n")[0])

        assert push.keys() & {"connect", "disconnect"}
        if "disconnect" in push:
            ended = await until_closed(ws)
            assert ended.code == push["disconnect"]["code"]
