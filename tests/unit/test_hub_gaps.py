"""The hub's look at positions: what never came, what came before, what may still come."""

from __future__ import annotations

import pytest

from tests.unit.fakes import FakeSubscriber
from wirebell.hub import Hub
from wirebell.model import ClientInfo, Membership, Publication, StreamPosition


def at(offset: int, epoch: str = "e") -> Publication:
    """Make a publication that says its offset."""
    return Publication(b"%d" % offset, offset=offset, epoch=epoch)


@pytest.fixture
def hub() -> Hub:
    """A hub in which somebody has read history up to the third publication."""
    hub = Hub(held_items_max=10, backlog_bytes_max=1_000)
    hub.subscribe("a", FakeSubscriber(), catch_up=True)
    hub.know_top("a", StreamPosition(3, "e"), None)
    return hub


def arrive(hub: Hub, *publications: Publication) -> list[bool | None]:
    """Look at publications, one after the other."""
    return [hub.find_gap("a", publication) for publication in publications]


def test_one_after_the_other(hub: Hub) -> None:
    """Nothing is missing between neighbours."""
    assert [False, False] == arrive(hub, at(4), at(5))
    assert StreamPosition(5, "e") == hub.tops["a"]


def test_missing(hub: Hub) -> None:
    """Where one is missing there is a gap, once."""
    assert [True, False] == arrive(hub, at(5), at(6))


def test_another_stream(hub: Hub) -> None:
    """Another epoch is a gap, whatever the offset; it counts on from there."""
    assert [True, False] == arrive(hub, at(4, "f"), at(5, "f"))


def test_twice(hub: Hub) -> None:
    """What came before is left out."""
    assert [False, None, None, False] == arrive(hub, at(4), at(4), at(3), at(5))


def test_on_its_way_when_history_was_read(hub: Hub) -> None:
    """What history had, and this node had not, is new to subscribers that read none."""
    assert [False, False, False, None] == arrive(hub, at(2), at(3), at(4), at(3))


def test_nobody_has_read_history() -> None:
    """Without history counting begins with what is delivered first."""
    hub = Hub(held_items_max=10, backlog_bytes_max=1_000)
    hub.subscribe("a", FakeSubscriber())

    assert [False, True, None] == arrive(hub, at(4), at(9), at(9))


def test_nobody_is_there() -> None:
    """Of a channel without subscribers nothing is kept."""
    hub = Hub(held_items_max=10, backlog_bytes_max=1_000)

    assert [False, False] == arrive(hub, at(4), at(9))
    assert {} == hub.tops


def test_deliveries_decide(hub: Hub) -> None:
    """What somebody else reads from history later changes nothing: deliveries may be behind it."""
    arrive(hub, at(4))

    hub.know_top("a", StreamPosition(7, "e"), None)

    assert [False] == arrive(hub, at(5))


def test_take_top(hub: Hub) -> None:
    """A position that is taken is where counting goes on."""
    hub.take_top("a", StreamPosition(8, "f"))

    assert [False] == arrive(hub, at(9, "f"))


def test_subscribers(hub: Hub) -> None:
    """Who has not read history yet has no place: what it will read may be behind the gap."""
    live, released = FakeSubscriber(), FakeSubscriber()
    hub.subscribe("a", live)
    hub.subscribe("a", released, catch_up=True)
    hub.release("a", released, StreamPosition(3, "e"))

    assert [live, released] == hub.subscribers("a")
    assert [] == hub.subscribers("b")


@pytest.mark.parametrize(
    ("held", "pending", "is_torn"),
    [
        ([], [], False),
        ([at(2), at(3)], [], False),
        ([at(2), at(3), at(4)], [at(5)], False),
        ([at(4)], [at(6)], True),
        ([at(5)], [], True),
        ([], [at(5)], True),
        ([at(4, "f")], [], True),
        ([Publication(b"kept nowhere")], [at(4)], False),
        ([Membership(ClientInfo("1"), joined=True)], [at(4)], False),
    ],
)
def test_torn(held: list[Publication], pending: list[Publication], is_torn: bool) -> None:
    """What is missing right behind history is found when it is released."""
    hub, one = Hub(held_items_max=10, backlog_bytes_max=1_000), FakeSubscriber()
    hub.subscribe("a", one, catch_up=True)
    for item in held:
        hub.enqueue("a", item)
    hub.flush()
    for item in pending:
        hub.enqueue("a", item)

    assert is_torn == hub.is_torn("a", one, StreamPosition(3, "e"))
