"""What a transaction decides, which is what the memory broker's log does, and what it writes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import count
from typing import Any

import msgspec
from hypothesis import given, settings, strategies as st

from wirebell.brokers.sqlite.ledger import FREED_MAX, SLACK_MAX, Ledger, Stream
from wirebell.brokers.sqlite.operations import (
    Add,
    OpenStream,
    Operation,
    Publish,
    Remove,
    RemoveHistory,
)
from wirebell.history import HistoryLog
from wirebell.model import History, Publication, Published, PublishOptions, StreamPosition

NOW = 1_000.0
KEPT = History(size=3, ttl_seconds=10, meta_ttl_seconds=100)


def ledger(
    streams: Sequence[Stream] = (),
    *,
    now: float = NOW,
    results: dict[tuple[str, str], StreamPosition] | None = None,
) -> Ledger:
    """Begin a transaction."""
    epochs = (f"epoch{number}" for number in count(1))
    return Ledger(
        now=now,
        new_epoch=lambda: next(epochs),
        next_id=max((stream.id for stream in streams), default=0) + 1,
        streams={stream.channel: stream for stream in streams},
        results=results or {},
    )


def publish(
    channel: str = "a", *, history: History | None = KEPT, how: PublishOptions | None = None
) -> Publish:
    """Make a publication's operation."""
    return Publish(channel, Publication(b"x"), b"record", history, how, 0.0)


def stream(**changes: Any) -> Stream:
    """Make a stream that has published five times, of which three are kept."""
    usual = Stream(1, "a", "e", 5, 2, 3, 0, "", NOW + 5, NOW + 50)
    return dataclasses.replace(usual, **changes)


def test_first_publication_opens_a_stream() -> None:
    """The first publication of a channel has offset 1 in a fresh epoch."""
    turn = ledger()

    answers = turn.apply([publish()])

    assert [Published(StreamPosition(1, "epoch1"))] == answers
    assert [(1, 1, b"record")] == turn.publications
    assert (0, "a", 1, "epoch1", b"record") == turn.entries[0]
    assert (NOW + 10, NOW + 100) == (
        turn.changed["a"].expires_at,
        turn.changed["a"].meta_expires_at,
    )


def test_offsets_go_on() -> None:
    """Publications of one turn get the offsets behind what was there, in their order."""
    turn = ledger([stream()])

    turn.apply([publish(), publish()])

    assert [(1, 6, b"record"), (1, 7, b"record")] == turn.publications
    assert (7, 4) == (turn.changed["a"].top, turn.changed["a"].floor)


def test_what_had_ended_is_not_kept_again() -> None:
    """A publication after the time to live is the only one that is kept; offsets count on."""
    for expires_at in (NOW, None):
        turn = ledger([stream(expires_at=expires_at)])

        turn.apply([publish()])

        assert (6, 5) == (turn.changed["a"].top, turn.changed["a"].floor)


def test_a_forgotten_stream_begins_anew() -> None:
    """After ``meta_ttl_seconds`` the channel has another stream, and the old one is let go of."""
    turn = ledger([stream(meta_expires_at=NOW)])

    (answer,) = turn.apply([publish()])

    assert Published(StreamPosition(1, "epoch1")) == answer
    assert [1] == turn.detached
    assert [(2, 1, b"record")] == turn.publications


def test_a_version_that_is_not_newer() -> None:
    """It is left out, and answered with the stream's top."""
    turn = ledger([stream(version=4, version_epoch="v")])

    old, new, other = turn.apply(
        [
            publish(how=PublishOptions(version=4, version_epoch="v")),
            publish(how=PublishOptions(version=5, version_epoch="v")),
            publish(how=PublishOptions(version=1, version_epoch="w")),
        ]
    )

    assert Published(StreamPosition(5, "e"), is_suppressed=True) == old
    assert [Published(StreamPosition(6, "e")), Published(StreamPosition(7, "e"))] == [new, other]
    assert (1, "w") == (turn.changed["a"].version, turn.changed["a"].version_epoch)


def test_idempotency_keys() -> None:
    """A key that is known, from before or from this turn, publishes nothing, kept or not."""
    known = StreamPosition(4, "e")
    turn = ledger([stream()], results={("a", "before"): known})
    before = PublishOptions(idempotency_key="before")
    fresh = PublishOptions(idempotency_key="fresh")

    answers = turn.apply(
        [
            publish(how=before),
            publish(how=fresh),
            publish(how=fresh),
            publish("b", history=None, how=before),
            publish("b", history=None, how=before),
        ]
    )

    sixth = StreamPosition(6, "e")
    assert [
        Published(known, is_suppressed=True),
        Published(sixth),
        Published(sixth, is_suppressed=True),
        Published(StreamPosition()),
        Published(StreamPosition(), is_suppressed=True),
    ] == answers
    assert {("a", "fresh"): sixth, ("b", "before"): StreamPosition()} == turn.new_results
    assert 2 == len(turn.entries)
    assert NOW + 300 == turn.results_expire_at


def test_skipping_history() -> None:
    """What skips history is told and kept nowhere, and needs no stream."""
    turn = ledger([stream()])

    (answer,) = turn.apply([publish(how=PublishOptions(skip_history=True))])

    assert Published(StreamPosition()) == answer
    assert ({}, []) == (turn.changed, turn.publications)
    assert (0, "a", 0, "", b"record") == turn.entries[0]


