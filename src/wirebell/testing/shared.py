"""The contract of a broker that several nodes share: one check per guarantee, with two nodes.

A check is an async function that takes two running nodes of one server, and raises
``AssertionError`` when the guarantee does not hold. Channels have fresh names, so that checks can
share a server.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from wirebell.history import recover
from wirebell.interfaces import Broker, PresenceStore
from wirebell.model import ClientInfo, Membership, Publication, PublishOptions, StreamPosition
from wirebell.testing.recording import (
    DELIVERY_SECONDS_MAX,
    KEPT,
    UNKEPT,
    RecordingListener,
    fresh_channel,
    number_publication,
    payloads_of,
    publish,
)

__all__ = ("SHARED_GUARANTEES", "SharedNode", "check_shared_broker", "run_shared_node")

# Enough for two publishers to get into each other's way, and few enough for KEPT's ten.
EACH_COUNT = 20
LEASE_SECONDS = 0.5


@dataclass
class SharedNode:
    """A node of a check: a broker that runs, its presence store, and what was delivered.

    Attributes:
        broker: Started with ``listener`` and ``node_id``.
        store: Started.
        listener: Keeps what the broker delivers.
        node_id: As ``publish_control`` names it.
    """

    broker: Broker
    store: PresenceStore
    listener: RecordingListener = field(default_factory=RecordingListener)
    node_id: str = field(default_factory=lambda: str(uuid.uuid4()))

    async def aclose(self) -> None:
        """Close both; idempotent."""
        await self.broker.aclose()
        await self.store.aclose()


async def check_offsets_of_two_publishers(one: SharedNode, other: SharedNode) -> None:
    """Who publishes at once on two nodes gets different offsets without a hole."""
    channel = fresh_channel()
    positions = await asyncio.gather(
        *(
            publish(node.broker, channel, number_publication(number), KEPT)
            for number in range(EACH_COUNT)
            for node in (one, other)
        )
    )
    offsets = sorted(position.offset for position in positions)
    assert offsets == list(range(1, 2 * EACH_COUNT + 1)), offsets
    assert len({position.epoch for position in positions}) == 1, "one stream has one epoch"


async def check_order_of_two_publishers(one: SharedNode, other: SharedNode) -> None:
    """Both nodes receive what both publish in the order of its offsets, each item once."""
    channel = fresh_channel()
    for node in (one, other):
        await node.broker.subscribe(channel)
    await asyncio.gather(
        *(
            publish(node.broker, channel, number_publication(number), KEPT)
            for number in range(EACH_COUNT)
            for node in (one, other)
        )
    )
    await publish(one.broker, channel, number_publication(-1), KEPT)
    for node in (one, other):
        items = await _wait_last(node, channel)
        offsets = [item.offset for item in items if isinstance(item, Publication)]
        assert offsets == list(range(1, 2 * EACH_COUNT + 2)), offsets


async def check_same_publications(one: SharedNode, other: SharedNode) -> None:
    """A publication is the same on both nodes: payload, offset, epoch and all it says of itself."""
    channel = fresh_channel()
    for node in (one, other):
        await node.broker.subscribe(channel)
    said = Publication(b"{}", key="k", info=ClientInfo("c", "u"), tags={"a": "b"}, version=3)
    await publish(one.broker, channel, said, KEPT)
    (here,) = await one.listener.wait_count(channel, 1)
    (there,) = await other.listener.wait_count(channel, 1)
    assert here == there, (here, there)


async def check_unkept_publications_cross(one: SharedNode, other: SharedNode) -> None:
    """Without history one publisher's publications reach both nodes in order, each once."""
    channel = fresh_channel()
    for node in (one, other):
        await node.broker.subscribe(channel)
    for number in range(EACH_COUNT):
        await publish(one.broker, channel, number_publication(number), UNKEPT)
    await publish(one.broker, channel, number_publication(-1), UNKEPT)
    for node in (one, other):
        items = await _wait_last(node, channel)
        expected = [b"%d" % number for number in (*range(EACH_COUNT), -1)]
        assert payloads_of(items) == expected, payloads_of(items)


