"""The engine: limits, delivery, history, deadlines, its end."""

from __future__ import annotations

import asyncio
import logging

import pytest

from tests.unit.clocks import pass_time, turns
from tests.unit.fakes import FakeTransport
from tests.unit.nodes import Rig, running
from wirebell.admission import Limit
from wirebell.errors import (
    BadRequest,
    BrokerUnavailable,
    Disconnect,
    LimitExceeded,
    NotRunning,
)
from wirebell.model import (
    Publication,
    StreamPosition,
)
from wirebell.protocol.text import TEXT
from wirebell.settings import Settings

pytestmark = pytest.mark.anyio


async def test_delivery() -> None:
    """What is published after ``subscribe`` returned arrives once, in order, and is counted."""
    async with running() as rig:
        connection, transport = rig.connect()
        await rig.node.subscribe(connection, "a")

        await rig.publish("a", "1", "2")
        await rig.publish("b", "3")
        await turns()

        statistics = rig.node.statistics
        assert ["1", "2"] == transport.messages
        assert (3, 2, 2) == (
            statistics.published_count,
            statistics.received_count,
            rig.node.hub.delivered_count,
        )


async def test_not_running() -> None:
    """A node that was not started, or is closed, says so."""
    rig = Rig(Settings())

    with pytest.raises(NotRunning, match="not running"):
        rig.node.connect(FakeTransport(), TEXT, "")
    await rig.node.start()
    await rig.node.aclose()
    with pytest.raises(NotRunning):
        await rig.publish("a", "1")


async def test_connection_limit() -> None:
    """Who is refused is counted and leaves nothing behind; a place that is free can be taken."""
    async with running(Settings(connections_max=1)) as rig:
        connection, _ = rig.connect()

        with pytest.raises(LimitExceeded, match="connection limit of 1"):
            rig.connect()
        assert 1 == len(rig.node.connections)
        assert {Limit.CONNECTIONS: 1} == rig.node.statistics.refused_counts
        rig.node.disconnect(connection)
        rig.connect()
        assert rig.node.statistics.connected_count == 2


async def test_user_limit() -> None:
    """A user's limit counts named users, and frees the place when one leaves."""
    async with running(Settings(connections_per_user_max=1)) as rig:
        connection, _ = rig.connect("ann")

        with pytest.raises(LimitExceeded, match="1 connections per user"):
            rig.connect("ann")
        rig.connect("bob")
        rig.connect()
        rig.connect()
        rig.node.disconnect(connection)
        rig.connect("ann")
        assert {Limit.USER: 1} == rig.node.statistics.refused_counts
        assert {"ann": 1, "bob": 1} == rig.node.admission.by_user


async def test_identify_after_the_end() -> None:
    """A connection that has ended takes no user's place."""
    async with running() as rig:
        connection, _ = rig.connect()
        rig.node.disconnect(connection)

        rig.node.identify(connection, "ann")

        assert {} == rig.node.admission.by_user


async def test_disconnect_is_idempotent() -> None:
    """Forgetting a connection twice counts it once."""
    async with running() as rig:
        connection, _ = rig.connect("ann")
        await rig.node.subscribe(connection, "a")

        rig.node.disconnect(connection)
        rig.node.disconnect(connection)

        assert connection.is_closed
        assert (0, {}, 0) == (
            rig.node.admission.connection_count,
            rig.node.connections,
            rig.node.hub.channel_count,
        )


@pytest.mark.parametrize("channel", ["", "a\nb", "\x00", "\ud800", "x" * 9, "é" * 5])
async def test_channel_names(channel: str) -> None:
    """Names that are empty, not printable or too long are refused everywhere."""
    async with running(Settings(channel_bytes_max=8)) as rig:
        connection, _ = rig.connect()

        with pytest.raises(BadRequest, match="a channel's name"):
            await rig.node.subscribe(connection, channel)
        with pytest.raises(BadRequest, match="a channel's name"):
            await rig.node.publish(channel, Publication(b""))
        with pytest.raises(BadRequest, match="a channel's name"):
            await rig.node.presence(channel)
        with pytest.raises(BadRequest, match="a channel's name"):
            await rig.node.history(channel, since=None, limit=1)


