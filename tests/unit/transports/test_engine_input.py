"""A socket that was taken over: handlers that wait, what comes meanwhile, and bad input."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest

from tests.unit.clocks import pass_time, turns
from tests.unit.engines import EngineLink
from tests.unit.sockets import close_of, closed, masked, said
from wirebell.deferred import Deferred
from wirebell.errors import Disconnect
from wirebell.liveness import LEAVE_SECONDS
from wirebell.settings import Settings

pytestmark = pytest.mark.anyio

# One handler runs, and this many messages may wait behind it before the socket is left alone.
INBOX = 32
NUMBERS = [str(number) for number in range(100)]


async def opened(*waits: str, settings: Settings | None = None) -> EngineLink:
    """Open a link whose handlers of these texts wait."""
    link = EngineLink(settings)
    link.receiver.waits.update(waits)
    await link.open()
    return link


async def test_plain_handlers_need_no_task() -> None:
    """A message whose handler is done on return is handled where it arrives."""
    link = await opened()
    before = asyncio.all_tasks()

    link.say("1", "2")

    assert ["open", "1", "2"] == link.receiver.calls
    assert (before, None) == (asyncio.all_tasks(), link.carrier.work)


async def test_what_is_brought_needs_no_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """What tells at once is waited for as it is: messages behind it wait, and the server does."""
    link = await opened()
    brought: Deferred[None] = Deferred()
    with monkeypatch.context() as patch:
        patch.setattr(link.receiver, "receive_text", lambda _: brought)
        link.say("1")
    before = asyncio.all_tasks()
    link.say("2")
    assert (["open"], {brought}) == (link.receiver.calls, link.host.tasks)

    brought.set_result(None)
    await turns()

    assert (["open", "2"], set()) == (link.receiver.calls, link.host.tasks)
    assert (before, None) == (asyncio.all_tasks(), link.carrier.work)


async def test_handlers_run_one_at_a_time() -> None:
    """Messages behind a handler that waits keep their order, whatever their own handlers do."""
    link = await opened("1", "3")
    link.say("1")
    link.say("2", "3")
    link.say("4")
    await turns()
    before = list(link.receiver.calls)

    await link.let_go()

    assert (["open", "1"], ["open", "1", "2", "3", "4"]) == (before, link.receiver.calls)
    assert (["1", "3"], set()) == (link.receiver.done, link.host.tasks)


async def test_opening_may_wait() -> None:
    """Messages wait for an opening that takes its time."""
    link = EngineLink()
    link.receiver.waits.add("open")
    link.takeover.events = ["1"]
    await link.open()
    link.say("2")
    before = list(link.receiver.calls)

    await link.let_go()

    assert (["open"], ["open", "1", "2"]) == (before, link.receiver.calls)


async def test_handler_that_does_not_wait_after_all() -> None:
    """An awaitable that is done in its first step delays nobody."""
    link = await opened("1")
    link.receiver.gate.set()

    link.say("1", "2")
    await turns()
    link.say("3")

    assert (["open", "1", "2", "3"], ["1"]) == (link.receiver.calls, link.receiver.done)
    assert (None, set()) == (link.carrier.work, link.host.tasks)


async def test_the_server_waits_for_handlers() -> None:
    """A handler that runs is a task of the server's, so that its end is waited for."""
    link = await opened("1")

    link.say("1")
    await turns()

    assert {link.carrier.work} == link.host.tasks
    await link.let_go()
    assert set() == link.host.tasks


@pytest.mark.parametrize("count", [1, INBOX - 1])
async def test_input_below_the_bound(count: int) -> None:
    """A few messages behind a handler are read on."""
    link = await opened("1")
    link.say("1", *NUMBERS[2 : count + 2])

    assert link.socket.is_reading()
    await link.let_go()
    assert ["open", "1", *NUMBERS[2 : count + 2]] == link.receiver.calls


@pytest.mark.parametrize("count", [INBOX, INBOX + 1, 98])
async def test_input_is_bounded(count: int) -> None:
    """Past a bound the socket is not read; it is again as soon as the handlers came to an end."""
    link = await opened("1")
    link.say("1", *NUMBERS[2 : count + 2])
    was_reading = link.socket.is_reading()

    await link.let_go()
    link.say("more")

    assert not was_reading
    assert ["open", "1", *NUMBERS[2 : count + 2], "more"] == link.receiver.calls


