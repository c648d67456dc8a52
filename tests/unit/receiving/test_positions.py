"""Gaps: those that a publication shows, and those that comparing positions finds."""

from __future__ import annotations

import pytest

from tests.unit.clocks import pass_time, turns
from tests.unit.fakes import FakeControl
from tests.unit.nodes import Rig, running
from wirebell.connection import Connection, Subscription
from wirebell.errors import BrokerUnavailable
from wirebell.model import ChannelOptions, Publication, StreamPosition
from wirebell.receiving.positions import CHANNELS_IN_A_TURN, FAILURES_MAX
from wirebell.settings import Settings

pytestmark = pytest.mark.anyio

SETTINGS = Settings(channel_position_check_seconds=10, presence_refresh_seconds=50)


async def listen(
    rig: Rig, *channels: str, is_positioned: bool = True
) -> tuple[Connection, FakeControl]:
    """Connect a client, and subscribe it."""
    control = FakeControl()
    connection, _ = rig.connect(control=control)
    for channel in channels:
        subscription = Subscription(is_positioned=is_positioned)
        subscribed = await rig.node.subscribe(connection, channel, subscription=subscription)
        if subscribed.position is not None:
            rig.node.release(connection, channel, subscribed.position)
    return connection, control


async def lose(rig: Rig, channel: str, text: str = "lost") -> None:
    """Publish something that does not arrive, and that history has not any more."""
    rig.broker.lost.add(channel)
    await rig.publish(channel, text)
    rig.broker.lost.clear()
    rig.broker.log.remove(channel)


async def test_nothing_is_lost() -> None:
    """Where everything arrived nobody is told anything, and others are not asked about."""
    async with running(SETTINGS) as rig:
        _, control = await listen(rig, "h")
        await listen(rig, "a")
        await rig.publish("h", "1", "2")
        asked = rig.gates.calls.count("history")

        await pass_time(45)

        assert ([], 4) == (control.gaps, rig.gates.calls.count("history") - asked)


async def test_the_last_one_is_lost() -> None:
    """What nothing follows is missed by the second check that sees it, once."""
    async with running(SETTINGS) as rig:
        _, control = await listen(rig, "h")
        await rig.publish("h", "1")
        await lose(rig, "h")

        await pass_time(15)
        once = list(control.gaps)
        await pass_time(30)

        assert ([], ["h"]) == (once, control.gaps)
        assert 2 == rig.node.hub.tops["h"].offset


async def test_counting_goes_on() -> None:
    """After a loss was told what follows is no gap."""
    async with running(SETTINGS) as rig:
        _, control = await listen(rig, "h")
        await lose(rig, "h")
        await pass_time(25)

        await rig.publish("h", "2")
        await turns()

        assert ["h"] == control.gaps


async def test_late_is_not_lost() -> None:
    """What arrives between two checks was on its way; the next difference counts anew."""
    async with running(SETTINGS) as rig:
        _, control = await listen(rig, "h")
        await lose(rig, "h")
        await pass_time(15)
        rig.node.handle_item(
            "h", Publication(b"lost", offset=1, epoch=rig.node.hub.tops["h"].epoch)
        )
        await lose(rig, "h")
        await pass_time(10)

        assert [] == control.gaps


async def test_a_stream_that_lost_its_end() -> None:
    """A stream that has less than was seen is a loss at the first look."""
    async with running(SETTINGS) as rig:
        _, control = await listen(rig, "h")
        await rig.publish("h", "1", "2")
        rig.broker.log.streams["h"].offset = 1
        await pass_time(15)

        assert ["h"] == control.gaps


async def test_another_stream() -> None:
    """A stream that began anew is a loss as well."""
    async with running(SETTINGS) as rig:
        _, control = await listen(rig, "h")
        await rig.publish("h", "1")

        rig.broker.log.forget("h")
        await pass_time(25)

        assert ["h"] == control.gaps


async def test_an_empty_stream_loses_nothing() -> None:
    """A stream that never had a publication may be forgotten without a word."""
    async with running(SETTINGS) as rig:
        _, control = await listen(rig, "h")

        rig.broker.log.forget("h")
        await pass_time(45)

        assert [] == control.gaps


async def test_only_who_counts_on_it() -> None:
    """Nobody else is told, and for nobody else the broker is asked."""
    async with running(SETTINGS) as rig:
        _, counting = await listen(rig, "h")
        _, easy = await listen(rig, "h", is_positioned=False)
        _, alone = await listen(rig, "h2", is_positioned=False)
        await rig.publish("h2", "1")
        asked = rig.gates.calls.count("history")
        for channel in ("h", "h2"):
            await lose(rig, channel)

        await pass_time(25)

        assert (["h"], [], []) == (counting.gaps, easy.gaps, alone.gaps)
        # Two comparisons, and a look whether it can be filled.
        assert 3 == rig.gates.calls.count("history") - asked


async def test_who_left_meanwhile() -> None:
    """A channel that was left while the broker was asked has nobody to tell, and no entry."""
    async with running(SETTINGS) as rig:
        connection, control = await listen(rig, "h")
        await rig.publish("h", "1")
        await lose(rig, "h")
        await pass_time(15)
        gate = rig.gates.hold("history")
        await pass_time(10)

        rig.node.disconnect(connection)
        gate.set()
        await turns()

        assert ([], {}) == (control.gaps, rig.node.hub.tops)


