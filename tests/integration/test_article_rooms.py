"""The article's echo and room: rows `WS /ws` and `WS /ws/{client_id:int}` of the route table."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest
import websockets

from tests.integration.clients import (
    OPCODES,
    connect,
    http,
    raw,
    receive,
    told,
    until_closed,
    wait_quiet,
)

if TYPE_CHECKING:
    from tests.servers import Server

pytestmark = pytest.mark.anyio

LIMIT = 65_536
"""Default of ``message_bytes_max``."""


@pytest.mark.parametrize("text", ["hello", "", "ünï ☃ 🐛", "a\nb\r\n\t", '{"json": true}', " "])
async def test_echo_answers_with_the_exact_text(demo: Server, text: str) -> None:
    """The echo is ``Message received: {data}`` whatever the text is."""
    async with connect(demo, "/ws") as ws:
        await ws.send(text)

        assert await receive(ws) == f"Message received: {text}"


async def test_echo_answers_each_message_in_order_to_its_sender_only(demo: Server) -> None:
    """A hundred messages come back in their order, and another socket hears none of them."""
    async with connect(demo, "/ws") as ws, connect(demo, "/ws") as other:
        for number in range(100):
            await ws.send(str(number))
        answers = [await receive(ws) for _ in range(100)]
        await other.send("marker")

        assert answers == [f"Message received: {number}" for number in range(100)]
        assert await receive(other) == "Message received: marker"


async def test_echo_sends_the_heartbeat_text_and_the_room_sends_none(short_demo: Server) -> None:
    """``/ws`` gets ``heartbeat`` again and again; in a room nothing but its messages is sent."""
    await wait_quiet(short_demo)
    async with connect(short_demo, "/ws") as echo, connect(short_demo, "/ws/5") as room:
        heartbeats = [await receive(echo) for _ in range(3)]
        await room.send("marker")

        assert heartbeats == ["heartbeat"] * 3
        assert await receive(room) == "Client 5: marker"


async def test_heartbeats_go_on_beside_the_answers(short_demo: Server) -> None:
    """Talking does not stop the heartbeat, and the heartbeat does not eat an answer."""
    async with connect(short_demo, "/ws") as ws:
        heard: list[str] = []
        sent = 0
        while heard.count("heartbeat") < 3:
            await ws.send(str(sent))
            sent += 1
            while heard.count("heartbeat") < 3 and f"Message received: {sent - 1}" not in heard:
                heard.append(await receive(ws))
            await asyncio.sleep(0.02)  # paces the talking

        answers = [text for text in heard if text != "heartbeat"]
        assert answers == [f"Message received: {number}" for number in range(len(answers))]


async def test_room_tells_everybody_the_sender_too(demo: Server) -> None:
    """All sockets of all ids get ``Client {id}: {data}``, in one order."""
    async with (
        connect(demo, "/ws/1") as one,
        connect(demo, "/ws/2") as two,
        connect(demo, "/ws/2") as twin,
    ):
        await one.send("hello")
        first = [await receive(ws) for ws in (one, two, twin)]
        await two.send("ünï ☃")
        second = [await receive(ws) for ws in (one, two, twin)]

        assert first == ["Client 1: hello"] * 3
        assert second == ["Client 2: ünï ☃"] * 3


async def test_room_sends_no_welcome_and_no_replay(demo: Server) -> None:
    """A newcomer hears neither a greeting nor what was said before, and nobody hears it join."""
    async with connect(demo, "/ws/1") as one:
        await one.send("before")
        assert await receive(one) == "Client 1: before"
        async with connect(demo, "/ws/2") as two:
            await one.send("after")

            assert await receive(two) == "Client 1: after"
            assert await receive(one) == "Client 1: after"


async def test_room_tells_of_a_leave_once_per_socket(demo: Server) -> None:
    """Of two sockets that share an id, each leaving is told once, to those who are left."""
    async with connect(demo, "/ws/9") as stays:
        async with connect(demo, "/ws/7") as one, connect(demo, "/ws/7") as two:
            await one.close()
            assert await receive(two) == "Client 7 left the chat"
            assert await receive(stays) == "Client 7 left the chat"
            await stays.send("between")
            assert await receive(two) == "Client 9: between"
            assert await receive(stays) == "Client 9: between"
        assert await receive(stays) == "Client 7 left the chat"
        await stays.send("marker")

        assert await receive(stays) == "Client 9: marker"


async def test_room_tells_of_a_peer_that_vanished(demo: Server) -> None:
    """A TCP reset counts as a leave, told once."""
    async with connect(demo, "/ws/1") as stays:
        async with raw(demo, "/ws/8") as lost:
            lost.send(lost.frame(OPCODES["text"], b"here"))
            assert await receive(stays) == "Client 8: here"
            lost.abort()
            assert await receive(stays) == "Client 8 left the chat"
        await stays.send("marker")

        assert await receive(stays) == "Client 1: marker"


async def test_room_delivers_to_the_others_when_many_leave_at_once(demo: Server) -> None:
    """Fifty sockets that vanish together are fifty leaves, and nothing else is lost."""
    async with connect(demo, "/ws/1") as stays:
        crowd = [await connect(demo, f"/ws/{number}") for number in range(100, 150)]
        await stays.send("hello")
        for ws in crowd:
            assert await receive(ws) == "Client 1: hello"
        for ws in crowd:
            ws.transport.abort()
        heard = [await receive(stays) for _ in range(51)]
        await stays.send("marker")

        assert heard[0] == "Client 1: hello"
        assert sorted(heard[1:]) == [f"Client {number} left the chat" for number in range(100, 150)]
        assert await receive(stays) == "Client 1: marker"


@pytest.mark.parametrize("client_id", ["0", "5", "9223372036854775808"])
async def test_room_takes_any_usual_integer_as_id(demo: Server, client_id: str) -> None:
    """The id is an integer, beyond 64 bits too, and comes back as it was."""
    async with connect(demo, f"/ws/{client_id}") as ws:
        await ws.send("x")

        assert await receive(ws) == f"Client {client_id}: x"


@pytest.mark.parametrize("path", ["/ws", "/ws/3"])
async def test_twenty_kilobytes_pass(demo: Server, path: str) -> None:
    """20 kB pass in both directions."""
    text = "x" * 20_000
    async with connect(demo, path) as ws:
        await ws.send(text)

        assert (await receive(ws)).endswith(f": {text}")


@pytest.mark.parametrize("path", ["/ws", "/ws/3"])
@pytest.mark.parametrize("text", ["x" * LIMIT, "🐛" * (LIMIT // 4)], ids=["ascii", "four bytes"])
async def test_the_limit_is_in_bytes_and_inclusive(demo: Server, path: str, text: str) -> None:
    """65,536 bytes of UTF-8 pass."""
    async with connect(demo, path) as ws:
        await ws.send(text)

        assert (await receive(ws)).endswith(f": {text}")


@pytest.mark.parametrize("text", ["x" * (LIMIT + 1), "🐛" * (LIMIT // 4) + "x", "x" * 2**26])
@pytest.mark.parametrize("path", ["/ws", "/ws/3"])
async def test_a_message_over_the_limit_gets_1009(demo: Server, path: str, text: str) -> None:
    """One byte over the limit, and 64 MiB, close with 1009; others notice a leave at most."""
    async with connect(demo, "/ws/1") as other, connect(demo, path) as ws:
        # 64 MiB do not get out before the close frame comes in.
        with contextlib.suppress(websockets.ConnectionClosed):
            await ws.send(text)
        ended = await until_closed(ws)

        assert ended.code == 1009, ended
        await other.send("marker")
        heard = [await receive(other)]
        if path != "/ws":
            heard.append(await receive(other))
        assert sorted(heard) == ["Client 1: marker", "Client 3 left the chat"][: len(heard)]


async def test_a_fragmented_message_over_the_limit_gets_1009(demo: Server) -> None:
    """The limit holds for the whole message, not for each of its frames."""
    async with raw(demo, "/ws") as ws:
        ws.send(ws.frame(OPCODES["text"], b"x" * 40_000, fin=False))
        ws.send(ws.frame(OPCODES["continuation"], b"x" * 40_000))

        assert await ws.read_until_end() == 1009


@pytest.mark.parametrize(
    "parts",
    [
        [b"\xff\xfe"],
        [b"ok \xc3\x28"],
        [b"\xed\xa0\x80"],
        [b"\xf4\x90\x80\x80"],
        [b"cut \xe2\x98"],
        [b"first \xe2", b"\x28 second"],
    ],
)
@pytest.mark.parametrize("path", ["/ws", "/ws/3", "/ws/notifications/tasks", "/ws/redis/news"])
async def test_text_that_is_not_utf8_gets_1007(demo: Server, path: str, parts: list[bytes]) -> None:
    """Wrong bytes, encoded surrogates and cut characters close with 1007, fragmented or not."""
    async with raw(demo, path) as ws:
        for number, part in enumerate(parts):
            opcode = OPCODES["continuation"] if number else OPCODES["text"]
            ws.send(ws.frame(opcode, part, fin=number == len(parts) - 1))

        assert await ws.read_until_end() == 1007


async def test_a_character_may_be_split_between_frames(demo: Server) -> None:
    """UTF-8 is judged over the whole message; control frames may come in between."""
    async with raw(demo, "/ws") as ws:
        ws.send(ws.frame(OPCODES["text"], b"snow \xe2", fin=False))
        ws.send(ws.frame(OPCODES["ping"], b"between"))
        ws.send(ws.frame(OPCODES["continuation"], b"\x98\x83"))

        assert await ws.read_frame() == (OPCODES["pong"], b"between")
        assert await ws.read_frame() == (OPCODES["text"], "Message received: snow ☃".encode())


@pytest.mark.parametrize("path", ["/ws", "/ws/3"])
async def test_a_binary_message_is_told_why_and_closed_1003(demo: Server, path: str) -> None:
    """These sockets speak text; a binary message is a clear mistake of the peer."""
    async with connect(demo, path) as ws:
        await ws.send(b"\x00\x01")

        assert await told(ws, 1003)


async def test_the_sockets_are_seen_by_the_metrics(demo: Server) -> None:
    """While two sockets are open, a gauge of connections says 2."""
    async with connect(demo, "/ws"), connect(demo, "/ws/1"), http(demo) as client:
        text = (await client.get("/realtime/metrics")).text

        values = [line for line in text.splitlines() if "connections" in line and line[0] != "#"]
        assert any(line.endswith((" 2", " 2.0")) for line in values), values
