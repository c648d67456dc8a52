"""What is held while a gap is filled, and in which order channels are read."""

from __future__ import annotations

import pytest

from tests.unit.clocks import turns
from tests.unit.exchange import joined
from tests.unit.receiving.test_resuming import SETTINGS, lose
from wirebell.model import Membership, Publication
from wirebell.receiving import resuming

pytestmark = pytest.mark.anyio


async def test_more_is_held_than_fits() -> None:
    """What does not fit is dropped and read from history; what history has not goes at once."""
    async with joined("a", "b", settings=SETTINGS) as (here, there):
        ann = here.listener()
        await ann.subscribe("h")
        await there.publish("h", "1")
        await turns()
        here.link.lost.add("h")
        await there.publish("h", "2")
        here.link.lost.clear()
        gate = here.link.hold("history")
        await there.publish("h", "3")
        await turns()
        for text in ("4", "5", "6", "7"):
            await there.publish("h", text)
            await turns()
        here.node.handle_item("h", Publication(b"unkept"))
        await there.publish("h", "8")
        await turns()
        here.node.handle_item("h", Publication(b"unkept too"))
        await turns()
        before = list(ann.heard)
        gate.set()
        await turns(30)

        assert ["1", "unkept", "unkept too"] == before
        assert ["2", "3", "4", "5", "6", "7", "8"] == ann.heard[3:]
        assert ([], 0) == (ann.gaps, here.node.receiving.resuming.held_bytes)


async def test_bytes_of_what_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is held in all channels together is bounded in bytes."""
    monkeypatch.setattr(resuming, "HELD_BYTES_MAX", 10)
    async with joined("a", "b", settings=SETTINGS) as (here, there):
        ann = here.listener()
        await ann.subscribe("h")
        await there.publish("h", "1")
        await turns()
        here.link.lost.add("h")
        await there.publish("h", "2")
        here.link.lost.clear()
        gate = here.link.hold("history")
        await there.publish("h", "x" * 8, "y" * 8)
        await turns()
        held = here.node.receiving.resuming.held_bytes
        gate.set()
        await turns(30)

        assert (0, 0) == (held, here.node.receiving.resuming.held_bytes)
        assert (["1", "2", "x" * 8, "y" * 8], []) == (ann.heard, ann.gaps)


async def test_memberships_keep_their_place() -> None:
    """Joins and leaves of a channel that is being filled wait with the rest."""
    async with joined("a", "b", settings=SETTINGS) as (here, there):
        ann = here.listener(is_json=True)
        await ann.subscribe("h")
        await there.publish("h", "1")
        await turns()
        gate = here.link.hold("history")
        await lose(there, here, "h", "2")
        await there.publish("h", "3")
        await there.link.publish_membership("h", Membership(ann.connection.info("h"), joined=True))
        await turns()
        before = len(ann.heard)
        gate.set()
        await turns(20)

        text = "".join(ann.heard[before:])
        assert text.index('"2"') < text.index('"3"') < text.index('"join"')
        assert [] == ann.gaps


async def test_many_channels() -> None:
    """All channels are read, some at once and never too many."""
    settings = SETTINGS.model_copy(update={"channels_per_connection_max": 1_000})
    async with joined("a", "b", settings=settings) as (here, there):
        channels = [f"h{number}" for number in range(2 * resuming.READERS_MAX + 3)]
        ann = here.listener()
        for channel in channels:
            await ann.subscribe(channel)
        here.link.cut()
        for channel in channels:
            await there.publish(channel, channel)
        gate = here.link.hold("history")
        asked = here.link.calls.count("history")
        here.link.heal()
        await turns()
        at_once = here.link.calls.count("history") - asked
        gate.set()
        await turns(40)

        assert resuming.READERS_MAX == at_once
        assert sorted(channels) == sorted(ann.heard)
        assert (set(), {}) == (
            here.node.receiving.resuming.readers,
            here.node.receiving.resuming.running,
        )


async def test_a_gap_goes_first() -> None:
    """A channel in which something is held is read before those that are only looked at."""
    async with joined("a", "b", settings=SETTINGS) as (here, there):
        ann = here.listener()
        channels = [f"h{number}" for number in range(5)]
        for channel in channels:
            await ann.subscribe(channel)
            await there.publish(channel, "0")
        await turns()
        node = here.node
        for channel in channels:
            node.receiving.resuming._queue(channel)
        here.link.lost.add("h4")
        await there.publish("h4", "1")
        here.link.lost.clear()
        await there.publish("h4", "2")
        await turns(1)

        assert "h4" == next(iter(node.receiving.resuming.urgent or ["h4"]))
        await turns(20)
        assert ["1", "2"] == ann.heard[5:]
