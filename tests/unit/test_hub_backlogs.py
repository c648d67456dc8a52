"""The hub's channels that may drop: what waits for subscribers that do not read."""

from __future__ import annotations

import pytest

from tests.unit.fakes import FakeSubscriber
from wirebell.hub import Hub
from wirebell.model import (
    ClientInfo,
    Frames,
    Membership,
    Overflow,
    Publication,
    StreamPosition,
)

POLICIES = {"d": Overflow.DROP_OLDEST, "k": Overflow.KEEP_LATEST}
JOIN = Membership(ClientInfo("1", "ann"), joined=True)


def at(offset: int, key: str = "") -> Publication:
    """Make a publication that says its offset; one digit, so that each counts 65 bytes."""
    return Publication(b"%d" % offset, offset=offset, epoch="e", key=key)


def join(hub: Hub, subscriber: FakeSubscriber, *channels: str, catch_up: bool = False) -> None:
    """Subscribe somebody, as the engine does."""
    for channel in channels:
        subscriber.channels[channel] = True
        hub.subscribe(channel, subscriber, catch_up=catch_up)


def leave(hub: Hub, subscriber: FakeSubscriber, channel: str) -> None:
    """Unsubscribe somebody, as the engine does."""
    del subscriber.channels[channel]
    hub.unsubscribe(channel, subscriber)


def tick(hub: Hub, channel: str, *items: Publication | Membership) -> None:
    """Have items happen in one tick."""
    for item in items:
        hub.enqueue(channel, item)
    assert [] == hub.flush()


@pytest.fixture
def hub() -> Hub:
    """A hub whose channels drop by the first letter of their name, three items at most."""
    return Hub(
        held_items_max=100,
        backlog_bytes_max=3 * 65,
        overflow_for=lambda channel: POLICIES.get(channel[0], Overflow.DISCONNECT),
    )


@pytest.fixture
def slow() -> FakeSubscriber:
    """A subscriber that does not read."""
    subscriber = FakeSubscriber()
    subscriber.is_writable = False
    return subscriber


def resume(hub: Hub, subscriber: FakeSubscriber) -> bool:
    """Have a subscriber read again."""
    subscriber.is_writable = True
    return hub.resume(subscriber)


def test_who_reads_gets_everything(hub: Hub) -> None:
    """In a channel that may drop nothing is dropped for subscribers that read."""
    one, two = FakeSubscriber(), FakeSubscriber()
    join(hub, one, "d", "k")
    join(hub, two, "d")

    tick(hub, "d", at(1), at(2))
    tick(hub, "k", at(3), at(4))

    assert (["1", "2", "3", "4"], ["1", "2"]) == (one.messages, two.messages)
    assert one.written[0] is two.written[0]
    assert (6, {}, {}) == (hub.delivered_count, hub.dropped_counts, hub.backlogs)


def test_who_does_not_read_waits(hub: Hub, slow: FakeSubscriber) -> None:
    """Items wait for a slow subscriber, and go out in one write when it reads again."""
    quick = FakeSubscriber()
    join(hub, slow, "d")
    join(hub, quick, "d")
    tick(hub, "d", at(1))
    tick(hub, "d", at(2))
    before = (list(slow.written), hub.delivered_count)

    taken = resume(hub, slow)

    assert (([], 2), True) == (before, taken)
    assert [("1", "2")] == [frames.messages for frames in slow.written]
    assert (["1", "2"], 4, {}) == (quick.messages, hub.delivered_count, hub.backlogs)


def test_oldest_is_dropped(hub: Hub, slow: FakeSubscriber) -> None:
    """Past the bound the oldest goes, and is counted by the channel's policy."""
    join(hub, slow, "d")

    tick(hub, "d", *(at(offset) for offset in range(1, 6)))
    resume(hub, slow)

    assert ["3", "4", "5"] == slow.messages
    assert {Overflow.DROP_OLDEST: 2} == {k: n for k, n in hub.dropped_counts.items() if n}


def test_latest_is_kept(hub: Hub, slow: FakeSubscriber) -> None:
    """Of each key the newest waits, the others are counted as dropped."""
    join(hub, slow, "k")

    tick(hub, "k", at(1, "x"), at(2, "y"), at(3, "x"))
    tick(hub, "k", at(4, "x"))
    resume(hub, slow)

    assert ["2", "4"] == slow.messages
    assert {Overflow.KEEP_LATEST: 2} == dict(hub.dropped_counts)


def test_nothing_passes_a_backlog(hub: Hub, slow: FakeSubscriber) -> None:
    """Who reads again but was not yet told gets nothing ahead of what waits for it."""
    join(hub, slow, "d")
    tick(hub, "d", at(1))

    slow.is_writable = True
    tick(hub, "d", at(2))
    before = slow.messages
    hub.resume(slow)
    tick(hub, "d", at(3))

    assert ([], ["1", "2", "3"]) == (before, slow.messages)


