"""Gaps: filled from history where they can be, told where they cannot."""

from __future__ import annotations

import asyncio

import pytest

from tests.unit.clocks import pass_time, turns
from tests.unit.exchange import Exchange, Listener, Site, joined
from wirebell.model import ChannelOptions, History
from wirebell.receiving import resuming
from wirebell.settings import Settings

pytestmark = pytest.mark.anyio

SETTINGS = Settings(recovery_publications_max=5, channel_position_check_seconds=1_000)


async def lose(there: Site, here: Site, channel: str, text: str) -> None:
    """Publish something that does not arrive."""
    here.link.lost.add(channel)
    await there.publish(channel, text)
    await turns()
    here.link.lost.clear()


async def begin_to_fill(there: Site, here: Site) -> tuple[Listener, asyncio.Event]:
    """Have somebody hear 1, lose 2 and get 3 while history waits; returns who, and its gate."""
    who = here.listener()
    await who.subscribe("h")
    await there.publish("h", "1")
    await turns()
    gate = here.link.hold("history")
    await lose(there, here, "h", "2")
    await there.publish("h", "3")
    await turns()
    return who, gate


async def test_what_was_missed_is_read() -> None:
    """After a cut of the link everybody gets what was published meanwhile, once and in order."""
    async with joined("a", "b", settings=SETTINGS) as (here, there):
        ann, ben = here.listener(), here.listener()
        await ann.subscribe("h")
        await ben.subscribe("h")
        await there.publish("h", "1", "2")
        await turns()

        here.link.cut()
        await there.publish("h", "3", "4")
        here.link.heal()
        await turns()
        await there.publish("h", "5")
        await turns()

        assert ["1", "2", "3", "4", "5"] == ann.heard == ben.heard
        assert [] == ann.gaps + ben.gaps
        assert (2, 0) == (here.node.statistics.refilled_count, here.node.statistics.gap_count)


async def test_live_items_wait() -> None:
    """What arrives while history is read follows what was missed, and nothing comes twice."""
    async with joined("a", "b", settings=SETTINGS) as (here, there):
        ann = here.listener()
        await ann.subscribe("h")
        await there.publish("h", "1")
        await turns()

        here.link.cut()
        await there.publish("h", "2")
        gate = here.link.hold("history")
        here.link.heal()
        await turns()
        await there.publish("h", "3", "4")
        await turns()
        before = list(ann.heard)
        gate.set()
        await turns(20)

        assert ["1"] == before
        assert ["1", "2", "3", "4"] == ann.heard
        assert [] == ann.gaps
        assert {} == here.node.receiving.resuming.held


async def test_arrives_before_the_broker_says_that_it_is_back() -> None:
    """An item that comes ahead of the word that the link stands shows the gap by itself."""
    async with joined("a", "b", settings=SETTINGS) as (here, there):
        ann = here.listener()
        await ann.subscribe("h")
        await there.publish("h", "1")
        await turns()
        here.link.cut()
        await there.publish("h", "2")
        here.link.is_cut = False
        await there.publish("h", "3")
        await turns()

        here.link.heal()
        await there.publish("h", "4")
        await turns(20)

        assert ["1", "2", "3", "4"] == ann.heard
        assert [] == ann.gaps


async def test_nothing_was_missed() -> None:
    """A cut in which nothing happened is no gap."""
    async with joined("a", "b", settings=SETTINGS) as (here, there):
        ann, ben = here.listener(), here.listener()
        await ann.subscribe("h")
        await ben.subscribe("h empty")
        await there.publish("h", "1")
        await turns()

        here.link.cut()
        here.link.heal()
        await turns()
        await there.publish("h empty", "first")
        await turns()

        assert (["1"], ["first"], []) == (ann.heard, ben.heard, ann.gaps + ben.gaps)


