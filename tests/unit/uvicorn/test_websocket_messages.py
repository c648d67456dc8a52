"""Uvicorn's protocol class: messages, backpressure, closing and compression."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from uvicorn.protocols.utils import ClientDisconnected

from tests.unit.clocks import pass_time, turns
from tests.unit.sockets import close_of, closed, frames, masked, said
from tests.unit.uvicorn.endpoints import DEFLATE, opened
from wirebell.process import PROCESS

pytestmark = pytest.mark.anyio

LONG = "a long text that repeats itself. " * 30


@pytest.fixture(autouse=True)
def _counters() -> Iterator[None]:
    """Put the process' counters back."""
    before = (PROCESS.drained_count, PROCESS.aborted_count)
    yield
    PROCESS.drained_count, PROCESS.aborted_count = before


def ending(code: int, reason: str = "") -> dict[str, Any]:
    """Return what an application receives at the end."""
    return {"type": "websocket.disconnect", "code": code, "reason": reason}


async def test_messages() -> None:
    """Text and binary messages go both ways, empty ones too."""
    served = await opened()
    served.socket.receive(said("é"), masked(2, b"xy"), said(""), masked(2))
    received = [await served.endpoint.receive() for _ in range(4)]

    for message in ({"text": "é"}, {"bytes": b"xy"}, {"text": ""}, {"bytes": b"", "text": None}):
        await served.endpoint.send({"type": "websocket.send", **message})

    kind = {"type": "websocket.receive"}
    assert [
        kind | {"text": "é"},
        kind | {"bytes": b"xy"},
        kind | {"text": ""},
        kind | {"bytes": b""},
    ] == received
    assert [(1, "é".encode()), (2, b"xy"), (1, b""), (2, b"")] == served.frames


async def test_message_of_nothing() -> None:
    """A message with neither text nor bytes sends nothing."""
    served = await opened()

    await served.endpoint.send({"type": "websocket.send", "text": None})

    assert [] == served.frames


async def test_receive_waits() -> None:
    """An application that waits gets the message that comes."""
    served = await opened()
    waiting = asyncio.create_task(served.endpoint.receive())
    await turns()

    served.socket.receive(said("1"))

    assert "1" == (await waiting)["text"]


async def test_receive_again_after_a_cancellation() -> None:
    """Who gives up waiting and waits anew at once gets the next message."""
    served = await opened()
    first = asyncio.create_task(served.endpoint.receive())
    await turns()

    first.cancel()
    asyncio.get_running_loop().call_later(1, served.socket.receive, said("1"))
    # This begins to wait before the first has ended.
    async with asyncio.timeout(5):
        message = await served.endpoint.receive()

    assert "1" == message["text"]


async def test_inbox_is_bounded_in_messages() -> None:
    """Past ``--ws-max-queue`` messages the socket is not read until all were received."""
    served = await opened(ws_max_queue=3)
    served.socket.receive(said("1"), said("2"))
    below = served.socket.is_reading()
    served.socket.receive(said("3"))
    at_bound = served.socket.is_reading()

    texts = [(await served.endpoint.receive())["text"] for _ in range(3)]

    assert (True, False, True) == (below, at_bound, served.socket.is_reading())
    assert ["1", "2", "3"] == texts


async def test_inbox_is_bounded_in_bytes() -> None:
    """A few long messages that nobody receives stop the reading as well."""
    served = await opened()
    served.socket.receive(said("x" * 65_535))
    below = served.socket.is_reading()
    served.socket.receive(said("x"))
    at_bound = served.socket.is_reading()

    for _ in range(2):
        await served.endpoint.receive()

    assert (True, False, True) == (below, at_bound, served.socket.is_reading())
    assert 0 == served.protocol.inbox_bytes


async def test_message_too_big() -> None:
    """Past ``--ws-max-size`` the peer is closed with 1009, and the application is told."""
    served = await opened(ws_max_size=8)

    served.socket.receive(said("x" * 8), said("x" * 9))

    assert "x" * 8 == (await served.endpoint.receive())["text"]
    reason = "message is longer than 8 bytes"
    assert ending(1009, reason) == await served.endpoint.receive()
    assert [close_of(1009, reason)] == served.frames
    assert not served.socket.is_closing()
    await pass_time(0.25)
    assert served.socket.is_closing()


