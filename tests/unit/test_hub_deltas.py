"""The hub with subscribers that take patches: against which publication each is made."""

from __future__ import annotations

import json

import pytest

from tests.unit.fakes import FakeSubscriber
from wirebell.hub import Hub
from wirebell.model import (
    ClientInfo,
    Frames,
    Membership,
    PayloadFormat,
    Publication,
    StreamPosition,
)
from wirebell.protocol.delta import apply_delta
from wirebell.protocol.encoding import ChannelEncoding, Delta
from wirebell.protocol.filters import Filter
from wirebell.protocol.json import JSON
from wirebell.protocol.messages import FilterNode

PLAIN = ChannelEncoding(JSON)
FRESH = ChannelEncoding(JSON, delta=Delta.FRESH)
PATCH = FRESH.settled
LONG = "Lorem ipsum dolor sit amet, consectetur adipiscing elit. " * 3


def document(offset: int) -> bytes:
    """Make a payload in which little changes."""
    return json.dumps({"text": LONG, "number": offset}).encode()


def at(offset: int, epoch: str = "e", exclude: str = "") -> Publication:
    """Make a publication that may travel as a patch."""
    return Publication(
        document(offset), PayloadFormat.JSON, offset, epoch, has_delta=True, exclude=exclude
    )


def pushed(subscriber: FakeSubscriber) -> list[tuple[int, str]]:
    """Return what somebody got: offset, and ``full`` or ``patch``."""
    lines = "\n".join(subscriber.messages).splitlines()
    bodies = [json.loads(line)["push"]["pub"] for line in lines if line.startswith("{")]
    return [(body.get("offset", 0), "patch" if body.get("delta") else "full") for body in bodies]


def read(subscriber: FakeSubscriber, base: bytes | None = None) -> list[bytes]:
    """Return the documents that somebody ends up with."""
    found = []
    for line in "\n".join(subscriber.messages).splitlines():
        body = json.loads(line)["push"]["pub"]
        if body.get("delta"):
            assert base is not None
            base = apply_delta(base, body["data"].encode())
        else:
            base = body["data"].encode()
        found.append(base)
    return found


def tick(hub: Hub, *items: Publication | Membership) -> None:
    """Have items happen in one tick."""
    for item in items:
        hub.enqueue("a", item)
    assert [] == hub.flush()


def join(hub: Hub, encoding: ChannelEncoding = FRESH, client_id: str = "one") -> FakeSubscriber:
    """Subscribe somebody, live at once."""
    subscriber = FakeSubscriber(client_id=client_id)
    subscriber.channels["a"] = True
    hub.subscribe("a", subscriber, encoding)
    return subscriber


def recover(hub: Hub, position: StreamPosition, client_id: str = "one") -> FakeSubscriber:
    """Subscribe somebody who has the publication at a position."""
    subscriber = FakeSubscriber(client_id=client_id)
    subscriber.channels["a"] = True
    hub.subscribe("a", subscriber, FRESH, catch_up=True)
    hub.know_top("a", position, at(position.offset, position.epoch))
    hub.recode("a", subscriber, PATCH)
    assert () == hub.release("a", subscriber, position).messages
    return subscriber


@pytest.fixture
def hub() -> Hub:
    """A hub."""
    return Hub(held_items_max=100, backlog_bytes_max=10_000)


def test_first_in_full(hub: Hub) -> None:
    """The first publication of a subscription is full, each next a patch, across ticks."""
    one = join(hub)

    tick(hub, at(1), at(2))
    tick(hub, at(3))

    assert [(1, "full"), (2, "patch"), (3, "patch")] == pushed(one)
    assert [document(1), document(2), document(3)] == read(one)
    assert PATCH is hub.live["a"][one]


def test_a_late_one_begins_in_full(hub: Hub) -> None:
    """Who comes later begins in full, and shares the patches of the others from then on."""
    one = join(hub)
    tick(hub, at(1))
    two = join(hub)

    tick(hub, at(2))
    tick(hub, at(3))

    assert [(1, "full"), (2, "patch"), (3, "patch")] == pushed(one)
    assert [(2, "full"), (3, "patch")] == pushed(two)
    assert one.written[2] is two.written[1]


def test_who_takes_no_patches(hub: Hub) -> None:
    """Others in the channel get every publication in full."""
    join(hub)
    plain = join(hub, PLAIN)

    tick(hub, at(1))
    tick(hub, at(2))

    assert [(1, "full"), (2, "full")] == pushed(plain)


