"""A socket that was taken over: its opening, what it sends, and how it ends."""

from __future__ import annotations

import asyncio
import contextvars
import socket as sockets

import pytest

from tests.unit.clocks import pass_time, turns
from tests.unit.engines import EngineLink
from tests.unit.sockets import PING, PONG, FakeLink, FakeSocket, close_of, closed, masked
from wirebell.errors import Disconnect
from wirebell.model import Frames
from wirebell.settings import Settings

pytestmark = pytest.mark.anyio

DONE = Disconnect(1000, "done")
SLOW = Disconnect(3008, "slow")

NAME: contextvars.ContextVar[str] = contextvars.ContextVar("NAME", default="")


async def test_a_whole_life() -> None:
    """The handshake, messages both ways in order, and the end, each told once."""
    link = EngineLink(subprotocol="bearer")
    await link.open()
    link.say("a", "b")
    link.write("1", "2")
    link.write("3")
    link.socket.receive(masked(2, b"xy"))
    link.socket.receive(closed(1000, "bye"))
    await turns()

    accept = {"type": "websocket.accept", "subprotocol": "bearer"}
    assert ([accept], [False]) == (link.takeover.sent, link.takeover.offers)
    assert ["open", "a", "b", "bytes 2", "eof"] == link.receiver.calls
    assert [(1, b"1"), (1, b"2"), (1, b"3"), close_of(1000)] == link.socket.frames
    assert (0, set(), set()) == (link.pings.peer_count, link.host.connections, link.host.tasks)


async def test_run_returns_at_once() -> None:
    """The endpoint is let go as soon as the socket was taken over, and no task is left."""
    link = EngineLink()
    before = asyncio.all_tasks()

    await link.open()
    await turns()

    assert (before, 1) == (asyncio.all_tasks(), link.pings.peer_count)


async def test_written_before_the_take_over() -> None:
    """What is written before the socket is taken over arrives first, in order."""
    link = EngineLink()
    taken = [link.write("1"), link.write("2")]
    was_writable = link.carrier.is_writable

    await link.open()
    link.write("3")

    assert ([True, True], False) == (taken, was_writable)
    assert (["1", "2", "3"], True) == (link.socket.texts, link.carrier.is_writable)


async def test_told_after_the_take_over() -> None:
    """Who was not writable while it opened learns that it is now: others may hold back for it."""
    link = EngineLink()
    link.write("1")

    await link.open()

    assert link.receiver.writable_count > 0


async def test_written_before_into_a_stuck_socket() -> None:
    """A socket that is taken over while its peer reads nothing keeps what waits."""
    link = EngineLink()
    link.write("1")
    link.socket.is_stuck = link.socket.is_paused = True

    await link.open()
    link.write("2")
    before, was_writable = link.socket.texts, link.carrier.is_writable
    link.socket.flow()

    assert ([], False) == (before, was_writable)
    assert ["1", "2"] == link.socket.texts
    assert 1 == link.receiver.writable_count


async def test_accepted_already() -> None:
    """A socket that the endpoint accepted is not accepted again."""
    link = EngineLink(is_accepted=True)

    await link.open()

    assert ([], [], ["open"]) == (link.takeover.sent, link.takeover.offers, link.receiver.calls)


@pytest.mark.parametrize("is_offered", [True, False])
async def test_compression_is_offered_as_set(is_offered: bool) -> None:
    """Our setting says whether compression may be negotiated, not the server's flag."""
    link = EngineLink(Settings(compression=is_offered))

    await link.open()

    assert [is_offered] == link.takeover.offers


@pytest.mark.parametrize("how", ["no connect", "refused", "closed"])
async def test_gone_before_the_take_over(how: str) -> None:
    """A peer that leaves during the handshake: the end is told, nothing is sent or kept."""
    link = EngineLink()
    if how == "no connect":
        link.takeover.incoming = "websocket.disconnect"
    elif how == "refused":
        link.takeover.failure = OSError("gone")
    else:
        link.takeover.is_gone = True
    link.write("1")

    await link.open()
    taken = link.write("2")
    link.carrier.close(DONE)

    assert (["eof"], [], True) == (link.receiver.calls, link.socket.written, taken)
    assert (0, None) == (link.pings.peer_count, link.carrier.queue)


