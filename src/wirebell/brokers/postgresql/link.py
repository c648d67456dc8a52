"""Connections on which a database is asked: as many as are needed at once, up to a bound.

A call is repeated within its bound while that may help; what it asks must be right to ask twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

import asyncpg

from wirebell.backoff import Backoff
from wirebell.brokers.postgresql.addresses import Place
from wirebell.brokers.postgresql.faults import ERRORS, Fault, explain
from wirebell.brokers.postgresql.statements import fill
from wirebell.errors import BrokerClosed

__all__ = ("Connection", "Link", "open_connection")

FIRST_RETRY_SECONDS = 0.02
LONGEST_RETRY_SECONDS = 0.5

# A plan is made once, when the tables may still be empty, and kept while they grow: it must use
# the indexes from the start (the histories of 100 channels took ten times as long without). What
# then costs too much on paper must not be compiled, which takes seconds.
PLANNING = "SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan; SET jit = off"

# The driver ships no types.
Connection: TypeAlias = Any
Rows: TypeAlias = list[Any]


async def open_connection(place: Place) -> Connection:
    """Connect.

    Raises:
        OSError, asyncpg.PostgresError, asyncpg.InterfaceError: As the driver puts it.
    """
    connection = await asyncpg.connect(**place.arguments)
    if not place.is_pooled:
        try:
            async with asyncio.timeout(place.io_seconds):
                await connection.execute(PLANNING)
        except BaseException:
            connection.terminate()
            raise
    return connection


class Link:
    """A few connections to one database.

    Mutable state: those that are idle, and how many there are. To be used on one event loop.

    Args:
        place: Of the database.
        size: Connections at most, 1 or more.
        prefix: Of the tables.
    """

    def __init__(self, place: Place, size: int, prefix: str) -> None:
        self.place = place
        self.prefix = prefix
        self.slots = asyncio.Semaphore(size)
        self.idle: list[Connection] = []
        self.is_running = True

    async def aclose(self) -> None:
        """Let go of all connections; idempotent."""
        self.is_running = False
        for connection in self.idle:
            connection.terminate()
        self.idle.clear()

    async def call(
        self,
        statement: str,
        arguments: Callable[[float, Fault | None], Sequence[object]],
        *,
        deadline: float | None = None,
        repair: Callable[[Fault], Awaitable[None]] | None = None,
    ) -> Rows:
        """Ask, again and again where that may help.

        Args:
            statement: One, whose rows are wanted; ``{p}`` in it is the tables' prefix.
            arguments: Makes its parameters for each try: from the seconds that are left, and why
                the try before failed.
            deadline: Of the loop's clock; ``None`` is a whole bound from now.
            repair: Is awaited between two tries, with why the one before failed.

        Raises:
            BrokerUnavailable: There was no answer in time, or it will be the same at any time.
            BrokerClosed: The link was closed.
        """
        statement = fill(statement, self.prefix)
        loop = asyncio.get_running_loop()
        if deadline is None:
            deadline = loop.time() + self.place.io_seconds
        backoff = Backoff(FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS)
        problem: BaseException | None = None
        fault: Fault | None = None
        while self.is_running:
            left = deadline - loop.time()
            try:
                async with asyncio.timeout_at(deadline):
                    if fault is not None and repair is not None:
                        await repair(fault)
                    return await self._ask(statement, arguments(left, fault))
            except ERRORS as error:
                fault = explain(error)
                if problem is None or fault.code != "TIMEOUT":
                    # That its time was over says less than why.
                    problem = error
                if not fault.is_temporary:
                    raise fault.at(self.place) from error
            delay = backoff.next_delay()
            if loop.time() + delay >= deadline:
                raise explain(problem).at(self.place) from problem
            await asyncio.sleep(delay)
        raise BrokerClosed("the broker was closed before it answered")

    async def ask(self, statement: str, *arguments: object, deadline: float | None = None) -> Rows:
        """Ask what has the same parameters each time; see `call`."""
        return await self.call(statement, lambda _left, _fault: arguments, deadline=deadline)

    async def _ask(self, statement: str, arguments: Sequence[object]) -> Rows:
        """Ask once, on a connection that nobody else uses meanwhile."""
        async with self.slots:
            connection = self._take_idle() or await open_connection(self.place)
            is_whole = False
            try:
                rows = await self._fetch(connection, statement, arguments)
                is_whole = True
            except ERRORS as error:
                is_whole = explain(error).keeps_link
                raise
            finally:
                if is_whole and self.is_running and not connection.is_closed():
                    self.idle.append(connection)
                else:
                    connection.terminate()
            return rows

    def _take_idle(self) -> Connection | None:
        """Take a connection that still stands, if there is one."""
        while self.idle:
            connection = self.idle.pop()
            if not connection.is_closed():
                return connection
        return None

    async def _fetch(
        self, connection: Connection, statement: str, arguments: Sequence[object]
    ) -> Rows:
        """Ask on one connection."""
        if not self.place.is_pooled:
            return list(await connection.fetch(statement, *arguments))
        # Its two steps, preparing and running, have to meet the same process of the server.
        async with connection.transaction():
            return list(await connection.fetch(statement, *arguments))