async def test_without_history() -> None:
    """A channel without history is not asked about; what was published meanwhile is lost."""
    async with joined("a", "b", settings=SETTINGS) as (here, there):
        ann = here.listener()
        await ann.subscribe("x")
        here.link.cut()
        await there.publish("x", "1")
        here.link.heal()
        await turns()
        await there.publish("x", "2")
        await turns()

        assert (["2"], []) == (ann.heard, ann.gaps)
        assert "history" not in here.link.calls


async def test_another_epoch() -> None:
    """A stream that was lost meanwhile is told; what follows is delivered."""
    exchange = Exchange()
    async with joined("a", "b", settings=SETTINGS, exchange=exchange) as (here, there):
        ann = here.listener()
        await ann.subscribe("h")
        await there.publish("h", "1")
        await turns()
        here.link.cut()
        exchange.log.forget("h")
        await there.publish("h", "2")
        gate = here.link.hold("history")
        here.link.heal()
        await turns()
        gate.set()
        await turns()
        told = list(ann.gaps)
        await there.publish("h", "3")
        await turns()

        assert (["h"], ["h"]) == (told, ann.gaps)
        assert ["1", "3"] == ann.heard
        assert 1 == here.node.statistics.gap_count


async def test_another_epoch_of_an_item() -> None:
    """A publication of another epoch is told at once, without a question."""
    exchange = Exchange()
    async with joined("a", "b", settings=SETTINGS, exchange=exchange) as (here, there):
        ann = here.listener()
        await ann.subscribe("h")
        await there.publish("h", "1")
        await turns()
        asked = here.link.calls.count("history")
        exchange.log.forget("h")
        await there.publish("h", "2")
        await turns()

        assert (["h"], ["1", "2"]) == (ann.gaps, ann.heard)
        assert asked == here.link.calls.count("history")


@pytest.mark.parametrize("count", [5, 6])
async def test_too_wide(count: int) -> None:
    """Up to ``recovery_publications_max`` are filled; one more is told, and then goes on."""
    async with joined("a", "b", settings=SETTINGS) as (here, there):
        ann = here.listener()
        await ann.subscribe("h")
        await there.publish("h", "0")
        await turns()
        here.link.cut()
        texts = [str(number) for number in range(1, count + 1)]
        await there.publish("h", *texts)
        here.link.heal()
        await turns()
        await there.publish("h", "last")
        await turns()

        expected = ["0", *texts, "last"] if count == 5 else ["0", "last"]
        assert expected == ann.heard
        assert ([] if count == 5 else ["h"]) == ann.gaps


async def test_trimmed() -> None:
    """What history has not any more is told."""
    async with joined("a", "b", settings=SETTINGS) as (here, there):
        ann = here.listener()
        await ann.subscribe("h")
        await there.publish("h", "1")
        await turns()
        here.link.cut()
        await there.publish("h", "2")
        here.link.exchange.log.remove("h")
        await there.publish("h", "3")
        here.link.heal()
        await turns()

        assert (["1"], ["h"]) == (ann.heard, ann.gaps)


async def test_history_fails_for_a_while() -> None:
    """A question that fails is asked again, and nobody is told."""
    async with joined("a", "b", settings=SETTINGS) as (here, there):
        ann = here.listener()
        await ann.subscribe("h")
        await there.publish("h", "1")
        await turns()
        here.link.cut()
        await there.publish("h", "2")
        here.link.failures.add("history")
        here.link.heal()
        await turns()
        here.link.failures.clear()
        await pass_time(1)

        assert (["1", "2"], []) == (ann.heard, ann.gaps)
        assert 1 == here.node.statistics.broker_error_count


async def test_history_fails_for_good() -> None:
    """After some tries the gap is told, and what is held follows."""
    async with joined("a", "b", settings=SETTINGS) as (here, there):
        ann = here.listener()
        await ann.subscribe("h")
        await there.publish("h", "1")
        await turns()
        await lose(there, here, "h", "2")
        here.link.failures.add("history")
        await there.publish("h", "3")
        await turns()
        before = list(ann.heard)
        await pass_time(10)

        assert (["1"], ["1", "3"], ["h"]) == (before, ann.heard, ann.gaps)
        assert resuming.TRIES_MAX == here.node.statistics.broker_error_count