async def test_one_check_at_a_time() -> None:
    """While the broker takes its time no second check begins."""
    async with running(SETTINGS) as rig:
        await listen(rig, "h")
        gate = rig.gates.hold("history")
        asked = rig.gates.calls.count("history")

        await pass_time(45)
        meanwhile = rig.gates.calls.count("history") - asked
        gate.set()
        await pass_time(10)

        assert (1, 2) == (meanwhile, rig.gates.calls.count("history") - asked)


async def test_broker_fails() -> None:
    """A broker that does not answer is asked a few times, counted, and asked again later."""
    async with running(SETTINGS) as rig:
        channels = [f"h{number}" for number in range(FAILURES_MAX + 2)]
        _, control = await listen(rig, *channels)
        await lose(rig, channels[-1])
        rig.gates.failures["history"] = BrokerUnavailable("away")
        asked = rig.gates.calls.count("history")

        await pass_time(15)
        counted = (rig.gates.calls.count("history") - asked, rig.node.statistics.broker_error_count)
        rig.gates.failures.clear()
        await pass_time(20)

        assert (FAILURES_MAX, FAILURES_MAX) == counted
        assert [channels[-1]] == control.gaps


async def test_others_get_their_turn() -> None:
    """With many channels the loop is let go in between, and each is looked at."""
    settings = SETTINGS.model_copy(update={"channels_per_connection_max": 1_000})
    async with running(settings) as rig:
        channels = [f"h{number}" for number in range(2 * CHANNELS_IN_A_TURN + 1)]
        _, control = await listen(rig, *channels)
        for channel in channels:
            await lose(rig, channel)

        await pass_time(25)

        assert channels == control.gaps


async def test_a_channel_that_keeps_nothing_any_more() -> None:
    """Where the options changed, and nothing is kept, there is nothing to compare with."""
    async with running(SETTINGS) as rig:
        _, control = await listen(rig, "h")
        await lose(rig, "h")
        rig.node.receiving.positions.options_for = lambda _: ChannelOptions()

        await pass_time(45)

        assert [] == control.gaps
        assert StreamPosition(0) != rig.node.hub.tops["h"]


async def test_gap() -> None:
    """Who counts on every publication is told that one never came; others are not."""
    async with running() as rig:
        _, counting = await listen(rig, "h")
        _, easy = await listen(rig, "h", is_positioned=False)
        plain, transport = rig.connect()
        await rig.node.subscribe(plain, "h", subscription=Subscription())
        await rig.publish("h", "1")

        await lose(rig, "h", "2")
        await rig.publish("h", "3", "4")
        await turns()

        assert (["h"], []) == (counting.gaps, easy.gaps)
        assert ["1", "3", "4"] == transport.messages


async def test_twice_is_once() -> None:
    """What the broker delivers again is left out."""
    async with running() as rig:
        plain, transport = rig.connect()
        await rig.node.subscribe(plain, "h", subscription=Subscription())
        await rig.publish("h", "1")
        (again,) = (await rig.node.history("h", since=None, limit=1)).publications

        rig.node.handle_item("h", again)
        await turns()

        assert ["1"] == transport.messages


async def test_gap_while_reading_history() -> None:
    """What was lost behind an answer of history is told when live items should follow it."""
    async with running() as rig:
        await listen(rig, "h")
        control = FakeControl()
        connection, transport = rig.connect(control=control)
        subscribed = await rig.node.subscribe(
            connection, "h", subscription=Subscription(is_positioned=True)
        )
        await lose(rig, "h", "1")
        await rig.publish("h", "2")
        await turns()
        before = list(control.gaps)

        rig.node.release(connection, "h", subscribed.position)
        await turns()

        assert ([], ["h"], []) == (before, control.gaps, transport.messages)


class LeavingControl(FakeControl):
    """A client that leaves where it is told of a gap, as those of the protocol do."""

    def __init__(self, rig: Rig) -> None:
        super().__init__()
        self.rig = rig
        self.connection: Connection | None = None

    def handle_gap(self, channel: str) -> None:
        """Leave."""
        super().handle_gap(channel)
        assert self.connection is not None
        self.rig.node.unsubscribe(self.connection, channel)


async def test_cut_while_another_is_told_of_a_gap() -> None:
    """Telling one may end the tick, and with it another: that one is passed over."""
    async with running() as rig:
        controls, transports = [], []
        for _ in range(2):
            control = LeavingControl(rig)
            control.connection, transport = rig.connect(control=control)
            subscribed = await rig.node.subscribe(
                control.connection, "h", subscription=Subscription(is_positioned=True)
            )
            rig.node.release(control.connection, "h", subscribed.position)
            controls.append(control)
            transports.append(transport)
        await rig.publish("h", "1")
        rig.broker.log.forget("h")
        transports[1].is_full = True

        await rig.publish("h", "3")

        assert [["h"], []] == [control.gaps for control in controls]
        assert [[], [(3008, "slow")]] == [each.closed for each in transports]