async def test_payload_limit() -> None:
    """A publication has at most ``publication_bytes_max`` bytes."""
    async with running(Settings(publication_bytes_max=3)) as rig:
        await rig.publish("a", "abc")

        with pytest.raises(BadRequest, match="at most 3 bytes, got 4"):
            await rig.publish("a", "éé")


async def test_subscribe_bounds() -> None:
    """A channel is subscribed to once, and a connection has so many."""
    async with running(Settings(channels_per_connection_max=1)) as rig:
        connection, _ = rig.connect()
        await rig.node.subscribe(connection, "a")

        with pytest.raises(BadRequest, match="already subscribed to 'a'"):
            await rig.node.subscribe(connection, "a")
        with pytest.raises(LimitExceeded, match="at most 1 channels"):
            await rig.node.subscribe(connection, "b")


async def test_slow_consumer() -> None:
    """A peer that takes no more is cut and counted; others and the publisher notice nothing."""
    async with running() as rig:
        slow, slow_transport = rig.connect()
        quick, quick_transport = rig.connect()
        for connection in (slow, quick):
            await rig.node.subscribe(connection, "a")
            await rig.node.subscribe(connection, "b")
        slow_transport.is_full = True

        await rig.publish("a", "1")
        await rig.publish("b", "2")
        await turns()

        assert [(3008, "slow")] == slow_transport.closed
        assert (True, ["1", "2"]) == (slow.is_closed, quick_transport.messages)
        assert {3008: 1} == rig.node.statistics.disconnect_counts


async def test_close_is_counted_once() -> None:
    """A connection that we close twice was closed once, with the first code."""
    async with running() as rig:
        connection, transport = rig.connect()

        rig.node.close(connection, Disconnect(1008, "first"), notice="n")
        rig.node.close(connection, Disconnect(1011, "second"))

        assert ((1008, "first"), "n") == (transport.closed[0], transport.notices[0])
        assert {1008: 1} == rig.node.statistics.disconnect_counts


async def test_history_and_presence_need_a_declaration() -> None:
    """A channel that keeps nothing says so instead of answering empty."""
    async with running() as rig:
        with pytest.raises(BadRequest, match="'a' keeps no history"):
            await rig.node.history("a", since=None, limit=1)
        with pytest.raises(BadRequest, match="'a' keeps no presence"):
            await rig.node.presence("a")


async def test_history() -> None:
    """Kept publications are read oldest first."""
    async with running() as rig:
        await rig.publish("h", "1", "2", "3")

        part = await rig.node.history("h", since=StreamPosition(1), limit=1)

        assert [b"2"] == [publication.data for publication in part.publications]
        assert part.top.offset == 3


async def test_recovery() -> None:
    """Who comes back gets what it missed, then the live ones, nothing lost and nothing twice."""
    async with running() as rig:
        await rig.publish("h", "1", "2", "3")
        epoch = (await rig.node.history("h", since=None, limit=0)).top.epoch
        connection, transport = rig.connect()
        gate = rig.gates.hold("history")

        work = asyncio.create_task(
            rig.node.subscribe(connection, "h", since=StreamPosition(1, epoch))
        )
        await turns()
        await rig.publish("h", "4")
        gate.set()
        subscription = await work
        await rig.publish("h", "5")
        assert subscription.recovery is not None
        assert subscription.position == StreamPosition(3, epoch)
        rig.node.release(connection, "h", StreamPosition(3, epoch))
        await turns()
        await rig.publish("h", "6")
        await turns()

        missed = [publication.data for publication in subscription.recovery.publications]
        assert ([b"2", b"3"], True) == (missed, subscription.recovery.recovered)
        assert ["4", "5", "6"] == transport.messages


