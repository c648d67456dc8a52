"""`Outbox`: takes publications inside an application's transactions, and has them relayed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Callable
from typing import TypeAlias

import msgspec
from sqlalchemy import Engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

from wirebell.errors import BadRequest, ConfigError
from wirebell.model import ChannelOptions, Publication, PublishOptions, StreamPosition
from wirebell.outbox.database import Database
from wirebell.outbox.relay import Publisher, Relay
from wirebell.outbox.tables import (
    DIALECTS,
    OUTBOX,
    NewRow,
    add_row,
    create_tables,
    encode_options,
    find_missing,
    is_missing_table,
)
from wirebell.publishing import check_channel
from wirebell.records import encode_publication
from wirebell.settings import Settings
from wirebell.statistics import NodeStatistics, OutboxStatistics

__all__ = ("Outbox", "OutboxSession")

logger = logging.getLogger(__name__)

OutboxSession: TypeAlias = (
    AsyncSession | async_scoped_session[AsyncSession] | Session | scoped_session[Session]
)
"""A session of SQLAlchemy, asynchronous or not."""

# Under which a session remembers whom its commit wakes.
WAKES = "wirebell.outbox"
NOT_YET = StreamPosition()


class Outbox:
    """Publishing inside the application's own transactions, on PostgreSQL or SQLite.

    Give it to `wirebell.Realtime`, have its tables made, and pass a session to ``publish``::

        rt = Realtime(outbox=Outbox(engine))

        async with session.begin():
            session.add(order)
            await rt.publish("orders", order_out, outbox=session)

    Guarantees:
        atomicity: A publication is published if, and only if, the transaction commits in which it
            was written; so with savepoints. The payload is serialised and checked at the call.
        order: Publications of a channel are published in the order of their transactions'
            commits, and within a transaction in the order of calls.
        duplicates: Each is published once, also when a relay dies or its answer is lost, within
            the five minutes for which brokers remember. Afterwards it is looked for in the
            channel's history; without one, or when that has forgotten, it may come twice.
        blocking: A commit waits for no broker. On PostgreSQL a transaction that publishes to a
            channel waits for others that did before, until they end.

    Mutable state: the relay, while the node runs. `add_now` may be called from any thread.

    Args:
        engine: The application's, or its URL.
        locks_channels: On PostgreSQL order by commits, at that price. Otherwise nobody waits, and
            of transactions that overlap either may be first; one that committed before another
            published stands before it all the same. Must be equal in all processes.
        relays: Relay while the node runs. A process whose `wirebell.Realtime` declares other
            channels must not: what is kept is decided where a publication is relayed.

    Raises:
        ConfigError: The database is neither, or in memory.
    """

    def __init__(
        self,
        engine: AsyncEngine | Engine | str | URL,
        *,
        locks_channels: bool = True,
        relays: bool = True,
    ) -> None:
        self.database = Database(engine)
        self.locks_channels = locks_channels
        self.relays = relays
        self.settings: Settings | None = None
        self.options_for: Callable[[str], ChannelOptions] = lambda channel: ChannelOptions()
        self.relay: Relay | None = None
        self.task: asyncio.Task[None] | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        if not event.contains(Session, "after_commit", _wake):
            event.listen(Session, "after_commit", _wake)

    def configure(self, settings: Settings, options_for: Callable[[str], ChannelOptions]) -> None:
        """Learn the bounds of what is published; `wirebell.Realtime` calls it."""
        self.settings, self.options_for = settings, options_for

    async def create_tables(self) -> None:
        """Create the outbox's tables where they are missing; several processes may at once.

        With migrations of your own, leave it out and add `wirebell.outbox.METADATA` to them.
        """
        await self.database.run(create_tables)

    # Publishing

    async def add(
        self,
        session: OutboxSession,
        channel: str,
        publication: Publication,
        how: PublishOptions | None = None,
    ) -> StreamPosition:
        """Write a publication by a session's own connection.

        Args:
            session: Its transaction is begun if it is not.
            channel: As for `wirebell.Realtime.publish`.
            publication: At most ``publication_bytes_max`` bytes.
            how: What holds for it alone.

        Returns:
            Offset 0 and an empty epoch: it has no position before it is published.

        Raises:
            BadRequest: The name or the payload is out of bounds.
            ConfigError: The session is of a database that cannot hold an outbox, or its tables are
                missing.
            TypeError: It is no session.
        """
        row = self._create_row(channel, publication, how)
        if isinstance(session, async_scoped_session | scoped_session):
            session = session()
        if isinstance(session, AsyncSession):
            await session.run_sync(self._write, row)
        else:
            self._write(session, row)
        return NOT_YET

    def add_now(
        self,
        session: OutboxSession,
        channel: str,
        publication: Publication,
        how: PublishOptions | None = None,
    ) -> StreamPosition:
        """Write a publication by an ordinary session, in its own thread; as `add`."""
        if isinstance(session, AsyncSession | async_scoped_session):
            raise TypeError("in a thread give an ordinary Session, got an asynchronous one")
        if isinstance(session, scoped_session):
            session = session()
        self._write(session, self._create_row(channel, publication, how))
        return NOT_YET

    def wake(self) -> None:
        """Have the relay of this process look at once; from any thread. Without one, nothing."""
        loop, relay = self.loop, self.relay
        if loop is not None and relay is not None:
            # The loop may end at this moment; then another process relays, or the next start.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(relay.wake)

    # Relaying

    async def start(self, publisher: Publisher, statistics: NodeStatistics) -> None:
        """Begin to relay; `wirebell.Realtime` calls it.

        A database that is away is waited for.

        Raises:
            ConfigError: A table is missing.
        """
        settings = self.settings or Settings()
        try:
            missing = await self.database.run(find_missing)
        except Exception as error:  # noqa: BLE001 - of any driver; the relay tries again
            logger.warning("the outbox's database does not answer, which is waited for: %r", error)
            missing = []
        if missing:
            raise _missing(missing[0])
        if not self.relays:
            return
        statistics.outbox = OutboxStatistics()
        self.loop = asyncio.get_running_loop()
        self.relay = Relay(self.database, publisher, settings, statistics.outbox)
        self.task = self.loop.create_task(self.relay.run())

    async def aclose(self) -> None:
        """Finish what is being published, give the lease back, stop; idempotent."""
        relay, task = self.relay, self.task
        self.relay = self.task = self.loop = None
        if relay is not None and task is not None:
            relay.close()
            seconds = (self.settings or Settings()).close_timeout_seconds
            try:
                await asyncio.wait([task], timeout=seconds)
            finally:
                task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self.database.aclose()

    # Inside

    def _create_row(
        self, channel: str, publication: Publication, how: PublishOptions | None
    ) -> NewRow:
        """Check and serialise what is published."""
        settings = self.settings or Settings()
        check_channel(channel, settings.channel_bytes_max)
        size, most = len(publication.data), settings.publication_bytes_max
        if size > most:
            raise BadRequest(f"a publication has at most {most} bytes, got {size}")
        if self.options_for(channel).delta_publish and not publication.has_delta:
            publication = msgspec.structs.replace(publication, has_delta=True)
        return NewRow(
            uuid.uuid4().hex, channel, encode_publication(publication), encode_options(how)
        )

    def _write(self, session: Session, row: NewRow) -> None:
        """Write a row in a session's transaction, and have its commit wake the relay."""
        if not isinstance(session, Session):
            raise TypeError(f"outbox is a session of SQLAlchemy, got {type(session).__name__}")
        # Whichever engine the session has for this table.
        connection = session.connection(bind_arguments={"clause": OUTBOX})
        if connection.dialect.name not in DIALECTS:
            raise ConfigError(
                f"the outbox works on {' and '.join(DIALECTS)}, got {connection.dialect.name!r}"
            )
        try:
            add_row(connection, row, locks_channel=self.locks_channels)
        except DBAPIError as error:
            if is_missing_table(error):
                raise _missing(OUTBOX.name) from error
            raise
        session.info[WAKES] = self


def _missing(table: str) -> ConfigError:
    """Say what to do about a table that is not there."""
    return ConfigError(
        f"the database has no table {table}: add wirebell.outbox.METADATA to your migrations, or "
        f"call 'await outbox.create_tables()' before"
    )


def _wake(session: Session) -> None:
    """Wake the relay after a commit; not after a savepoint's."""
    if not session.in_nested_transaction():
        outbox = session.info.pop(WAKES, None)
        if outbox is not None:
            outbox.wake()
