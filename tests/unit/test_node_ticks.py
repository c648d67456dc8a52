"""The engine's tick: what is sent together, in which order, what drops, and who is pinged."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from tests.unit.clocks import pass_time, turns
from tests.unit.nodes import running
from wirebell.errors import Disconnect, DisconnectCode, create_disconnect
from wirebell.model import Frames
from wirebell.settings import Settings

pytestmark = pytest.mark.anyio

SLOW = (3008, "slow")


class Pinged:
    """A peer of the ring that notes when it is pinged, and answers while it is told to."""

    def __init__(self, *, answers: bool) -> None:
        self.unheard_since: int | None = None
        self.ping_slot = -1
        self.answers = answers
        self.pinged_at: list[float] = []
        self.silent_at: list[float] = []

    def send_ping(self) -> None:
        """Note the time."""
        self.pinged_at.append(asyncio.get_running_loop().time())
        if self.answers:
            self.unheard_since = None

    def handle_silence(self) -> None:
        """Note the time."""
        self.silent_at.append(asyncio.get_running_loop().time())


async def test_a_tick_is_one_write() -> None:
    """What one connection gets in one turn of the loop leaves at its end, in one write."""
    async with running() as rig:
        connection, transport = rig.connect()
        await rig.node.subscribe(connection, "a")
        await rig.node.subscribe(connection, "b")

        await rig.publish("a", "1", "2")
        rig.node.write(connection, Frames.from_text("reply"))
        await rig.publish("b", "3")
        before = list(transport.writes)
        await turns()

        assert ([], [("1", "2", "reply", "3")]) == (before, transport.writes)


@pytest.mark.parametrize("awaits_answers", [False, True])
async def test_a_tick_has_what_the_broker_answers(*, awaits_answers: bool) -> None:
    """A publication and the reply that its answer wakes leave in one write, where nodes share."""
    async with running() as rig:
        rig.node.flushing.awaits_answers = awaits_answers
        connection, transport = rig.connect()
        await rig.node.subscribe(connection, "a")
        answered = asyncio.get_running_loop().create_future()
        answered.add_done_callback(lambda _: rig.node.write(connection, Frames.from_text("reply")))

        await rig.publish("a", "1")
        answered.set_result(None)
        await turns()

        both = [("1", "reply")] if awaits_answers else [("1",), ("reply",)]
        assert both == transport.writes


async def test_ahead_of_the_tick() -> None:
    """What is to go ahead is in front of everything that reached the channels in this tick."""
    async with running() as rig:
        connection, transport = rig.connect()
        await rig.node.subscribe(connection, "a")

        await rig.publish("a", "1")
        rig.node.write(connection, Frames.from_text("ahead"), is_ahead=True)
        await turns()

        assert [("ahead", "1")] == transport.writes


async def test_writing_to_somebody_gone() -> None:
    """Who is being closed, or is gone, gets nothing more, and no tick is planned for it."""
    async with running() as rig:
        closing, closing_transport = rig.connect()
        gone, gone_transport = rig.connect()
        rig.node.close(closing, Disconnect(1000, "done"))
        rig.node.disconnect(gone)

        rig.node.write(closing, Frames.from_text("x"))
        rig.node.write(gone, Frames.from_text("x"))
        await turns()

        assert ([], []) == (closing_transport.messages, gone_transport.messages)
        assert {} == rig.node.hub.replies


async def test_leaving_before_the_end_of_the_tick() -> None:
    """A reply to a connection that ends within the tick reaches nobody."""
    async with running() as rig:
        connection, transport = rig.connect()
        rig.node.write(connection, Frames.from_text("x"))

        rig.node.disconnect(connection)
        await turns()

        assert ([], {}) == (transport.messages, rig.node.hub.replies)


async def test_close_sends_what_waits() -> None:
    """Closing sends what the tick has for the connection first, in order, once."""
    async with running() as rig:
        connection, transport = rig.connect()
        await rig.node.subscribe(connection, "a")
        await rig.publish("a", "1")
        rig.node.write(connection, Frames.from_text("reply"))
        await rig.publish("a", "2")

        rig.node.close(connection, Disconnect(1000, "done"))
        at_once = list(transport.writes)
        await turns()

        assert [("1", "reply", "2")] == at_once
        assert at_once == transport.writes


async def test_close_sends_what_follows_history() -> None:
    """What a connection that has just read history was about to get goes before the end, too."""
    async with running() as rig:
        connection, transport = rig.connect()
        subscription = await rig.node.subscribe(connection, "h")
        rig.node.release(connection, "h", subscription.position)
        await rig.publish("h", "1")

        rig.node.close(connection, Disconnect(1000, "done"))

        assert ["1"] == transport.messages


async def test_closing_a_slow_consumer_sends_nothing() -> None:
    """Of a slow consumer what waits is dropped: it is why the connection is cut."""
    async with running() as rig:
        connection, transport = rig.connect()
        rig.node.write(connection, Frames.from_text("x"))

        rig.node.close(connection, create_disconnect(DisconnectCode.SLOW))
        await turns()

        assert ([], [SLOW]) == (transport.messages, transport.closed)


async def test_ticks_are_bounded() -> None:
    """More payload than ``tick_bytes_max`` is sent at once, and counting begins anew."""
    async with running(Settings(tick_bytes_max=4)) as rig:
        connection, transport = rig.connect()
        await rig.node.subscribe(connection, "a")

        await rig.publish("a", "12", "34")
        within = list(transport.writes)
        await rig.publish("a", "5")
        past = list(transport.writes)
        await rig.publish("a", "6")
        await turns()

        assert ([], [("12", "34", "5")]) == (within, past)
        assert [("12", "34", "5"), ("6",)] == transport.writes


async def test_publications_for_nobody_begin_no_tick() -> None:
    """An item of a channel that nobody on this node has plans nothing."""
    async with running() as rig:
        connection, _ = rig.connect()
        await rig.node.subscribe(connection, "a")

        await rig.publish("b", "1")

        assert (False, {}) == (rig.node.flushing.is_planned, rig.node.hub.pending)


async def test_dropping_for_a_slow_peer() -> None:
    """In a channel that may drop a slow peer stays, and gets what waited when it reads again."""
    async with running() as rig:
        connection, transport = rig.connect()
        await rig.node.subscribe(connection, "d")
        transport.is_writable = False
        for text in ("1", "2"):
            await rig.publish("d", text)
            await turns()
        before = list(transport.writes)

        transport.is_writable = True
        rig.node.resume(connection)
        rig.node.resume(connection)
        await rig.publish("d", "3")
        await turns()

        assert ([], [("1", "2"), ("3",)]) == (before, transport.writes)


async def test_resuming_into_a_full_transport() -> None:
    """Who cannot take what was kept for it is cut as a slow consumer."""
    async with running() as rig:
        connection, transport = rig.connect()
        await rig.node.subscribe(connection, "d")
        transport.is_writable = False
        await rig.publish("d", "1")
        await turns()
        transport.is_full = True

        rig.node.resume(connection)

        assert ([SLOW], True) == (transport.closed, connection.is_closed)


async def test_resuming_while_closing() -> None:
    """A connection that is being closed gets nothing of what was kept."""
    async with running() as rig:
        connection, transport = rig.connect()
        await rig.node.subscribe(connection, "d")
        transport.is_writable = False
        await rig.publish("d", "1")
        await turns()
        rig.node.close(connection, Disconnect(1000, "done"))

        rig.node.resume(connection)

        assert [] == transport.writes


async def test_nothing_is_kept_for_somebody_gone() -> None:
    """What was kept goes with its connection."""
    async with running() as rig:
        connection, transport = rig.connect()
        await rig.node.subscribe(connection, "d")
        transport.is_writable = False
        await rig.publish("d", "1")
        await turns()

        rig.node.disconnect(connection)

        assert {} == rig.node.hub.backlogs


async def test_pings() -> None:
    """Each peer is pinged once in an interval; who is silent is found after the time-out."""
    settings = Settings(ping_interval_seconds=1.0, pong_timeout_seconds=0.4)
    async with running(settings) as rig:
        alive, silent = Pinged(answers=True), Pinged(answers=False)
        rig.node.pings.add(alive)
        rig.node.pings.add(silent)

        await pass_time(3.9)

        gaps = [b - a for a, b in pairwise(alive.pinged_at)]
        assert len(gaps) in {2, 3}
        assert [pytest.approx(1.0, abs=0.11)] * len(gaps) == gaps
        assert [] == alive.silent_at
        assert pytest.approx(silent.pinged_at[0] + 0.4, abs=0.2) == silent.silent_at[0]


async def test_pings_do_not_drift() -> None:
    """A ring's turn takes its interval, however late the single steps are."""
    async with running(Settings(ping_interval_seconds=1.0)) as rig:
        await pass_time(4.0)

        # Twenty steps in a turn.
        assert pytest.approx(80, abs=2) == rig.node.pings.number
