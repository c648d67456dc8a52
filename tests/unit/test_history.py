"""The log of a channel, and recovery from it."""

from __future__ import annotations

from itertools import count

import pytest

from wirebell.history import (
    HistoryLog,
    IdempotentResults,
    Recovery,
    StreamSlice,
    recover,
    recover_cache,
)
from wirebell.model import History, Publication, PublishOptions, StreamPosition

KEEP = History(size=3, ttl_seconds=10, meta_ttl_seconds=100)


def create_log(*, channels_max: int = 100, bytes_max: int = 10_000) -> HistoryLog:
    """Create a log whose epochs are e1, e2, e3 and so on."""
    numbers = count(1)
    return HistoryLog(lambda: f"e{next(numbers)}", channels_max=channels_max, bytes_max=bytes_max)


def fill(
    log: HistoryLog, channel: str, number: int, *, now: float = 0.0, size: int = 1
) -> list[Publication]:
    """Append some publications."""
    return [log.append(channel, Publication(b"x" * size), KEEP, now) for _ in range(number)]


def read(
    log: HistoryLog, channel: str, now: float = 0.0, *, after: int = 0, limit: int = 100
) -> tuple[list[int], StreamPosition]:
    """Return the offsets that are kept, and the top."""
    part = log.read(channel, KEEP, now, since=StreamPosition(after), limit=limit)
    return [publication.offset for publication in part.publications], part.top


def stream(first: int, last: int) -> list[Publication]:
    """Make a kept run of publications."""
    return [Publication(b"", offset=offset, epoch="e") for offset in range(first, last + 1)]


@pytest.mark.parametrize(
    ("since", "missed"),
    [
        (StreamPosition(7, "e"), []),
        (StreamPosition(6, "e"), [7]),
        (StreamPosition(4, "e"), [5, 6, 7]),
        (StreamPosition(5, ""), [6, 7]),
    ],
)
def test_recover(since: StreamPosition, missed: list[int]) -> None:
    """Who was away gets what it missed, oldest first; an empty epoch matches any."""
    recovery = recover(stream(4, 7), StreamPosition(7, "e"), since, limit=3)

    assert recovery.recovered
    assert missed == [publication.offset for publication in recovery.publications]


@pytest.mark.parametrize(
    "since",
    [
        StreamPosition(3, "e"),  # wider than the limit
        StreamPosition(6, "other"),
        StreamPosition(8, "e"),  # of a future that was lost
    ],
)
def test_not_recovered(since: StreamPosition) -> None:
    """A gap that cannot be filled is told, and nothing is handed out."""
    recovery = recover(stream(1, 7), StreamPosition(7, "e"), since, limit=3)

    assert Recovery((), recovered=False) == recovery


def test_trimmed_past_the_gap() -> None:
    """A gap whose old end is gone is not recovered, however small the rest."""
    recovery = recover(stream(6, 7), StreamPosition(7, "e"), StreamPosition(4, "e"), limit=100)

    assert Recovery((), recovered=False) == recovery


def test_recover_from_nothing() -> None:
    """A channel without publications recovers whoever has seen none."""
    recovery = recover([], StreamPosition(0, "e"), StreamPosition(0, "e"), limit=1)

    assert Recovery((), recovered=True) == recovery


def test_recover_limit_bound() -> None:
    """A limit below 1 is refused."""
    with pytest.raises(ValueError, match="limit must be 1 or more, got 0"):
        recover([], StreamPosition(), StreamPosition(), limit=0)


def test_append_gives_places() -> None:
    """Offsets of a channel are 1, 2, 3 in one epoch; another channel counts for itself."""
    log = create_log()

    one = fill(log, "a", 2)
    other = fill(log, "b", 1)

    assert [(1, "e1"), (2, "e1")] == [(item.offset, item.epoch) for item in one]
    assert [(1, "e2")] == [(item.offset, item.epoch) for item in other]


