"""The hub's tick with replies: one write for each subscriber, everything in its place."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.unit.fakes import FakeSubscriber
from wirebell.hub import Hub
from wirebell.model import (
    ChannelItem,
    ClientInfo,
    Frames,
    Membership,
    Publication,
    StreamPosition,
)
from wirebell.protocol.text import TEXT, TextEncoding

JOIN = Membership(ClientInfo("1", "ann"), joined=True)


class Counting(TextEncoding):
    """An encoding that counts how often it is asked."""

    def __init__(self) -> None:
        self.count = 0

    def join(
        self, channel: str, items: Sequence[ChannelItem], base: Publication | None = None
    ) -> Frames:
        """Encode, and count."""
        self.count += 1
        return super().join(channel, items, base)


def at(offset: int) -> Publication:
    """Make a publication that says its offset."""
    return Publication(b"%d" % offset, offset=offset, epoch="e")


def text(words: str) -> Frames:
    """Make a reply."""
    return Frames.from_text(words)


def join(hub: Hub, subscriber: FakeSubscriber, *channels: str, catch_up: bool = False) -> None:
    """Subscribe somebody, as the engine does."""
    for channel in channels:
        subscriber.channels[channel] = True
        hub.subscribe(channel, subscriber, catch_up=catch_up)


def leave(hub: Hub, subscriber: FakeSubscriber, channel: str) -> None:
    """Unsubscribe somebody, as the engine does."""
    del subscriber.channels[channel]
    hub.unsubscribe(channel, subscriber)


@pytest.fixture
def hub() -> Hub:
    """A hub."""
    return Hub(held_items_max=100, backlog_bytes_max=1_000)


def test_reply_alone(hub: Hub) -> None:
    """A reply is written at the tick's end, as the object that was given."""
    one, reply = FakeSubscriber(), text("r")

    hub.reply(one, reply)
    before = list(one.written)
    overflowed = hub.flush()

    assert ([], [], {}) == (before, overflowed, hub.replies)
    assert one.written[0] is reply


def test_replies_keep_their_order(hub: Hub) -> None:
    """Several replies go in one write, in order."""
    one = FakeSubscriber()

    for words in "abc":
        hub.reply(one, text(words))
    hub.flush()

    assert [("a", "b", "c")] == [frames.messages for frames in one.written]


def test_reply_between_items(hub: Hub) -> None:
    """A reply stands behind what came before it and ahead of the rest, in one write."""
    one, other = FakeSubscriber(), FakeSubscriber()
    join(hub, one, "a")
    join(hub, other, "a")

    hub.enqueue("a", at(1))
    hub.reply(one, text("r"))
    hub.enqueue("a", at(2))
    hub.reply(one, text("s"))
    hub.flush()

    assert [("1", "r", "2", "s")] == [frames.messages for frames in one.written]
    assert [("1", "2")] == [frames.messages for frames in other.written]
    assert 4 == hub.delivered_count


def test_reply_among_channels(hub: Hub) -> None:
    """The place of a reply is kept in every channel."""
    one = FakeSubscriber()
    join(hub, one, "a", "b", "c")

    hub.enqueue("a", at(1))
    hub.enqueue("b", at(2))
    hub.reply(one, text("r"))
    hub.enqueue("b", at(3))
    hub.enqueue("c", at(4))
    hub.flush()

    assert (["1", "2", "r", "3", "4"], 1) == (one.messages, len(one.written))


def test_reply_ahead(hub: Hub) -> None:
    """A reply that goes ahead is in front of the tick's items, behind earlier replies."""
    one = FakeSubscriber()
    join(hub, one, "a")
    hub.enqueue("a", at(1))

    hub.reply(one, text("r"), is_ahead=True)
    hub.reply(one, text("s"))
    hub.flush()

    assert ["r", "1", "s"] == one.messages


def test_silent_reply(hub: Hub) -> None:
    """Frames without a message are not written."""
    one = FakeSubscriber()

    hub.reply(one, Frames((), 0))
    hub.flush()

    assert [] == one.written


def test_replies_to_others(hub: Hub) -> None:
    """Who got no reply shares the channel's frames, and who did shares the parts."""
    encoding = Counting()
    replied, quiet, also = (FakeSubscriber(encoding=encoding) for _ in range(3))
    for subscriber in (replied, quiet, also):
        join(hub, subscriber, "a")
    hub.enqueue("a", at(1))

    hub.reply(replied, text("r"))
    hub.flush()

    assert 1 == encoding.count
    assert quiet.written[0] is also.written[0]
    assert replied.written[0].parts[0] is quiet.written[0]


