"""A WebSocket behind an ASGI server, against a peer that does what a test says."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.unit.clocks import pass_time, turns
from tests.unit.links import Link
from wirebell.errors import Disconnect
from wirebell.liveness import PingRing
from wirebell.settings import Settings

pytestmark = pytest.mark.anyio

DONE = Disconnect(1000, "done")


async def test_a_whole_life() -> None:
    """The handshake, messages both ways in order, and the end, each told once."""
    link = Link(subprotocol="bearer")
    task = await link.start()
    link.peer.say("a")
    link.peer.put({"type": "websocket.receive", "bytes": b"xy"})
    link.write("1", "2")
    link.write("3")
    await turns()
    link.peer.leave()
    await task

    assert {"type": "websocket.accept", "subprotocol": "bearer"} == link.peer.sent[0]
    assert (["1", "2", "3"], []) == (link.peer.texts, link.peer.closes)
    assert (["open", "a", "bytes 2", "eof"], 0) == (link.receiver.calls, link.carrier.queued_bytes)


async def test_pings() -> None:
    """The receiver pings while the peer is there and reads; ping frames are the server's own."""
    ring = PingRing(25.0, 8.0)
    link = Link(pings=ring)
    link.carrier.send_ping()
    task = await link.start()
    for _ in range(2 * len(ring.slots)):
        ring.step()
    link.peer.gate.clear()
    link.write("x")
    await turns()
    link.carrier.send_ping()
    link.peer.gate.set()
    link.peer.leave()
    await task

    assert (["open", "ping", "ping", "eof"], 0) == (link.receiver.calls, ring.peer_count)


async def test_written_before_the_handshake() -> None:
    """What is written before the socket is open arrives after the handshake."""
    link = Link()
    link.write("early")

    task = await link.start()
    link.peer.leave()
    await task

    assert ["early"] == link.peer.texts


async def test_accepted_already() -> None:
    """A socket that the endpoint accepted is not accepted again."""
    link = Link(is_accepted=True)
    await link.peer.receive()
    task = await link.start()
    link.write("x")
    await turns()
    link.peer.leave()
    await task

    assert ["websocket.send"] == [message["type"] for message in link.peer.sent]


async def test_gone_before_the_handshake() -> None:
    """A peer that left before the handshake is not accepted; the end is told."""
    link = Link()
    await link.peer.receive()
    link.peer.leave()

    await link.carrier.run(link.receiver)

    assert ([], ["eof"]) == (link.peer.sent, link.receiver.calls)


async def test_gone_during_the_handshake() -> None:
    """A server that raises at the handshake ends the link, not the endpoint."""
    link = Link()
    link.peer.failure = OSError("gone")

    await link.carrier.run(link.receiver)

    assert ["eof"] == link.receiver.calls


async def test_queue_is_bounded() -> None:
    """A peer that reads nothing may leave so many bytes waiting, 64 a message; then no more."""
    link = Link(Settings(send_queue_bytes_max=138))
    task = await link.start()
    link.peer.gate.clear()

    taken = [link.write("x" * 4), link.write("x" * 6), link.write("")]
    waiting = link.carrier.queued_bytes
    link.peer.gate.set()
    await turns()
    again = link.write("x" * 50)
    link.peer.leave()
    await task

    assert ([True, True, False], 138, True) == (taken, waiting, again)


async def test_bytes_in_flight_count() -> None:
    """What the server has not taken yet counts, though it left the queue."""
    link = Link(Settings(send_queue_bytes_max=10))
    task = await link.start()
    link.peer.gate.clear()
    link.write("x" * 8)
    await turns()

    assert not link.write("x" * 8)
    link.peer.gate.set()
    link.peer.leave()
    await task


async def test_keeping_up() -> None:
    """A peer keeps up while nothing waits, also not in the server's hands; then it is told."""
    link = Link()
    task = await link.start()
    link.peer.gate.clear()
    at_first = link.carrier.is_writable
    link.write("1")
    in_queue = link.carrier.is_writable
    await turns()
    in_flight, told = link.carrier.is_writable, link.receiver.writable_count

    link.peer.gate.set()
    await turns()
    at_last, told_again = link.carrier.is_writable, link.receiver.writable_count
    link.peer.leave()
    await task

    assert (True, False, False, True) == (at_first, in_queue, in_flight, at_last)
    assert (0, 1) == (told, told_again)


async def test_told_when_everything_was_written() -> None:
    """A receiver learns once that its peer reads again: when the last of what waited is gone."""
    link = Link()
    task = await link.start()
    link.write("1")
    link.write("2")
    link.write("3")
    await turns()
    told = link.receiver.writable_count
    link.peer.leave()
    await task

    assert 1 == told


async def test_close() -> None:
    """What waits goes first, then the notice, then the close frame; the peer answers."""
    link = Link()
    task = await link.start()
    link.write("1")

    link.carrier.close(DONE, notice="why")
    link.carrier.close(Disconnect(1011, "other"))
    is_taken = link.write("late")
    await turns()
    link.peer.leave()
    await task

    assert is_taken
    assert (["1", "why"], [(1000, "done")]) == (link.peer.texts, link.peer.closes)
    assert [] == link.aborts


