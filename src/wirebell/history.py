"""The log of a channel: positions, retention, recovery.

Strategy: a `HistoryLog` is what a broker in this process keeps; `recover` is the one rule by
which every broker's clients come back. Both are pure: ``now`` and fresh epochs are arguments.

Invariants: the kept publications of a stream have rising offsets without a hole, and the last one
is the top of the stream or there is none.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice

import msgspec

from wirebell.model import History, Publication, PublishOptions, StreamPosition

__all__ = ("HistoryLog", "IdempotentResults", "Recovery", "StreamSlice", "recover", "recover_cache")

IDEMPOTENCY_SECONDS = 300.0

# Rebuilding a small heap again and again would cost more than its entries.
STALE_DEADLINES_MAX = 64


@dataclass(frozen=True, slots=True)
class Recovery:
    """What a client that was away gets.

    Attributes:
        publications: What it missed, oldest first.
        recovered: True when that is everything; false when the client must read state anew.
    """

    publications: tuple[Publication, ...]
    recovered: bool


@dataclass(frozen=True, slots=True)
class StreamSlice:
    """A part of a stream, and the stream's top at the moment of reading.

    Attributes:
        publications: Oldest first; offsets rise by exactly 1.
        top: Position of the newest publication ever appended; offset 0 when there was none.
    """

    publications: tuple[Publication, ...]
    top: StreamPosition


def recover(
    stream: Sequence[Publication], top: StreamPosition, since: StreamPosition, *, limit: int
) -> Recovery:
    """Find the publications a client missed while it was away.

    Args:
        stream: What history still holds, oldest first; offsets rise by exactly 1.
        top: Position of the newest publication ever appended (offset 0 when none).
        since: Position the client saw last. An empty epoch matches any epoch.
        limit: Most publications to hand back, 1 or more; a wider gap is not recovered.

    Returns:
        Missed publications, oldest first. ``recovered`` is false, and the tuple empty,
        when the epoch changed, history was trimmed past ``since``, or the gap exceeds ``limit``.

    Raises:
        ValueError: ``limit`` is below 1.

    Source:
        Protocol document, section 1.8.
    """
    if limit < 1:
        raise ValueError(f"limit must be 1 or more, got {limit}")
    gap = top.offset - since.offset
    if since.epoch not in ("", top.epoch) or gap < 0 or gap > limit:
        return Recovery((), recovered=False)
    missed = tuple(p for p in stream if p.offset > since.offset)
    # History is trimmed from the old end only, so a short answer means the old end is gone.
    if len(missed) < gap:
        return Recovery((), recovered=False)
    return Recovery(missed, recovered=True)


def recover_cache(
    newest: Sequence[Publication], top: StreamPosition, since: StreamPosition
) -> Recovery:
    """Find what a client gets that wants the newest publication only.

    Args:
        newest: The newest publication that is kept, or nothing.
        top: Position of the newest publication ever appended.
        since: Position the client saw last; of any epoch.

    Returns:
        That publication, unless the client has it. ``recovered`` is false when it is not kept.

    Source:
        Protocol document, section 1.8.
    """
    if since == top and top.offset:
        return Recovery((), recovered=True)
    kept = tuple(item for item in newest if item.offset == top.offset)[:1]
    return Recovery(kept, recovered=bool(kept))


@dataclass(slots=True)
class Stream:
    """The log of one channel: its mutable state, and no rule."""

    epoch: str
    offset: int = 0
    publications: deque[Publication] = field(default_factory=deque)
    byte_count: int = 0
    version: int = 0
    version_epoch: str = ""
    expires_at: float = 0.0
    meta_expires_at: float = 0.0
    watched_at: float = 0.0

    def trim(self, size: int) -> int:
        """Drop the oldest until ``size`` are left, and return the bytes that became free."""
        freed = 0
        while len(self.publications) > size:
            freed += len(self.publications.popleft().data)
        self.byte_count -= freed
        return freed


class IdempotentResults:
    """What became of publications that carried an idempotency key.

    Mutable state: channel and key → position and when it is forgotten, oldest first. Keys live
    five minutes (protocol document, section 3).

    Args:
        keys_max: Keys kept; past it the oldest is forgotten.
    """

    def __init__(self, keys_max: int) -> None:
        self.keys_max = keys_max
        self.results: dict[tuple[str, str], tuple[StreamPosition, float]] = {}

    def find(self, channel: str, key: str, now: float) -> StreamPosition | None:
        """Return the first publication's position, or ``None`` when there was none lately."""
        known = self.results.get((channel, key))
        return None if known is None or known[1] <= now else known[0]

    def add(self, channel: str, key: str, position: StreamPosition, now: float) -> None:
        """Remember where a publication went, and forget what is too old or too much."""
        self.results.pop((channel, key), None)
        self.results[channel, key] = (position, now + IDEMPOTENCY_SECONDS)
        while True:
            # The newest always stays.
            oldest = next(iter(self.results))
            if self.results[oldest][1] > now and len(self.results) <= self.keys_max:
                break
            del self.results[oldest]