def test_base_begins_with_the_first_who_patches(hub: Hub) -> None:
    """Without somebody who takes patches no publication is kept, and afterwards the newest is."""
    join(hub, PLAIN)
    tick(hub, at(1))
    before = dict(hub.bases)

    one = join(hub)
    tick(hub, at(2))

    assert ({}, {"a": at(2)}) == (before, hub.bases)
    assert hub.unsubscribe("a", one) is False


def test_nothing_is_kept_for_nobody(hub: Hub) -> None:
    """The newest publication goes with the channel's last subscriber."""
    one = join(hub)
    tick(hub, at(1))

    hub.unsubscribe("a", one)

    assert ({}, {}, set()) == (hub.bases, hub.tops, hub.unseen)


def test_joins_are_no_base(hub: Hub) -> None:
    """What is no publication changes nothing about the patches."""
    one = join(hub, FRESH)
    join_push = Membership(ClientInfo("2"), joined=True)

    tick(hub, join_push)
    still = hub.live["a"][one]
    tick(hub, at(1), join_push)
    tick(hub, join_push, at(2))
    lines = "\n".join(one.messages).splitlines()

    assert FRESH is still
    kinds = [("delta" in line, "join" in json.loads(line)["push"]) for line in lines]
    assert [(False, True), (False, False), (False, True), (False, True), (True, False)] == kinds


def test_recovered_with_a_base(hub: Hub) -> None:
    """Who has the newest publication from history gets the next as a patch."""
    one = recover(hub, StreamPosition(4, "e"))

    tick(hub, at(5))

    assert [(5, "patch")] == pushed(one)
    assert [document(5)] == read(one, document(4))


def test_recovered_ahead_of_the_deliveries(hub: Hub) -> None:
    """Where history was ahead the base is not what it has: the next goes in full."""
    join(hub)
    tick(hub, at(3))
    one = recover(hub, StreamPosition(4, "e"))

    tick(hub, at(4), at(5))
    tick(hub, at(6))

    assert [(5, "full"), (6, "patch")] == pushed(one)
    assert [document(5), document(6)] == read(one)


def test_recovered_before_what_has_no_place(hub: Hub) -> None:
    """What history does not keep follows as a patch, and what follows that goes in full."""
    one = recover(hub, StreamPosition(2, "e"))

    # The second is late: history had delivered it.
    for item in (at(0, ""), at(2), at(3), at(4)):
        tick(hub, item)

    assert [(0, "patch"), (3, "full"), (4, "patch")] == pushed(one)
    assert [document(0), document(3), document(4)] == read(one, document(2))


def test_held_without_a_place(hub: Hub) -> None:
    """What was held and history does not keep is no base for what follows its position."""
    one = FakeSubscriber()
    one.channels["a"] = True
    hub.subscribe("a", one, FRESH, catch_up=True)
    tick(hub, at(0, ""))
    hub.reply(one, hub.release("a", one, StreamPosition(2, "e")), is_ahead=True)

    tick(hub, at(2))
    tick(hub, at(3))

    assert [(0, "full"), (3, "full")] == pushed(one)


def test_recovered_in_another_epoch(hub: Hub) -> None:
    """A publication with the same offset of another stream is no base."""
    join(hub)
    tick(hub, at(4, "old"))
    one = recover(hub, StreamPosition(4, "e"))

    tick(hub, at(5))

    assert [(5, "full")] == pushed(one)


def test_only_the_top_is_a_base(hub: Hub) -> None:
    """What history answered is a base only when it is the newest one, and none was sent yet."""
    one = FakeSubscriber()
    hub.subscribe("a", one, FRESH, catch_up=True)
    hub.know_top("a", StreamPosition(9, "e"), at(5))
    older = dict(hub.bases)
    hub.know_top("a", StreamPosition(9, "e"), None)
    hub.know_top("a", StreamPosition(9, "e"), at(9))
    newest = dict(hub.bases)
    hub.know_top("a", StreamPosition(9, "e"), at(9, exclude="x"))

    assert ({"a": None}, {"a": at(9)}, {"a": at(9)}) == (older, newest, hub.bases)


def test_no_base_for_who_takes_no_patches(hub: Hub) -> None:
    """Where nobody takes patches the newest publication of history is not kept."""
    one = FakeSubscriber()
    hub.subscribe("a", one, PLAIN, catch_up=True)

    hub.know_top("a", StreamPosition(9, "e"), at(9))
    hub.recode("a", one, PLAIN)

    assert ({}, {"a": StreamPosition(9, "e")}) == (hub.bases, hub.tops)