async def test_bad_frames_after_our_close() -> None:
    """Bad frames after our close frame are not answered."""
    served = await opened()
    await served.endpoint.send({"type": "websocket.close"})

    served.socket.receive(masked(3))

    await pass_time(0.25)
    assert ([close_of(1000)], True) == (served.frames, served.socket.is_closing())


# Backpressure


async def test_send_waits_for_a_peer_that_does_not_read() -> None:
    """An application that sends more than the peer takes waits until it does."""
    served = await opened()
    served.socket.get_stuck()
    sending = [asyncio.create_task(served.say(text)) for text in "12"]
    await turns()
    before = served.frames

    served.socket.flow()
    await turns()

    assert ([], [(1, b"1"), (1, b"2")]) == (before, served.frames)
    assert all(task.done() for task in sending)


async def test_cancelled_while_sending() -> None:
    """Who gives up waiting to send does not keep others from it."""
    served = await opened()
    served.socket.get_stuck()
    first, second = (asyncio.create_task(served.say(text)) for text in "12")
    await turns()

    first.cancel()
    await turns()
    served.socket.flow()
    await second

    assert [(1, b"2")] == served.frames


async def test_peer_vanishes_while_sending() -> None:
    """A peer that is lost wakes who waits to send: an `OSError`, as ASGI 2.4 has it."""
    served = await opened()
    served.socket.get_stuck()
    sending = asyncio.create_task(served.say("1"))
    await turns()

    served.socket.lose()

    with pytest.raises(OSError):  # noqa: PT011 - has no words
        await sending


async def test_closing_while_sending() -> None:
    """A peer that closes wakes who waits to send."""
    served = await opened()
    served.socket.get_stuck()
    sending = asyncio.create_task(served.say("1"))
    await turns()

    served.socket.receive(closed())

    with pytest.raises(ClientDisconnected):
        await sending


# The end


async def test_peer_closes() -> None:
    """A close frame is answered; the application learns code and reason, as often as it asks."""
    served = await opened()
    served.socket.receive(said("1"), closed(4_000, "bye"), said("late"))
    await turns()

    received = [await served.endpoint.receive() for _ in range(3)]

    assert ["1"] == [message["text"] for message in received[:1]]
    assert [ending(4_000, "bye")] * 2 == received[1:]
    assert ([close_of(4_000)], True, set()) == (
        served.frames,
        served.socket.is_closing(),
        served.state.connections,
    )
    with pytest.raises(ClientDisconnected):
        await served.say("late")


async def test_peer_closes_without_a_code() -> None:
    """A close frame without a code is 1005 for the application."""
    served = await opened()

    served.socket.receive(masked(8))

    assert (ending(1005), [(8, b"")]) == (await served.endpoint.receive(), served.frames)


async def test_peer_vanishes() -> None:
    """A link that is lost is 1006 for the application, and wakes it."""
    served = await opened()
    waiting = asyncio.create_task(served.endpoint.receive())
    await turns()

    served.socket.lose()

    assert ending(1006) == await waiting


@pytest.mark.parametrize(
    ("message", "code", "reason"),
    [
        ({}, 1000, ""),
        ({"code": 4_001, "reason": "go"}, 4_001, "go"),
        ({"code": None, "reason": None}, 1000, ""),
    ],
)
async def test_application_closes(message: dict[str, Any], code: int, reason: str) -> None:
    """The application's code and reason go to the peer, and come back to the application."""
    served = await opened()

    await served.endpoint.send({"type": "websocket.close", **message})
    served.socket.receive(said("late"), closed(code))
    await turns()

    assert [close_of(code, reason)] == served.frames
    assert ending(code, reason) == await served.endpoint.receive()
    assert served.socket.is_closing()


async def test_sending_after_closing() -> None:
    """What an application sends after its close is a mistake of its own."""
    served = await opened()
    await served.endpoint.send({"type": "websocket.close"})

    with pytest.raises(RuntimeError, match=r"'websocket\.send', after the socket was closed"):
        await served.say("late")