class HistoryLog:
    """The streams of all channels of one process.

    Mutable state: the streams, least recently published first, and a heap of the instants at
    which to look at them again. An entry counts only while it is its stream's ``watched_at``.
    Called from one thread.

    Args:
        new_epoch: Gives a short string that was never given before.
        channels_max: Streams kept; past it the least recently published one is forgotten.
        bytes_max: Payload bytes kept in all streams; past it the same one is emptied first.
    """

    def __init__(self, new_epoch: Callable[[], str], *, channels_max: int, bytes_max: int) -> None:
        self.new_epoch = new_epoch
        self.channels_max = channels_max
        self.bytes_max = bytes_max
        self.byte_count = 0
        self.evicted_count = 0
        self.streams: dict[str, Stream] = {}
        # Asked for, and never published to: they must not push out a stream that holds something.
        self.unused: dict[str, Stream] = {}
        self.deadlines: list[tuple[float, str]] = []

    def append(
        self, channel: str, publication: Publication, history: History, now: float
    ) -> Publication:
        """Give a publication its place, and keep it.

        Args:
            channel: Any name.
            publication: Its position is replaced.
            history: What to keep; the newest call decides for the whole stream.
            now: Monotonic seconds.

        Returns:
            The publication with its offset (1, then +1) and epoch.
        """
        # Out, and in again below: least recently published first, so that what the bounds take is
        # the quietest stream.
        stream = self.streams.pop(channel, None)
        if stream is None or stream.expires_at <= now:
            if stream is not None:
                self.streams[channel] = stream
            stream = self.open(channel, history, now)
            self.unused.pop(channel, None)
            self.streams.pop(channel, None)
        stream.offset += 1
        placed = msgspec.structs.replace(publication, offset=stream.offset, epoch=stream.epoch)
        size = len(placed.data)
        stream.publications.append(placed)
        stream.byte_count += size
        self.byte_count += size
        if len(stream.publications) > history.size:
            self.byte_count -= stream.trim(history.size)
        stream.expires_at = now + history.ttl_seconds
        stream.meta_expires_at = now + history.meta_ttl_seconds
        self.streams[channel] = stream
        if stream.expires_at < stream.watched_at:
            self.watch(channel, stream, now)
        if len(self.streams) > self.channels_max or self.byte_count > self.bytes_max:
            self.evict()
        return placed

    def read(
        self,
        channel: str,
        history: History,
        now: float,
        *,
        since: StreamPosition | None,
        limit: int,
        reverse: bool = False,
    ) -> StreamSlice:
        """Read kept publications after ``since``, oldest first, at most ``limit``.

        With ``reverse`` those before ``since``, newest first.

        Raises:
            ValueError: ``limit`` is negative.
        """
        if limit < 0:
            raise ValueError(f"limit must be 0 or more, got {limit}")
        stream = self.open(channel, history, now)
        publications = stream.publications
        first = stream.offset - len(publications) + 1
        if reverse:
            end = (
                len(publications) if since is None else min(since.offset - first, len(publications))
            )
            chosen = islice(publications, max(0, end - limit), max(0, end))
            kept = tuple(reversed(tuple(chosen)))
        else:
            # A peer's offset may be larger than what `islice` takes.
            start = max(0, (since.offset if since is not None else 0) + 1 - first)
            start = min(start, len(publications))
            kept = tuple(islice(publications, start, min(start + limit, len(publications))))
        return StreamSlice(kept, StreamPosition(stream.offset, stream.epoch))

    def top(self, channel: str, history: History, now: float) -> StreamPosition:
        """Return the position of the newest publication."""
        stream = self.open(channel, history, now)
        return StreamPosition(stream.offset, stream.epoch)

    def accept_version(
        self, channel: str, history: History, how: PublishOptions, now: float
    ) -> bool:
        """Take a publication's version for the stream's, unless it is not above that.

        Source:
            Protocol document, section 2.7: another ``version_epoch`` starts again.
        """
        stream = self.open(channel, history, now)
        if how.version_epoch == stream.version_epoch and how.version <= stream.version:
            return False
        stream.version, stream.version_epoch = how.version, how.version_epoch
        return True

    def remove(self, channel: str) -> None:
        """Forget what is kept of a channel; its offset and epoch stay."""
        stream = self.streams.get(channel)
        if stream is not None:
            self.byte_count -= stream.trim(0)

    def expire(self, now: float) -> None:
        """Drop what is past its time to live."""
        while self.deadlines and self.deadlines[0][0] <= now:
            deadline, channel = heapq.heappop(self.deadlines)
            stream = self.find(channel)
            if stream is None or stream.watched_at != deadline:
                continue
            if stream.meta_expires_at <= now:
                self.forget(channel)
                continue
            if stream.expires_at <= now:
                self.byte_count -= stream.trim(0)
            self.watch(channel, stream, now)

    def open(self, channel: str, history: History, now: float) -> Stream:
        """Return the stream of a channel as it is at ``now``, a new one where there is none."""
        stream = self.find(channel)
        if stream is not None and stream.meta_expires_at <= now:
            self.forget(channel)
            stream = None
        if stream is None:
            stream = Stream(self.new_epoch())
            stream.expires_at = now + history.ttl_seconds
            stream.meta_expires_at = now + history.meta_ttl_seconds
            self.unused[channel] = stream
            if len(self.unused) > self.channels_max:
                del self.unused[next(iter(self.unused))]
            self.watch(channel, stream, now)
        if stream.expires_at <= now:
            self.byte_count -= stream.trim(0)
        return stream

    def watch(self, channel: str, stream: Stream, now: float) -> None:
        """Plan the next look at a stream: when its publications end, or else its positions."""
        if stream.expires_at > now:
            stream.watched_at = stream.expires_at
        else:
            stream.watched_at = stream.meta_expires_at
        heapq.heappush(self.deadlines, (stream.watched_at, channel))
        # Entries that do not count any more stay until their time; they must not pile up.
        count = len(self.unused) + len(self.streams)
        if len(self.deadlines) > 2 * count + STALE_DEADLINES_MAX:
            kept = self.unused | self.streams
            self.deadlines = [(known.watched_at, name) for name, known in kept.items()]
            heapq.heapify(self.deadlines)

    def find(self, channel: str) -> Stream | None:
        """Return the stream of a channel, expired or not, or ``None``."""
        return self.streams.get(channel) or self.unused.get(channel)

    def forget(self, channel: str) -> None:
        """Drop a stream whole: whoever comes back finds another epoch."""
        self.unused.pop(channel, None)
        stream = self.streams.pop(channel, None)
        if stream is not None:
            self.byte_count -= stream.trim(0)

    def evict(self) -> None:
        """Forget the quietest streams until the bounds hold; the newest one always stays."""
        while len(self.streams) > 1 and (
            len(self.streams) > self.channels_max or self.byte_count > self.bytes_max
        ):
            self.forget(next(iter(self.streams)))
            self.evicted_count += 1