async def check_memberships_cross(one: SharedNode, other: SharedNode) -> None:
    """Joins and leaves reach both nodes, in order with publications of the same node, each once."""
    channel = fresh_channel()
    info = ClientInfo("client", "user", b'{"a":1}')
    for node in (one, other):
        await node.broker.subscribe(channel)
    await one.broker.publish_membership(channel, Membership(info, joined=True))
    await publish(one.broker, channel, number_publication(1), UNKEPT)
    await one.broker.publish_membership(channel, Membership(info, joined=False))
    await publish(one.broker, channel, number_publication(-1), UNKEPT)
    for node in (one, other):
        items = await _wait_last(node, channel)
        told = [item if isinstance(item, Membership) else item.data for item in items]
        joined, left = Membership(info, joined=True), Membership(info, joined=False)
        assert told == [joined, b"1", left, b"-1"], told


async def check_unsubscribed_node(one: SharedNode, other: SharedNode) -> None:
    """A node that did not subscribe, or no longer does, receives nothing; the other does."""
    channel, fence = fresh_channel(), fresh_channel()
    await one.broker.subscribe(channel)
    await other.broker.subscribe(fence)
    await publish(other.broker, channel, number_publication(1), KEPT)
    await other.broker.subscribe(channel)
    await other.broker.unsubscribe(channel)
    await publish(one.broker, channel, number_publication(2), KEPT)
    await publish(one.broker, fence, number_publication(-1), KEPT)
    await _wait_last(other, fence)
    received = payloads_of(await one.listener.wait_count(channel, 2))
    assert received == [b"1", b"2"], received
    assert other.listener.of(channel) == [], "it did not subscribe"


async def check_subscribe_then_publish(one: SharedNode, other: SharedNode) -> None:
    """What a node publishes after another's ``subscribe`` returned is not missed there."""
    for _ in range(EACH_COUNT):
        channel = fresh_channel()
        await other.broker.subscribe(channel)
        await publish(one.broker, channel, number_publication(1), UNKEPT)
        assert payloads_of(await other.listener.wait_count(channel, 1)) == [b"1"]


async def check_control_reaches_all(one: SharedNode, other: SharedNode) -> None:
    """What a node tells all nodes reaches both, in the order of its calls, each once."""
    for number in range(EACH_COUNT):
        await one.broker.publish_control(b"%d" % number)
    expected = [b"%d" % number for number in range(EACH_COUNT)]
    for node in (one, other):
        told = await node.listener.wait_controls(EACH_COUNT)
        assert told == expected, told


async def check_control_reaches_one(one: SharedNode, other: SharedNode) -> None:
    """What a node tells one node reaches that one alone, whichever it is."""
    await one.broker.publish_control(b"for other", other.node_id)
    await one.broker.publish_control(b"for one", one.node_id)
    await one.broker.publish_control(b"for nobody", str(uuid.uuid4()))
    await one.broker.publish_control(b"for all")
    assert await one.listener.wait_controls(2) == [b"for one", b"for all"], one.listener.controls
    told = await other.listener.wait_controls(2)
    assert told == [b"for other", b"for all"], told


async def check_epoch_on_both(one: SharedNode, other: SharedNode) -> None:
    """A stream has the same epoch on both nodes: when still empty, and afterwards."""
    channel = fresh_channel()
    empty = [
        (await node.broker.history(channel, KEPT, since=None, limit=0)).top for node in (one, other)
    ]
    published = await publish(other.broker, channel, number_publication(1), KEPT)
    tops = [
        (await node.broker.history(channel, KEPT, since=None, limit=0)).top for node in (one, other)
    ]
    assert empty == [StreamPosition(0, published.epoch)] * 2, (empty, published)
    assert tops == [published] * 2, (tops, published)


async def check_history_on_both(one: SharedNode, other: SharedNode) -> None:
    """Once ``publish`` returned, every node finds the publication in history, the same on all."""
    channel = fresh_channel()
    for number in range(1, 4):
        for node, reader in ((one, other), (other, one)):
            position = await publish(node.broker, channel, number_publication(number), KEPT)
            part = await reader.broker.history(channel, KEPT, since=None, limit=10)
            assert part.top == position, (part.top, position)
            assert part.publications[-1].data == b"%d" % number, part.publications
    parts = [
        await node.broker.history(channel, KEPT, since=None, limit=10) for node in (one, other)
    ]
    assert tuple(parts[0].publications) == tuple(parts[1].publications)