def test_size() -> None:
    """The newest are kept, and the bytes of the others are free."""
    log = create_log()

    fill(log, "a", 5, size=10)

    assert ([3, 4, 5], StreamPosition(5, "e1")) == read(log, "a")
    assert log.byte_count == 30


@pytest.mark.parametrize(
    ("after", "limit", "offsets"),
    [
        (0, 100, [3, 4, 5]),
        (0, 1, [3]),
        (3, 1, [4]),
        (4, 100, [5]),
        (5, 100, []),
        (9, 100, []),
        (2**64 - 1, 100, []),
        (0, 2**64, [3, 4, 5]),
        (0, 0, []),
    ],
)
def test_read(after: int, limit: int, offsets: list[int]) -> None:
    """Reading starts after a position and stops at a limit; the top is always told."""
    log = create_log()
    fill(log, "a", 5)

    assert (offsets, StreamPosition(5, "e1")) == read(log, "a", after=after, limit=limit)


def test_read_from_the_oldest() -> None:
    """Without a position everything that is kept is read."""
    log = create_log()
    kept = fill(log, "a", 2)

    part = log.read("a", KEEP, 0.0, since=None, limit=9)

    assert StreamSlice(tuple(kept), StreamPosition(2, "e1")) == part


def test_read_limit_bound() -> None:
    """A negative limit is refused."""
    with pytest.raises(ValueError, match="limit must be 0 or more, got -1"):
        create_log().read("a", KEEP, 0.0, since=None, limit=-1)


def test_epoch_of_an_unused_channel() -> None:
    """A channel has its epoch before its first publication."""
    log = create_log()

    assert ([], StreamPosition(0, "e1")) == read(log, "a")
    assert fill(log, "a", 1)[0].epoch == "e1"


def test_ttl() -> None:
    """Publications end by their time to live after the newest; offsets and epoch go on."""
    log = create_log()
    fill(log, "a", 1, now=0.0)
    fill(log, "a", 1, now=5.0)

    assert [1, 2] == read(log, "a", 14.9)[0]
    assert ([], StreamPosition(2, "e1")) == read(log, "a", 15.0)
    assert log.byte_count == 0
    assert fill(log, "a", 1, now=16.0)[0].offset == 3


def test_meta_ttl() -> None:
    """After the longer time the channel starts again in a new epoch."""
    log = create_log()
    fill(log, "a", 2)

    assert ([], StreamPosition(2, "e1")) == read(log, "a", 99.9)
    assert ([], StreamPosition(0, "e2")) == read(log, "a", 100.0)
    assert log.byte_count == 0


def test_remove() -> None:
    """Removing forgets publications, not the place; of an unknown channel it is nothing."""
    log = create_log()
    fill(log, "a", 2)

    log.remove("a")
    log.remove("unknown")

    assert ([], StreamPosition(2, "e1")) == read(log, "a")
    assert log.byte_count == 0
    assert {"a"} == log.streams.keys()


def test_expire_frees_publications() -> None:
    """The sweep frees what is past its time to live, without anybody reading."""
    log = create_log()
    fill(log, "a", 2, now=0.0)
    fill(log, "b", 1, now=5.0)

    log.expire(10.0)

    assert log.byte_count == 1
    assert ([], StreamPosition(2, "e1")) == read(log, "a", 10.0)


def test_expire_looks_again() -> None:
    """A stream that was published to meanwhile stays, and is looked at later."""
    log = create_log()
    fill(log, "a", 1, now=0.0)
    fill(log, "a", 1, now=5.0)

    log.expire(10.0)
    before = log.byte_count
    log.expire(15.0)

    assert (2, 0) == (before, log.byte_count)


def test_expire_forgets_streams() -> None:
    """The sweep forgets a stream whole after the longer time, and its plan with it."""
    log = create_log()
    fill(log, "a", 1)

    log.expire(10.0)
    log.expire(100.0)

    assert ({}, [], 0) == (log.streams, log.deadlines, log.byte_count)


