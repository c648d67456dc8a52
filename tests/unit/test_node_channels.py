"""The engine's races: subscribing against a broker that takes its time, and presence."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.unit.clocks import pass_time, turns
from tests.unit.fakes import FakeTransport
from tests.unit.nodes import running
from wirebell.errors import BrokerUnavailable, ConnectionClosed
from wirebell.settings import Settings

pytestmark = pytest.mark.anyio


def memberships(transport: FakeTransport) -> list[tuple[str, str]]:
    """Return joins and leaves that a JSON peer saw."""
    pushes = [json.loads(message) for message in transport.messages]
    return [
        (kind, push[kind]["info"]["user"])
        for push in pushes
        for kind in ("join", "leave")
        if kind in push
    ]


async def test_broker_is_asked_once() -> None:
    """Many subscribers of a channel are one subscription at the broker, until the last left."""
    async with running() as rig:
        peers = [rig.connect()[0] for _ in range(3)]

        await asyncio.gather(*(rig.node.subscribe(peer, "a") for peer in peers))
        for peer in peers:
            rig.node.disconnect(peer)
        await turns()

        assert ["subscribe", "unsubscribe"] == rig.gates.calls
        assert (set(), set()) == (rig.broker.subscribed, rig.node.broker_channels)


async def test_leave_while_subscribing() -> None:
    """Who leaves while the broker is asked is not subscribed, and the broker is told so."""
    async with running() as rig:
        peer, _ = rig.connect()
        gate = rig.gates.hold("subscribe")
        work = asyncio.create_task(rig.node.subscribe(peer, "a"))
        await turns()

        rig.node.disconnect(peer)
        gate.set()
        with pytest.raises(ConnectionClosed):
            await work
        await turns()

        assert (set(), 0) == (rig.broker.subscribed, rig.node.hub.channel_count)


async def test_cancelled_while_subscribing() -> None:
    """A subscriber that is cancelled while the broker is asked leaves nothing at the broker."""
    async with running() as rig:
        peer, _ = rig.connect()
        gate = rig.gates.hold("subscribe")
        work = asyncio.create_task(rig.node.subscribe(peer, "a"))
        await turns()

        work.cancel()
        await turns()
        gate.set()
        await turns()

        assert work.cancelled()
        assert (set(), 0) == (rig.broker.subscribed, rig.node.hub.channel_count)
        assert {} == peer.channels


async def test_one_cancelled_of_two() -> None:
    """Cancelling one subscriber does not stop the broker's call that another waits for."""
    async with running() as rig:
        (one, _), (two, transport) = rig.connect(), rig.connect()
        gate = rig.gates.hold("subscribe")
        works = [asyncio.create_task(rig.node.subscribe(peer, "a")) for peer in (one, two)]
        await turns()

        works[0].cancel()
        gate.set()
        await works[1]
        await rig.publish("a", "1")
        await turns()

        assert ["1"] == transport.messages
        assert ["subscribe"] == rig.gates.calls[:1]
        assert rig.gates.calls.count("subscribe") == 1


async def test_subscribe_while_unsubscribing() -> None:
    """Who comes while the broker lets the channel go is subscribed after that."""
    async with running() as rig:
        (one, _), (two, transport) = rig.connect(), rig.connect()
        await rig.node.subscribe(one, "a")
        gate = rig.gates.hold("unsubscribe")
        rig.node.disconnect(one)
        await turns()

        work = asyncio.create_task(rig.node.subscribe(two, "a"))
        await turns()
        gate.set()
        await work
        await rig.publish("a", "1")
        await turns()

        assert ["1"] == transport.messages
        assert {"a"} == rig.broker.subscribed == rig.node.broker_channels


async def test_broker_refuses() -> None:
    """When the broker cannot subscribe nobody is subscribed, and the next try is a new one."""
    async with running() as rig:
        (one, _), (two, _) = rig.connect(), rig.connect()
        rig.gates.failures["subscribe"] = BrokerUnavailable("away")

        results = await asyncio.gather(
            *(rig.node.subscribe(peer, "a") for peer in (one, two)), return_exceptions=True
        )
        rig.gates.failures.clear()
        left = (rig.node.hub.channel_count, one.channels | two.channels)
        await rig.node.subscribe(one, "a")

        assert [BrokerUnavailable, BrokerUnavailable] == [type(result) for result in results]
        assert (0, {}) == left
        assert {"a"} == rig.broker.subscribed


async def test_history_fails() -> None:
    """When history cannot be read the connection is not subscribed, and may try again."""
    async with running() as rig:
        peer, transport = rig.connect()
        rig.gates.failures["history"] = BrokerUnavailable("away")

        with pytest.raises(BrokerUnavailable):
            await rig.node.subscribe(peer, "h")
        await turns()
        assert (set(), {}, []) == (rig.broker.subscribed, peer.channels, transport.closed)
        rig.gates.failures.clear()
        await rig.node.subscribe(peer, "h")
        assert {"h": False} == peer.channels