async def check_history_before_delivery_elsewhere(one: SharedNode, other: SharedNode) -> None:
    """A node that receives another's publication finds it in history at that moment."""
    for number in range(5):
        channel = fresh_channel()
        await other.broker.subscribe(channel)
        await publish(one.broker, channel, number_publication(number), KEPT)
        (item,) = await other.listener.wait_count(channel, 1)
        part = await other.broker.history(channel, KEPT, since=None, limit=10)
        assert item in part.publications, (item, part.publications)


async def check_recovery_on_another_node(one: SharedNode, other: SharedNode) -> None:
    """A client that comes back to another node gets there exactly what it missed."""
    channel = fresh_channel()
    seen = [await publish(one.broker, channel, number_publication(n), KEPT) for n in range(4)][1]
    await publish(other.broker, channel, number_publication(4), KEPT)
    part = await other.broker.history(channel, KEPT, since=seen, limit=100)
    recovery = recover(part.publications, part.top, seen, limit=100)
    assert recovery.recovered, (part.publications, part.top)
    assert payloads_of(recovery.publications) == [b"2", b"3", b"4"], recovery


async def check_history_size_of_both(one: SharedNode, other: SharedNode) -> None:
    """What two nodes publish counts together for the size of a history."""
    channel = fresh_channel()
    for number in range(8):
        for node in (one, other):
            await publish(node.broker, channel, number_publication(number), KEPT)
    for node in (one, other):
        part = await node.broker.history(channel, KEPT, since=None, limit=100)
        offsets = [kept.offset for kept in part.publications]
        assert offsets == list(range(7, 17)), offsets


async def check_remove_history_of_both(one: SharedNode, other: SharedNode) -> None:
    """History that one node removes is gone on both, and offsets count on in the same epoch."""
    channel = fresh_channel()
    before = await publish(one.broker, channel, number_publication(1), KEPT)
    await other.broker.remove_history(channel)
    parts = [
        await node.broker.history(channel, KEPT, since=None, limit=10) for node in (one, other)
    ]
    after = await publish(one.broker, channel, number_publication(2), KEPT)
    assert [tuple(part.publications) for part in parts] == [(), ()], parts
    assert [part.top for part in parts] == [before, before], parts
    assert after == StreamPosition(2, before.epoch), (before, after)


async def check_idempotency_key_of_both(one: SharedNode, other: SharedNode) -> None:
    """An idempotency key that was used on one node publishes nothing on the other."""
    channel = fresh_channel()
    await one.broker.subscribe(channel)
    how = PublishOptions(idempotency_key="once")
    first = await publish(one.broker, channel, number_publication(1), KEPT, how)
    again = await publish(other.broker, channel, number_publication(2), KEPT, how)
    await publish(other.broker, channel, number_publication(-1), KEPT)
    received = payloads_of(await _wait_last(one, channel))
    assert again == first, (first, again)
    assert received == [b"1", b"-1"], received


async def check_idempotency_key_at_once(one: SharedNode, other: SharedNode) -> None:
    """Of publications with one key that both nodes publish at once, one gets through."""
    channel = fresh_channel()
    how = PublishOptions(idempotency_key="once")
    positions = await asyncio.gather(
        *(
            publish(node.broker, channel, number_publication(number), KEPT, how)
            for number in range(5)
            for node in (one, other)
        )
    )
    part = await one.broker.history(channel, KEPT, since=None, limit=10)
    assert len(part.publications) == 1, part.publications
    assert set(positions) == {part.top}, positions


async def check_version_of_both(one: SharedNode, other: SharedNode) -> None:
    """A version that one node published makes older ones be left out on the other."""
    channel = fresh_channel()
    versions = ((one, 2), (other, 1), (other, 3), (one, 3), (one, 4))
    for node, version in versions:
        how = PublishOptions(version=version)
        await publish(node.broker, channel, number_publication(version), KEPT, how)
    part = await other.broker.history(channel, KEPT, since=None, limit=10)
    assert payloads_of(part.publications) == [b"2", b"3", b"4"], part.publications


