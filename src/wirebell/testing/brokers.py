"""The contracts of `wirebell.interfaces.Broker` and `PresenceStore`: one check per guarantee.

A check is an async function that takes a running broker and what it delivers to, and raises
``AssertionError`` when the guarantee does not hold. Channels have fresh names, so that checks can
share a server.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Awaitable, Callable

import msgspec

from wirebell.errors import BrokerClosed
from wirebell.history import recover
from wirebell.interfaces import Broker, PresenceStore
from wirebell.model import (
    ChannelOptions,
    ClientInfo,
    History,
    Membership,
    PayloadFormat,
    Publication,
    PublishOptions,
    StreamPosition,
)
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

__all__ = (
    "BROKER_GUARANTEES",
    "PRESENCE_GUARANTEES",
    "check_broker",
    "check_presence_store",
)

# Long enough for two publications, short enough to be waited for.
BRIEF = ChannelOptions(history=History(size=10, ttl_seconds=0.3))


async def check_order_with_history(broker: Broker, listener: RecordingListener) -> None:
    """Publications arrive in the order of their offsets, which are 1, 2, 3 …."""
    channel = fresh_channel()
    await broker.subscribe(channel)
    positions = [await publish(broker, channel, number_publication(n), KEPT) for n in range(5)]
    items = await listener.wait_count(channel, 5)
    assert [position.offset for position in positions] == [1, 2, 3, 4, 5]
    assert [b"%d" % n for n in range(5)] == payloads_of(items)
    assert [p.offset for p in items if isinstance(p, Publication)] == [1, 2, 3, 4, 5]


async def check_order_without_history(broker: Broker, listener: RecordingListener) -> None:
    """One publisher's publications arrive in the order of its calls, with offset 0."""
    channel = fresh_channel()
    await broker.subscribe(channel)
    for number in range(5):
        assert await publish(broker, channel, number_publication(number), UNKEPT) == StreamPosition(
            0, ""
        )
    items = await listener.wait_count(channel, 5)
    assert [b"%d" % n for n in range(5)] == payloads_of(items)
    assert all(isinstance(item, Publication) and item.offset == 0 for item in items)


async def check_position_is_the_publications_own(
    broker: Broker, listener: RecordingListener
) -> None:
    """Concurrent publishes get different positions, and history has each under its own."""
    channel = fresh_channel()
    results = await asyncio.gather(
        *(publish(broker, channel, number_publication(n), KEPT) for n in range(10))
    )
    part = await broker.history(channel, KEPT, since=None, limit=10)
    assert {position.offset for position in results} == set(range(1, 11))
    for number, position in enumerate(results):
        assert part.publications[position.offset - 1].data == b"%d" % number


async def check_epoch_is_stable(broker: Broker, listener: RecordingListener) -> None:
    """One stream has one epoch: in positions, in publications, in history, when still empty."""
    channel = fresh_channel()
    empty = await broker.history(channel, KEPT, since=None, limit=0)
    first = await publish(broker, channel, number_publication(1), KEPT)
    part = await broker.history(channel, KEPT, since=None, limit=10)
    assert empty.top == StreamPosition(0, first.epoch)
    assert first.epoch
    assert part.top == first
    assert [p.epoch for p in part.publications] == [first.epoch]


async def check_epochs_differ(broker: Broker, listener: RecordingListener) -> None:
    """Two streams have different epochs."""
    one = await publish(broker, fresh_channel(), number_publication(1), KEPT)
    other = await publish(broker, fresh_channel(), number_publication(1), KEPT)
    assert one.epoch != other.epoch


async def check_history_before_delivery(broker: Broker, listener: RecordingListener) -> None:
    """Whoever receives a publication finds it in history."""
    channel = fresh_channel()
    await broker.subscribe(channel)
    await publish(broker, channel, number_publication(1), KEPT)
    (item,) = await listener.wait_count(channel, 1)
    part = await broker.history(channel, KEPT, since=None, limit=10)
    assert isinstance(item, Publication)
    assert item in part.publications


async def check_own_publications_once(broker: Broker, listener: RecordingListener) -> None:
    """A node receives what it published itself, once, also when it subscribed twice."""
    channel = fresh_channel()
    await broker.subscribe(channel)
    await broker.subscribe(channel)
    await publish(broker, channel, number_publication(1), KEPT)
    await publish(broker, channel, number_publication(2), KEPT)
    assert payloads_of(await listener.wait_count(channel, 2)) == [b"1", b"2"]