async def test_input_is_bounded_again() -> None:
    """What was waiting may meet another handler that waits: its bound is the same."""
    link = await opened("1", "40")
    link.say(*NUMBERS[1:90])
    await link.let_go()
    link.receiver.gate.clear()
    link.receiver.waits.add("x")

    link.say("x", *NUMBERS[:50])
    was_reading = link.socket.is_reading()
    await link.let_go()

    assert (False, True) == (was_reading, link.socket.is_reading())
    assert ["open", *NUMBERS[1:90], "x", *NUMBERS[:50]] == link.receiver.calls


async def test_messages_between_end_and_callback() -> None:
    """What arrives when a handler has ended and its task is not yet let go of is not lost."""
    link = await opened("1", "3")
    link.say("1")
    link.receiver.gate.set()
    for text in ("2", "3", "4", "5"):
        await turns(1)
        link.say(text)
    await turns()

    assert ["open", "1", "2", "3", "4", "5"] == link.receiver.calls
    assert (["1", "3"], None, True) == (
        link.receiver.done,
        link.carrier.work,
        link.socket.is_reading(),
    )


async def test_peer_closes_behind_a_handler() -> None:
    """A close frame waits its turn: every message before it is handled, and answers go out."""
    link = await opened("1")
    link.say("1")
    link.say("2")
    link.socket.receive(closed())
    await turns()
    before = link.socket.frames

    await link.let_go()

    assert ([], [close_of(1000)]) == (before, link.socket.frames)
    assert ["open", "1", "2", "eof"] == link.receiver.calls


async def test_peer_vanishes_behind_a_handler() -> None:
    """Messages of a peer that is gone are handled all the same, then the end is told, once."""
    link = await opened("1", "3")
    link.say("1")
    link.say("2", "3")
    link.say("4")
    link.socket.receive(closed())
    link.socket.lose()
    await turns()
    before = list(link.receiver.calls)

    await link.let_go()

    assert (["open", "1"], ["open", "1", "2", "3", "4", "eof"]) == (before, link.receiver.calls)
    assert ([], set()) == (link.socket.frames, link.host.tasks)


async def test_bad_frames_of_a_peer_that_is_gone() -> None:
    """A failure behind messages of a peer that is gone is nobody's any more."""
    link = await opened("1")
    link.say("1")
    link.say("2")
    link.socket.receive(masked(3))
    link.socket.lose()
    await turns()

    await link.let_go()

    assert (["open", "1", "2", "eof"], []) == (link.receiver.calls, link.socket.frames)


async def test_we_close_behind_a_handler() -> None:
    """When our side ends the link the handler may finish; what waits behind it is dropped."""
    link = await opened("1")
    link.say("1")
    link.say("2")
    await turns()

    link.carrier.close(Disconnect(1000, "done"))
    link.say("late")
    await link.let_go()
    link.socket.receive(closed())
    await turns()

    assert (["open", "1", "eof"], ["1"]) == (link.receiver.calls, link.receiver.done)
    assert [close_of(1000, "done")] == link.socket.frames


async def test_we_close_a_peer_that_is_not_read() -> None:
    """The answer to our close frame is read, also behind a full inbox."""
    link = await opened("1")
    link.say("1", *NUMBERS[:50])

    link.carrier.close(Disconnect(1000, "done"))

    link.socket.receive(closed())
    await link.let_go()
    assert ["open", "1", "eof"] == link.receiver.calls


async def test_handler_ends_after_the_link() -> None:
    """The end is told after the last handler, when the socket is long gone."""
    link = await opened("1")
    link.say("1")
    link.carrier.close(Disconnect(1000, "done"))
    link.socket.receive(closed())
    await turns()
    before = list(link.receiver.calls)

    await link.let_go()

    assert (["open", "1"], ["open", "1", "eof"]) == (before, link.receiver.calls)