async def test_close_before_the_handshake() -> None:
    """A link that was ended before it was open is opened to say so."""
    link = Link()
    link.carrier.close(DONE, notice="why")
    task = await link.start()
    link.peer.leave()
    await task

    assert ("websocket.accept", ["why"], [(1000, "done")]) == (
        link.peer.sent[0]["type"],
        link.peer.texts,
        link.peer.closes,
    )


async def test_slow_peer_is_cut() -> None:
    """A slow consumer gets the close frame without what waited for it."""
    link = Link(Settings(send_queue_bytes_max=10))
    task = await link.start()
    link.peer.gate.clear()
    link.write("in flight")
    await turns()
    link.write("w")

    link.carrier.close(Disconnect(3008, "slow"))
    link.peer.gate.set()
    await turns()
    link.peer.leave()
    await task

    assert (["in flight"], [(3008, "slow")]) == (link.peer.texts, link.peer.closes)


async def test_peer_takes_nothing() -> None:
    """A peer that does not take its close frame is aborted in time, and the link ends."""
    link = Link(Settings(close_timeout_seconds=4.0))
    task = await link.start()
    link.peer.gate.clear()
    link.write("1")
    start = asyncio.get_running_loop().time()

    link.carrier.close(DONE)
    await task

    assert asyncio.get_running_loop().time() - start == pytest.approx(4.0, abs=0.1)
    assert (["abort"], "eof", []) == (link.aborts, link.receiver.calls[-1], link.peer.texts)


async def test_peer_does_not_answer_the_close() -> None:
    """A peer that takes the close frame and stays is aborted in time."""
    link = Link(Settings(close_timeout_seconds=4.0))
    task = await link.start()

    link.carrier.close(DONE)
    await task

    assert ([(1000, "done")], ["abort"]) == (link.peer.closes, link.aborts)
    assert ["open", "eof"] == link.receiver.calls


async def test_end_that_the_server_reports_too_early() -> None:
    """Where the server says at once that the link has ended, it is dropped in time all the same."""
    link = Link(Settings(close_timeout_seconds=4.0))
    task = await link.start()
    link.carrier.close(DONE)
    await turns()
    link.peer.leave()
    await task
    before = list(link.aborts)

    await pass_time(3.9)
    in_time = list(link.aborts)
    await pass_time(0.2)

    assert ([], [], ["abort"]) == (before, in_time, link.aborts)


async def test_peer_that_says_goodbye_and_reads_nothing() -> None:
    """A link that the peer has ended is dropped in time, too: its last bytes may never leave."""
    link = Link(Settings(close_timeout_seconds=4.0))
    task = await link.start()
    link.peer.leave()
    await task

    await pass_time(4.1)

    assert ["abort"] == link.aborts


async def test_link_that_the_endpoint_keeps() -> None:
    """A link whose receiver failed has not ended: it is the endpoint's again, and not dropped."""
    link = Link(Settings(close_timeout_seconds=4.0))
    task = await link.start()
    link.receiver.failure = ValueError("broken")
    link.peer.say("x")
    with pytest.raises(ValueError, match="broken"):
        await task

    await pass_time(4.1)

    assert [] == link.aborts


async def test_server_without_a_way_to_abort() -> None:
    """Where the server gives no transport the end is the server's."""
    link = Link(Settings(close_timeout_seconds=4.0))
    link.carrier.abort = None
    task = await link.start()
    link.carrier.close(DONE)
    await task

    assert ([(1000, "done")], "eof") == (link.peer.closes, link.receiver.calls[-1])


async def test_input_after_the_close() -> None:
    """What the peer says while it is closed reaches nobody."""
    link = Link()
    task = await link.start()
    link.carrier.close(DONE)
    link.peer.say("late")
    link.peer.say("later")
    link.peer.leave()
    await task

    assert ["open", "eof"] == link.receiver.calls


async def test_handler_still_running() -> None:
    """A handler that runs when the link is ended may finish; nothing follows it."""
    link = Link()
    task = await link.start()
    link.receiver.handler.clear()
    link.peer.say("work")
    link.peer.say("next")
    await turns()

    link.carrier.close(DONE)
    await turns()
    link.receiver.handler.set()
    link.peer.leave()
    await task

    assert ["open", "work", "eof"] == link.receiver.calls
    assert [(1000, "done")] == link.peer.closes


async def test_handler_outlives_the_bound() -> None:
    """A handler longer than ``close_timeout_seconds`` finishes; the peer is aborted meanwhile."""
    link = Link(Settings(close_timeout_seconds=4.0))
    task = await link.start()
    link.receiver.handler.clear()
    link.peer.say("work")
    await turns()
    link.carrier.close(DONE)
    loop = asyncio.get_running_loop()

    loop.call_later(60, link.receiver.handler.set)
    await task

    assert (["abort"], ["open", "work", "eof"]) == (link.aborts, link.receiver.calls)