def test_expire_passes_over_the_forgotten() -> None:
    """A plan for a stream that is gone is nothing."""
    log = create_log(channels_max=1)
    fill(log, "a", 1)
    fill(log, "b", 1)

    log.expire(99.0)
    log.expire(100.0)

    assert {} == log.streams


def test_one_plan_per_stream() -> None:
    """However often streams are forgotten and made anew, the plans do not pile up."""
    log = create_log(channels_max=2)

    for number in range(1_000):
        fill(log, f"channel {number % 5}", 1, now=number / 1_000)

    assert len(log.streams) == 2
    assert len(log.deadlines) <= 100


def test_channels_max() -> None:
    """Past the bound the stream that was published to least recently is forgotten."""
    log = create_log(channels_max=2)
    fill(log, "a", 1)
    fill(log, "b", 1)
    fill(log, "a", 1)

    fill(log, "c", 1)

    assert ["a", "c"] == list(log.streams)
    assert log.evicted_count == 1
    assert read(log, "b")[1] == StreamPosition(0, "e4")


def test_bytes_max() -> None:
    """Past the bound of bytes the quietest streams go; the newest stays, however large."""
    log = create_log(bytes_max=10)
    fill(log, "a", 1, size=4)
    fill(log, "b", 1, size=4)

    fill(log, "c", 1, size=4)
    after = list(log.streams)
    fill(log, "d", 1, size=50)

    assert ["b", "c"] == after
    assert (["d"], 50, 3) == (list(log.streams), log.byte_count, log.evicted_count)


def test_reading_pushes_nothing_out() -> None:
    """Asking for channels that nobody published to costs no other channel its history."""
    log = create_log(channels_max=2)
    history = History(size=5)
    placed = log.append("board", Publication(b"1"), history, 0.0)

    for number in range(10):
        log.read(f"empty {number}", history, 1.0, since=None, limit=1)

    assert (placed,) == log.read("board", history, 2.0, since=None, limit=5).publications
    assert 2 == len(log.unused)
    assert 0 == log.evicted_count


def test_a_channel_asked_for_keeps_its_epoch() -> None:
    """The epoch that an empty channel was announced with is the one of its first publication."""
    log = create_log()
    top = log.read("a", History(), 0.0, since=None, limit=0).top

    placed = log.append("a", Publication(b"1"), History(), 1.0)

    assert (top.epoch, 1) == (placed.epoch, placed.offset)
    assert {} == log.unused


def test_a_channel_asked_for_is_forgotten() -> None:
    """An empty channel is forgotten with its positions' time."""
    log = create_log()
    log.read("a", History(meta_ttl_seconds=400), 0.0, since=None, limit=0)

    log.expire(300.0)
    log.expire(400.0)

    assert {} == log.unused


@pytest.mark.parametrize(
    ("since", "limit", "offsets"),
    [
        (None, 2, [7, 6]),
        (None, 0, []),
        (None, 9, [7, 6, 5]),
        (7, 9, [6, 5]),
        (6, 1, [5]),
        (5, 9, []),
        (3, 9, []),
        (0, 9, []),
        (99, 2, [7, 6]),
        (2**64 - 1, 2**64, [7, 6, 5]),
    ],
)
def test_reverse(since: int | None, limit: int, offsets: list[int]) -> None:
    """In reverse the newest come first, those before the position, as far as they are kept."""
    log = create_log()
    fill(log, "a", 7)
    position = None if since is None else StreamPosition(since)

    part = log.read("a", KEEP, 0.0, since=position, limit=limit, reverse=True)

    assert offsets == [publication.offset for publication in part.publications]
    assert StreamPosition(7, "e1") == part.top


def test_top() -> None:
    """The position of a channel is known without reading it, also of a new one."""
    log = create_log()
    fill(log, "a", 2)

    assert StreamPosition(2, "e1") == log.top("a", KEEP, 0.0)
    assert StreamPosition(0, "e2") == log.top("b", KEEP, 0.0)


