"""The map of channels to subscribers, and the tick."""

from __future__ import annotations

import json

import pytest

from tests.unit.fakes import FakeSubscriber
from wirebell.hub import Hub
from wirebell.model import ClientInfo, Membership, Publication, StreamPosition
from wirebell.protocol.encoding import ChannelEncoding
from wirebell.protocol.json import JSON
from wirebell.protocol.text import TEXT

JOIN = Membership(ClientInfo("1", "ann"), joined=True)


def at(offset: int, epoch: str = "e") -> Publication:
    """Make a publication that says its offset."""
    return Publication(b"%d" % offset, offset=offset, epoch=epoch)


@pytest.fixture
def hub() -> Hub:
    """A hub that holds three items for one subscriber."""
    return Hub(held_items_max=3, backlog_bytes_max=1_000)


def test_first_and_last(hub: Hub) -> None:
    """The channel's first subscriber and its last are told apart from the others."""
    one, two = FakeSubscriber(), FakeSubscriber()

    firsts = [hub.subscribe("a", one), hub.subscribe("a", two, catch_up=True)]
    count = hub.subscriber_count("a")
    lasts = [hub.unsubscribe("a", one), hub.unsubscribe("a", two), hub.unsubscribe("a", two)]

    assert ([True, False], 2, [False, True, False]) == (firsts, count, lasts)


def test_nothing_is_left_behind(hub: Hub) -> None:
    """A channel without subscribers has no entry, and what waited for it is gone."""
    one = FakeSubscriber()
    hub.subscribe("a", one)
    hub.enqueue("a", at(1))

    hub.unsubscribe("a", one)

    assert ({}, {}, {}) == (hub.live, hub.catching_up, hub.pending)
    assert (0, False, False) == (
        hub.channel_count,
        hub.has_subscribers("a"),
        hub.is_subscribed("a", one),
    )


def test_channel_count(hub: Hub) -> None:
    """A channel counts once, whoever is in it and however."""
    hub.subscribe("a", FakeSubscriber())
    hub.subscribe("a", FakeSubscriber(), catch_up=True)
    hub.subscribe("b", FakeSubscriber(), catch_up=True)

    assert hub.channel_count == 2


def test_subscribe_twice(hub: Hub) -> None:
    """Subscribing again is a bug, and is found."""
    one = FakeSubscriber()
    hub.subscribe("a", one)

    with pytest.raises(AssertionError):
        hub.subscribe("a", one)


def test_tick(hub: Hub) -> None:
    """A tick's items arrive in one write, in order; subscribers share the frames."""
    one, two, other = FakeSubscriber(), FakeSubscriber(), FakeSubscriber()
    for channel, subscriber in (("a", one), ("a", two), ("b", other)):
        hub.subscribe(channel, subscriber)

    hub.enqueue("a", at(1))
    hub.enqueue("a", at(2))
    hub.enqueue("b", at(3))
    overflowed = hub.flush()

    assert [] == overflowed
    assert (["1", "2"], ["1", "2"], ["3"]) == (one.messages, two.messages, other.messages)
    assert one.written[0] is two.written[0]
    assert hub.delivered_count == 5


def test_flush_twice(hub: Hub) -> None:
    """What was flushed is not flushed again, and the next item begins a tick."""
    one = FakeSubscriber()
    hub.subscribe("a", one)
    hub.enqueue("a", at(1))
    hub.flush()

    hub.flush()
    before = list(hub.pending)
    hub.enqueue("a", at(2))

    assert (["1"], [], ["a"]) == (one.messages, before, list(hub.pending))


def test_channel_without_subscribers(hub: Hub) -> None:
    """An item for nobody is left out and begins no tick."""
    hub.enqueue("a", at(1))

    assert ({}, 0) == (hub.pending, hub.pending_bytes)


def test_silent_items(hub: Hub) -> None:
    """Where the encoding has no words nothing is written."""
    one, two = FakeSubscriber(), FakeSubscriber()
    hub.subscribe("a", one)
    hub.subscribe("a", two, catch_up=True)
    hub.release("a", two, StreamPosition(0, "e"))
    hub.enqueue("a", JOIN)

    hub.flush()

    assert ([], []) == (one.written, two.written)


def test_overflow(hub: Hub) -> None:
    """A subscriber over its limit is reported, live or catching up; others are served."""
    slow, late, quick = FakeSubscriber(writes_max=0), FakeSubscriber(writes_max=0), FakeSubscriber()
    hub.subscribe("a", slow)
    hub.subscribe("a", late, catch_up=True)
    hub.subscribe("a", quick)
    hub.release("a", late, StreamPosition(0, "e"))
    hub.enqueue("a", at(1))

    overflowed = hub.flush()

    assert [slow, late] == overflowed
    assert ["1"] == quick.messages


def test_overflow_of_the_frequent_tick(hub: Hub) -> None:
    """Also where a tick is one channel alone who is over its limit is reported, and only it."""
    slow, quick = FakeSubscriber(writes_max=0), FakeSubscriber()
    hub.subscribe("a", slow)
    hub.subscribe("a", quick)
    hub.enqueue("a", at(1))

    assert [slow] == hub.flush()
    assert ["1"] == quick.messages


