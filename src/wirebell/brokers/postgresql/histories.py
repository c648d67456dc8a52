"""What channels keep: read in one call for all who ask in a turn of the event loop."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from typing import Final, NamedTuple

from wirebell.batching import Batcher
from wirebell.broker_options import PostgreSQLOptions
from wirebell.brokers.postgresql.batches import bounded_seconds, key_of, shard_of
from wirebell.brokers.postgresql.faults import UnknownLog
from wirebell.brokers.postgresql.link import Link
from wirebell.brokers.postgresql.schema import lock_key_of
from wirebell.history import StreamSlice
from wirebell.model import ChannelOptions, History, Publication, StreamPosition
from wirebell.records import UnknownRecord, decode_item

__all__ = ("Histories",)

QUESTIONS_MAX = 200
OFFSET_MAX = 2**63 - 1
ROWS_ASKED_MAX = 2**31 - 1

# By which answers are kept small: about so many bytes are expected of each publication.
EXPECTED_BYTES = 1024

OPEN: Final = "SELECT {p}_open_1($1, $2, $3, $4, $5, $6)"

READ: Final = """
SELECT q.number, s.epoch, s.top, l."offset", l.record
FROM unnest($1::bytea[], $2::bigint[], $3::bigint[], $4::bool[])
    WITH ORDINALITY AS q(channel, after, row_count, is_reverse, number)
JOIN {p}_streams s ON s.channel = q.channel AND s.meta_expires_at > now()
    AND s.generation = (SELECT generation FROM {p}_meta WHERE timeline = {p}_timeline())
LEFT JOIN LATERAL (
    (
        SELECT "offset", record FROM {p}_log l
        WHERE NOT q.is_reverse AND s.expires_at > now() AND l.channel = s.channel
            AND l."offset" > 0 AND l."offset" > q.after AND l."offset" >= s.first
            AND l.epoch = s.epoch AND l.created_at > now() - $5 * interval '1 second'
        ORDER BY l."offset" LIMIT q.row_count
    )
    UNION ALL
    (
        SELECT "offset", record FROM {p}_log l
        WHERE q.is_reverse AND s.expires_at > now() AND l.channel = s.channel
            AND l."offset" > 0 AND l."offset" < q.after AND l."offset" >= s.first
            AND l.epoch = s.epoch AND l.created_at > now() - $5 * interval '1 second'
        ORDER BY l."offset" DESC LIMIT q.row_count
    )
) l ON true
"""

REMOVE: Final = "UPDATE {p}_streams SET first = top + 1 WHERE channel = $1"


class Question(NamedTuple):
    """Which part of a stream is asked for."""

    key: bytes
    after: int
    limit: int
    is_reverse: bool
    history: History


class Histories:
    """Reads streams, and opens those that nobody published to.

    Args:
        options: Of the tables.
        link: To ask on.
        unknown: Is told of records that cannot be read.
    """

    def __init__(self, options: PostgreSQLOptions, link: Link, unknown: UnknownLog) -> None:
        self.options = options
        self.link = link
        self.unknown = unknown
        self.questions: Batcher[Question, StreamSlice] = Batcher(
            self._answer, size_of=_size_of, count_max=QUESTIONS_MAX
        )

    async def aclose(self) -> None:
        """Answer what was asked before, within bounds; idempotent."""
        await self.questions.aclose()

    async def read(
        self,
        channel: str,
        options: ChannelOptions,
        *,
        since: StreamPosition | None,
        limit: int,
        reverse: bool,
    ) -> StreamSlice:
        """Read what is kept; see `wirebell.interfaces.Broker.history`."""
        if limit < 0:
            raise ValueError(f"limit must be 0 or more, got {limit}")
        after = since.offset if since is not None else OFFSET_MAX if reverse else 0
        return await self.questions.add(
            Question(
                key_of(channel),
                min(after, OFFSET_MAX),
                min(limit, ROWS_ASKED_MAX),
                reverse,
                options.history or History(),
            )
        )

    async def remove(self, channel: str) -> None:
        """Forget what is kept of a channel."""
        await self.link.ask(REMOVE, key_of(channel))

    async def _answer(self, questions: Sequence[Question]) -> Sequence[StreamSlice]:
        """Read parts of streams; those that do not exist yet get an epoch now, which stays."""
        deadline = asyncio.get_running_loop().time() + self.options.io_timeout_seconds
        found = await self._read(questions, deadline)
        missing = [each for each, part in zip(questions, found, strict=True) if part is None]
        if missing:
            await self._open({each.key: each.history for each in missing}, deadline)
            opened = iter(await self._read(missing, deadline))
            found = [next(opened) if part is None else part for part in found]
        # Who keeps positions for less than an instant gets one that has ended already.
        return [part or StreamSlice((), StreamPosition(0, secrets.token_hex(4))) for part in found]

    async def _open(self, missing: dict[bytes, History], deadline: float) -> None:
        """Give streams an epoch that nobody published to."""
        keys = sorted(missing)
        shards = sorted({shard_of(key, self.options.shard_count) for key in keys})
        await self.link.call(
            OPEN,
            lambda left, _fault: (
                lock_key_of(self.options.table_prefix),
                max(1, int(left * 1000)),
                shards,
                keys,
                [bounded_seconds(missing[key].ttl_seconds) for key in keys],
                [bounded_seconds(missing[key].meta_ttl_seconds) for key in keys],
            ),
            deadline=deadline,
        )

    async def _read(
        self, questions: Sequence[Question], deadline: float
    ) -> list[StreamSlice | None]:
        """Read parts of streams; ``None`` for one that does not exist."""
        rows = await self.link.ask(
            READ,
            [question.key for question in questions],
            [question.after for question in questions],
            [question.limit for question in questions],
            [question.is_reverse for question in questions],
            self.options.retention_seconds,
            deadline=deadline,
        )
        tops: dict[int, StreamPosition] = {}
        kept: dict[int, list[Publication]] = {}
        for number, epoch, top, offset, record in rows:
            tops[number] = StreamPosition(top, epoch)
            publication = None if offset is None else self._decode(record, offset, epoch)
            if publication is not None:
                kept.setdefault(number, []).append(publication)
        return [
            StreamSlice(_run_of(kept.get(number, []), question), tops[number])
            if number in tops
            else None
            for number, question in enumerate(questions, 1)
        ]

    def _decode(self, record: bytes, offset: int, epoch: str) -> Publication | None:
        """Read a kept publication; what cannot be read is left out."""
        try:
            item = decode_item(record, offset, epoch)
        except UnknownRecord as error:
            self.unknown.tell(error)
            return None
        return item if isinstance(item, Publication) else None


def _size_of(question: Question) -> int:
    """Estimate the bytes of an answer."""
    return EXPECTED_BYTES * (1 + min(question.limit, question.history.size))


def _run_of(publications: list[Publication], question: Question) -> tuple[Publication, ...]:
    """Return the run without a hole at the newer end."""
    ordered = sorted(publications, key=lambda each: each.offset)
    start = len(ordered) - 1
    while start > 0 and ordered[start - 1].offset == ordered[start].offset - 1:
        start -= 1
    run = ordered[max(0, start) :]
    return tuple(reversed(run)) if question.is_reverse else tuple(run)
