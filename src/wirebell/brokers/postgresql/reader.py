"""Reads what all nodes wrote: woken by notifications, and looking by itself now and then.

Strategy: for each shard the node knows the last id that it read, and reads on from there. So a
notification carries nothing but where to look, and one that is lost costs a moment; and after a
cut of the link, too, what is still in the log arrives.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Final, Protocol

from wirebell.backoff import Backoff
from wirebell.broker_options import PostgreSQLOptions
from wirebell.brokers.postgresql.addresses import Place
from wirebell.brokers.postgresql.faults import ERRORS, explain
from wirebell.brokers.postgresql.link import Connection, open_connection
from wirebell.brokers.postgresql.schema import lock_key_of, prepare
from wirebell.brokers.postgresql.statements import TRANSPORT_SECONDS, fill

__all__ = ("POLL_SECONDS", "Owner", "Reader")

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5
"""How long a notification that was lost, or that a pooler swallowed, keeps a node waiting."""

ROWS_MAX = 2_000
BYTES_MAX = 4 * 1024 * 1024
"""Of one answer, shared out among its shards; of each the first row comes, however large."""

# What was read longer ago may have been swept since.
ANCHOR_SECONDS = TRANSPORT_SECONDS * 0.8

TOPS: Final = """
SELECT c.shard, coalesce(l.id, 0) AS id
FROM unnest($1::int[]) AS c(shard)
LEFT JOIN LATERAL (
    SELECT id FROM {p}_log WHERE shard = c.shard ORDER BY id DESC LIMIT 1
) l ON true
"""

READ: Final = """
SELECT l.shard, l.id, l.created_at, l.kind, l.channel, l.epoch, l."offset", l.record
FROM unnest($1::int[], $2::bigint[]) AS c(shard, last_id)
CROSS JOIN LATERAL (
    SELECT m.*, sum(octet_length(m.record)) OVER (ORDER BY m.id) - octet_length(m.record) AS before
    FROM (
        SELECT shard, id, created_at, kind, channel, epoch, "offset", record FROM {p}_log
        WHERE shard = c.shard AND id > c.last_id AND created_at > now() - interval '1 hour'
        ORDER BY id LIMIT $3
    ) m
) l
WHERE l.before < $4
"""

IS_LOST: Final = """
SELECT EXISTS (
    SELECT FROM unnest($1::int[], $2::bigint[], $3::timestamptz[]) AS a(shard, id, created_at)
    WHERE a.id > (SELECT last_value FROM {p}_ids) OR (
        a.created_at > now() - $4 * interval '1 second' AND NOT EXISTS (
            SELECT FROM {p}_log l
            WHERE l.shard = a.shard AND l.id = a.id AND l.created_at = a.created_at
        )
    )
)
"""

# Numbers that were given are never given again, and all streams have ended.
LOSE: Final = """
WITH locked AS (SELECT {p}_lock_1($1, $2, $3)),
counted AS (
    SELECT setval('{p}_ids', greatest($4, (SELECT last_value FROM {p}_ids))) FROM locked
)
UPDATE {p}_meta SET generation = generation + 1 FROM counted
"""


class Owner(Protocol):
    """Who is told what was read."""

    def handle_row(self, kind: int, key: bytes, epoch: str, offset: int, record: bytes) -> None:
        """Take what somebody wrote; in the order of its shard."""

    def handle_back(self) -> None:
        """Learn that something may not have come."""


class Reader:
    """The connection of a node that listens and reads; supervised.

    Mutable state: how far each shard was read, which shards have something,
    how far the server's clock is ahead of the loop's, and the connection.

    Args:
        options: Of the tables.
        place: Where they are written.
        listen_place: Where a connection lasts.
        owner: Is told.
    """

    def __init__(
        self, options: PostgreSQLOptions, place: Place, listen_place: Place, owner: Owner
    ) -> None:
        self.options = options
        self.place = place
        self.listen_place = listen_place
        self.owner = owner
        self.shards = list(range(options.shard_count))
        self.last_ids = [0] * options.shard_count
        # Of the newest row that was read: where and when it was written.
        self.anchors: dict[int, tuple[int, datetime]] = {}
        self.instance = ""
        self.clock_lead = 0.0
        self.dirty: set[int] = set()
        self.something = asyncio.Event()
        # Reset by what was read, not by a connection: one that stands may still answer nothing.
        self.backoff = Backoff()
        self.is_connected = False
        self.read_at = 0.0
        self.task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect, and read from now on.

        Raises:
            ConfigError: Somebody has to change something.
            OSError, asyncpg.PostgresError, asyncpg.InterfaceError: As the driver puts it.
        """
        connection = await self._connect()
        self.is_connected = True
        self.task = asyncio.get_running_loop().create_task(self._run(connection))

    async def aclose(self) -> None:
        """End; idempotent."""
        task, self.task = self.task, None
        self.is_connected = False
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))

    # The connection

    async def _run(self, connection: Connection) -> None:
        """Read until the end; come back whenever the link is lost."""
        while True:
            try:
                await self._follow(connection)
            except ERRORS as error:
                logger.warning(
                    "PostgreSQL at %s is lost, what others publish does not arrive: %s",
                    self.listen_place,
                    explain(error).text,
                )
            except Exception:
                # Whatever it is, nobody else would go on reading.
                logger.exception("what PostgreSQL at %s sent was not taken", self.listen_place)
            finally:
                self.is_connected = False
                connection.terminate()
            connection = await self._come_back()
            self.is_connected = True
            logger.info("PostgreSQL at %s stands again", self.listen_place)
            self.owner.handle_back()

    async def _come_back(self) -> Connection:
        """Connect, however long that takes."""
        told = ""
        while True:
            await asyncio.sleep(self.backoff.next_delay())
            try:
                return await self._connect()
            except ERRORS as error:
                logger.debug("PostgreSQL stays away: %s", error)
            except Exception as error:  # noqa: BLE001 - nobody else would try again
                if str(error) != told:
                    told = str(error)
                    logger.error("PostgreSQL came back otherwise than before: %s", error)  # noqa: TRY400 - it says all

    async def _connect(self) -> Connection:
        """See that the tables are there, connect, listen, and find out where to read on."""
        connection = await open_connection(self.place)
        try:
            found = await prepare(connection, self.options, self.place)
            if self.place.is_pooled:
                connection.terminate()
                connection = await open_connection(self.listen_place)
            async with asyncio.timeout(self.place.io_seconds * 2):
                connection.add_termination_listener(self._wake_all)
                await connection.add_listener(f"{self.options.table_prefix}_wake", self._wake)
                if found.instance == self.instance:
                    await self._compare(connection)
                tops = await connection.fetch(self._fill(TOPS), self.shards)
        except BaseException:
            connection.terminate()
            raise
        self.clock_lead = found.clock_lead
        for shard, last_id in tops:
            if found.instance == self.instance:
                # Below is only who lost something, and gives these numbers again.
                last_id = min(last_id, self.last_ids[shard])
            self.last_ids[shard] = last_id
        if found.instance != self.instance:
            self.instance = found.instance
            self.anchors.clear()
        self.read_at = _clock()
        return connection

    async def _compare(self, connection: Connection) -> None:
        """Find out whether the server still has what it told us, and start new epochs if not."""
        anchors = [(shard, *anchor) for shard, anchor in self.anchors.items()]
        is_lost = await connection.fetchval(
            self._fill(IS_LOST),
            [anchor[0] for anchor in anchors],
            [anchor[1] for anchor in anchors],
            [anchor[2] for anchor in anchors],
            ANCHOR_SECONDS,
        )
        if is_lost:
            self.anchors.clear()
            logger.error(
                "PostgreSQL at %s lost what it had acknowledged: all channels start new epochs",
                self.listen_place,
            )
            await connection.execute(
                self._fill(LOSE),
                lock_key_of(self.options.table_prefix),
                self.shards,
                int(self.place.io_seconds * 1000),
                max(anchor[1] for anchor in anchors),
            )

    def _wake(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        """Note which shards have something."""
        numbers = [int(word) for word in str(payload).split(",") if word.isdecimal()]
        self.dirty.update(number for number in numbers if number < len(self.shards))
        if not numbers:
            self.dirty.update(self.shards)
        self.something.set()

    def _wake_all(self, _connection: object) -> None:
        """Look at once: the connection ended."""
        self.something.set()

    # Reading

    async def _follow(self, connection: Connection) -> None:
        """Read whenever there may be something, until the link is lost."""
        loop = asyncio.get_running_loop()
        # What was written before this connection stood is looked for at once.
        look_at = loop.time()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(look_at):
                    await self.something.wait()
            self.something.clear()
            if connection.is_closed():
                raise ConnectionResetError("it closed the link")
            shards: Iterable[int] = sorted(self.dirty)
            self.dirty.clear()
            if loop.time() >= look_at:
                shards = self.shards
                look_at = loop.time() + POLL_SECONDS
            await self._read(connection, shards)
            self.backoff.reset()
            now = _clock()
            was_away = now - self.read_at > ANCHOR_SECONDS
            self.read_at = now
            if was_away:
                # This process stood still: what nobody keeps may have been swept meanwhile.
                self.owner.handle_back()

    async def _read(self, connection: Connection, shards: Iterable[int]) -> None:
        """Read what shards have, part by part."""
        statement = self._fill(READ)
        left = list(shards)
        while left:
            rows_max = max(1, ROWS_MAX // len(left))
            bytes_max = BYTES_MAX // len(left)
            async with asyncio.timeout(self.place.io_seconds):
                rows = await connection.fetch(
                    statement, left, [self.last_ids[shard] for shard in left], rows_max, bytes_max
                )
            left = self._hand_over(rows, rows_max, bytes_max)

    def _hand_over(self, rows: Sequence[Any], rows_max: int, bytes_max: int) -> list[int]:
        """Tell what was read, and return the shards that may have more."""
        counts: dict[int, int] = {}
        sizes: dict[int, int] = {}
        handle_row, last_ids = self.owner.handle_row, self.last_ids
        for shard, row_id, created_at, kind, key, epoch, offset, record in rows:
            counts[shard] = counts.get(shard, 0) + 1
            sizes[shard] = sizes.get(shard, 0) + len(record)
            last_ids[shard] = row_id
            self.anchors[shard] = (row_id, created_at)
            handle_row(kind, key, epoch or "", offset, record)
        return [
            shard
            for shard, count in counts.items()
            if count >= rows_max or sizes[shard] >= bytes_max
        ]

    def _fill(self, statement: str) -> str:
        """Write the prefix into a statement."""
        return fill(statement, self.options.table_prefix)


def _clock() -> float:
    """Return seconds that go on while the machine sleeps, as far as that can be known."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)