async def test_failing_handshake() -> None:
    """What the server raises at the handshake reaches the endpoint, and the end is told."""
    link = EngineLink()
    link.takeover.failure = RuntimeError("Unexpected ASGI message")
    link.receiver.waits.add("eof")
    link.receiver.gate.set()

    with pytest.raises(RuntimeError, match="Unexpected"):
        await link.open()
    assert (["eof"], ["eof"]) == (link.receiver.calls, link.receiver.done)


async def test_closed_before_the_take_over() -> None:
    """A link that was ended before it was open is opened to say so; the first reason counts."""
    link = EngineLink()
    link.write("1")
    link.carrier.close(DONE, notice="why")
    link.carrier.close(Disconnect(1011, "other"))

    await link.open()

    assert [(1, b"1"), (1, b"why"), close_of(1000, "done")] == link.socket.frames
    assert [] == link.receiver.calls
    link.socket.receive(closed())
    await turns()
    assert ["eof"] == link.receiver.calls


async def test_messages_that_came_before() -> None:
    """What the peer sent before the take-over is handled first, after the opening."""
    link = EngineLink()
    link.takeover.events = ["1", b"xy"]

    await link.open()
    link.say("2")

    assert ["open", "1", "bytes 2", "2"] == link.receiver.calls


async def test_frame_across_the_take_over() -> None:
    """A frame of which the first half came before the take-over is read to its end."""
    link = EngineLink()
    frame = masked(1, "half")
    link.takeover.reader.receive_data(frame[:5])

    await link.open()
    link.socket.receive(frame[5:])

    assert ["open", "half"] == link.receiver.calls


@pytest.mark.parametrize(
    ("family", "options"),
    [
        (sockets.AF_INET, [(sockets.IPPROTO_TCP, sockets.TCP_USER_TIMEOUT, 7_500)]),
        (sockets.AF_INET6, [(sockets.IPPROTO_TCP, sockets.TCP_USER_TIMEOUT, 7_500)]),
        (sockets.AF_UNIX, []),
    ],
)
async def test_user_timeout(family: int, options: list[tuple[int, int, int]]) -> None:
    """The kernel drops a TCP peer that acknowledges nothing; a Unix socket knows no such thing."""
    link = EngineLink(Settings(tcp_user_timeout_seconds=7.5))
    below = FakeLink(family)
    link.takeover.socket = FakeSocket(socket=below)

    await link.open()

    assert options == below.options


async def test_no_socket_below() -> None:
    """A transport that shows no socket is served as well."""
    link = EngineLink()
    link.takeover.socket = FakeSocket()

    await link.open()

    assert ["open"] == link.receiver.calls


async def test_context_of_the_endpoint() -> None:
    """A handler sees the context variables of the endpoint, whoever calls it."""
    link = EngineLink()
    seen: list[str] = []

    async def handle(name: str) -> None:
        seen.append(NAME.get())
        await turns(1)
        seen.append(NAME.get())

    link.receiver.handle = handle  # type: ignore[method-assign]
    link.receiver.waits.add("x")
    token = NAME.set("endpoint")
    await link.open()
    NAME.reset(token)

    link.say("x")
    await turns()

    assert ["endpoint", "endpoint"] == seen


# Output


async def test_subscribers_share_bytes() -> None:
    """One tick is encoded once: every peer is handed the same object."""
    one, two = EngineLink(), EngineLink()
    await one.open()
    await two.open()
    frames = Frames.join([Frames(("1", "2"), 2), Frames.from_text("3")])

    one.carrier.write(frames)
    two.carrier.write(frames)

    assert one.socket.written[0] is two.socket.written[0]
    assert ["1", "2", "3"] == one.socket.texts