async def test_handlers_run_one_at_a_time() -> None:
    """The next message waits for the handler of the one before."""
    link = Link()
    task = await link.start()
    link.receiver.handler.clear()
    link.peer.say("1")
    link.peer.say("2")
    await turns()
    before = list(link.receiver.calls)
    link.receiver.handler.set()
    link.peer.leave()
    await task

    assert (["open", "1"], ["open", "1", "2", "eof"]) == (before, link.receiver.calls)


@pytest.mark.parametrize("failure", [ValueError("broken"), TimeoutError("its own")])
async def test_failing_receiver(failure: Exception) -> None:
    """What a receiver raises is not hidden, and its end is still told once."""
    link = Link()
    task = await link.start()
    link.receiver.failure = failure
    link.peer.say("x")

    with pytest.raises(type(failure)):
        await task
    assert ["open", "x", "eof"] == link.receiver.calls


async def test_cancellation() -> None:
    """A server that cancels the endpoint: the end is told once, and nothing runs on."""
    link = Link()
    task = await link.start()
    link.peer.gate.clear()
    link.write("1")
    await turns()

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await turns()

    assert ["open", "eof"] == link.receiver.calls
    assert link.carrier.writer is None
    assert set() == link.writers.tasks


async def test_peer_vanishes_while_writing() -> None:
    """A server that raises at a write ends the link quietly."""
    link = Link()
    task = await link.start()
    link.peer.failure = RuntimeError("gone")

    link.write("1")
    await task

    assert link.write("2")
    assert ["open", "eof"] == link.receiver.calls


async def test_peer_vanishes_while_closing() -> None:
    """A server that raises at the close frame ends the link quietly."""
    link = Link()
    task = await link.start()
    link.peer.failure = RuntimeError("gone")

    link.carrier.close(DONE)
    await task

    assert (["open", "eof"], []) == (link.receiver.calls, link.aborts)


@pytest.mark.parametrize(
    ("message", "size"),
    [
        ({"text": "x" * 9}, 9),
        ({"text": "é" * 5}, 10),
        ({"bytes": b"x" * 9, "text": None}, 9),
    ],
)
async def test_oversize_message(message: dict[str, Any], size: int) -> None:
    """A message over the limit is dropped; the receiver is to say its size and the bound."""
    link = Link(Settings(message_bytes_max=8))
    task = await link.start()
    link.peer.put({"type": "websocket.receive", **message})
    await turns()
    link.peer.leave()
    await task

    told = f"close 1009: message has {size} bytes, limit 8"
    assert ["open", told, "eof"] == link.receiver.calls


async def test_message_at_the_limit() -> None:
    """A message of exactly the limit is taken; bytes count, not characters."""
    link = Link(Settings(message_bytes_max=8))
    task = await link.start()
    link.peer.say("x" * 8)
    link.peer.say("é" * 4)
    link.peer.put({"type": "websocket.receive", "bytes": b"x" * 8})
    link.peer.put({"type": "websocket.receive", "bytes": b""})
    link.peer.leave()
    await task

    assert ["open", "x" * 8, "é" * 4, "bytes 8", "bytes 0", "eof"] == link.receiver.calls


async def test_refuse() -> None:
    """A peer that cannot stay is accepted, told why, and closed."""
    link = Link()
    task = asyncio.create_task(link.carrier.refuse(DONE, notice="why"))
    await turns()
    link.peer.leave()
    await task

    assert (["why"], [(1000, "done")]) == (link.peer.texts, link.peer.closes)


async def test_refuse_somebody_gone() -> None:
    """Refusing a peer that left already says nothing."""
    link = Link()
    await link.peer.receive()
    link.peer.leave()

    await link.carrier.refuse(DONE, notice="why")

    assert [] == link.peer.sent


async def test_refuse_is_bounded() -> None:
    """A refused peer that does not answer is aborted in time."""
    link = Link(Settings(close_timeout_seconds=4.0))

    await link.carrier.refuse(DONE, notice="why")

    assert ["abort"] == link.aborts


@pytest.mark.parametrize("scope", [{}, {"extensions": None}, {"extensions": {"other": {}}}])
async def test_deny_without_the_extension(scope: dict[str, Any]) -> None:
    """A server without the extension answers a bare refusal."""
    link = Link()
    link.carrier.scope = scope

    await link.carrier.deny(403, "why")

    assert [{"type": "websocket.close", "code": 1000, "reason": ""}] == link.peer.sent


async def test_deny_with_the_extension() -> None:
    """Where the server can, the answer is an HTTP status with a JSON body."""
    link = Link()
    link.carrier.scope = {"extensions": {"websocket.http.response": {}}}

    await link.carrier.deny(403, "why")

    start, body = link.peer.sent
    assert ("websocket.http.response.start", 403) == (start["type"], start["status"])
    assert {"detail": "why"} == json.loads(body["body"])
    assert (b"content-length", str(len(body["body"])).encode()) in start["headers"]