async def test_history_fails_for_many() -> None:
    """When one channel had no answer the others are tried once each, until one has."""
    async with joined("a", "b", settings=SETTINGS) as (here, there):
        ann = here.listener()
        channels = [f"h{number}" for number in range(3)]
        for channel in channels:
            await ann.subscribe(channel)
            await there.publish(channel, "1")
        await turns()
        here.link.failures.add("history")
        here.node.receiving.resuming.look("h0")
        await pass_time(20)
        asked = here.link.calls.count("history")
        for channel in channels[1:]:
            here.node.receiving.resuming.look(channel)
        await pass_time(20)
        once = here.link.calls.count("history") - asked
        here.link.failures.clear()
        here.node.receiving.resuming.look("h0")
        await turns()

        assert (2, channels) == (once, ann.gaps)
        assert not here.node.receiving.resuming.is_failing


async def test_something_breaks(caplog: pytest.LogCaptureFixture) -> None:
    """What breaks while one channel is read is told there, and the others are read."""
    async with joined("a", "b", settings=SETTINGS) as (here, there):
        ann = here.listener()
        for channel in ("h1", "h2"):
            await ann.subscribe(channel)
            await there.publish(channel, "1")
        await turns()
        here.link.cut()
        for channel in ("h1", "h2"):
            await there.publish(channel, channel)

        def options_of(channel: str) -> ChannelOptions:
            if channel == "h1":
                raise ZeroDivisionError
            return ChannelOptions(history=History())

        here.node.receiving.resuming.options_for = options_of
        here.link.heal()
        await turns()

        assert (["1", "1", "h2"], ["h1"]) == (ann.heard, ann.gaps)
        assert ({}, {}) == (here.node.receiving.resuming.running, here.node.receiving.resuming.held)
    assert "work that nobody waits for failed" in caplog.text


async def test_cut_while_reading() -> None:
    """A link that is cut again while history is read is waited for; nobody is told."""
    async with joined("a", "b", settings=SETTINGS) as (here, there):
        ann = here.listener()
        await ann.subscribe("h")
        await there.publish("h", "1")
        await turns()
        here.link.cut()
        await there.publish("h", "2")
        gate = here.link.hold("history")
        here.link.heal()
        await turns()
        await there.publish("h", "3")
        await turns()
        here.link.cut()
        gate.set()
        await turns()
        await there.publish("h", "4")
        await pass_time(20)
        here.link.heal()
        await turns(20)

        assert (["1", "2", "3", "4"], []) == (ann.heard, ann.gaps)


async def test_healed_twice() -> None:
    """A second cut while the first is still being filled has the channel looked at once more."""
    async with joined("a", "b", settings=SETTINGS) as (here, there):
        ann = here.listener()
        await ann.subscribe("h")
        await there.publish("h", "1")
        await turns()
        here.link.cut()
        await there.publish("h", "2")
        gate = here.link.hold("history")
        here.link.heal()
        await turns()
        here.link.cut()
        await there.publish("h", "3")
        here.link.heal()
        await turns()
        gate.set()
        await turns(20)

        assert (["1", "2", "3"], []) == (ann.heard, ann.gaps)


async def test_another_gap_while_filling() -> None:
    """Something that is lost while history is read is read once more."""
    async with joined("a", "b", settings=SETTINGS) as (here, there):
        ann, gate = await begin_to_fill(there, here)
        await lose(there, here, "h", "4")
        await there.publish("h", "5")
        await turns()
        gate.set()
        await turns(30)

        assert (["1", "2", "3", "4", "5"], []) == (ann.heard, ann.gaps)