async def check_unsubscribe(broker: Broker, listener: RecordingListener) -> None:
    """After ``unsubscribe`` nothing of the channel arrives; others are untouched; idempotent."""
    left, kept = fresh_channel(), fresh_channel()
    await broker.subscribe(left)
    await broker.subscribe(kept)
    await broker.unsubscribe(left)
    await broker.unsubscribe(left)
    await publish(broker, left, number_publication(1), UNKEPT)
    await publish(broker, kept, number_publication(2), UNKEPT)
    await listener.wait_count(kept, 1)
    assert listener.of(left) == []


async def check_history_size(broker: Broker, listener: RecordingListener) -> None:
    """History keeps the newest ``size``: a contiguous run that ends at the top."""
    channel = fresh_channel()
    for number in range(1, 16):
        await publish(broker, channel, number_publication(number), KEPT)
    part = await broker.history(channel, KEPT, since=None, limit=100)
    assert [p.offset for p in part.publications] == list(range(6, 16))
    assert part.top.offset == 15


async def check_history_ttl(broker: Broker, listener: RecordingListener) -> None:
    """History ends ``ttl_seconds`` after the newest publication; offsets go on in their epoch."""
    del listener
    channel = fresh_channel()
    await publish(broker, channel, number_publication(1), BRIEF)
    position = await publish(broker, channel, number_publication(2), BRIEF)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DELIVERY_SECONDS_MAX):
            while (  # noqa: ASYNC110 - a broker tells nobody
                await broker.history(channel, BRIEF, since=None, limit=10)
            ).publications:
                await asyncio.sleep(0.02)
    ended = await broker.history(channel, BRIEF, since=None, limit=10)
    # Away from that moment: two clocks of one broker may differ by some milliseconds.
    await asyncio.sleep(0.1)
    following = await publish(broker, channel, number_publication(3), BRIEF)
    part = await broker.history(channel, BRIEF, since=None, limit=10)
    assert (tuple(ended.publications), ended.top) == ((), position), ended
    assert following == StreamPosition(3, position.epoch), (position, following)
    # A slow machine may read so late that this one has ended too.
    assert [kept.offset for kept in part.publications] in ([3], []), part.publications


async def check_history_since_and_limit(broker: Broker, listener: RecordingListener) -> None:
    """History starts after ``since``, stops at ``limit``, and 0 asks for the position alone.

    A peer may name any position: after the largest there is nothing.
    """
    channel = fresh_channel()
    for number in range(1, 6):
        await publish(broker, channel, number_publication(number), KEPT)
    since = StreamPosition(2, "")
    part = await broker.history(channel, KEPT, since=since, limit=2)
    alone = await broker.history(channel, KEPT, since=None, limit=0)
    ahead = await broker.history(channel, KEPT, since=StreamPosition(2**64 - 1, ""), limit=2)
    assert [p.offset for p in part.publications] == [3, 4]
    assert (alone.top.offset, tuple(alone.publications)) == (5, ())
    assert (ahead.top.offset, tuple(ahead.publications)) == (5, ())


async def check_recovery(broker: Broker, listener: RecordingListener) -> None:
    """A client that was away gets exactly what it missed, or is told that it cannot."""
    channel = fresh_channel()
    positions = [await publish(broker, channel, number_publication(n), KEPT) for n in range(1, 16)]
    for position in positions:
        part = await broker.history(channel, KEPT, since=position, limit=100)
        recovery = recover(part.publications, part.top, position, limit=100)
        assert recovery.recovered == (position.offset >= 5)
        if recovery.recovered:
            missed = [p.offset for p in recovery.publications]
            assert missed == list(range(position.offset + 1, 16))


async def check_remove_history(broker: Broker, listener: RecordingListener) -> None:
    """Removing history keeps epoch and offset, so that a gap is seen as one."""
    channel = fresh_channel()
    before = await publish(broker, channel, number_publication(1), KEPT)
    await broker.remove_history(channel)
    part = await broker.history(channel, KEPT, since=None, limit=10)
    after = await publish(broker, channel, number_publication(2), KEPT)
    assert (tuple(part.publications), part.top) == ((), before)
    assert after == StreamPosition(2, before.epoch)


async def check_negative_limit(broker: Broker, listener: RecordingListener) -> None:
    """A negative limit is refused."""
    try:
        await broker.history(fresh_channel(), KEPT, since=None, limit=-1)
    except ValueError:
        return
    raise AssertionError("limit -1 was accepted")