async def test_parts_share_bytes() -> None:
    """What was encoded alone is not encoded again when it is joined with others."""
    link = EngineLink()
    await link.open()
    part = Frames.from_text("é")
    link.carrier.write(part)
    # Nobody but a test would do so: it shows that the remembered bytes are used.
    part.wire = b"\x81\x01!"

    link.carrier.write(Frames.join([part, Frames.from_text("2")]))

    assert ["é", "!", "2"] == link.socket.texts


async def test_tick_without_a_message() -> None:
    """Frames that hold no message write nothing, however often."""
    link = EngineLink()
    await link.open()
    frames = Frames((), 0)

    taken = [link.carrier.write(frames), link.carrier.write(frames)]

    assert ([True, True], []) == (taken, link.socket.frames)


async def test_queue_while_paused() -> None:
    """A peer that does not read has what is written wait, then gets it in order."""
    link = EngineLink()
    await link.open()
    link.socket.get_stuck()
    told = link.receiver.writable_count

    taken = [link.write("1"), link.write("2")]
    waiting = (link.socket.texts, link.carrier.is_writable, link.carrier.queued_bytes)
    link.socket.flow()
    link.write("3")

    assert ([True, True], ([], False, 2 * 65)) == (taken, waiting)
    assert (["1", "2", "3"], True, 0) == (
        link.socket.texts,
        link.carrier.is_writable,
        link.carrier.queued_bytes,
    )
    assert 1 == link.receiver.writable_count - told


async def test_queue_is_bounded() -> None:
    """So many bytes may wait, 64 a message; a tick that finds nothing waiting is always taken."""
    link = EngineLink(Settings(send_queue_bytes_max=138))
    await link.open()
    link.socket.get_stuck()

    taken = [link.write("x" * 4), link.write("x" * 6), link.write("")]
    waiting = link.carrier.queued_bytes
    link.socket.flow()
    link.socket.get_stuck()
    again = link.write("x" * 500)

    assert ([True, True, False], 138, True) == (taken, waiting, again)


async def test_lost_while_paused() -> None:
    """Nobody waits for a peer that is gone to read again."""
    link = EngineLink()
    await link.open()
    link.socket.get_stuck()
    was_writable = link.carrier.is_writable

    link.carrier.connection_lost(None)

    assert (False, True) == (was_writable, link.carrier.is_writable)


async def test_resumed_and_paused_again() -> None:
    """The loop may be full again after a part of the queue; the rest waits, nobody is told."""
    link = EngineLink()
    await link.open()
    link.socket.get_stuck()
    before = link.receiver.writable_count
    for text in "123":
        link.write(text)

    # The peer read a little: the first write fills the buffer again.
    link.socket.is_paused = False
    link.carrier.resume_writing()
    link.write("4")
    part, told = link.socket.texts, link.receiver.writable_count - before
    link.socket.flow()

    assert (["1"], 0) == (part, told)
    assert ["1", "2", "3", "4"] == link.socket.texts
    assert 1 == link.receiver.writable_count - before


# The end


async def test_close() -> None:
    """The notice, then the close frame; then nothing is written; the peer answers."""
    link = EngineLink()
    await link.open()
    link.write("1")

    link.carrier.close(DONE, notice="why")
    link.carrier.close(Disconnect(1011, "other"))
    is_taken = link.write("late")
    link.socket.receive(masked(PING, b"x"), masked(1, "late"), closed())
    await turns()

    assert is_taken
    assert [(1, b"1"), (1, b"why"), close_of(1000, "done")] == link.socket.frames
    assert (["open", "eof"], False) == (link.receiver.calls, link.socket.is_aborted)


async def test_close_without_a_notice() -> None:
    """Where the code says it all nothing goes before the close frame."""
    link = EngineLink()
    await link.open()

    link.carrier.close(DONE)

    assert [close_of(1000, "done")] == link.socket.frames


async def test_close_sends_what_waits() -> None:
    """What waits for a peer that does not read goes before the notice, and the close frame last."""
    link = EngineLink()
    await link.open()
    link.socket.get_stuck()
    link.write("1")
    link.write("2")
    told = link.receiver.writable_count

    link.carrier.close(DONE, notice="why")
    taken = link.write("late")
    link.socket.flow()

    assert taken
    assert [(1, b"1"), (1, b"2"), (1, b"why"), close_of(1000, "done")] == link.socket.frames
    assert told == link.receiver.writable_count


