"""One connection to NATS: what is parsed, and what is written."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import pytest

from wirebell.brokers.nats.faults import Declined, WireLost
from wirebell.brokers.nats.wire import LOST, TOO_LARGE, Request, Wire

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.anyio

STREAM = (
    b'INFO {"version":"2.9.10","headers":true,"max_payload":100}\r\n'
    b"MSG a.b 2 3\r\nabc\r\n"
    b"MSG a.b 2 reply.to 0\r\n\r\n"
    b"PING\r\n+OK\r\n"
    b"HMSG a.b 2 12 17\r\nNATS/1.0\r\n\r\nhello\r\n"
    b"HMSG a.b 2 reply.to 12 14\r\nNATS/1.0\r\n\r\n\r\n\r\n"
    b"MSG a.b 9 3\r\nabc\r\n"
    b"-ERR 'Slow Consumer'\r\n"
)
MESSAGES = [
    (b"a.b", b"", b"", b"abc"),
    (b"a.b", b"reply.to", b"", b""),
    (b"a.b", b"", b"NATS/1.0\r\n\r\n", b"hello"),
    (b"a.b", b"reply.to", b"NATS/1.0\r\n\r\n", b"\r\n"),
]


class Transport:
    """Remembers what was written."""

    def __init__(self) -> None:
        self.data = b""
        self.is_aborted = False

    def write(self, data: bytes) -> None:
        """Remember."""
        self.data += data

    def abort(self) -> None:
        """Remember."""
        self.is_aborted = True

    def set_write_buffer_limits(self, *, high: int) -> None:
        """Do nothing."""


def create_wire() -> tuple[Wire, Transport]:
    """Make a wire that leads nowhere."""
    wire, transport = Wire(), Transport()
    wire.connection_made(cast("asyncio.Transport", transport))
    return wire, transport


@pytest.mark.parametrize("size", [1, 2, 3, 7, 16, 1000])
async def test_parse(size: int) -> None:
    """Whatever the pieces in which it comes, each message is handed on once, whole, in order."""
    wire, transport = create_wire()
    messages: list[tuple[bytes, bytes, bytes, bytes]] = []
    errors: list[str] = []
    wire.handle_error = errors.append
    wire.receivers[b"2"] = lambda *message: messages.append(message)

    for at in range(0, len(STREAM), size):
        wire.data_received(STREAM[at : at + size])
    await asyncio.sleep(0)

    assert MESSAGES == messages
    assert ["Slow Consumer"] == errors
    assert ("2.9.10", 100) == (wire.info.version, wire.info.max_payload)
    assert b"PONG\r\n" == transport.data
    assert not wire.parts


@pytest.mark.parametrize("data", [b"HTTP/1.1 400\r\n", b"\r\n\r\n", b'INFO {"version":1}\r\n'])
async def test_something_else(data: bytes) -> None:
    """What is not NATS ends the connection."""
    wire, transport = create_wire()

    wire.data_received(data)

    assert transport.is_aborted


async def test_a_receiver_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    """A mistake of whoever receives costs its message alone, and is logged; the link goes on."""
    wire, transport = create_wire()
    taken: list[bytes] = []

    def receive(_: bytes, __: bytes, ___: bytes, data: bytes) -> None:
        taken.append(data)
        if len(taken) == 1:
            raise ValueError("broken")

    wire.receivers[b"2"] = receive
    wire.data_received(STREAM)

    assert [message[3] for message in MESSAGES] == taken
    assert not transport.is_aborted
    assert "ValueError: broken" in caplog.text


async def test_line_without_an_end() -> None:
    """A line that does not end is not waited for."""
    wire, transport = create_wire()

    wire.data_received(b"MSG " + bytes(1024 * 1024))

    assert transport.is_aborted


async def test_one_write_for_each_turn() -> None:
    """What is written in one turn leaves in one write, in order, and is confirmed once."""
    wire, transport = create_wire()

    wire.publish(b"a", b"1")
    first = wire.sync()
    wire.publish(b"b", b"2", b"reply", b"NATS/1.0\r\n\r\n")
    second = wire.sync()
    await asyncio.sleep(0)
    wire.data_received(b"PONG\r\n")
    await second

    assert first is second
    assert b"PUB a  1\r\n1\r\nHPUB b reply 12 13\r\nNATS/1.0\r\n\r\n2\r\nPING\r\n" == transport.data


async def test_answers() -> None:
    """An answer goes to who asked; nobody's is dropped; that nobody answers is an error."""
    wire, transport = create_wire()
    wire.listen()
    asked = [asyncio.ensure_future(wire.ask(b"q", b"")) for _ in range(2)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    wire.data_received(b"MSG %b2 1 2\r\nok\r\n" % wire.inbox)
    wire.data_received(b"MSG %b7 1 2\r\nok\r\n" % wire.inbox)
    wire.data_received(b"HMSG %b1 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n" % wire.inbox)

    assert (b"", b"ok") == await asked[1]
    with pytest.raises(Declined):
        await asked[0]
    assert not wire.answers
    assert transport.data.startswith(b"SUB _INBOX.")


async def test_many_answers() -> None:
    """Answers to many are given in the questions' order; what did not come, or leave, shows."""
    wire, transport = create_wire()
    wire.data_received(STREAM)
    wire.listen()
    questions = [Request(b"q", data) for data in (b"a", bytes(200), b"b", b"c")]
    asked = asyncio.ensure_future(wire.ask_all(questions, wire.loop.time() + 0.1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    for number in (3, 1):
        wire.data_received(b"MSG %b%d 1 1\r\n%d\r\n" % (wire.inbox, number, number))
    answers = await asked

    assert [(b"", b"1"), (b"", b"3"), (LOST, b"")] == [answers[place] for place in (0, 2, 3)]
    assert TOO_LARGE == answers[1][0]
    assert not wire.answers
    assert 3 == transport.data.count(b"PUB q ")


async def test_many_questions_wait_for_the_server() -> None:
    """While the server takes nothing nothing more is written; who waits is told in time."""
    wire, transport = create_wire()
    wire.pause_writing()

    late = await wire.ask_all([Request(b"q", b"late")], wire.loop.time() + 0.01)
    asked = asyncio.ensure_future(wire.ask_all([Request(b"q", b"a")], wire.loop.time() + 10))
    await asyncio.sleep(0)
    written = transport.data
    wire.connection_lost(None)

    assert [(LOST, b"")] == late == await asked
    assert b"" == written
    assert not wire.answers


async def test_lost() -> None:
    """Who waits when the connection ends is told, and who asks afterwards."""
    wire, _ = create_wire()
    lost: list[bool] = []
    wire.handle_lost = lambda: lost.append(True)
    ask: Callable[[], asyncio.Future[tuple[bytes, bytes]]] = lambda: asyncio.ensure_future(  # noqa: E731
        wire.ask(b"q", b"")
    )
    asked, pong = ask(), wire.sync()
    await asyncio.sleep(0)

    wire.connection_lost(None)

    for waiting in (asked, pong, ask(), wire.sync()):
        with pytest.raises(WireLost):
            await waiting
    assert [True] == lost


async def test_too_large() -> None:
    """A message may have as many bytes as the server takes, headers included."""
    wire, _ = create_wire()
    wire.data_received(STREAM)

    wire.publish(b"a", bytes(90), b"", bytes(10))

    with pytest.raises(Declined, match="101 bytes, limit 100"):
        wire.publish(b"a", bytes(91), b"", bytes(10))