def test_encodings_are_kept_apart(hub: Hub) -> None:
    """Each encoding is asked once for a run, whoever stands between its subscribers."""
    one, two = Counting(), Counting()
    subscribers = [FakeSubscriber(encoding=encoding) for encoding in (one, two, one, TEXT)]
    for subscriber in subscribers:
        join(hub, subscriber, "a", "b")

    hub.enqueue("a", at(1))
    hub.enqueue("b", at(2))
    hub.flush()

    assert (2, 2) == (one.count, two.count)
    assert [["1", "2"]] * 4 == [subscriber.messages for subscriber in subscribers]


def test_overflow_of_a_reply(hub: Hub) -> None:
    """A subscriber over its limit is reported once, whatever it had waiting."""
    slow = FakeSubscriber(writes_max=0)
    join(hub, slow, "a", "b")
    hub.enqueue("a", at(1))
    hub.enqueue("b", at(1))

    hub.reply(slow, text("r"))

    assert [slow] == hub.flush()


def test_reply_while_catching_up(hub: Hub) -> None:
    """Items held for a subscriber do not keep its replies back."""
    one = FakeSubscriber()
    join(hub, one, "a", catch_up=True)
    hub.enqueue("a", at(1))

    hub.reply(one, text("r"))
    hub.flush()

    assert (["r"], [at(1)]) == (one.messages, hub.catching_up["a"][one].held)


def test_reply_after_history(hub: Hub) -> None:
    """For who has just read history a reply keeps its place between new items, too."""
    one = FakeSubscriber()
    join(hub, one, "a", catch_up=True)
    hub.release("a", one, StreamPosition(1, "e"))
    hub.enqueue("a", at(2))

    hub.reply(one, text("r"))
    hub.enqueue("a", at(3))
    hub.flush()

    assert ["2", "r", "3"] == one.messages


def test_released_ahead_of_the_tick(hub: Hub) -> None:
    """What was held goes ahead of this tick's items, once each."""
    one = FakeSubscriber()
    join(hub, one, "a", catch_up=True)
    hub.enqueue("a", at(1))
    hub.flush()
    hub.enqueue("a", at(2))

    held = hub.release("a", one, None)
    hub.reply(one, held, is_ahead=True)
    hub.enqueue("a", at(3))
    hub.flush()

    assert [("1", "2", "3")] == [frames.messages for frames in one.written]


def test_a_storm_that_comes_back_shares_frames(hub: Hub) -> None:
    """Subscribers that read history up to the same position share what follows it."""
    encoding = Counting()
    subscribers = [FakeSubscriber(encoding=encoding) for _ in range(5)]
    for subscriber in subscribers:
        join(hub, subscriber, "a", catch_up=True)
        hub.release("a", subscriber, StreamPosition(1, "e"))
    hub.enqueue("a", at(1))
    hub.enqueue("a", at(2))

    hub.flush()

    assert 1 == encoding.count
    assert [["2"]] * 5 == [subscriber.messages for subscriber in subscribers]


def test_leaving_after_a_reply(hub: Hub) -> None:
    """Who left a channel within the tick gets its replies, and nothing that came later there."""
    gone, stays = FakeSubscriber(), FakeSubscriber()
    join(hub, gone, "a")
    hub.enqueue("a", at(1))
    hub.reply(gone, text("r"))

    leave(hub, gone, "a")
    join(hub, stays, "a")
    hub.enqueue("a", at(2))
    hub.flush()

    assert "2" not in gone.messages
    assert "r" in gone.messages
    assert (["2"], 1) == (stays.messages, hub.delivered_count)


def test_leaving_after_a_reply_while_others_stay(hub: Hub) -> None:
    """A reply changes nothing about leaving: nothing of the channel follows."""
    gone, stays = FakeSubscriber(), FakeSubscriber()
    join(hub, gone, "a")
    join(hub, stays, "a")
    hub.enqueue("a", at(1))
    hub.reply(gone, text("r"))

    leave(hub, gone, "a")
    hub.flush()

    assert (["r"], ["1"]) == (gone.messages, stays.messages)


def test_last_one_leaves_after_a_reply(hub: Hub) -> None:
    """Of a channel that nobody has any more nothing is sent; the reply is."""
    one = FakeSubscriber()
    join(hub, one, "a")
    hub.enqueue("a", at(1))
    hub.reply(one, text("r"))

    leave(hub, one, "a")
    hub.flush()

    assert ["r"] == one.messages


def test_coming_back_within_a_tick(hub: Hub) -> None:
    """Who leaves and comes back between two items gets what comes afterwards."""
    one = FakeSubscriber()
    join(hub, one, "a")
    for offset in (1, 2, 3):
        hub.enqueue("a", at(offset))
    hub.reply(one, text("r"))

    leave(hub, one, "a")
    join(hub, one, "a")
    hub.enqueue("a", at(4))
    hub.reply(one, text("s"))
    hub.flush()

    assert ["r", "4", "s"] == one.messages