@pytest.mark.parametrize("says_goodbye", [True, False])
async def test_a_peer_that_is_gone_leaves_while_a_handler_runs(*, says_goodbye: bool) -> None:
    """Whatever its handler waits for, it is in no channel a second later; its end follows."""
    link = await opened("1")
    link.say("1")
    link.say("2")
    if says_goodbye:
        link.socket.receive(closed())
    else:
        link.socket.lose()
    await pass_time(LEAVE_SECONDS * 0.9)
    before = list(link.receiver.calls)
    await pass_time(LEAVE_SECONDS * 0.2)
    after = list(link.receiver.calls)

    await link.let_go()

    assert (["open", "1"], ["open", "1", "leave"]) == (before, after)
    assert ["open", "1", "leave", "2", "eof"] == link.receiver.calls


@pytest.mark.parametrize("says_goodbye", [True, False])
async def test_a_peer_whose_handlers_are_quick_leaves_with_its_end(*, says_goodbye: bool) -> None:
    """Nobody is told twice, also while its last words run for long."""
    link = await opened("1", "eof")
    link.say("1")
    link.socket.receive(closed())
    if not says_goodbye:
        link.socket.lose()
    await turns()

    # Who waits goes on, and who comes then waits.
    link.receiver.gate.set()
    link.receiver.gate.clear()
    await pass_time(LEAVE_SECONDS * 2)

    assert ["open", "1", "eof"] == link.receiver.calls
    await link.let_go()


async def test_a_segment_of_many_messages_behind_a_handler() -> None:
    """Each takes as long as the first: thousands of empty ones are no work for a minute."""
    link = await opened("1")
    link.say("1")
    started = time.process_time()

    link.socket.receive(said("") * 20_000)

    assert time.process_time() - started < 4
    assert not link.socket.is_reading()
    await link.let_go()
    assert 20_002 == len(link.receiver.calls)


async def test_a_code_that_no_frame_may_carry() -> None:
    """It is an error of whoever closes, and the link is as it was."""
    link = await opened()

    with pytest.raises(ValueError, match="2000 must not"):
        link.carrier.close(Disconnect(2000, "none"))
    link.say("1")
    link.carrier.close(Disconnect(1000, "done"))

    assert ["open", "1"] == link.receiver.calls
    assert [close_of(1000, "done")] == link.socket.frames


async def test_handler_raises(caplog: pytest.LogCaptureFixture) -> None:
    """A handler's failure is logged and ends this link with 1011; what waited is dropped."""
    link = await opened("1")
    link.receiver.failure = ValueError("broken")
    link.say("1")
    link.say("2")
    await turns()

    with caplog.at_level(logging.ERROR):
        await link.let_go()
    link.socket.receive(closed())
    await turns()

    assert ["open", "1", "close 1011: internal error", "eof"] == link.receiver.calls
    assert [(1, b"why"), close_of(1011, "internal error")] == link.socket.frames
    assert ["serving a connection failed"] == [record.message for record in caplog.records]


async def test_handler_raises_at_once() -> None:
    """A failure in a handler's first step ends the link the same way."""
    link = await opened("1")
    link.receiver.failure = ValueError("broken")
    link.receiver.gate.set()

    link.say("1")
    link.say("2")
    await turns()

    assert close_of(1011, "internal error") == link.socket.frames[-1]
    assert "close 1011: internal error" in link.receiver.calls


async def test_handler_of_a_peer_that_is_gone_raises() -> None:
    """A failure after the peer has gone keeps nobody from learning the end."""
    link = await opened("1")
    link.receiver.failure = ValueError("broken")
    link.say("1")
    link.socket.lose()
    await turns()

    await link.let_go()

    assert "eof" == link.receiver.calls[-1]
    assert ([], 1) == (link.socket.frames, link.receiver.calls.count("eof"))


async def test_last_words_raise(caplog: pytest.LogCaptureFixture) -> None:
    """A failure of the receiver's last words is logged, and told once like any end."""
    link = await opened("eof")
    link.receiver.failure = ValueError("broken")
    link.socket.lose()
    await turns()

    await link.let_go()

    assert 1 == link.receiver.calls.count("eof")
    assert "serving a connection failed" in caplog.text


async def test_handler_is_cancelled() -> None:
    """A server whose deadline has passed cancels the handler: the link is dropped, the end told."""
    link = await opened("1")
    link.say("1")
    link.say("2")
    await turns()

    for task in list(link.host.tasks):
        task.cancel()
    await turns()

    assert (["open", "1", "eof"], True) == (link.receiver.calls, link.socket.is_aborted)
    assert ([], set()) == (link.receiver.done, link.host.tasks)


