"""A socket that was taken over: pings, silence, peers that are stuck, the drain, compression."""

from __future__ import annotations

import pytest

from tests.unit.clocks import turns
from tests.unit.engines import EngineLink
from tests.unit.sockets import PING, PONG, close_of, closed, masked
from wirebell.errors import Disconnect
from wirebell.model import Frames
from wirebell.settings import Settings
from wirebell.websocket.deflate import Deflate

pytestmark = pytest.mark.anyio

PINGED = (PING, b"")


async def opened(settings: Settings | None = None, *, deflate: Deflate | None = None) -> EngineLink:
    """Open a link."""
    settings = settings or Settings()
    if deflate is not None:
        settings = settings.model_copy(update={"compression": True})
    link = EngineLink(settings, deflate=deflate)
    await link.open()
    return link


def turn(link: EngineLink, count: int = 1) -> None:
    """Have the ring go on to where the peer's turn comes, so often."""
    ring = link.pings
    for _ in range(count):
        ring.step()
        while link.carrier.ping_slot not in {-1, ring.number % len(ring.slots)}:
            ring.step()


async def test_ping() -> None:
    """A peer is pinged once in an interval, without data; its pong is the answer."""
    link = await opened()

    for _ in range(3):
        turn(link)
        link.socket.receive(masked(PONG))

    assert [PINGED] * 3 == link.socket.frames
    assert (["open"], False) == (link.receiver.calls, link.socket.is_aborted)


async def test_pings_in_other_words() -> None:
    """A receiver with words of its own pings instead of the socket, and judges silence itself."""
    link = await opened()
    link.receiver.has_own_pings = True

    turn(link, 3)

    assert (["open", "ping", "ping", "ping"], []) == (link.receiver.calls, link.socket.frames)
    assert not link.socket.is_aborted


async def test_silence() -> None:
    """A peer that does not answer is dropped without a close frame, which nobody would read."""
    link = await opened()

    turn(link, 2)
    await turns()

    assert (True, ["open", "eof"]) == (link.socket.is_aborted, link.receiver.calls)
    assert ([PINGED], 0) == (link.socket.frames, link.pings.peer_count)


async def test_any_sign_of_life_counts() -> None:
    """Whatever comes is an answer, also a part of a frame."""
    link = await opened()
    frame = masked(1, "x" * 100)

    for at in range(3):
        turn(link)
        link.socket.receive(frame[at : at + 1])
    turn(link)

    assert not link.socket.is_aborted


async def test_closing_peers_are_not_pinged() -> None:
    """After our close frame nothing is sent, no ping either."""
    link = await opened()
    link.carrier.close(Disconnect(1000, "done"))

    turn(link)

    assert [close_of(1000, "done")] == link.socket.frames


async def test_stuck_peer() -> None:
    """Who takes nothing for a whole interval is cut as a slow consumer, with its close frame."""
    settings = Settings(ping_interval_seconds=10, pong_timeout_seconds=4)
    link = await opened(settings)
    link.socket.get_stuck()

    turn(link)
    before = list(link.receiver.calls)
    turn(link)

    assert (["open"], ["open", "close 3008: slow"]) == (before, link.receiver.calls)
    assert [close_of(3008, "slow")] == link.socket.frames


async def test_who_was_not_pinged_is_not_silent() -> None:
    """A peer that was paused when its turn came, and reads again, has nothing to answer."""
    link = await opened(Settings(ping_interval_seconds=10, pong_timeout_seconds=4))
    link.socket.get_stuck()
    turn(link)

    link.socket.flow()
    for _ in range(len(link.pings.slots) - 1):
        link.pings.step()

    assert ([], False) == (link.socket.frames, link.socket.is_aborted)


async def test_slow_peer_is_not_stuck() -> None:
    """A peer that took some of what the loop holds is slow, and stays."""
    link = await opened()
    link.socket.get_stuck()

    for _ in range(3):
        turn(link)
        link.socket.buffer_bytes -= 10

    assert ["open"] == link.receiver.calls


async def test_compression_that_was_not_asked_for() -> None:
    """Where the server negotiated it and the setting is off messages are sent as they are."""
    link = EngineLink(deflate=Deflate())
    await link.open()

    link.write("a long text that repeats itself. " * 30)

    assert b"\x81" == raw(link)


async def test_peer_that_moves_is_not_stuck() -> None:
    """A peer that took something since the last ping is paused again, not stuck."""
    link = await opened()
    for _ in range(3):
        link.socket.get_stuck()
        turn(link)
        link.socket.flow()
        link.carrier.unheard_since = None

    assert ["open"] == link.receiver.calls


async def test_who_we_do_not_read_is_not_silent() -> None:
    """A peer whose pongs we leave in the socket, behind a full inbox, cannot answer."""
    link = await opened(Settings(ping_interval_seconds=10, pong_timeout_seconds=4))
    link.receiver.waits.add("slow")
    link.say("slow", *(str(number) for number in range(50)))
    assert not link.socket.is_reading()

    turn(link, 2)

    assert not link.socket.is_aborted


async def test_idle_peer() -> None:
    """A peer that sends no message for the limit is closed at its next ping; a pong is none."""
    link = await opened(Settings(idle_timeout_seconds=50, ping_interval_seconds=25))

    for _ in range(2):
        turn(link)
        link.socket.receive(masked(PONG))
    before = list(link.receiver.calls)
    turn(link)

    assert (["open"], "close 4408: no message for 50 seconds") == (before, link.receiver.calls[-1])
    assert [PINGED, PINGED, (1, b"why")] == link.socket.frames[:3]