async def test_closing_with_a_code_that_cannot_be_sent() -> None:
    """A code that must not stand in a frame is an error, and the socket then ends with 1011."""
    served = await opened()

    with pytest.raises(ValueError, match="1006"):
        await served.endpoint.send({"type": "websocket.close", "code": 1006})
    await served.endpoint.end(ValueError("as it came"))

    assert [close_of(1011)] == served.frames


async def test_application_fails() -> None:
    """An application that raises closes its socket with 1011."""
    served = await opened()

    await served.endpoint.end(ValueError("broken"))

    assert ([close_of(1011)], True) == (served.frames, served.is_done)


async def test_application_gives_up_a_peer_that_is_gone(caplog: pytest.LogCaptureFixture) -> None:
    """An application that ends by what its send raised is no failure of it."""
    served = await opened()
    served.socket.receive(closed())

    await served.endpoint.end(ClientDisconnected())

    told = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert ([], True) == (told, served.is_done)


async def test_application_is_cancelled() -> None:
    """A server that cancels an application drops its socket."""
    served = await opened()

    for task in served.state.tasks:
        task.cancel()
    await turns()

    assert (True, True) == (served.socket.is_aborted, served.is_done)


async def test_peer_does_not_answer_the_close() -> None:
    """A peer that does not answer a close frame is dropped in time, and no timer is left."""
    served, quick = await opened(), await opened()
    for one in (served, quick):
        await one.endpoint.send({"type": "websocket.close"})
    quick.socket.receive(closed())

    before = PROCESS.aborted_count
    await pass_time(10.1)

    assert (True, False) == (served.socket.is_aborted, quick.socket.is_aborted)
    assert 1 == PROCESS.aborted_count - before


async def test_end_of_input() -> None:
    """A peer that ends its direction is closed by the loop."""
    served = await opened()

    assert served.protocol.eof_received() is False


async def test_drain() -> None:
    """A server that stops closes with 1012, and tells the application."""
    served = await opened()

    served.protocol.shutdown()

    assert [close_of(1012)] == served.frames
    assert ending(1012) == await served.endpoint.receive()


async def test_drain_of_somebody_gone() -> None:
    """Who closed before its turn in the drain is left alone."""
    served = await opened()
    served.protocol.host.drain_count = 1
    served.protocol.host.drain_step_seconds = 1.0
    served.protocol.shutdown()

    served.socket.receive(closed())
    await pass_time(2)

    assert [close_of(1000)] == served.frames


# Compression


async def test_compression() -> None:
    """Where both sides want it messages are compressed, both ways."""
    served = await opened(DEFLATE)
    answer = served.headers[b"sec-websocket-extensions"]
    # "Hello" of RFC 7692, section 7.2.3.1.
    served.socket.receive(masked(1, b"\xf2\x48\xcd\xc9\xc9\x07\x00", first=0xC0))

    await served.say(LONG)

    assert answer.startswith(b"permessage-deflate; server_no_context_takeover")
    assert "Hello" == (await served.endpoint.receive())["text"]
    assert ([(1, LONG.encode())], 0xC1) == (served.frames, served.body[0])


@pytest.mark.parametrize(
    ("is_on", "headers"), [(False, [DEFLATE]), (True, []), (True, [(DEFLATE[0], b"x-other")])]
)
async def test_no_compression(is_on: bool, headers: list[tuple[bytes, bytes]]) -> None:
    """With ``--no-ws-per-message-deflate``, or a peer that does not offer it, there is none."""
    served = await opened(*headers, ws_per_message_deflate=is_on)

    await served.say(LONG)

    assert b"sec-websocket-extensions" not in served.headers
    assert 0x81 == served.body[0]


async def test_frames_are_whole() -> None:
    """What the tests read is what was written: frames one behind the other."""
    served = await opened()

    for size in (0, 125, 126, 65_535, 65_536):
        await served.say("x" * size)

    assert [0, 125, 126, 65_535, 65_536] == [len(data) for _, data in frames(served.body)]