async def test_not_recovered() -> None:
    """Who was away for too long learns the top and that it could not be recovered."""
    async with running() as rig:
        await rig.publish("h", *"123456789abcdef")
        connection, _ = rig.connect()

        subscription = await rig.node.subscribe(connection, "h", since=StreamPosition(1))

        assert subscription.position is not None
        assert subscription.recovery is not None
        assert (15, False) == (subscription.position.offset, subscription.recovery.recovered)


async def test_release_into_a_full_transport() -> None:
    """Who cannot take what was held is cut as a slow consumer."""
    async with running() as rig:
        connection, transport = rig.connect()
        subscription = await rig.node.subscribe(connection, "h")
        await rig.publish("h", "1")
        await turns()
        transport.is_full = True

        assert subscription.position is not None
        rig.node.release(connection, "h", subscription.position)
        await turns()

        assert ([(3008, "slow")], True) == (transport.closed, connection.is_closed)


async def test_release_after_the_end() -> None:
    """Releasing for a connection or a channel that is gone is nothing."""
    async with running() as rig:
        connection, transport = rig.connect()

        rig.node.release(connection, "h", StreamPosition())
        rig.node.disconnect(connection)
        rig.node.release(connection, "h", StreamPosition())

        assert ([], []) == (transport.messages, transport.closed)


async def test_held_too_much() -> None:
    """Who reads history for too long is cut before it fills the memory, once."""
    async with running(Settings(recovery_publications_max=2)) as rig:
        connection, transport = rig.connect()
        await rig.node.subscribe(connection, "h")

        await rig.publish("h", "1", "2", "3")
        await turns()

        assert [(3008, "slow")] == transport.closed
        assert connection.is_closed


async def test_held_too_much_in_two_channels() -> None:
    """Who is over its limit twice in a tick is cut once."""
    async with running(Settings(recovery_publications_max=1)) as rig:
        connection, transport = rig.connect()
        for channel in ("h", "h2"):
            await rig.node.subscribe(connection, channel)

        for channel in ("h", "h2"):
            await rig.publish(channel, "1", "2")
        await turns()

        assert [(3008, "slow")] == transport.closed


async def test_broker_does_not_answer() -> None:
    """A broker's failure reaches the publisher and is no publication."""
    async with running() as rig:
        rig.gates.failures["publish"] = BrokerUnavailable("away")

        with pytest.raises(BrokerUnavailable, match="away"):
            await rig.publish("a", "1")
        assert rig.node.statistics.published_count == 0


async def test_deadlines() -> None:
    """Callbacks are called in time, cancelled ones never; a failing one is logged and alone."""
    async with running() as rig:
        loop = asyncio.get_running_loop()
        start, called = loop.time(), list[tuple[str, float]]()

        def note(name: str) -> None:
            called.append((name, round(loop.time() - start, 3)))

        rig.node.schedule(2.0, lambda: note("late"))
        rig.node.schedule(1.0, [].pop)
        rig.node.schedule(1.0, lambda: note("soon"))
        rig.node.schedule(-5.0, lambda: note("past"))
        rig.node.cancel(rig.node.schedule(1.5, lambda: note("cancelled")))
        await pass_time(3.0)

        names, times = zip(*called, strict=True)
        assert ("past", "soon", "late") == names
        for expected, actual in zip((0.0, 1.0, 2.0), times, strict=True):
            assert expected <= actual <= expected + 0.051


async def test_deadline_that_plans_the_next(caplog: pytest.LogCaptureFixture) -> None:
    """A callback may plan its own repetition; a failure is in the log."""
    async with running() as rig:
        count = 0

        def repeat() -> None:
            nonlocal count
            count += 1
            rig.node.schedule(1.0, repeat)
            raise RuntimeError("broken")

        rig.node.schedule(1.0, repeat)
        with caplog.at_level(logging.ERROR):
            await pass_time(5.9)

        assert count == 5
        assert "a deadline's callback failed" in caplog.text