async def check_presence_of_both(one: SharedNode, other: SharedNode) -> None:
    """Presence that is written or removed on one node is so on the other at once."""
    channel = fresh_channel()
    ann, bob = ClientInfo("1", "ann", b'{"a":1}'), ClientInfo("2", "bob")
    await one.store.add(channel, ann, ttl_seconds=60)
    await other.store.add(channel, bob, ttl_seconds=60)
    both = [await node.store.members(channel) for node in (one, other)]
    await other.store.remove(channel, "1")
    rest = [await node.store.members(channel) for node in (one, other)]
    assert both == [{"1": ann, "2": bob}] * 2, both
    assert rest == [{"2": bob}] * 2, rest


async def check_lease_of_a_closed_node(one: SharedNode, other: SharedNode) -> None:
    """What a node left behind when it ended is seen until the lease ends, and no longer."""
    channel, ann, bob = fresh_channel(), ClientInfo("1", "ann"), ClientInfo("2", "bob")
    await one.store.add(channel, ann, ttl_seconds=60)
    await one.store.add(channel, bob, ttl_seconds=LEASE_SECONDS)
    await one.aclose()
    left = await other.store.members(channel)
    assert left in ({"1": ann, "2": bob}, {"1": ann}), left
    async with asyncio.timeout(DELIVERY_SECONDS_MAX):
        while await other.store.members(channel) != {"1": ann}:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.02)


async def check_other_node_goes_on(one: SharedNode, other: SharedNode) -> None:
    """A node that ends takes nothing from the other: neither link, nor subscriptions, nor logs."""
    channel = fresh_channel()
    for node in (one, other):
        await node.broker.subscribe(channel)
    before = await publish(one.broker, channel, number_publication(1), KEPT)
    await other.listener.wait_count(channel, 1)
    await one.aclose()
    after = await publish(other.broker, channel, number_publication(2), KEPT)
    received = payloads_of(await other.listener.wait_count(channel, 2))
    await other.broker.check()
    assert after == StreamPosition(before.offset + 1, before.epoch), (before, after)
    assert received == [b"1", b"2"], received
    assert payloads_of(one.listener.of(channel)) in ([b"1"], []), "it had ended"


SharedCheck = Callable[[SharedNode, SharedNode], Awaitable[None]]

SHARED_GUARANTEES: tuple[SharedCheck, ...] = (
    check_offsets_of_two_publishers,
    check_order_of_two_publishers,
    check_same_publications,
    check_unkept_publications_cross,
    check_memberships_cross,
    check_unsubscribed_node,
    check_subscribe_then_publish,
    check_control_reaches_all,
    check_control_reaches_one,
    check_epoch_on_both,
    check_history_on_both,
    check_history_before_delivery_elsewhere,
    check_recovery_on_another_node,
    check_history_size_of_both,
    check_remove_history_of_both,
    check_idempotency_key_of_both,
    check_idempotency_key_at_once,
    check_version_of_both,
    check_presence_of_both,
    check_lease_of_a_closed_node,
    check_other_node_goes_on,
)
"""Every guarantee of a broker that nodes share; the last two close the first of the two nodes."""


@asynccontextmanager
async def run_shared_node(
    create: Callable[[], tuple[Broker, PresenceStore]],
) -> AsyncIterator[SharedNode]:
    """Run a node for checks until the block ends.

    Args:
        create: Gives a broker and a presence store that are not started.
    """
    node = SharedNode(*create())
    try:
        await node.broker.start(node.listener, node.node_id)
        await node.store.start()
        yield node
    finally:
        await node.aclose()


async def check_shared_broker(create: Callable[[], tuple[Broker, PresenceStore]]) -> None:
    """Hold a broker that nodes share against every guarantee of its interface, with two nodes.

    Args:
        create: Gives a broker and a presence store of the same server each time; they are not
            started. Called twice per guarantee.

    Raises:
        AssertionError: A guarantee does not hold.
    """
    for guarantee in SHARED_GUARANTEES:
        async with AsyncExitStack() as stack:
            one, other = [
                await stack.enter_async_context(run_shared_node(create)) for _ in range(2)
            ]
            await guarantee(one, other)


async def _wait_last(node: SharedNode, channel: str) -> list[Publication | Membership]:
    """Wait until a node has the publication -1 of a channel, and return all before it and it."""

    def is_there() -> bool:
        return b"-1" in payloads_of(node.listener.of(channel))

    await node.listener.wait_until(is_there)
    items = node.listener.of(channel)
    assert is_there(), f"the last publication of {channel!r} did not come, only {items}"
    return items