async def check_payload_is_untouched(broker: Broker, listener: RecordingListener) -> None:
    """Payload and format arrive, and are kept, as they were given: any bytes of UTF-8."""
    channel = fresh_channel()
    await broker.subscribe(channel)
    text = Publication("späť \n ☃ \x00 '\"\\".encode(), PayloadFormat.TEXT)
    await publish(broker, channel, text, KEPT)
    (item,) = await listener.wait_count(channel, 1)
    (kept,) = (await broker.history(channel, KEPT, since=None, limit=1)).publications
    assert isinstance(item, Publication)
    assert (item.data, item.format) == (text.data, text.format) == (kept.data, kept.format)


async def check_fields_travel(broker: Broker, listener: RecordingListener) -> None:
    """All that a publication says of itself arrives and is kept; its position is the broker's."""
    channel = fresh_channel()
    await broker.subscribe(channel)
    said = Publication(
        b"{}", PayloadFormat.JSON, offset=7, epoch="theirs", key="k",
        info=ClientInfo("client", "user", b'{"a":1}', b"[2]"), tags={"a": "b"}, has_delta=True,
        version=3, exclude="client", origin="row",
    )  # fmt: skip
    await publish(broker, channel, said, UNKEPT)
    await publish(broker, channel, said, KEPT)
    unkept, live = await listener.wait_count(channel, 2)
    (kept,) = (await broker.history(channel, KEPT, since=None, limit=1)).publications
    assert unkept == msgspec.structs.replace(said, offset=0, epoch=""), unkept
    assert kept.epoch != said.epoch, "an epoch is the broker's"
    assert kept == msgspec.structs.replace(said, offset=1, epoch=kept.epoch), kept
    assert live == kept, live


async def check_memberships(broker: Broker, listener: RecordingListener) -> None:
    """Joins and leaves arrive in order with publications, and are not kept."""
    channel = fresh_channel()
    info = ClientInfo("client", "user")
    await broker.subscribe(channel)
    await broker.publish_membership(channel, Membership(info, joined=True))
    await publish(broker, channel, number_publication(1), KEPT)
    await broker.publish_membership(channel, Membership(info, joined=False))
    joined, publication, left = await listener.wait_count(channel, 3)
    part = await broker.history(channel, KEPT, since=None, limit=10)
    assert (joined, left) == (Membership(info, joined=True), Membership(info, joined=False))
    assert [publication] == list(part.publications)


async def check_close(broker: Broker, listener: RecordingListener) -> None:
    """``aclose`` is idempotent, and a closed broker says so instead of losing what it is given."""
    await broker.aclose()
    await broker.aclose()
    calls: list[Awaitable[object]] = [
        publish(broker, fresh_channel(), number_publication(1), KEPT),
        broker.publish_membership(fresh_channel(), Membership(ClientInfo("client"), joined=True)),
        broker.subscribe(fresh_channel()),
        broker.unsubscribe(fresh_channel()),
        broker.history(fresh_channel(), KEPT, since=None, limit=1),
        broker.remove_history(fresh_channel()),
        broker.publish_control(b""),
        broker.check(),
    ]
    for result in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(result, BrokerClosed), result
    assert not broker.is_connected


async def check_control(broker: Broker, listener: RecordingListener) -> None:
    """What a node tells all nodes reaches itself too, in order, and no other node's alone does."""
    for number in range(3):
        await broker.publish_control(b"%d" % number)
    await broker.publish_control(b"for another", str(uuid.uuid4()))
    await broker.publish_control(b"3")
    told = await listener.wait_controls(4)
    assert told == [b"0", b"1", b"2", b"3"], told


async def check_answers(broker: Broker, listener: RecordingListener) -> None:
    """A broker that runs says so."""
    del listener
    await broker.check()
    assert broker.is_connected
    assert broker.reconnect_count == 0


BrokerCheck = Callable[[Broker, RecordingListener], Awaitable[None]]


async def check_idempotency_key(broker: Broker, listener: RecordingListener) -> None:
    """The same idempotency key publishes once in a channel, and always gives its position."""
    channel = fresh_channel()
    await broker.subscribe(channel)
    how = PublishOptions(idempotency_key="once")

    first = await publish(broker, channel, number_publication(1), KEPT, how)
    again = await publish(broker, channel, number_publication(2), KEPT, how)
    await publish(broker, channel, number_publication(3), KEPT)
    items = await listener.wait_count(channel, 2)

    assert first == again, "a repeated key must give the first position"
    assert payloads_of(items) == [b"1", b"3"], "a repeated key must publish nothing"


async def check_version(broker: Broker, listener: RecordingListener) -> None:
    """With history, a version that is not above the newest of its epoch is left out."""
    channel = fresh_channel()
    await broker.subscribe(channel)
    versions = ((2, ""), (2, ""), (1, ""), (3, ""), (1, "b"))

    for number, (version, epoch) in enumerate(versions):
        how = PublishOptions(version=version, version_epoch=epoch)
        await publish(broker, channel, number_publication(number), KEPT, how)
    items = await listener.wait_count(channel, 3)

    assert payloads_of(items) == [b"0", b"3", b"4"], "old versions must be left out"