async def test_slow_consumer() -> None:
    """Of a slow peer what waits is dropped: the close frame is behind what the loop holds."""
    link = EngineLink()
    await link.open()
    link.socket.is_stuck = True
    link.write("in the loop's hands")
    link.write("waits")

    link.carrier.close(SLOW, notice="why")

    assert ["in the loop's hands"] == link.socket.texts
    assert close_of(3008, "slow") == link.socket.frames[-1]
    assert link.carrier.queue is None


async def test_peer_does_not_answer_the_close() -> None:
    """A peer that takes the close frame and stays is aborted in time."""
    link = EngineLink(Settings(close_timeout_seconds=4.0))
    await link.open()

    link.carrier.close(DONE)
    await pass_time(3.9)
    before = link.socket.is_aborted
    await pass_time(0.2)

    assert (False, True, 1) == (before, link.socket.is_aborted, link.host.abort_count)
    assert ["open", "eof"] == link.receiver.calls


async def test_peer_takes_nothing_at_its_close() -> None:
    """A peer that closes and does not read the answer is aborted in time."""
    link = EngineLink(Settings(close_timeout_seconds=4.0))
    await link.open()
    link.socket.get_stuck()

    link.socket.receive(closed())
    await pass_time(4.1)

    assert (True, ["open", "eof"]) == (link.socket.is_aborted, link.receiver.calls)


async def test_no_timer_is_left() -> None:
    """When the link is gone its timer is, too."""
    link = EngineLink(Settings(close_timeout_seconds=4.0))
    await link.open()

    link.carrier.close(DONE)
    link.socket.receive(closed())
    await turns()

    assert link.carrier.give_up is None
    await pass_time(5)
    assert (False, 0) == (link.socket.is_aborted, link.host.abort_count)


@pytest.mark.parametrize("code", [1000, 1001, 3000, 4999])
async def test_peer_closes(code: int) -> None:
    """A peer's close frame is answered with its code, without its reason."""
    link = EngineLink()
    await link.open()

    link.socket.receive(closed(code, "its reason"))
    await turns()

    assert [close_of(code)] == link.socket.frames
    assert ["open", "eof"] == link.receiver.calls


async def test_peer_closes_without_a_code() -> None:
    """A close frame without a code is answered with one."""
    link = EngineLink()
    await link.open()

    link.socket.receive(masked(8))

    assert [(8, b"")] == link.socket.frames


async def test_peer_vanishes() -> None:
    """A socket that is lost ends the link; what is written afterwards is taken and dropped."""
    link = EngineLink()
    await link.open()
    link.socket.get_stuck()
    link.write("1")

    link.socket.lose()
    await turns()
    taken = link.write("2")
    link.carrier.close(DONE)

    assert (True, [], ["open", "eof"]) == (taken, link.socket.written, link.receiver.calls)
    assert (0, set()) == (link.pings.peer_count, link.host.connections)


async def test_end_of_input() -> None:
    """A peer that ends its direction is closed by the loop."""
    link = EngineLink()
    await link.open()

    assert link.carrier.eof_received() is False


async def test_last_words_may_wait() -> None:
    """What the receiver does at the end may take its time, in a task of the server."""
    link = EngineLink()
    link.receiver.waits.add("eof")
    await link.open()

    link.socket.lose()
    await turns()
    running = len(link.host.tasks)
    await link.let_go()

    assert (1, ["eof"], set()) == (running, link.receiver.done, link.host.tasks)


async def test_pong() -> None:
    """A peer's ping is answered with its data; its own pongs are nothing."""
    link = EngineLink()
    await link.open()

    link.socket.receive(masked(PING, b"data"), masked(PONG, b"data"))

    assert [(PONG, b"data")] == link.socket.frames
    assert ["open"] == link.receiver.calls
