"""Streams that lost their end, and who is told."""

from __future__ import annotations

import pytest

from tests.unit.clocks import turns
from tests.unit.exchange import Exchange, joined
from tests.unit.receiving.test_resuming import SETTINGS

pytestmark = pytest.mark.anyio


async def test_a_stream_that_lost_its_end() -> None:
    """A broker that came back with older data is found: its next offsets were seen before."""
    exchange = Exchange()
    async with joined("a", "b", settings=SETTINGS, exchange=exchange) as (here, there):
        ann = here.listener()
        await ann.subscribe("h")
        await there.publish("h", "1", "2", "3")
        await turns()
        here.link.cut()
        exchange.rewind("h", 2)
        here.link.heal()
        await turns()
        await there.publish("h", "new 2")
        await turns()

        assert ["h"] == ann.gaps
        assert ["1", "2", "3", "new 2"] == ann.heard


async def test_an_older_copy_without_a_cut() -> None:
    """Offsets that come once more have the stream looked at; who counts on it is told."""
    exchange = Exchange()
    async with joined("a", "b", settings=SETTINGS, exchange=exchange) as (here, there):
        ann = here.listener()
        await ann.subscribe("h")
        await there.publish("h", "1", "2", "3")
        await turns()
        exchange.rewind("h", 2)
        await there.publish("h", "new 2")
        await turns()
        told = list(ann.gaps)
        await there.publish("h", "new 3", "new 4")
        await turns()

        assert (["h"], ["h"]) == (told, ann.gaps)
        assert ["1", "2", "3", "new 3", "new 4"] == ann.heard


async def test_what_comes_twice_is_no_gap() -> None:
    """What arrives behind history that had it already is left out, and nobody is told."""
    async with joined("a", "b", settings=SETTINGS) as (here, there):
        ann = here.listener()
        await ann.subscribe("h")
        await there.publish("h", "1")
        await turns()
        here.link.cut()
        await there.publish("h", "2")
        here.link.heal()
        await turns()
        publication = next(reversed(here.link.exchange.log.streams["h"].publications))
        here.node.handle_item("h", publication)
        await there.publish("h", "3")
        await turns()

        assert (["1", "2", "3"], []) == (ann.heard, ann.gaps)


async def test_doubtful_channels_go_first() -> None:
    """A channel in which something came once more is read before those that wait."""
    async with joined("a", "b", settings=SETTINGS) as (here, there):
        ann = here.listener()
        for channel in ("h1", "h2"):
            await ann.subscribe(channel)
        await there.publish("h2", "1")
        await turns()
        resuming = here.node.receiving.resuming
        resuming._queue("h1")
        resuming.doubt("h2")

        assert ["h2"] == list(resuming.urgent)
        await turns()


async def test_a_plain_socket() -> None:
    """Who speaks no protocol is closed with the reason, and may come back."""
    async with joined("a", "b", settings=SETTINGS) as (here, there):
        plain = here.listener()
        plain.connection.control = None
        await plain.subscribe("h")
        await there.publish("h", "1")
        await turns()
        here.link.exchange.log.forget("h")
        await there.publish("h", "new 1")
        await turns()

        assert [(3010, "insufficient state")] == plain.transport.closed
        assert ['{"error":{"code":3010,"message":"insufficient state"}}'] == (
            plain.transport.notices
        )