def test_versions() -> None:
    """Only a version above the newest of its epoch is taken; another epoch begins again."""
    log = create_log()
    versions = [(1, ""), (1, ""), (3, ""), (2, ""), (1, "x"), (1, "x"), (2, "x"), (4, "")]

    taken = [
        log.accept_version("a", KEEP, PublishOptions(version=number, version_epoch=epoch), 0.0)
        for number, epoch in versions
    ]

    assert [True, False, True, False, True, False, True, True] == taken


def test_versions_of_channels() -> None:
    """Each channel counts versions by itself, and keeps its own when something is published."""
    log = create_log()
    how = PublishOptions(version=1)

    first = log.accept_version("a", KEEP, how, 0.0)
    fill(log, "a", 1)

    assert (True, True) == (first, log.accept_version("b", KEEP, how, 0.0))
    assert not log.accept_version("a", KEEP, how, 0.0)


def test_versions_end_with_the_stream() -> None:
    """When the stream is forgotten its version is, too."""
    log = create_log()
    how = PublishOptions(version=1)
    log.accept_version("a", KEEP, how, 0.0)

    assert log.accept_version("a", KEEP, how, KEEP.meta_ttl_seconds)


@pytest.mark.parametrize(
    ("newest", "top", "since", "offsets", "recovered"),
    [
        (stream(7, 7), 7, StreamPosition(3, "e"), [7], True),
        (stream(7, 7), 7, StreamPosition(7, "e"), [], True),
        (stream(7, 7), 7, StreamPosition(7, "f"), [7], True),
        (stream(7, 7), 7, StreamPosition(0, ""), [7], True),
        ([], 7, StreamPosition(7, "e"), [], True),
        ([], 7, StreamPosition(3, "e"), [], False),
        ([], 0, StreamPosition(0, "e"), [], False),
        (stream(6, 6), 7, StreamPosition(3, "e"), [], False),
    ],
)
def test_recover_cache(
    newest: list[Publication],
    top: int,
    since: StreamPosition,
    offsets: list[int],
    recovered: bool,
) -> None:
    """Who wants the newest only gets it, unless it has it or nothing is kept."""
    recovery = recover_cache(newest, StreamPosition(top, "e"), since)

    assert (offsets, recovered) == (
        [publication.offset for publication in recovery.publications],
        recovery.recovered,
    )


def test_idempotency() -> None:
    """A key is known in its channel for five minutes."""
    results, position = IdempotentResults(10), StreamPosition(4, "e")

    results.add("a", "k", position, 100.0)

    assert (position, None, None) == (
        results.find("a", "k", 399.9),
        results.find("a", "k", 400.0),
        results.find("b", "k", 100.0),
    )
    assert results.find("a", "other", 100.0) is None


def test_idempotency_is_bounded() -> None:
    """Past the bound the oldest key is forgotten; one that is used again is the newest."""
    results = IdempotentResults(2)

    for key in ("x", "y", "x", "z"):
        results.add("a", key, StreamPosition(), 0.0)

    assert [("a", "x"), ("a", "z")] == list(results.results)


def test_old_keys_are_freed() -> None:
    """Keys that are past their time go when another comes, and the newest stays."""
    results = IdempotentResults(10)
    for number in range(5):
        results.add("a", str(number), StreamPosition(), float(number))

    results.add("a", "new", StreamPosition(), 303.0)

    assert ["4", "new"] == [key for _, key in results.results]


def test_a_shorter_time_to_live() -> None:
    """When what is kept is to end sooner than planned it does, though nobody asks."""
    log = create_log()
    fill(log, "a", 1)
    log.append("a", Publication(b"x"), History(ttl_seconds=2, meta_ttl_seconds=100), 1.0)

    log.expire(3.0)

    assert 0 == log.byte_count
