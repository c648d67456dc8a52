"""What subscribers learn of a stream, and what their reading shows to those who are there."""

from __future__ import annotations

import asyncio

import pytest

from tests.unit.clocks import turns
from tests.unit.exchange import Exchange, Listener, Site, joined
from wirebell.connection import Subscription
from wirebell.model import StreamPosition
from wirebell.settings import Settings

pytestmark = pytest.mark.anyio

SETTINGS = Settings(recovery_publications_max=5, channel_position_check_seconds=1_000)


async def listen(site: Site, channel: str = "h") -> Listener:
    """Have somebody subscribe."""
    listener = site.listener()
    await listener.subscribe(channel)
    return listener


@pytest.mark.parametrize("is_forgotten", [False, True])
async def test_a_stream_that_was_lost(is_forgotten: bool) -> None:
    """Who subscribes finds that the stream, or its end, is gone: the others are told."""
    exchange = Exchange()
    async with joined("a", "b", settings=SETTINGS, exchange=exchange) as (here, there):
        ann = await listen(here)
        await there.publish("h", "1", "2", "3")
        await turns()
        if is_forgotten:
            exchange.log.forget("h")
        else:
            exchange.rewind("h", 2)
        ben = await listen(here)
        told = list(ann.gaps)
        await there.publish("h", "new 2", "new 3")
        await turns()

        assert (["h"], ["h"]) == (told, ann.gaps)
        assert ["new 2", "new 3"] == ben.heard


async def test_nothing_was_lost() -> None:
    """A stream that never had anything and begins anew is no loss yet."""
    exchange = Exchange()
    async with joined("a", "b", settings=SETTINGS, exchange=exchange) as (here, _):
        ann = await listen(here)
        exchange.log.forget("h")
        ben = await listen(here)

        assert [] == ann.gaps + ben.gaps


async def test_an_answer_that_is_older_than_what_came() -> None:
    """Another epoch that arrived while history was read counts, and not what was read."""
    exchange = Exchange()
    async with joined("a", "b", settings=SETTINGS, exchange=exchange) as (here, there):
        ann, ben = await listen(here), here.listener()
        await there.publish("h", "1")
        await turns()
        gate = here.link.hold("history")
        work = asyncio.create_task(ben.subscribe("h"))
        await turns()
        exchange.log.forget("h")
        await there.publish("h", "new 1")
        await turns()
        top = here.node.hub.tops["h"]
        gate.set()
        await work

        # Ben's history ends in the stream that is gone.
        assert (["h"], ["h"]) == (ann.gaps, ben.gaps)
        assert top == here.node.hub.tops["h"]


async def test_told_between_reading_and_release() -> None:
    """A gap that is told while a reply is on its way is told to who waits for it, too."""
    async with joined("a", "b", settings=SETTINGS) as (here, there):
        ann, ben = await listen(here), here.listener()
        await there.publish("h", "1")
        await turns()
        subscribed = await here.node.subscribe(
            ben.connection, "h", subscription=Subscription(None, is_positioned=True)
        )
        here.link.cut()
        await there.publish("h", *(str(number) for number in range(2, 9)))
        here.link.heal()
        await turns()
        before = list(ben.gaps)
        here.node.release(ben.connection, "h", subscribed.position)

        assert (["h"], [], ["h"]) == (ann.gaps, before, ben.gaps)


async def test_answers_that_overtake_each_other() -> None:
    """The older of two answers counts as long as nothing came: its reader lacks more."""
    async with joined("a", "b", settings=SETTINGS) as (here, there):
        ann, ben = here.listener(), here.listener()
        await there.publish("h", "1")
        here.link.lost.add("h")
        gate = here.link.hold("history")
        late = asyncio.create_task(ann.subscribe("h"))
        await turns()
        del here.link.gates["history"]
        await there.publish("h", "2")
        await turns()
        await ben.subscribe("h")
        newer = here.node.hub.tops["h"]
        gate.set()
        await late
        here.link.lost.clear()
        older = here.node.hub.tops["h"]
        here.link.heal()
        await turns()

        assert (2, StreamPosition(1, newer.epoch)) == (newer.offset, older)
        assert (["2"], [], []) == (ann.heard, ben.heard, ann.gaps + ben.gaps)
