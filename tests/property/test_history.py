"""History and recovery against a plain list."""

from __future__ import annotations

from itertools import count

from hypothesis import given, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from wirebell.history import HistoryLog, recover
from wirebell.model import History, Publication, StreamPosition

TTL, META_TTL = 10.0, 40.0


class HistoryMachine(RuleBasedStateMachine):
    """Publishes, trims, removes, expires, starts anew, and comes back from any position."""

    @initialize(size=st.integers(1, 5))
    def start(self, size: int) -> None:
        """Begin with an empty log and an empty model."""
        self.numbers = count()
        self.log = HistoryLog(
            lambda: f"e{next(self.numbers)}", channels_max=10, bytes_max=1_000_000
        )
        self.keep = History(size=size, ttl_seconds=TTL, meta_ttl_seconds=META_TTL)
        self.now = 0.0
        self.published_at = 0.0
        self.epoch = self.top().epoch
        self.all: list[Publication] = []  # of this epoch, ever
        self.kept = 0  # how many of its end are still there
        self.seen: list[StreamPosition] = [self.top()]

    def top(self) -> StreamPosition:
        """Ask for the position."""
        return self.log.read("c", self.keep, self.now, since=None, limit=0).top

    @rule(data=st.binary(max_size=5))
    def publish(self, data: bytes) -> None:
        """Append one."""
        placed = self.log.append("c", Publication(data), self.keep, self.now)

        assert (data, len(self.all) + 1, self.epoch) == (placed.data, placed.offset, placed.epoch)
        self.all.append(placed)
        self.kept = min(self.kept + 1, self.keep.size)
        self.published_at = self.now
        self.seen.append(StreamPosition(placed.offset, placed.epoch))

    @rule(size=st.integers(1, 5))
    def change_size(self, size: int) -> None:
        """Keep more or less from the next publication on."""
        self.keep = History(size=size, ttl_seconds=TTL, meta_ttl_seconds=META_TTL)

    @rule()
    def remove(self) -> None:
        """Forget what is kept."""
        self.log.remove("c")
        self.kept = 0

    @rule(seconds=st.sampled_from([1.0, 9.0, 10.0, 39.0, 40.0]), sweep=st.booleans())
    def pass_time(self, seconds: float, sweep: bool) -> None:
        """Let time pass, with or without a sweep."""
        self.now += seconds
        if sweep:
            self.log.expire(self.now)
        age = self.now - self.published_at
        if age >= TTL:
            self.kept = 0
        if age >= META_TTL:
            self.begin_anew()

    @rule()
    def lose(self) -> None:
        """Lose the stream, as bounds do."""
        self.log.forget("c")
        self.begin_anew()

    def begin_anew(self) -> None:
        """Expect an empty stream of another epoch."""
        top = self.top()
        assert 0 == top.offset
        assert top.epoch not in {position.epoch for position in self.seen}
        self.epoch, self.all, self.kept, self.published_at = top.epoch, [], 0, self.now
        self.seen.append(top)

    @precondition(lambda self: self.seen)
    @rule(data=st.data(), limit=st.integers(1, 8))
    def come_back(self, data: st.DataObject, limit: int) -> None:
        """Recover from a position seen at some time: exactly what was missed, or nothing."""
        since = data.draw(st.sampled_from(self.seen))
        part = self.log.read("c", self.keep, self.now, since=since, limit=limit)

        recovery = recover(part.publications, part.top, since, limit=limit)

        missed = self.all[since.offset :]
        is_possible = (
            since.epoch == self.epoch and len(missed) <= self.kept and len(missed) <= limit
        )
        assert is_possible == recovery.recovered
        assert (tuple(missed) if is_possible else ()) == recovery.publications

    @rule(after=st.integers(0, 10), limit=st.integers(0, 10))
    def read(self, after: int, limit: int) -> None:
        """Read a part: the model's, and the top."""
        since = StreamPosition(after)
        part = self.log.read("c", self.keep, self.now, since=since, limit=limit)

        kept = self.all[len(self.all) - self.kept :]
        assert tuple([item for item in kept if item.offset > after][:limit]) == part.publications
        assert StreamPosition(len(self.all), self.epoch) == part.top

    @invariant()
    def offsets_rise_by_one(self) -> None:
        """What is kept is a run without a hole that ends at the top, and is counted."""
        part = self.log.read("c", self.keep, self.now, since=None, limit=100)
        offsets = [item.offset for item in part.publications]

        assert list(range(part.top.offset - len(offsets) + 1, part.top.offset + 1)) == offsets
        assert sum(len(item.data) for item in part.publications) == self.log.byte_count


HistoryMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestHistory = HistoryMachine.TestCase


@settings(max_examples=150, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from("abcdef"), st.binary(max_size=6), st.integers(0, 3)),
        max_size=40,
    ),
    channels_max=st.integers(1, 4),
    bytes_max=st.integers(1, 20),
)
def test_bounds(steps: list[tuple[str, bytes, int]], channels_max: int, bytes_max: int) -> None:
    """The bounds hold after every publication, and it itself is always kept."""
    numbers = count()
    log = HistoryLog(lambda: str(next(numbers)), channels_max=channels_max, bytes_max=bytes_max)
    keep, now = History(size=3, ttl_seconds=5, meta_ttl_seconds=9), 0.0

    for channel, data, seconds in steps:
        now += seconds
        log.expire(now)
        placed = log.append(channel, Publication(data), keep, now)

        kept = [item for stream in log.streams.values() for item in stream.publications]
        assert placed in kept
        assert sum(len(item.data) for item in kept) == log.byte_count
        assert len(log.streams) <= channels_max
        assert log.byte_count <= bytes_max or len(log.streams) == 1
        assert all(stream.meta_expires_at > now for stream in log.streams.values())
