"""Keeps the tables bounded: partitions are made ahead and dropped, and what has ended is removed.

Every node tries, and one at a time does it. Each step is a short transaction of its own.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from wirebell.broker_options import PostgreSQLOptions
from wirebell.brokers.postgresql import statements
from wirebell.brokers.postgresql.link import Link, Rows
from wirebell.brokers.postgresql.schema import PARTITIONS, lock_key_of

__all__ = ("Keeper",)

logger = logging.getLogger(__name__)

ROWS_MAX = 5_000
"""Rows that one step looks at in a shard, or removes from another table."""

STEPS_MAX = 1_000

STEP_SECONDS = 60.0
"""Nobody waits for a step, and a table of millions of rows may be read by it."""

# So that a node that looks a little too early takes its turn all the same.
TURN_SHARE = 0.9

TURN: Final = """
UPDATE {p}_meta SET swept_at = now()
WHERE swept_at NOT BETWEEN now() - $1 * interval '1 second' AND now()
RETURNING true
"""


def _removal(table: str, key: str, ends_at: str) -> str:
    """Return what removes `$1` rows of a table at most that ended `$2` seconds ago."""
    return (
        f"WITH gone AS (DELETE FROM {{p}}_{table} WHERE ({key}) IN ("  # noqa: S608 - names of ours
        f"SELECT {key} FROM {{p}}_{table} WHERE {ends_at} <= now() - $2 * interval '1 second' "
        "LIMIT $1 FOR UPDATE SKIP LOCKED) RETURNING 1) SELECT count(*) FROM gone"
    )


ENDED: Final = (
    _removal("results", "key", "expires_at"),
    _removal("streams", "channel", "meta_expires_at"),
    _removal("presence", "channel, client_id", "expires_at"),
)
OLD_BATCHES: Final = _removal("batches", "id", "created_at")

# What nobody keeps, and what channels have let go of: each row is looked at once.
SWEEP: Final = """
WITH next AS (
    SELECT max(l.id) AS last_id, count(*) AS row_count FROM (
        SELECT id, created_at FROM {p}_log
        WHERE shard = $1 AND id > (SELECT swept_id FROM {p}_shards WHERE shard = $1)
        ORDER BY id LIMIT $2
    ) l WHERE l.created_at <= now() - $3 * interval '1 second'
), noted AS (
    UPDATE {p}_shards SET swept_id = next.last_id FROM next
    WHERE shard = $1 AND swept_id < next.last_id
), gone AS (
    DELETE FROM {p}_log l USING next, {p}_shards c
    WHERE c.shard = $1 AND l.shard = $1 AND l.id > c.swept_id AND l.id <= next.last_id
        AND l.created_at <= now() - $3 * interval '1 second'
        AND (l."offset" = 0 OR NOT EXISTS (
            SELECT FROM {p}_streams s
            WHERE s.channel = l.channel AND s.epoch = l.epoch
                AND s.expires_at > now() AND l."offset" >= s.first
        ))
)
SELECT row_count FROM next
"""


class Keeper:
    """Does what has to be done every ``cleanup_interval_seconds``, by one node or another.

    Args:
        options: How often, and for how long things stay.
        link: To ask on.
    """

    def __init__(self, options: PostgreSQLOptions, link: Link) -> None:
        self.options = options
        self.link = link
        self.transport_seconds = float(statements.TRANSPORT_SECONDS)
        self.task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; the tables are there."""
        self.task = asyncio.get_running_loop().create_task(self._run())

    async def aclose(self) -> None:
        """End; idempotent."""
        task, self.task = self.task, None
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))

    async def _run(self) -> None:
        """Do it again and again."""
        interval = self.options.cleanup_interval_seconds
        is_failing = False
        while True:
            await asyncio.sleep(interval)
            try:
                if await self._ask(TURN, interval * TURN_SHARE):
                    await self.make_partitions()
                    await self.sweep()
                is_failing = False
            except Exception as error:  # noqa: BLE001 - nobody else would go on cleaning
                if not is_failing:
                    logger.warning("the tables are not cleaned: %s", error)
                is_failing = True

    async def make_partitions(self) -> None:
        """Make partitions ahead, and drop old ones.

        Raises:
            BrokerUnavailable: It could not be done.
        """
        await self._ask(
            PARTITIONS,
            lock_key_of(self.options.table_prefix),
            self.options.lookahead_days,
            self.options.partition_retention_days,
        )

    async def sweep(self) -> None:
        """Remove what has ended.

        Raises:
            BrokerUnavailable: It could not be done.
        """
        for statement in ENDED:
            await self._repeat(statement, ROWS_MAX, 0.0)
        await self._repeat(OLD_BATCHES, ROWS_MAX, self.transport_seconds)
        for shard in range(self.options.shard_count):
            await self._repeat(SWEEP, shard, ROWS_MAX, self.transport_seconds)

    async def _repeat(self, statement: str, *arguments: object) -> None:
        """Do a step until there is nothing more for it."""
        for _ in range(STEPS_MAX):
            ((count,),) = await self._ask(statement, *arguments)
            if count < ROWS_MAX:
                return

    async def _ask(self, statement: str, *arguments: object) -> Rows:
        """Ask with a bound of its own."""
        deadline = asyncio.get_running_loop().time() + STEP_SECONDS
        return await self.link.ask(statement, *arguments, deadline=deadline)
