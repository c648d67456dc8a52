"""What carriers behind ASGI's ``send`` have in common, shown with a WebSocket."""

from __future__ import annotations

import pytest

from tests.unit.clocks import pass_time, turns
from tests.unit.links import Link
from wirebell.errors import Disconnect
from wirebell.liveness import LEAVE_SECONDS, PingRing
from wirebell.portable import Message
from wirebell.settings import Settings

pytestmark = pytest.mark.anyio

DONE = Disconnect(1000, "done")


async def test_a_peer_that_is_gone_leaves_while_a_handler_runs() -> None:
    """It is in no channel a second later; what it said before is handled, then its end is told."""
    link = Link()
    task = await link.start()
    link.receiver.handler.clear()
    link.peer.say("1")
    link.peer.say("2")
    link.peer.leave()
    await pass_time(LEAVE_SECONDS * 0.9)
    before = list(link.receiver.calls)
    await pass_time(LEAVE_SECONDS * 0.2)
    after = list(link.receiver.calls)
    link.receiver.handler.set()
    await task

    assert (["open", "1"], ["open", "1", "leave"]) == (before, after)
    assert ["open", "1", "leave", "2", "eof"] == link.receiver.calls


async def test_a_peer_that_leaves_late_in_a_handler() -> None:
    """It leaves at once; one that does not is heard in order, message by message."""
    link = Link()
    task = await link.start()
    link.receiver.handler.clear()
    link.peer.say("1")
    await pass_time(LEAVE_SECONDS * 2)
    link.receiver.handler.set()
    await turns()
    link.peer.say("2")
    await turns()
    link.receiver.handler.clear()
    link.peer.say("3")
    await pass_time(LEAVE_SECONDS * 2)
    link.peer.leave()
    await turns()
    after = list(link.receiver.calls)
    link.receiver.handler.set()
    await task

    assert ["open", "1", "2", "3", "leave"] == after
    assert ["open", "1", "2", "3", "leave", "eof"] == link.receiver.calls


@pytest.mark.parametrize(("size", "count"), [(0, 32), (65_535, 2), (65_536, 1)])
async def test_reading_behind_a_handler_is_bounded(size: int, count: int) -> None:
    """So many messages, or so many bytes, wait behind a handler; the rest stays with the server."""
    link = Link()
    task = await link.start()
    link.receiver.handler.clear()
    link.peer.say("1")
    for _ in range(40):
        link.peer.say("x" * size)
    await pass_time(LEAVE_SECONDS * 1.1)
    waiting = link.peer.incoming.qsize()
    link.receiver.handler.set()
    link.peer.leave()
    await task

    assert 40 - count == waiting
    assert ["open", "1", *["x" * size] * 40, "eof"] == link.receiver.calls


async def test_a_close_while_the_link_is_read_behind_a_handler() -> None:
    """Nobody waits for input while the close frame is sent, and the peer's answer is awaited."""
    link = Link()
    waits: list[int] = []
    send = link.carrier.send

    async def look(message: Message) -> None:
        waits.append(len(link.peer.incoming._getters))  # type: ignore[attr-defined]
        await send(message)

    task = await link.start()
    link.carrier.send = look
    link.receiver.handler.clear()
    link.peer.say("1")
    await pass_time(LEAVE_SECONDS * 1.1)
    link.carrier.close(DONE)
    link.receiver.handler.set()
    await turns()
    link.peer.leave()
    await task

    assert ([0], [(1000, "done")]) == (waits, link.peer.closes)
    assert ["open", "1", "eof"] == link.receiver.calls


async def test_a_peer_given_up_while_the_link_is_read_behind_a_handler() -> None:
    """The wait for input ends with the link."""
    link = Link(Settings(close_timeout_seconds=4.0))
    task = await link.start()
    link.receiver.handler.clear()
    link.peer.say("1")
    await pass_time(LEAVE_SECONDS * 1.1)
    link.carrier.close(DONE)
    await pass_time(4.1)
    waiting = link.carrier.ahead
    link.receiver.handler.set()
    await task

    assert (None, ["abort"]) == (waiting, link.aborts)


async def test_a_server_that_fails_behind_a_handler() -> None:
    """Its failure goes on to it when the handler has ended, and the end is told."""
    link = Link()
    task = await link.start()

    async def fail() -> Message:
        raise RuntimeError("no more")

    link.receiver.handler.clear()
    link.peer.say("1")
    await turns()
    link.carrier.receive = fail
    await pass_time(LEAVE_SECONDS * 1.1)
    link.receiver.handler.set()

    with pytest.raises(RuntimeError, match="no more"):
        await task
    assert ["open", "1", "eof"] == link.receiver.calls


async def test_a_peer_that_takes_nothing_between_two_pings() -> None:
    """It is cut; one that takes a little is only not pinged."""
    link = Link(pings=PingRing(25.0, 8.0))
    task = await link.start()
    link.peer.gate.clear()
    link.write("1", "2")
    await turns()
    link.carrier.send_ping()
    link.carrier.piece_count += 1
    link.carrier.send_ping()
    before = list(link.receiver.calls)
    link.carrier.send_ping()

    assert (["open"], ["open", "close 3008: slow"]) == (before, link.receiver.calls)
    link.peer.gate.set()
    link.peer.leave()
    await task