def test_forget(hub: Hub) -> None:
    """What waits for somebody gone is dropped, and can be dropped again."""
    one = FakeSubscriber()
    hub.reply(one, text("r"))

    hub.forget(one)
    hub.forget(one)
    hub.flush()

    assert ([], {}) == (one.written, hub.replies)


def test_take(hub: Hub) -> None:
    """Who is about to be closed gets what waits at once, in order; the others get theirs later."""
    one, other = FakeSubscriber(), FakeSubscriber()
    for subscriber in (one, other):
        join(hub, subscriber, "a", "b")
    hub.enqueue("a", at(1))
    hub.reply(one, text("r"))
    hub.enqueue("a", at(2))

    taken = hub.take(one)

    assert taken is not None
    assert ("1", "r", "2") == taken.messages
    assert {} == hub.replies
    hub.flush()
    assert ["1", "2"] == other.messages


def test_take_counts_once(hub: Hub) -> None:
    """What was taken out is delivered once, though its subscriber is still there."""
    one = FakeSubscriber()
    join(hub, one, "a")
    hub.enqueue("a", at(1))

    taken = hub.take(one)
    hub.flush()

    assert taken is not None
    assert (["1"], 1) == ([*taken.messages, *one.messages], hub.delivered_count)


def test_take_nothing(hub: Hub) -> None:
    """Where nothing waits nothing is taken."""
    assert hub.take(FakeSubscriber()) is None


def test_pending_bytes(hub: Hub) -> None:
    """The tick's payload is counted, 64 bytes for a join, until it ends."""
    one = FakeSubscriber()
    join(hub, one, "a")
    hub.enqueue("a", Publication(b"x" * 10))
    hub.enqueue("a", JOIN)
    hub.enqueue("nobody", Publication(b"x"))
    counted = hub.pending_bytes

    hub.flush()

    assert (74, 0) == (counted, hub.pending_bytes)


def test_pending_bytes_of_who_left(hub: Hub) -> None:
    """What waited for a channel without subscribers is not counted any more."""
    one = FakeSubscriber()
    join(hub, one, "a")
    hub.enqueue("a", Publication(b"x" * 10))

    leave(hub, one, "a")

    assert 0 == hub.pending_bytes


def test_one_channel_and_one_reply(hub: Hub) -> None:
    """The only subscriber of its only channel gets items and reply in one write, and in order."""
    one = FakeSubscriber()
    join(hub, one, "a")
    hub.enqueue("a", at(1))
    hub.reply(one, text("r"))

    assert [] == hub.flush()
    assert [("1", "r")] == [frames.messages for frames in one.written]
    assert (2, 1) == (one.written[0].byte_count, hub.delivered_count)


def test_overflow_of_one_channel_and_one_reply(hub: Hub) -> None:
    """It is reported when it is over its limit."""
    slow = FakeSubscriber(writes_max=0)
    join(hub, slow, "a")
    hub.enqueue("a", at(1))
    hub.reply(slow, text("r"))

    assert [slow] == hub.flush()


def test_one_reply_beside_another_that_catches_up(hub: Hub) -> None:
    """Who reads history in the same channel has its items held all the same."""
    one, late = FakeSubscriber(), FakeSubscriber()
    join(hub, one, "a")
    join(hub, late, "a", catch_up=True)
    hub.enqueue("a", at(1))
    hub.reply(one, text("r"))
    hub.flush()

    assert (["1", "r"], [at(1)]) == (one.messages, hub.catching_up["a"][late].held)


def test_one_reply_to_who_is_left_out(hub: Hub) -> None:
    """Who is left out of the publication gets its reply alone."""
    one = FakeSubscriber(client_id="one")
    join(hub, one, "a")
    hub.enqueue("a", Publication(b"1", exclude="one"))
    hub.reply(one, text("r"))
    hub.flush()

    assert (["r"], 0) == (one.messages, hub.delivered_count)


def test_bytes_that_wait() -> None:
    """What one subscriber alone is sent is counted until the tick ends, without channels."""
    hub, one = Hub(held_items_max=3, backlog_bytes_max=10_000), FakeSubscriber()
    join(hub, one, "a")
    hub.enqueue("a", at(1))
    before = hub.reply_bytes(one)
    hub.reply(one, text("12345"))
    hub.reply(one, text("678"))
    waiting = hub.reply_bytes(one)
    hub.flush()

    assert (0, 8, 0) == (before, waiting, hub.reply_bytes(one))