async def test_handler_of_a_peer_that_is_gone_is_cancelled() -> None:
    """A handler that is cancelled after its peer has gone ends the same way."""
    link = await opened("1")
    link.say("1")
    link.say("2")
    link.socket.lose()
    await turns()

    for task in list(link.host.tasks):
        task.cancel()
    await turns()

    assert ["open", "1", "eof"] == link.receiver.calls


# Bad input


@pytest.mark.parametrize(
    ("frame", "code", "reason"),
    [
        (masked(3), 1002, "opcode 3 is reserved"),
        (b"\x81\x01x", 1002, "frame of a client is not masked"),
        (masked(1, b"\xff"), 1007, "text is not UTF-8"),
    ],
)
async def test_failures(frame: bytes, code: int, reason: str) -> None:
    """Frames that are none end the link with their code; what still comes is dropped."""
    link = await opened()

    link.socket.receive(said("1"), frame, said("2"))
    link.socket.receive(said("3"), closed())
    is_taken = link.write("late")

    assert [close_of(code, reason)] == link.socket.frames
    assert (["open", "1"], False) == (link.receiver.calls, link.socket.is_closing())
    assert is_taken
    await pass_time(0.25)
    assert link.socket.is_closing()


async def test_message_too_big() -> None:
    """A message over the limit is found in its header, and told in the receiver's words."""
    link = await opened(settings=Settings(message_bytes_max=8))

    link.socket.receive(said("x" * 8))
    link.socket.receive(said("x" * 9)[:6])

    reason = "message is longer than 8 bytes"
    assert ["open", "x" * 8, f"close 1009: {reason}"] == link.receiver.calls
    assert [(1, b"why"), close_of(1009, reason)] == link.socket.frames
    assert not link.socket.is_closing()


async def test_a_peer_that_goes_on_sending_is_not_reset() -> None:
    """The socket is closed when the peer is quiet; before, that would reset it."""
    link = await opened()
    link.socket.receive(masked(3))

    for _ in range(5):
        await pass_time(0.09)
        link.socket.receive(said("more"))
    before = link.socket.is_closing()
    await pass_time(0.25)

    assert (False, True) == (before, link.socket.is_closing())


async def test_the_ring_leaves_a_peer_alone_that_is_lingered_for() -> None:
    """A peer that broke the protocol is not taken for silent while its socket waits for quiet."""
    link = await opened()
    for _ in range(link.pings.timeout_steps):
        link.pings.step()
    link.socket.receive(masked(3))

    for _ in range(len(link.pings.slots)):
        link.pings.step()
    before = link.socket.is_aborted
    await pass_time(0.25)

    assert (False, False, True) == (before, link.socket.is_aborted, link.socket.is_closing())


async def test_failure_after_our_close() -> None:
    """Bad frames after our close frame are not answered; the socket is closed soon."""
    link = await opened()
    link.carrier.close(Disconnect(1000, "done"))

    link.socket.receive(masked(3))

    await pass_time(0.25)
    assert ([close_of(1000, "done")], True) == (link.socket.frames, link.socket.is_closing())


async def test_too_big_after_our_close() -> None:
    """A message over the limit after our close frame is told to nobody."""
    link = await opened(settings=Settings(message_bytes_max=8))
    link.carrier.close(Disconnect(1000, "done"))

    link.socket.receive(said("x" * 9))

    assert (["open"], [close_of(1000, "done")]) == (link.receiver.calls, link.socket.frames)


async def test_failure_in_its_turn() -> None:
    """A failure behind a handler waits its turn: the messages before it are handled."""
    link = await opened("1")
    link.say("1")
    link.say("2")
    link.socket.receive(masked(3))
    before = link.socket.frames

    await link.let_go()

    assert ([], ["open", "1", "2"]) == (before, link.receiver.calls)
    assert [close_of(1002, "opcode 3 is reserved")] == link.socket.frames


async def test_messages_that_came_before_are_bounded_too() -> None:
    """A message that came before the take-over has our bound, not the server's."""
    link = EngineLink(Settings(message_bytes_max=8))
    link.takeover.events = ["x" * 9]

    await link.open()

    assert ["open", "close 1009: message is longer than 8 bytes"] == link.receiver.calls