def test_held_publications(hub: Hub) -> None:
    """Of what was held the first is full, and what follows it patches the last."""
    one = FakeSubscriber()
    one.channels["a"] = True
    hub.subscribe("a", one, FRESH, catch_up=True)
    tick(hub, at(1), at(2))

    hub.reply(one, hub.release("a", one, StreamPosition(0, "e")), is_ahead=True)
    tick(hub, at(3))

    assert [document(1), document(2), document(3)] == read(one)
    assert [(1, "full"), (2, "patch")] == pushed(one)[:2]


def test_excluded(hub: Hub) -> None:
    """Who published it itself, and is left out, gets the next one in full."""
    one, two = join(hub, client_id="one"), join(hub, client_id="two")
    tick(hub, at(1))

    tick(hub, at(2, exclude="one"))
    tick(hub, at(3))
    tick(hub, at(4))

    assert [(1, "full"), (3, "full"), (4, "patch")] == pushed(one)
    assert [(1, "full"), (2, "patch"), (3, "patch"), (4, "patch")] == pushed(two)
    assert [document(1), document(3), document(4)] == read(one)


def test_excluded_among_others(hub: Hub) -> None:
    """Within a tick the next one it gets is made against the last that it got."""
    one = join(hub)

    tick(hub, at(1), at(2, exclude="one"), at(3))
    tick(hub, at(4))

    assert [(1, "full"), (3, "patch"), (4, "patch")] == pushed(one)
    assert [document(1), document(3), document(4)] == read(one)


def test_excluded_before_a_reply(hub: Hub) -> None:
    """Also where a reply parts the tick what it does not have is no base."""
    one = join(hub)
    tick(hub, at(1))

    hub.enqueue("a", at(2, exclude="one"))
    hub.reply(one, Frames.from_text("r"))
    hub.enqueue("a", at(3))
    hub.flush()

    assert [(1, "full"), (3, "full")] == pushed(one)


def test_excluded_from_what_was_held(hub: Hub) -> None:
    """What was held leaves it out as well, and is no base."""
    one = FakeSubscriber(client_id="one")
    one.channels["a"] = True
    hub.subscribe("a", one, FRESH, catch_up=True)
    tick(hub, at(1), at(2, exclude="one"))

    hub.reply(one, hub.release("a", one, None), is_ahead=True)
    tick(hub, at(3))

    assert [(1, "full"), (3, "full")] == pushed(one)
    assert 2 == hub.delivered_count


def test_excluded_without_patches(hub: Hub) -> None:
    """Leaving somebody out has nothing to do with patches: others share their frames."""
    one, two, three = (join(hub, PLAIN, name) for name in ("one", "two", "three"))

    tick(hub, at(1, exclude="one"), at(2))

    assert [[(2, "full")], [(1, "full"), (2, "full")]] == [pushed(one), pushed(two)]
    assert two.written[0] is three.written[0]
    assert 5 == hub.delivered_count


def test_reply_between_patches(hub: Hub) -> None:
    """What stands behind a reply is made against what stands before it."""
    one = join(hub)
    tick(hub, at(1))

    hub.enqueue("a", at(2))
    hub.reply(one, Frames.from_text("r"))
    hub.enqueue("a", at(3))
    hub.flush()

    assert [(1, "full"), (2, "patch"), (3, "patch")] == pushed(one)
    patches = [json.loads(line)["push"]["pub"] for line in one.messages if line != "r"]
    base = document(1)
    for body, offset in zip(patches[1:], (2, 3), strict=True):
        base = apply_delta(base, body["data"].encode())
        assert document(offset) == base


def test_filter_that_leaves_everything_out(hub: Hub) -> None:
    """Whose filter matches nothing is written nothing, and the others are."""
    node = FilterNode(key="kind", cmp="eq", val="news")
    filtered = join(hub, ChannelEncoding(JSON, filter=Filter.create(node)))
    plain = join(hub, PLAIN)

    tick(hub, at(1))
    fan_out = list(filtered.written)
    join(hub)
    tick(hub, at(2))

    assert ([], [], [(1, "full"), (2, "full")]) == (fan_out, filtered.written, pushed(plain))


def test_backlog_of_who_catches_up(hub: Hub) -> None:
    """What waits for one that history has released, and nothing has reached yet, is its own."""
    from wirebell.model import Overflow

    hub.overflow_for = lambda _: Overflow.DROP_OLDEST
    one = FakeSubscriber()
    one.channels["a"], one.is_writable = True, False
    hub.subscribe("a", one, PLAIN, catch_up=True)
    hub.release("a", one, StreamPosition(0, "e"))
    tick(hub, Membership(ClientInfo("2"), joined=True))

    one.is_writable = True

    assert hub.resume(one)
    assert "join" in json.loads(one.messages[0])["push"]