async def test_aclose() -> None:
    """Stopping tells everybody, leaves channels, closes the broker, and can be repeated."""
    rig = Rig(Settings())
    await rig.node.start()
    connection, transport = rig.connect("ann")
    await rig.node.subscribe(connection, "p")

    await rig.node.aclose()
    await rig.node.aclose()
    asked = set(rig.gates.calls[-3:])

    assert [(1012, "shutting down")] == transport.closed
    assert (True, True) == (connection.is_closed, rig.broker.is_closed)
    assert {} == await rig.store.members("p")
    assert {"unsubscribe", "remove", "leave"} == asked


async def test_aclose_is_bounded() -> None:
    """A broker that does not answer holds the end up for ``close_timeout_seconds`` only."""
    rig = Rig(Settings(close_timeout_seconds=3.0))
    await rig.node.start()
    connection, _ = rig.connect()
    await rig.node.subscribe(connection, "a")
    gate = rig.gates.hold("unsubscribe")
    start = asyncio.get_running_loop().time()

    await rig.node.aclose()

    assert asyncio.get_running_loop().time() - start == pytest.approx(3.0, abs=0.1)
    assert rig.broker.is_closed
    gate.set()
    await turns()


async def test_aclose_leaves_no_task() -> None:
    """When the end was cut short nothing runs on behind it."""
    rig = Rig(Settings(close_timeout_seconds=1.0))
    await rig.node.start()
    connection, _ = rig.connect()
    await rig.node.subscribe(connection, "a")
    gate = rig.gates.hold("unsubscribe")

    await rig.node.aclose()
    await turns()
    left = [task.get_name() for task in asyncio.all_tasks() if "Node" in repr(task)]
    gate.set()
    await turns()

    assert [] == left


async def test_users() -> None:
    """A user's connections are found by its id, until the last one left."""
    async with running() as rig:
        one, two = rig.connect("ann")[0], rig.connect("ann")[0]
        other, _ = rig.connect("bob")
        rig.connect()
        there = {name: set(found) for name, found in rig.node.users.items()}

        rig.node.disconnect(one)
        one_left = set(rig.node.users["ann"])
        rig.node.disconnect(two)

        assert {"ann": {one.client_id, two.client_id}, "bob": {other.client_id}} == there
        assert ({two.client_id}, ["bob"]) == (one_left, list(rig.node.users))


async def test_ready() -> None:
    """A node is ready while its broker answers, and its presence store, wherever that is."""
    async with running() as rig:
        ready = [await rig.node.is_ready()]
        for call in ("check", "members"):
            rig.gates.failures[call] = BrokerUnavailable("away")
            ready.append(await rig.node.is_ready())
            del rig.gates.failures[call]

        assert [True, False, False] == ready


async def test_leaving_keeps_what_was_published_before() -> None:
    """Who leaves a channel has what was published there until then."""
    async with running() as rig:
        connection, transport = rig.connect()
        await rig.node.subscribe(connection, "a")
        await rig.publish("a", "1")

        left = rig.node.unsubscribe(connection, "a")
        await rig.publish("a", "2")
        await turns()

        assert (True, ["1"]) == (left, transport.messages)
        assert not rig.node.unsubscribe(connection, "a")


async def test_cut_while_leaving() -> None:
    """Who is over its limit with what was published before is cut, and has left."""
    async with running() as rig:
        connection, transport = rig.connect()
        await rig.node.subscribe(connection, "a")
        await rig.publish("a", "1")
        transport.is_full = True

        left = rig.node.unsubscribe(connection, "a")

        assert (False, {}, True) == (left, connection.channels, connection.is_closed)
        assert [(3008, "slow")] == transport.closed


async def test_cancelling_after_the_end() -> None:
    """A deadline may be forgotten when the node runs no more; its timer is stopped once."""
    rig = Rig(Settings())
    await rig.node.start()
    deadline = rig.node.schedule(1.0, lambda: None)
    assert rig.node.timers is not None
    rig.node.timers.close()

    await rig.node.aclose()
    rig.node.cancel(deadline)

    assert rig.node.timers is None