def test_unsubscribe_before_flush(hub: Hub) -> None:
    """Who left before the tick's end gets nothing of it; who stays does."""
    gone, stays = FakeSubscriber(), FakeSubscriber()
    hub.subscribe("a", gone)
    hub.subscribe("a", stays)
    hub.enqueue("a", at(1))

    hub.unsubscribe("a", gone)
    hub.flush()

    assert ([], ["1"]) == (gone.messages, stays.messages)


def test_held_until_released(hub: Hub) -> None:
    """A subscriber that reads history gets what came meanwhile, without what history had."""
    one = FakeSubscriber()
    hub.subscribe("a", one, catch_up=True)
    for offset in (1, 2, 3):
        hub.enqueue("a", at(offset))
        hub.flush()

    held = hub.release("a", one, StreamPosition(2, "e"))

    assert (("3",), []) == (held.messages, one.messages)


def test_release_within_a_tick(hub: Hub) -> None:
    """Items of the tick in which it is released follow once, without duplicates."""
    one = FakeSubscriber()
    hub.subscribe("a", one, catch_up=True)
    hub.enqueue("a", at(1))
    hub.enqueue("a", at(2))

    held = hub.release("a", one, StreamPosition(1, "e"))
    hub.flush()

    assert ((), ["2"]) == (held.messages, one.messages)


def test_becomes_live(hub: Hub) -> None:
    """Once the channel has passed what history delivered, the subscriber is like the others."""
    one = FakeSubscriber()
    hub.subscribe("a", one, catch_up=True)
    hub.release("a", one, StreamPosition(2, "e"))

    for offset in (1, 2, 3, 4):
        hub.enqueue("a", at(offset))
        hub.flush()

    assert ["3", "4"] == one.messages
    assert ({}, {one: TEXT}) == (hub.catching_up, hub.live["a"])
    assert hub.delivered_count == 2


def test_join_proves_nothing(hub: Hub) -> None:
    """A join does not show how far the channel is: old publications after it are left out."""
    one = FakeSubscriber()
    hub.subscribe("a", one, catch_up=True)
    hub.release("a", one, StreamPosition(2, "e"))
    hub.enqueue("a", JOIN)
    hub.flush()

    hub.enqueue("a", at(2))
    hub.flush()

    assert [] == one.messages
    assert "a" in hub.catching_up


def test_what_has_no_place_proves_nothing(hub: Hub) -> None:
    """Neither does a publication that history does not keep."""
    one = FakeSubscriber()
    hub.subscribe("a", one, catch_up=True)
    hub.release("a", one, StreamPosition(2, "e"))

    for item in (Publication(b"unkept"), at(2), at(3)):
        hub.enqueue("a", item)
        hub.flush()

    assert ["unkept", "3"] == one.messages
    assert "a" not in hub.catching_up


def test_another_epoch_is_new(hub: Hub) -> None:
    """Offsets of another epoch are not compared: the item is new."""
    one = FakeSubscriber()
    hub.subscribe("a", one, catch_up=True)
    hub.release("a", one, StreamPosition(9, "e"))

    hub.enqueue("a", at(1, "next"))
    hub.flush()

    assert ["1"] == one.messages


def test_held_joins_are_released(hub: Hub) -> None:
    """Joins and leaves that came meanwhile are handed out, whatever the position."""
    one = FakeSubscriber(encoding=ChannelEncoding(JSON))
    hub.subscribe("a", one, catch_up=True)
    hub.enqueue("a", JOIN)
    hub.enqueue("a", at(1))
    hub.flush()

    (message,) = hub.release("a", one, StreamPosition(1, "e")).messages

    assert "join" in json.loads(message)["push"]


def test_holding_is_bounded(hub: Hub) -> None:
    """One item more than may be held is an overflow, and frees what was held."""
    one = FakeSubscriber()
    hub.subscribe("a", one, catch_up=True)
    for offset in (1, 2, 3):
        hub.enqueue("a", at(offset))
    before = hub.flush()

    hub.enqueue("a", at(4))
    after = hub.flush()

    assert ([], [one]) == (before, after)
    assert [] == hub.catching_up["a"][one].held


def test_history_for_somebody_gone(hub: Hub) -> None:
    """What history answers to somebody who has left meanwhile is not kept."""
    hub.know_top("a", StreamPosition(3, "e"), at(3))

    assert ({}, {}) == (hub.tops, hub.bases)


def test_encodings_take_turns(hub: Hub) -> None:
    """Subscribers share the frames of their encoding, whoever stands between them."""
    plain = ChannelEncoding(JSON)
    subscribers = [FakeSubscriber(encoding=encoding) for encoding in (TEXT, plain, TEXT, plain)]
    for subscriber in subscribers:
        hub.subscribe("a", subscriber)
    hub.enqueue("a", at(1))

    hub.flush()

    assert subscribers[0].written[0] is subscribers[2].written[0]
    assert subscribers[1].written[0] is subscribers[3].written[0]


def test_unsubscribe_while_catching_up(hub: Hub) -> None:
    """Leaving before history was read leaves nothing behind, and others stay."""
    one, two = FakeSubscriber(), FakeSubscriber()
    hub.subscribe("a", one, catch_up=True)
    hub.subscribe("a", two, catch_up=True)

    lasts = [hub.unsubscribe("a", one), hub.unsubscribe("a", two)]

    assert ([False, True], {}) == (lasts, hub.catching_up)