def test_opening_and_removing() -> None:
    """A stream that is asked for is opened once; removing keeps its position; neither is told."""
    turn = ledger([stream()])

    opened, again, known, _ = turn.apply(
        [
            OpenStream("b", KEPT, 0.0),
            OpenStream("b", KEPT, 0.0),
            OpenStream("a", KEPT, 0.0),
            RemoveHistory("a", 0.0),
        ]
    )
    turn.apply([RemoveHistory("a", 0.0), RemoveHistory("nobody's", 0.0)])

    assert StreamPosition(0, "epoch1") == opened == again
    assert StreamPosition(5, "e") == known
    assert (5, 5, None) == (
        turn.changed["a"].top,
        turn.changed["a"].floor,
        turn.changed["b"].expires_at,
    )
    assert [] == turn.entries
    assert [(1, 3, 5)] == turn.freed


def test_presence() -> None:
    """The newest word about a member counts."""
    turn = ledger()

    turn.apply(
        [
            Add("a", "1", b"one", 5.0, 0.0),
            Remove("a", "1", 0.0),
            Remove("a", "2", 0.0),
            Add("a", "2", b"two", 5.0, 0.0),
        ]
    )

    assert {("a", "1"): None, ("a", "2"): (b"two", NOW + 5)} == turn.members


def test_trimming_waits_until_it_is_worth_it() -> None:
    """What is over the size is freed in bunches, of which few streams keep many."""
    few = ledger([stream()])
    few.apply([publish()] * 3)
    enough = ledger([stream()])
    enough.apply([publish()] * 4)
    large = History(size=1_000)
    many = ledger([stream(top=2_000, floor=1_000, stored_from=1_001 - SLACK_MAX)])
    many.apply([publish(history=large)])

    assert [] == few.freed
    assert [(1, 3, 6)] == enough.freed
    assert 7 == enough.changed["a"].stored_from
    assert [(1, 1_001 - SLACK_MAX, 1_001)] == many.freed


def test_trimming_is_bounded() -> None:
    """A size that shrinks by far is followed step by step."""
    turn = ledger([stream(top=5_000, floor=0, stored_from=1)])

    turn.apply([publish()])

    assert [(1, 1, FREED_MAX)] == turn.freed
    assert (4_998, FREED_MAX + 1) == (turn.changed["a"].floor, turn.changed["a"].stored_from)


class Model:
    """A channel in our tables, beside the log that it is to be like."""

    def __init__(self) -> None:
        names = (f"epoch{number}" for number in count(1))
        epochs = (f"epoch{number}" for number in count(1))
        self.log = HistoryLog(lambda: next(names), channels_max=10, bytes_max=10_000)
        self.new_epoch = lambda: next(epochs)
        self.now = NOW
        self.next_id = 1
        self.published_count = 0
        self.streams: dict[str, Stream] = {}
        self.rows: dict[tuple[int, int], bytes] = {}

    def publish(self, size: int, version: int) -> None:
        """Publish to both."""
        self.published_count += 1
        history = msgspec.structs.replace(KEPT, size=size)
        how = PublishOptions(version=version)
        publication = Publication(b"%d" % self.published_count)
        if not version or self.log.accept_version("a", history, how, self.now):
            self.log.append("a", publication, history, self.now)
        self.write(Publish("a", publication, publication.data, history, how, 0.0))

    def remove(self) -> None:
        """Remove the history of both."""
        self.log.remove("a")
        self.write(RemoveHistory("a", 0.0))

    def write(self, operation: Operation) -> None:
        """Do what the writer does."""
        turn = Ledger(self.now, self.new_epoch, self.next_id, dict(self.streams), {})
        turn.apply([operation])
        self.next_id = turn.next_id
        self.streams |= turn.changed
        for stream_id, offset, record in turn.publications:
            self.rows[stream_id, offset] = record
        for stream_id, first, last in turn.freed:
            for offset in range(first, last + 1):
                self.rows.pop((stream_id, offset), None)

    def check(self) -> None:
        """Compare what can be read."""
        ours = self.streams.get("a")
        theirs = self.log.read("a", KEPT, self.now, since=None, limit=100)
        if ours is None or ours.meta_expires_at <= self.now:
            assert 0 == theirs.top.offset
            return
        is_kept = ours.expires_at is not None and ours.expires_at > self.now
        kept = range(ours.floor + 1, ours.top + 1) if is_kept else range(0)
        assert ours.position == theirs.top
        assert [self.rows[ours.id, offset] for offset in kept] == [
            publication.data for publication in theirs.publications
        ]


STEPS = st.lists(
    st.tuples(st.integers(1, 4), st.integers(0, 3)) | st.sampled_from([0, 3, 11, 101]),
    max_size=30,
)


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_decides_as_the_memory_broker(steps: list[tuple[int, int] | int]) -> None:
    """Whatever happens to a channel, position and kept publications are those of `HistoryLog`."""
    model = Model()
    for step in steps:
        match step:
            case (size, version):
                model.publish(size, version)
            case 0:
                model.remove()
            case int(seconds):
                model.now += seconds

    model.check()
