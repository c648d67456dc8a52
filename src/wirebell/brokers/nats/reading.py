"""Histories, read backwards: from a channel's last frame along the chain of those before it.

JetStream keeps at least what belongs to a history; what belongs to it exactly is found here: its
size, the time to live after the newest publication, and what was removed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from wirebell.brokers.nats.frames import CHAIN_MAX, Frame, decode_frame
from wirebell.brokers.nats.messages import Message
from wirebell.brokers.nats.streams import Stream, Streams
from wirebell.history import StreamSlice
from wirebell.model import History, Publication, StreamPosition

__all__ = ("Question", "Reader", "bounds_of")

ReadRecord = Callable[[bytes, int, str], Publication | None]
"""Reads a record at an offset and in an epoch; ``None`` for what is left out."""


class Question(NamedTuple):
    """What is asked of a channel's history.

    Attributes:
        word: The channel's.
        history: Its options.
        since: An offset; ``None`` for none.
        limit: Most publications.
        reverse: The newest before ``since``, instead of the oldest behind it.
    """

    word: bytes
    history: History
    since: int | None
    limit: int
    reverse: bool


class _Found(NamedTuple):
    """A frame, where it lies and since when."""

    message: Message
    frame: Frame


class Reader:
    """Answers questions.

    Args:
        streams: Where histories lie.
        read_record: Reads what is kept.
    """

    def __init__(self, streams: Streams, read_record: ReadRecord) -> None:
        self.streams = streams
        self.read_record = read_record

    async def read(self, question: Question) -> StreamSlice:
        """Read what is kept.

        Raises:
            BrokerUnavailable: There was no answer in time.
            Declined: JetStream says no.
            UnknownRecord: A newer release wrote it.
        """
        history, deadline = question.history, self.streams.link.deadline()
        stream = self.streams.kept(history)
        await self.streams.compare_clocks(deadline)
        await self.streams.open(stream, deadline=deadline)
        last = await self.streams.last(stream, question.word, deadline)
        if last is None and await self.streams.look(stream, deadline):
            last = await self.streams.last(stream, question.word, deadline)
        now = self.streams.now()
        age = 0.0 if last is None else now - last[0].stored_at
        if last is None or age > history.meta_ttl_seconds:
            epoch = await self.streams.epoch(stream, question.word, history, deadline)
            return StreamSlice((), StreamPosition(0, epoch))
        newest = _Found(*last)
        top = newest.frame.top
        position = StreamPosition(top, newest.frame.epoch)
        first, end = bounds_of(question, top, newest.frame.floor)
        if first > end or age > history.ttl_seconds:
            return StreamSlice((), position)
        records = await self._walk(stream, newest, first, history.ttl_seconds, deadline)
        chosen = [offset for offset in range(end, first - 1, -1) if offset in records]
        if not question.reverse:
            # What is gone from the old end may be more than was known.
            start = max(first, min(records, default=first))
            chosen = list(range(start, min(end, start + question.limit - 1) + 1))
        publications = (
            self.read_record(records[offset], offset, position.epoch)
            for offset in chosen
            if offset in records
        )
        return StreamSlice(tuple(each for each in publications if each is not None), position)

    async def _walk(
        self, stream: Stream, newest: _Found, first: int, ttl_seconds: float, deadline: float
    ) -> dict[int, bytes]:
        """Read from the newest frame back to an offset, as far as that is kept.

        Returns:
            Offset → record, without a hole.
        """
        records: dict[int, bytes] = {}
        found = newest
        _collect(records, found.frame, first)
        while (missing := found.frame.offset - first) > 0 and found.frame.chain:
            # Each has one publication at least.
            wanted = [{"seq": each} for each in found.frame.chain[: min(missing, CHAIN_MAX)]]
            for message in await self.streams.get_all(stream, wanted, deadline):
                if message is None:
                    return records
                older = _Found(message, decode_frame(message.data))
                if not _follows(found, older, ttl_seconds):
                    return records
                _collect(records, older.frame, first)
                found = older
        return records


def _collect(records: dict[int, bytes], frame: Frame, first: int) -> None:
    """Take the records of a frame from an offset on."""
    records.update(
        (offset, record)
        for offset, record in enumerate(frame.records, frame.offset)
        if offset >= first
    )


def _follows(found: _Found, older: _Found, ttl_seconds: float) -> bool:
    """Tell whether a frame continues an older one, and came before that had ended."""
    pause = found.message.time - older.message.time
    return (
        older.frame.top + 1 == found.frame.offset
        and older.frame.epoch == found.frame.epoch
        and pause.total_seconds() <= ttl_seconds
    )


def bounds_of(question: Question, top: int, floor: int) -> tuple[int, int]:
    """Return the first and the last offset that are asked for, as far as the size allows.

    Forwards, the last one is the newest: where the answer begins shows only behind it.
    """
    since, limit = question.since, question.limit
    first, end = max(floor, top - question.history.size + 1), top
    if limit == 0:
        return 1, 0
    if question.reverse:
        if since is not None:
            end = min(end, since - 1)
        first = max(first, end - limit + 1)
    elif since is not None:
        first = max(first, since + 1)
    return first, end
