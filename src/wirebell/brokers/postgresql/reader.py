"""Reads what all nodes wrote: woken by notifications, and looking by itself now and then.

Strategy: for each shard the node knows the last id that it read, and reads on from there. So a
notification carries nothing but where to look, and one that is lost costs a moment; and after a
cut of the link, too, what is still in the log arrives.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Protocol

from wirebell.backoff import Backoff
from wirebell.broker_options import PostgreSQLOptions
from wirebell.brokers.postgresql import statements
from wirebell.brokers.postgresql.addresses import Place
from wirebell.brokers.postgresql.faults import ERRORS, explain
from wirebell.brokers.postgresql.link import Connection, open_connection
from wirebell.brokers.postgresql.schema import lock_key_of, prepare
from wirebell.brokers.postgresql.statements import fill
from wirebell.errors import ConfigError

__all__ = ("POLL_SECONDS", "Owner", "Reader")

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5
"""How long a notification that was lost, or that a pooler swallowed, keeps a node waiting."""

ROWS_MAX = 500
BYTES_MAX = 1024 * 1024
"""Of one shard in one answer; a single larger row comes alone."""

# What was read longer ago may have been swept since.
ANCHOR_SECONDS = statements.TRANSPORT_SECONDS * 0.8


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
            # What was written meanwhile is still there.
            self.dirty.update(self.shards)
            self.something.set()

    async def _come_back(self) -> Connection:
        """Connect, however long that takes."""
        backoff = Backoff()
        told = ""
        while True:
            await asyncio.sleep(backoff.next_delay())
            try:
                return await self._connect()
            except ConfigError as error:
                if str(error) != told:
                    told = str(error)
                    logger.error("PostgreSQL came back otherwise than before: %s", error)  # noqa: TRY400 - it says all
            except ERRORS as error:
                logger.debug("PostgreSQL stays away: %s", error)

    async def _connect(self) -> Connection:
        """See that the tables are there, connect, listen, and find out where to read on."""
        found = await prepare(self.options, self.place)
        self.clock_lead = found.clock_lead
        connection = await open_connection(self.listen_place)
        try:
            async with asyncio.timeout(self.place.io_seconds * 2):
                connection.add_termination_listener(self._wake_all)
                await connection.add_listener(f"{self.options.table_prefix}_wake", self._wake)
                if found.instance == self.instance:
                    await self._compare(connection)
                tops = await connection.fetch(self._fill(statements.TOPS), self.shards)
        except BaseException:
            connection.terminate()
            raise
        for shard, last_id, _ in tops:
            if found.instance == self.instance:
                # Below is only who lost something, and gives these numbers again.
                last_id = min(last_id, self.last_ids[shard])
            self.last_ids[shard] = last_id
        if found.instance != self.instance:
            self.instance = found.instance
            self.anchors.clear()
        if not self.read_at:
            self.read_at = _clock()
        return connection

    async def _compare(self, connection: Connection) -> None:
        """Find out whether the server still has what it told us, and start new epochs if not."""
        anchors = [(shard, *anchor) for shard, anchor in self.anchors.items()]
        is_lost = await connection.fetchval(
            self._fill(statements.IS_LOST),
            [anchor[0] for anchor in anchors],
            [anchor[1] for anchor in anchors],
            [anchor[2] for anchor in anchors],
            ANCHOR_SECONDS,
        )
        self.anchors.clear()
        if is_lost:
            logger.error(
                "PostgreSQL at %s lost what it had acknowledged: all channels start new epochs",
                self.listen_place,
            )
            await connection.execute(
                self._fill(statements.LOSE),
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
        while True:
            shards: Iterable[int]
            try:
                async with asyncio.timeout(POLL_SECONDS):
                    await self.something.wait()
                shards = sorted(self.dirty)
            except TimeoutError:
                shards = self.shards
            self.something.clear()
            self.dirty.clear()
            if connection.is_closed():
                raise ConnectionResetError("it closed the link")
            await self._read(connection, shards)
            now = _clock()
            was_away = now - self.read_at > ANCHOR_SECONDS
            self.read_at = now
            if was_away:
                # This process stood still: what nobody keeps may have been swept meanwhile.
                self.owner.handle_back()

    async def _read(self, connection: Connection, shards: Iterable[int]) -> None:
        """Read what shards have, part by part."""
        statement = self._fill(statements.READ)
        left = list(shards)
        while left:
            async with asyncio.timeout(self.place.io_seconds):
                rows = await connection.fetch(
                    statement, left, [self.last_ids[shard] for shard in left], ROWS_MAX, BYTES_MAX
                )
            left = self._hand_over(rows)

    def _hand_over(self, rows: list[Any]) -> list[int]:
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
            if count >= ROWS_MAX or sizes[shard] >= BYTES_MAX
        ]

    def _fill(self, statement: str) -> str:
        """Write the prefix into a statement."""
        return fill(statement, self.options.table_prefix)


def _clock() -> float:
    """Return seconds that go on while the machine sleeps, as far as that can be known."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)