def test_other_channels_go_on(hub: Hub, slow: FakeSubscriber) -> None:
    """A channel that may not drop is written all the same: the transport bounds it."""
    join(hub, slow, "a", "d")

    hub.enqueue("a", at(1))
    hub.enqueue("d", at(2))
    hub.flush()
    tick(hub, "a", at(3))

    assert ["1", "3"] == slow.messages
    assert [("d", [at(2)])] == hub.backlogs[slow].runs()


def test_replies_pass_a_backlog(hub: Hub, slow: FakeSubscriber) -> None:
    """A reply is not kept back by what waits in a channel that may drop."""
    join(hub, slow, "d")
    hub.enqueue("d", at(1))

    hub.reply(slow, Frames.from_text("r"))
    hub.enqueue("d", at(2))
    hub.flush()

    assert (["r"], [("d", [at(1), at(2)])]) == (slow.messages, hub.backlogs[slow].runs())


def test_replies_to_who_reads(hub: Hub) -> None:
    """For who keeps up a reply has its place in a channel that may drop, too."""
    one = FakeSubscriber()
    join(hub, one, "d")
    hub.enqueue("d", at(1))

    hub.reply(one, Frames.from_text("r"))
    hub.enqueue("d", at(2))
    hub.flush()

    assert [("1", "r", "2")] == [frames.messages for frames in one.written]


def test_stuck_within_a_tick(hub: Hub) -> None:
    """Who stops reading between a reply and the tick's end has its items wait."""
    one = FakeSubscriber()
    join(hub, one, "d")
    hub.enqueue("d", at(1))
    hub.reply(one, Frames.from_text("r"))

    one.is_writable = False
    hub.enqueue("d", at(2))
    hub.flush()
    waiting = [item for _, run in hub.backlogs[one].runs() for item in run]

    assert at(2) in waiting
    assert 1 == one.messages.count("1") + waiting.count(at(1))


def test_channels_share_a_backlog(hub: Hub, slow: FakeSubscriber) -> None:
    """What waits in several channels goes out in the order in which it came."""
    join(hub, slow, "d", "d2")
    tick(hub, "d", at(1))
    tick(hub, "d2", at(2))
    tick(hub, "d", at(3))

    resume(hub, slow)

    assert [("1", "2", "3")] == [frames.messages for frames in slow.written]


def test_resume_without_a_backlog(hub: Hub, slow: FakeSubscriber) -> None:
    """Who has nothing waiting is written nothing."""
    assert resume(hub, slow)
    assert [] == slow.written


def test_resume_into_a_full_transport(hub: Hub) -> None:
    """Who is over its limit with what waited is told apart."""
    stuck = FakeSubscriber(writes_max=0)
    stuck.is_writable = False
    join(hub, stuck, "d")
    tick(hub, "d", at(1))

    assert not resume(hub, stuck)


def test_resume_with_nothing_to_say(hub: Hub, slow: FakeSubscriber) -> None:
    """Where the encoding has no words for what waited nothing is written."""
    join(hub, slow, "d")
    tick(hub, "d", JOIN)

    resume(hub, slow)

    assert [] == slow.written


def test_forget(hub: Hub, slow: FakeSubscriber) -> None:
    """What waited for somebody gone is dropped."""
    join(hub, slow, "d")
    tick(hub, "d", at(1))

    hub.forget(slow)

    assert {} == hub.backlogs


def test_leaving_a_channel(hub: Hub, slow: FakeSubscriber) -> None:
    """Who leaves a channel gets nothing more of it, what waited neither; the rest stays."""
    join(hub, slow, "d", "k")
    tick(hub, "d", at(1))
    tick(hub, "k", at(2))

    leave(hub, slow, "d")
    resume(hub, slow)

    assert ["2"] == slow.messages


def test_coming_back_to_a_channel(hub: Hub, slow: FakeSubscriber) -> None:
    """Who comes back by history gets each item once, in order."""
    join(hub, slow, "d")
    tick(hub, "d", at(1))
    leave(hub, slow, "d")

    join(hub, slow, "d", catch_up=True)
    # History delivers 1.
    hub.release("d", slow, StreamPosition(1, "e"))
    tick(hub, "d", at(2))
    resume(hub, slow)

    assert ["2"] == slow.messages


def test_catching_up_past_a_stuck_transport(hub: Hub, slow: FakeSubscriber) -> None:
    """Who has read history and does not read now has items wait as well."""
    join(hub, slow, "d", catch_up=True)
    hub.release("d", slow, StreamPosition(1, "e"))

    tick(hub, "d", at(2))
    tick(hub, "d", at(3))
    before = slow.messages
    resume(hub, slow)

    assert ([], ["2", "3"]) == (before, slow.messages)