async def test_failure_that_nobody_waits_for() -> None:
    """When the broker cannot let go it is logged and counted, and harms nobody."""
    async with running() as rig:
        peer, _ = rig.connect()
        await rig.node.subscribe(peer, "a")
        rig.gates.failures["unsubscribe"] = BrokerUnavailable("away")

        rig.node.disconnect(peer)
        await turns()

        assert rig.node.statistics.broker_error_count == 1
        again, transport = rig.connect()
        await rig.node.subscribe(again, "a")
        await rig.publish("a", "1")
        await turns()
        assert ["1"] == transport.messages


async def test_presence() -> None:
    """Others see a join and a leave once each, and presence is who is there."""
    async with running() as rig:
        watcher, transport = rig.connect(is_json=True)
        await rig.node.subscribe(watcher, "p")
        ann, _ = rig.connect("ann")
        await rig.node.subscribe(ann, "p")

        there = {info.user_id for info in (await rig.node.presence("p")).values()}
        rig.node.disconnect(ann)
        await turns()

        assert {"", "ann"} == there
        assert [("join", ""), ("join", "ann"), ("leave", "ann")] == memberships(transport)
        assert [watcher.info] == list((await rig.node.presence("p")).values())


async def test_gone_before_presence() -> None:
    """Who left while the broker was asked never joined: nobody is told anything."""
    async with running() as rig:
        watcher, transport = rig.connect(is_json=True)
        await rig.node.subscribe(watcher, "ph")
        ann, _ = rig.connect("ann")
        gate = rig.gates.hold("history")
        work = asyncio.create_task(rig.node.subscribe(ann, "ph"))
        await turns()

        rig.node.disconnect(ann)
        gate.set()
        with pytest.raises(ConnectionClosed):
            await work
        await turns()

        assert [] == [user for _, user in memberships(transport) if user]
        assert [watcher.info] == list((await rig.node.presence("ph")).values())


async def test_gone_while_entering() -> None:
    """Who left while presence was written is not there afterwards, and its leave comes last."""
    async with running() as rig:
        watcher, transport = rig.connect(is_json=True)
        await rig.node.subscribe(watcher, "p")
        ann, _ = rig.connect("ann")
        gate = rig.gates.hold("add")
        work = asyncio.create_task(rig.node.subscribe(ann, "p"))
        await turns()

        rig.node.disconnect(ann)
        await turns()
        gate.set()
        with pytest.raises(ConnectionClosed):
            await work
        await turns()

        seen = [kind for kind, user in memberships(transport) if user == "ann"]
        assert [watcher.info] == list((await rig.node.presence("p")).values())
        assert seen in ([], ["join", "leave"])


async def test_cancelled_while_entering() -> None:
    """A subscriber cancelled while the join is told leaves no entry behind."""
    async with running() as rig:
        ann, _ = rig.connect("ann")
        gate = rig.gates.hold("join")
        work = asyncio.create_task(rig.node.subscribe(ann, "p"))
        await turns()

        work.cancel()
        await turns()
        gate.set()
        await turns()

        assert {} == await rig.node.presence("p")
        assert (set(), {}) == (rig.broker.subscribed, ann.channels)


async def test_join_fails() -> None:
    """When the join cannot be told the connection is not subscribed and not present."""
    async with running() as rig:
        ann, _ = rig.connect("ann")
        rig.gates.failures["join"] = BrokerUnavailable("away")

        with pytest.raises(BrokerUnavailable):
            await rig.node.subscribe(ann, "p")
        await turns()

        assert {} == await rig.node.presence("p")
        assert {} == ann.channels


async def test_leases_are_renewed() -> None:
    """Entries of those who are connected are renewed in time, of others never."""
    async with running(Settings(presence_refresh_seconds=10)) as rig:
        ann, _ = rig.connect("ann")
        bob, _ = rig.connect("bob")
        for peer in (ann, bob):
            await rig.node.subscribe(peer, "p")
            await rig.node.subscribe(peer, "a")
        await pass_time(10.5)
        renewed = rig.gates.calls.count("add")
        rig.node.disconnect(bob)

        await pass_time(10.0)

        assert (4, 5) == (renewed, rig.gates.calls.count("add"))


async def test_lease_that_cannot_be_renewed() -> None:
    """A store that fails is counted, and asked again the next time."""
    async with running(Settings(presence_refresh_seconds=10)) as rig:
        ann, _ = rig.connect("ann")
        await rig.node.subscribe(ann, "p")
        rig.gates.failures["add"] = BrokerUnavailable("away")
        await pass_time(10.5)
        failed = rig.node.statistics.broker_error_count
        rig.gates.failures.clear()

        await pass_time(10.0)

        assert (1, 3) == (failed, rig.gates.calls.count("add"))


async def test_gone_while_a_lease_is_renewed() -> None:
    """Who leaves while its lease is renewed leaves no entry behind."""
    async with running(Settings(presence_refresh_seconds=10)) as rig:
        ann, _ = rig.connect("ann")
        await rig.node.subscribe(ann, "p")
        gate = rig.gates.hold("add")
        await pass_time(10.5)

        rig.node.disconnect(ann)
        await turns()
        gate.set()
        await turns()

        assert {} == await rig.node.presence("p")
