"""Keeps the tables bounded: partitions are made ahead and dropped, and what has ended is removed.

Every node tries, and one at a time does it. Each step is a short transaction of its own.
"""

from __future__ import annotations

import asyncio
import logging

from wirebell.broker_options import PostgreSQLOptions
from wirebell.brokers.postgresql import statements
from wirebell.brokers.postgresql.link import Link
from wirebell.brokers.postgresql.schema import lock_key_of
from wirebell.brokers.postgresql.statements import fill

__all__ = ("Keeper",)

logger = logging.getLogger(__name__)

ROWS_MAX = 5_000
"""Rows that one step removes from a table, or from a shard."""

STEPS_MAX = 1_000


class Keeper:
    """Does what has to be done every ``cleanup_interval_seconds``.

    Args:
        options: How often, and for how long things stay.
        link: To ask on.
    """

    def __init__(self, options: PostgreSQLOptions, link: Link) -> None:
        self.options = options
        self.link = link
        self.key = lock_key_of(options.table_prefix)
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
        is_failing = False
        while True:
            await asyncio.sleep(self.options.cleanup_interval_seconds)
            try:
                await self.make_partitions(is_urgent=False)
                await self.sweep()
                is_failing = False
            except Exception as error:  # noqa: BLE001 - nobody else would go on cleaning
                if not is_failing:
                    logger.warning("the tables are not cleaned: %s", error)
                is_failing = True

    async def make_partitions(self, *, is_urgent: bool) -> None:
        """Make partitions ahead, and drop old ones.

        Args:
            is_urgent: Wait for another node that does it.

        Raises:
            BrokerUnavailable: It could not be done.
        """
        await self.link.ask(
            fill(statements.UPKEEP, self.options.table_prefix),
            self.key,
            self.options.lookahead_days,
            self.options.partition_retention_days,
            is_urgent,
        )

    async def sweep(self) -> None:
        """Remove what has ended.

        Raises:
            BrokerUnavailable: It could not be done.
        """
        statement = fill(statements.SWEEP, self.options.table_prefix)
        for _ in range(STEPS_MAX):
            ((count,),) = await self.link.ask(statement, self.key, ROWS_MAX, self.transport_seconds)
            if count < ROWS_MAX:
                return
