"""What a node does at intervals, and when its link stands again: presence that outlives outages."""

from __future__ import annotations

import json

import pytest

from tests.unit.clocks import pass_time, turns
from tests.unit.exchange import Exchange, Listener, Site, joined
from wirebell.errors import BrokerUnavailable
from wirebell.settings import Settings

pytestmark = pytest.mark.anyio

SETTINGS = Settings(presence_refresh_seconds=10, presence_ttl_seconds=30)


def memberships(listener: Listener) -> list[tuple[str, str]]:
    """Return joins and leaves that a JSON peer saw: kind and user."""
    pushes = [json.loads(line)["push"] for text in listener.heard for line in text.split("\n")]
    return [
        (kind, push[kind]["info"].get("user", ""))
        for push in pushes
        for kind in ("join", "leave")
        if kind in push
    ]


async def users(site: Site, channel: str) -> list[str]:
    """Return who is in a channel."""
    return sorted(info.user_id for info in (await site.node.presence(channel)).values())


async def test_presence_of_all_nodes() -> None:
    """Who is in a channel is the same on all nodes, and each hears of the others."""
    async with joined("a", "b", settings=SETTINGS) as (a, b):
        ann, ben = a.listener("ann", is_json=True), b.listener("ben", is_json=True)
        await ann.subscribe("p")
        await ben.subscribe("p")
        await turns()
        both = await users(a, "p"), await users(b, "p")
        b.node.disconnect(ben.connection)
        await turns()

        assert (["ann", "ben"], ["ann", "ben"]) == both
        assert ["ann"] == await users(a, "p")
        assert [("join", "ann"), ("join", "ben"), ("leave", "ben")] == memberships(ann)


async def test_no_ghosts() -> None:
    """Whoever was on a node that was killed is gone when the lease ends, and not before."""
    async with joined("a", "b", settings=SETTINGS) as (a, b):
        await a.listener("ann").subscribe("p")
        await b.listener("ben").subscribe("p")
        await pass_time(10.5)
        b.kill()
        await pass_time(25)
        before = await users(a, "p")
        await pass_time(6)

        assert (["ann", "ben"], ["ann"]) == (before, await users(a, "p"))


async def test_an_outage_that_outlives_the_leases() -> None:
    """When the store answers again everybody is there at once, whatever the interval."""
    async with joined("a", "b", settings=SETTINGS) as (a, b):
        ann = a.listener("ann", is_json=True)
        await ann.subscribe("p")
        await turns()
        a.link.cut()
        await pass_time(45)
        gone = await users(b, "p")
        a.link.heal()
        await turns()

        assert ([], ["ann"]) == (gone, await users(b, "p"))
        assert [("join", "ann")] == memberships(ann)


async def test_a_store_that_comes_back_by_itself() -> None:
    """A store of its own tells nobody that it is back: it is asked again soon."""
    async with joined("a", settings=SETTINGS) as (a,):
        await a.listener("ann").subscribe("p")
        a.link.failures.add("add")
        await pass_time(33)
        gone = await users(a, "p")
        a.link.failures.clear()
        await pass_time(5.5)

        assert ([], ["ann"]) == (gone, await users(a, "p"))


async def test_a_leave_is_told_once() -> None:
    """Who leaves while the store is away is told of once, and its entry ends with its lease."""
    async with joined("a", "b", settings=SETTINGS) as (a, b):
        watcher, ann = b.listener("watcher", is_json=True), a.listener("ann")
        await watcher.subscribe("p")
        await ann.subscribe("p")
        a.link.failures.add("remove")
        a.node.disconnect(ann.connection)
        await turns()
        a.link.failures.clear()
        a.link.heal()
        await pass_time(31)

        told = [kind for kind, user in memberships(watcher) if user == "ann"]
        assert (["join", "leave"], ["watcher"]) == (told, await users(b, "p"))


async def test_a_rolling_deploy() -> None:
    """Who moves from a node that ends to another is never shown as gone."""
    exchange = Exchange()
    async with joined("new", settings=SETTINGS, exchange=exchange) as (new,):
        old = Site(exchange, SETTINGS, "old")
        await old.node.start()
        watcher = new.listener("watcher", is_json=True)
        await watcher.subscribe("p")
        await old.listener("ann").subscribe("p")
        await new.listener("ann").subscribe("p")
        await turns()
        seen = [await users(new, "p")]
        await old.node.aclose()
        await turns()
        seen.append(await users(new, "p"))
        await pass_time(60)
        seen.append(await users(new, "p"))

        assert [["ann", "ann", "watcher"], ["ann", "watcher"], ["ann", "watcher"]] == seen
        kinds = [kind for kind, user in memberships(watcher) if user == "ann"]
        assert ["join", "join", "leave"] == kinds


async def test_many_leases() -> None:
    """Leases are renewed some at once; the others wait for their turn."""
    settings = Settings(presence_refresh_seconds=10, presence_ttl_seconds=30)
    async with joined("a", settings=settings) as (a,):
        for number in range(100):
            await a.listener(f"u{number}").subscribe("p")
        before = a.link.calls.count("add")
        gate = a.link.hold("add")
        await pass_time(10.5)
        at_once = a.link.calls.count("add") - before
        gate.set()
        await turns(20)

        assert (64, 100) == (at_once, a.link.calls.count("add") - before)


async def test_ready() -> None:
    """A node is ready while the broker answers and what others publish arrives."""
    async with joined("a") as (a,):
        ready = await a.node.is_ready()
        a.link.cut()
        away = await a.node.is_ready()
        a.link.heal()

        assert (True, False, True) == (ready, away, await a.node.is_ready())


async def test_publishing_into_an_outage() -> None:
    """A publication that the broker does not take fails at once, and is counted."""
    async with joined("a") as (a,):
        a.link.cut()
        with pytest.raises(BrokerUnavailable):
            await a.publish("x", "1")
        a.link.heal()
        await a.publish("x", "2")

        statistics = a.node.statistics
        assert (1, 1) == (statistics.publish_error_count, statistics.published_count)


async def test_leaving_while_the_broker_is_away() -> None:
    """What could not be let go is let go when the link stands, unless somebody came."""
    async with joined("a") as (a,):
        ann, ben = a.listener(), a.listener()
        for channel in ("x", "y"):
            await ann.subscribe(channel)
        a.link.failures.add("unsubscribe")
        a.node.disconnect(ann.connection)
        await turns()
        kept = set(a.node.following.unwanted), set(a.link.subscribed)
        a.link.failures.clear()
        await ben.subscribe("y")
        a.link.heal()
        await turns()

        assert ({"x", "y"}, {"x", "y"}) == kept
        assert (set(), {"y"}) == (a.node.following.unwanted, a.link.subscribed)


async def test_subscribing_while_the_broker_is_away() -> None:
    """What was asked for in vain is let go too: the broker may have done it all the same."""
    async with joined("a") as (a,):
        ann = a.listener()
        a.link.failures.add("subscribe")
        with pytest.raises(BrokerUnavailable):
            await ann.subscribe("x")
        a.link.failures.clear()
        a.link.subscribed.add("x")
        a.link.heal()
        await turns()

        assert (set(), set()) == (a.link.subscribed, a.node.following.unwanted)