async def test_messages_keep_a_peer() -> None:
    """Each message begins the idle time anew, text or binary."""
    link = await opened(Settings(idle_timeout_seconds=50, ping_interval_seconds=25))

    for opcode in (1, 2, 1):
        turn(link, 1)
        link.socket.receive(masked(PONG))
        turn(link, 1)
        link.socket.receive(masked(opcode, b"x"))

    assert ["open", "x", "bytes 1", "x"] == link.receiver.calls


async def test_no_idle_limit() -> None:
    """Without a limit who only listens stays."""
    link = await opened()

    for _ in range(50):
        turn(link)
        link.socket.receive(masked(PONG))

    assert ["open"] == link.receiver.calls


async def test_pings_of_a_paused_peer() -> None:
    """To a peer that does not read no pong is written: it would only add to what waits."""
    link = await opened()
    link.socket.get_stuck()

    link.socket.receive(masked(PING, b"x"))

    assert [] == link.socket.frames


async def test_pong_that_was_owed_when_the_socket_was_taken_over() -> None:
    """A ping that came while the server held a paused socket is answered when it flows again."""
    link = EngineLink()
    link.socket.is_stuck = link.socket.is_paused = True
    link.takeover.late_pong = b"x"
    await link.open()
    before = list(link.socket.frames)

    link.socket.flow()

    assert ([], [(PONG, b"x")]) == (before, link.socket.frames)


# The drain


async def test_drain() -> None:
    """The server's end is planned by the host; then the receiver says it in its own words."""
    link = await opened()

    link.carrier.shutdown()
    before = list(link.receiver.calls)
    link.host.drains[0]()

    assert (["open"], "close 1012: shutting down") == (before, link.receiver.calls[-1])
    assert close_of(1012, "shutting down") == link.socket.frames[-1]


async def test_drain_of_somebody_gone() -> None:
    """Who closed before its turn in the drain came is left alone."""
    link = await opened()
    link.carrier.shutdown()
    link.socket.receive(closed())
    await turns()

    link.host.drains[0]()

    assert ["open", "eof"] == link.receiver.calls


# Compression

LONG = "a long text that repeats itself. " * 30


def raw(link: EngineLink) -> bytes:
    """Return the first byte of each write: it says whether a message was compressed."""
    return bytes(data[0] for data in link.socket.written)


async def test_compression() -> None:
    """A long message is compressed, a short one is not, and both arrive."""
    link = await opened(deflate=Deflate())

    link.write(LONG)
    link.write("short")

    assert ([LONG, "short"], b"\xc1\x81") == (link.socket.texts, raw(link))
    assert len(link.socket.written[0]) < len(LONG)


async def test_compression_bound() -> None:
    """Messages are compressed from ``compression_bytes_min`` bytes on."""
    link = await opened(Settings(compression_bytes_min=100), deflate=Deflate())

    link.write("x" * 99)
    link.write("x" * 100)

    assert b"\x81\xc1" == raw(link)


async def test_what_does_not_shrink() -> None:
    """A message that deflate makes longer is sent as it is."""
    link = await opened(Settings(compression_bytes_min=1), deflate=Deflate())

    link.write("x")

    assert (["x"], b"\x81") == (link.socket.texts, raw(link))


async def test_compression_is_shared() -> None:
    """Peers with the same window are handed the same bytes; with another one, and without, not."""
    one, two = await opened(deflate=Deflate()), await opened(deflate=Deflate())
    small, plain = await opened(deflate=Deflate(server_window_bits=9)), await opened()
    frames = Frames.join([Frames.from_text(LONG), Frames(("1", LONG), 1 + len(LONG))])

    for link in (one, two, small, plain):
        link.carrier.write(frames)

    assert one.socket.written[0] is two.socket.written[0]
    assert one.socket.written[0] is not small.socket.written[0]
    assert {15, 9} == set(frames.deflated or ())
    for link in (one, two, small, plain):
        assert [LONG, "1", LONG] == link.socket.texts


async def test_compressed_parts_are_shared() -> None:
    """What was compressed alone is not compressed again when it is joined with others."""
    link = await opened(deflate=Deflate())
    part = Frames.from_text(LONG)
    link.carrier.write(part)
    # Nobody but a test would do so: it shows that the remembered bytes are used.
    part.deflated = {15: b"\x81\x01!"}

    link.carrier.write(Frames.join([part, Frames.from_text("2")]))

    assert [LONG, "!", "2"] == link.socket.texts


async def test_compressed_while_paused() -> None:
    """A peer with compression is queued like any other, and its notice is compressed too."""
    link = await opened(Settings(compression_bytes_min=1), deflate=Deflate())
    link.socket.get_stuck()
    link.write(LONG)
    before = link.socket.texts
    link.socket.flow()
    link.write("2")

    link.carrier.close(Disconnect(1000, "done"), notice=LONG)

    assert ([], [LONG, "2", LONG]) == (before, link.socket.texts)
    assert close_of(1000, "done") == link.socket.frames[-1]


async def test_compressed_input() -> None:
    """What the peer compressed is read."""
    link = await opened(deflate=Deflate())

    # "Hello" of RFC 7692, section 7.2.3.1.
    link.socket.receive(masked(1, b"\xf2\x48\xcd\xc9\xc9\x07\x00", first=0xC0))

    assert ["open", "Hello"] == link.receiver.calls
