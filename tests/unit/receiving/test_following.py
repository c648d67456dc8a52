"""What a node receives from its broker: races against a broker that takes its time."""

from __future__ import annotations

import asyncio

import pytest

from tests.unit.clocks import turns
from tests.unit.nodes import running
from wirebell.connection import Subscription
from wirebell.errors import BrokerUnavailable, ConnectionClosed

pytestmark = pytest.mark.anyio


async def test_broker_is_asked_once() -> None:
    """Many subscribers of a channel are one subscription at the broker, until the last left."""
    async with running() as rig:
        peers = [rig.connect()[0] for _ in range(3)]

        await asyncio.gather(*(rig.node.subscribe(peer, "a") for peer in peers))
        for peer in peers:
            rig.node.disconnect(peer)
        await turns()

        assert ["subscribe", "unsubscribe"] == rig.gates.calls
        assert (set(), set()) == (rig.broker.subscribed, rig.node.following.channels)


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
        assert {"a"} == rig.broker.subscribed == rig.node.following.channels


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
        assert {"h": Subscription(is_positioned=True)} == peer.channels


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