async def test_another_epoch_while_filling() -> None:
    """A stream that is lost while history is read is told once, and then goes on."""
    exchange = Exchange()
    async with joined("a", "b", settings=SETTINGS, exchange=exchange) as (here, there):
        ann, gate = await begin_to_fill(there, here)
        exchange.log.forget("h")
        await there.publish("h", "new 1")
        await turns()
        gate.set()
        await turns(30)

        assert ["1", "2", "3", "new 1"] == ann.heard
        assert ["h"] == ann.gaps


async def test_who_left_meanwhile() -> None:
    """A channel that nobody is subscribed to any more holds nothing."""
    async with joined("a", "b", settings=SETTINGS) as (here, there):
        ann, gate = await begin_to_fill(there, here)
        here.node.disconnect(ann.connection)
        gate.set()
        await turns(20)

        assert (["1"], {}, 0) == (
            ann.heard,
            here.node.receiving.resuming.held,
            here.node.receiving.resuming.held_bytes,
        )


async def test_who_comes_while_filling() -> None:
    """Who subscribes while a gap is filled gets everything once."""
    async with joined("a", "b", settings=SETTINGS) as (here, there):
        ann, ben = here.listener(), here.listener()
        await ann.subscribe("h")
        await there.publish("h", "1")
        await turns()
        gate = here.link.hold("history")
        await lose(there, here, "h", "2")
        await there.publish("h", "3")
        await turns()
        work = asyncio.create_task(ben.subscribe("h"))
        await turns()
        await there.publish("h", "4")
        gate.set()
        await work
        await turns(20)

        assert ["1", "2", "3", "4"] == ann.heard
        assert ["4"] == ben.heard
        assert [] == ann.gaps + ben.gaps


async def test_who_read_before_the_cut() -> None:
    """Who was reading history while the link was cut misses nothing either."""
    async with joined("a", "b", settings=SETTINGS) as (here, there):
        ann = here.listener()
        await there.publish("h", "1")
        gate = here.link.hold("history")
        work = asyncio.create_task(ann.subscribe("h"))
        await turns()
        here.link.cut()
        await there.publish("h", "2")
        here.link.heal()
        gate.set()
        await work
        await turns(20)

        assert (["2"], []) == (ann.heard, ann.gaps)


async def test_closed_while_filling() -> None:
    """A node that ends waits for no history."""
    async with joined("a", "b", settings=SETTINGS) as (here, there):
        ann = here.listener()
        await ann.subscribe("h")
        await there.publish("h", "1")
        await turns()
        here.link.hold("history")
        here.link.cut()
        await there.publish("h", "2")
        here.link.heal()
        await turns()
        began = asyncio.get_running_loop().time()
        await here.node.aclose()

        assert 1 > asyncio.get_running_loop().time() - began
        assert ["1"] == ann.heard


async def test_a_channel_that_keeps_nothing_any_more() -> None:
    """Where the options changed there is nothing to read: what is held goes on."""
    async with joined("a", "b", settings=SETTINGS) as (here, there):
        ann = here.listener()
        await ann.subscribe("h")
        await there.publish("h", "1")
        await turns()
        here.node.receiving.resuming.options_for = lambda _: ChannelOptions()
        await lose(there, here, "h", "2")
        await there.publish("h", "3")
        await turns()

        assert (["1", "3"], {}) == (ann.heard, here.node.receiving.resuming.held)


async def test_positions_are_compared() -> None:
    """What nothing follows is found by comparing positions, and read."""
    settings = Settings(channel_position_check_seconds=10)
    async with joined("a", "b", settings=settings) as (here, there):
        ann = here.listener()
        await ann.subscribe("h")
        await lose(there, here, "h", "1")
        await pass_time(15)
        before = list(ann.heard)
        await pass_time(10)

        assert ([], ["1"], []) == (before, ann.heard, ann.gaps)
