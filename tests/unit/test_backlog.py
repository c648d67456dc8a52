"""What waits for a subscriber that does not read, where something may be dropped."""

from __future__ import annotations

from wirebell.backlog import Backlog
from wirebell.model import ChannelItem, ClientInfo, Membership, Overflow, Publication

DROP, LATEST = Overflow.DROP_OLDEST, Overflow.KEEP_LATEST


def pub(text: str, key: str = "") -> Publication:
    """Make a publication."""
    return Publication(text.encode(), key=key)


def member(client_id: str, *, joined: bool) -> Membership:
    """Make a join or a leave."""
    return Membership(ClientInfo(client_id), joined=joined)


def waiting(backlog: Backlog) -> list[tuple[str, list[ChannelItem]]]:
    """Return what waits, and check that the bytes are counted right."""
    runs = backlog.runs()
    items = [item for _, run in runs for item in run]
    sizes = [64 if isinstance(item, Membership) else 64 + len(item.data) for item in items]
    assert sum(sizes) == backlog.byte_count
    return runs


def test_empty() -> None:
    """A new backlog holds nothing."""
    assert ([], 0) == (waiting(Backlog(1)), Backlog(1).byte_count)


def test_order_of_channels() -> None:
    """Items wait in the order of their arrival, in runs of one channel."""
    backlog = Backlog(1_000)

    dropped = [
        backlog.add("a", [pub("1"), pub("2")], DROP),
        backlog.add("b", [pub("3")], LATEST),
        backlog.add("a", [pub("4")], DROP),
    ]

    assert [0, 0, 0] == dropped
    assert [("a", [pub("1"), pub("2")]), ("b", [pub("3")]), ("a", [pub("4")])] == waiting(backlog)


def test_looking_changes_nothing() -> None:
    """Listing what waits leaves it waiting."""
    backlog = Backlog(1_000)
    backlog.add("a", [pub("1")], DROP)

    assert waiting(backlog) == waiting(backlog)


def test_drop_oldest() -> None:
    """Past the bound the oldest goes, and is counted; 64 bytes count for each besides its text."""
    backlog = Backlog(2 * 65)

    dropped = [backlog.add("a", [pub(text)], DROP) for text in "1234"]

    assert [0, 0, 1, 1] == dropped
    assert [("a", [pub("3"), pub("4")])] == waiting(backlog)


def test_drop_many_for_one() -> None:
    """A long item may take the place of several."""
    backlog = Backlog(3 * 65)
    backlog.add("a", [pub("1"), pub("2"), pub("3")], DROP)

    dropped = backlog.add("a", [pub("x" * 65)], DROP)

    assert 2 == dropped
    assert [("a", [pub("3"), pub("x" * 65)])] == waiting(backlog)


def test_newest_is_kept_whatever_its_size() -> None:
    """An item longer than the bound waits alone, and makes room for the next."""
    backlog = Backlog(70)

    first = backlog.add("a", [pub("1"), pub("x" * 1_000)], DROP)
    alone = waiting(backlog)
    second = backlog.add("a", [pub("2")], DROP)

    assert ([("a", [pub("x" * 1_000)])], [("a", [pub("2")])]) == (alone, waiting(backlog))
    assert (1, 1) == (first, second)


def test_bound_is_for_all_channels() -> None:
    """What one channel adds may drop what another has; the count is of the call that dropped."""
    backlog = Backlog(2 * 65)
    backlog.add("a", [pub("1"), pub("2")], DROP)

    dropped = backlog.add("b", [pub("3")], LATEST)

    assert 1 == dropped
    assert [("a", [pub("2")]), ("b", [pub("3")])] == waiting(backlog)


def test_keep_latest() -> None:
    """The newest of a key replaces the one before and stands where it arrived."""
    backlog = Backlog(1_000)
    backlog.add("a", [pub("1", "x"), pub("2", "y")], LATEST)

    dropped = backlog.add("a", [pub("3", "x")], LATEST)

    assert 1 == dropped
    assert [("a", [pub("2", "y"), pub("3", "x")])] == waiting(backlog)


def test_keep_latest_without_keys() -> None:
    """Publications without a key are all states of the same thing."""
    backlog = Backlog(1_000)

    assert 2 == backlog.add("a", [pub("1"), pub("2"), pub("3")], LATEST)
    assert [("a", [pub("3")])] == waiting(backlog)


def test_keys_are_of_their_channel() -> None:
    """The same key in another channel is another thing, and so is a drop-oldest channel's."""
    backlog = Backlog(1_000)
    backlog.add("a", [pub("1", "x")], LATEST)
    backlog.add("b", [pub("2", "x")], LATEST)

    dropped = backlog.add("c", [pub("3", "x"), pub("4", "x")], DROP)

    assert 0 == dropped
    assert ["a", "b", "c"] == [channel for channel, _ in waiting(backlog)]


def test_keep_latest_of_members() -> None:
    """Of one client's joins and leaves the newest waits; no key of a publication meets it."""
    backlog = Backlog(1_000)
    items: list[ChannelItem] = [
        member("1", joined=True),
        member("2", joined=True),
        pub("p", "1"),
    ]
    backlog.add("a", items, LATEST)

    dropped = backlog.add("a", [member("1", joined=False)], LATEST)

    assert 1 == dropped
    expected = [member("2", joined=True), pub("p", "1"), member("1", joined=False)]
    assert [("a", expected)] == waiting(backlog)


def test_keep_latest_is_bounded_too() -> None:
    """Past the bound the key that was written least recently goes."""
    backlog = Backlog(2 * 65)
    backlog.add("a", [pub("1", "x"), pub("2", "y"), pub("3", "x")], LATEST)

    dropped = backlog.add("a", [pub("4", "z")], LATEST)

    assert 1 == dropped
    assert [("a", [pub("3", "x"), pub("4", "z")])] == waiting(backlog)


def test_empty_items_are_bounded() -> None:
    """Items without a payload fill a backlog too."""
    backlog = Backlog(3 * 64)

    dropped = backlog.add("a", [member(str(number), joined=True) for number in range(10)], DROP)

    assert 7 == dropped