async def check_skip_history(broker: Broker, listener: RecordingListener) -> None:
    """A publication that skips history is delivered, has no offset and is kept nowhere."""
    channel = fresh_channel()
    await broker.subscribe(channel)

    await publish(broker, channel, number_publication(1), KEPT)
    position = await publish(
        broker, channel, number_publication(2), KEPT, PublishOptions(skip_history=True)
    )
    items = await listener.wait_count(channel, 2)
    part = await broker.history(channel, KEPT, since=None, limit=10)

    assert StreamPosition(0, "") == position, "what is kept nowhere has no position"
    assert payloads_of(items) == [b"1", b"2"], "it must be delivered"
    assert [kept.data for kept in part.publications] == [b"1"], "it must not be kept"


async def check_history_reverse(broker: Broker, listener: RecordingListener) -> None:
    """History read in reverse is newest first, and ends before a position."""
    del listener
    channel = fresh_channel()
    for number in range(1, 6):
        await publish(broker, channel, number_publication(number), KEPT)

    newest = await broker.history(channel, KEPT, since=None, limit=2, reverse=True)
    older = await broker.history(
        channel, KEPT, since=StreamPosition(3, newest.top.epoch), limit=5, reverse=True
    )

    assert [kept.offset for kept in newest.publications] == [5, 4], "the newest come first"
    assert [kept.offset for kept in older.publications] == [2, 1], "the position is left out"


BROKER_GUARANTEES: tuple[BrokerCheck, ...] = (
    check_order_with_history,
    check_order_without_history,
    check_position_is_the_publications_own,
    check_epoch_is_stable,
    check_epochs_differ,
    check_history_before_delivery,
    check_own_publications_once,
    check_unsubscribe,
    check_history_size,
    check_history_ttl,
    check_history_since_and_limit,
    check_recovery,
    check_remove_history,
    check_history_reverse,
    check_skip_history,
    check_idempotency_key,
    check_version,
    check_negative_limit,
    check_payload_is_untouched,
    check_fields_travel,
    check_memberships,
    check_control,
    check_answers,
    check_close,
)
"""Every guarantee of a broker; the last one closes it."""


async def check_broker(create: Callable[[], Broker]) -> None:
    """Hold a broker against every guarantee of its interface.

    Args:
        create: Gives a broker that is not started; called once per guarantee.

    Raises:
        AssertionError: A guarantee does not hold.
    """
    for guarantee in BROKER_GUARANTEES:
        broker, listener = create(), RecordingListener()
        await broker.start(listener)
        try:
            await guarantee(broker, listener)
        finally:
            await broker.aclose()


async def check_members(store: PresenceStore) -> None:
    """Who was added is there, once, until removed; removing is idempotent."""
    channel = fresh_channel()
    ann, bob = ClientInfo("1", "ann"), ClientInfo("2", "bob")
    for info in (ann, bob, ann):
        await store.add(channel, info, ttl_seconds=60)
    both = await store.members(channel)
    await store.remove(channel, "1")
    await store.remove(channel, "1")
    assert both == {"1": ann, "2": bob}
    assert await store.members(channel) == {"2": bob}


async def check_nobody(store: PresenceStore) -> None:
    """A channel that nobody entered is empty."""
    assert await store.members(fresh_channel()) == {}


async def check_lease(store: PresenceStore) -> None:
    """An entry that is not renewed is gone after its lease."""
    channel = fresh_channel()
    await store.add(channel, ClientInfo("1", "ann"), ttl_seconds=0.05)
    async with asyncio.timeout(DELIVERY_SECONDS_MAX):
        while await store.members(channel):  # noqa: ASYNC110 - a store tells nobody
            await asyncio.sleep(0.01)


PresenceCheck = Callable[[PresenceStore], Awaitable[None]]

PRESENCE_GUARANTEES: tuple[PresenceCheck, ...] = (check_members, check_nobody, check_lease)
"""Every guarantee of a presence store."""


async def check_presence_store(create: Callable[[], PresenceStore]) -> None:
    """Hold a presence store against every guarantee of its interface.

    Args:
        create: Gives a store; called once per guarantee.

    Raises:
        AssertionError: A guarantee does not hold.
    """
    for guarantee in PRESENCE_GUARANTEES:
        store = create()
        await store.start()
        try:
            await guarantee(store)
        finally:
            await store.aclose()
