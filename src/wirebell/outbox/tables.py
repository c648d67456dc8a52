"""The outbox's tables, what a row holds, and every statement on them.

Order: ids rise in the order of commits within a channel. SQLite lets one transaction write at a
time, so there they do by themselves. On PostgreSQL a transaction takes a lock of its channel before
it takes an id, and has it until it ends. So whoever sees a row sees every row of its channel that
is to be published before it.

A publication is written as in brokers (`wirebell.records`). Its options are one byte, the schema's
version, and a MessagePack map: fields that a release does not know it leaves out.

Functions take a connection inside a transaction, and end none. Every clock is the database's; for
SQLite that is this machine's.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import msgspec
from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Select,
    String,
    Table,
    Text,
    bindparam,
    cast,
    delete,
    extract,
    func,
    insert,
    inspect,
    literal,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateIndex, CreateTable

from wirebell.model import Publication, PublishOptions
from wirebell.records import SCHEMA, UnknownRecord, decode_item

__all__ = (
    "DIALECTS",
    "LEASE",
    "METADATA",
    "OUTBOX",
    "Measured",
    "NewRow",
    "Settled",
    "WaitingRow",
    "add_row",
    "claim",
    "create_tables",
    "decode_row",
    "encode_options",
    "find_missing",
    "has_waiting",
    "is_missing_table",
    "is_newer",
    "measure",
    "release",
    "settle",
)

DIALECTS = ("postgresql", "sqlite")
"""Databases in which ids can be had in the order of commits."""

# First of the two numbers of an advisory lock ("wbox"): applications have their own.
LOCK_SPACE = 0x77626F78
# A transaction that publishes to many channels takes at most so many locks; PostgreSQL's lock table
# has room for 6,400 by default. Two channels share one once in a thousand, and only wait a little.
CHANNEL_LOCKS = 1024
# The lock under which the tables are made.
TABLES_LOCK = CHANNEL_LOCKS
# What waits is counted so far: a scrape must stay cheap while a backlog is large.
COUNTED_MAX = 10_000
LEASE_NAME = "relay"
OPTIONS_SCHEMA = 1

_decoder = msgspec.msgpack.Decoder(PublishOptions)
_NOTHING = PublishOptions()

METADATA = MetaData()
"""The outbox's tables, for an application's migrations: ``target_metadata`` of Alembic takes a list
of them."""

OUTBOX = Table(
    "wirebell_outbox",
    METADATA,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("uid", String(32), nullable=False),
    Column("channel", Text, nullable=False),
    Column("publication", LargeBinary, nullable=False),
    Column("options", LargeBinary),
    Column("created_at", Double, nullable=False),
    Column("failed_at", Double),
    Column("error", Text),
    # An id that was used and deleted must not come again, or a later row would stand before.
    sqlite_autoincrement=True,
)
"""Publications that wait, and those that were set aside: ``failed_at`` and ``error`` say why. Times
are seconds since 1970."""

_WAITING = OUTBOX.c.failed_at.is_(None)
_ASIDE = OUTBOX.c.failed_at.is_not(None)
Index("wirebell_outbox_waiting", OUTBOX.c.id, postgresql_where=_WAITING, sqlite_where=_WAITING)
Index("wirebell_outbox_aside", OUTBOX.c.id, postgresql_where=_ASIDE, sqlite_where=_ASIDE)

LEASE = Table(
    "wirebell_outbox_lease",
    METADATA,
    Column("name", String(32), primary_key=True),
    Column("holder", String(64), nullable=False),
    Column("expires_at", Double, nullable=False),
)
"""Who relays, until when: one row."""


class NewRow(NamedTuple):
    """What is written when something is published."""

    uid: str
    channel: str
    publication: bytes
    options: bytes | None


class WaitingRow(NamedTuple):
    """A row that waits.

    Attributes:
        id: Rises in the order of commits within a channel.
        uid: Unique for ever.
        channel: Where it is to be published.
        publication: A record.
        options: What holds for it alone; ``None`` for nothing.
        age_seconds: Since it was written, by the database's clock.
    """

    id: int
    uid: str
    channel: str
    publication: bytes
    options: bytes | None
    age_seconds: float


class Settled(NamedTuple):
    """What became of rows.

    Attributes:
        published: Ids of those that are published.
        aside: Id and reason of those that never can be.
    """

    published: Collection[int] = ()
    aside: Sequence[tuple[int, str]] = ()


class Measured(NamedTuple):
    """How much waits; counts end at 10,000."""

    waiting_count: int
    oldest_seconds: float
    aside_count: int


def encode_options(how: PublishOptions | None) -> bytes | None:
    """Write what holds for one publication; ``None`` for nothing."""
    return None if how is None else bytes((OPTIONS_SCHEMA,)) + msgspec.msgpack.encode(how)


def is_newer(row: WaitingRow) -> bool:
    """Tell whether a newer release wrote the row: not this one can publish it, but others can."""
    options = row.options or b"\x01"
    return row.publication[:1] > bytes((SCHEMA,)) or options[:1] > bytes((OPTIONS_SCHEMA,))


def decode_row(row: WaitingRow) -> tuple[Publication, PublishOptions]:
    """Read what is to be published, and how.

    The row's own id is the idempotency key where the application gave none, so that it is
    published once however often it is tried; and the origin, by which history shows that it was.

    Raises:
        UnknownRecord: It is damaged, or of a newer schema.
    """
    item = decode_item(row.publication)
    if not isinstance(item, Publication):
        raise UnknownRecord("a row of the outbox is no publication")
    how = _NOTHING
    if row.options is not None:
        try:
            how = _decoder.decode(memoryview(row.options)[1:])
        except msgspec.MsgspecError as error:
            raise UnknownRecord(f"options of the outbox cannot be read: {error}") from error
    key = how.idempotency_key or row.uid
    return (
        msgspec.structs.replace(item, origin=row.uid),
        msgspec.structs.replace(how, idempotency_key=key),
    )


def create_tables(connection: Connection) -> None:
    """Create what is missing; several processes may do so at once."""
    if connection.dialect.name == "postgresql":
        # CREATE … IF NOT EXISTS fails where two do it at the same time.
        connection.execute(select(func.pg_advisory_xact_lock(LOCK_SPACE, TABLES_LOCK)))
    for table in METADATA.sorted_tables:
        connection.execute(CreateTable(table, if_not_exists=True))
        for index in sorted(table.indexes, key=lambda each: str(each.name)):
            connection.execute(CreateIndex(index, if_not_exists=True))
    _prepare_lease(connection)


def find_missing(connection: Connection) -> list[str]:
    """Return the names of tables that are not there."""
    inspector = inspect(connection)
    return [name for name in METADATA.tables if not inspector.has_table(name)]


def is_missing_table(error: DBAPIError) -> bool:
    """Tell whether a statement failed because its table is not there."""
    driver = error.orig
    # Drivers of PostgreSQL have the error's code under one of two names; SQLite has but a text.
    code = getattr(driver, "sqlstate", None) or getattr(driver, "pgcode", None)
    return code == "42P01" or str(driver).startswith("no such table")


def add_row(connection: Connection, row: NewRow, *, locks_channel: bool) -> None:
    """Write a row; on PostgreSQL after whoever published to this channel before has ended.

    Args:
        connection: The application's own, in its transaction.
        row: What.
        locks_channel: Wait so, and have others wait until this transaction ends.
    """
    name = connection.dialect.name
    if locks_channel and name == "postgresql":
        number = zlib.crc32(row.channel.encode()) % CHANNEL_LOCKS
        connection.execute(select(func.pg_advisory_xact_lock(LOCK_SPACE, number)))
    connection.execute(insert(OUTBOX).values(**row._asdict(), created_at=_now(name)).inline())


def has_waiting(connection: Connection) -> bool:
    """Tell whether anything waits."""
    return connection.execute(select(OUTBOX.c.id).where(_WAITING).limit(1)).first() is not None


def claim(
    connection: Connection, holder: str, *, lease_seconds: float, rows_max: int
) -> list[WaitingRow] | None:
    """Take the lease, if nobody has it, and read what waits.

    Returns:
        At most ``rows_max`` rows by their ids; without any the lease is nobody's. ``None`` when
        another holder has it.
    """
    now = _now(connection.dialect.name)
    is_free = (LEASE.c.holder == holder) | (LEASE.c.expires_at < now)
    # A write comes first: SQLite refuses one after a read when somebody wrote in between.
    taken = connection.execute(
        update(LEASE)
        .where(LEASE.c.name == LEASE_NAME, is_free)
        .values(holder=holder, expires_at=now + lease_seconds)
    )
    if not taken.rowcount:
        # Migrations made no row, or somebody emptied the table: the next try finds one.
        _prepare_lease(connection)
        return None
    return _read_or_release(connection, holder, rows_max, ())


def settle(
    connection: Connection,
    holder: str,
    settled: Settled,
    *,
    lease_seconds: float,
    rows_max: int,
    skipped: Collection[str] = (),
) -> list[WaitingRow]:
    """Remove what is published, put aside what cannot be, and read on.

    Args:
        connection: In a transaction.
        holder: Who had the lease.
        settled: What became of the rows that were read before.
        lease_seconds: Have the lease for so long from now on, if it is still the holder's.
        rows_max: Most rows to read; 0 ends it.
        skipped: Channels that are left out.

    Returns:
        As `claim`; nothing, too, when the lease is another's by now.
    """
    now = _now(connection.dialect.name)
    if settled.published:
        connection.execute(delete(OUTBOX).where(OUTBOX.c.id.in_(settled.published)))
    if settled.aside:
        connection.execute(
            update(OUTBOX)
            .where(OUTBOX.c.id == bindparam("row_id"))
            .values(failed_at=now, error=bindparam("reason")),
            [{"row_id": number, "reason": reason} for number, reason in settled.aside],
        )
    kept = connection.execute(
        update(LEASE)
        .where(LEASE.c.name == LEASE_NAME, LEASE.c.holder == holder)
        .values(expires_at=now + lease_seconds)
    )
    if not kept.rowcount:
        return []
    return _read_or_release(connection, holder, rows_max, skipped)


def release(connection: Connection, holder: str) -> None:
    """Give the lease back, if it is the holder's; idempotent."""
    connection.execute(
        update(LEASE)
        .where(LEASE.c.name == LEASE_NAME, LEASE.c.holder == holder)
        .values(holder="", expires_at=0.0)
    )


def measure(connection: Connection) -> Measured:
    """Count what waits, and what was set aside."""
    waiting = _oldest(select(OUTBOX.c.created_at).where(_WAITING)).subquery()
    aside = _oldest(select(OUTBOX.c.id).where(_ASIDE)).subquery()
    now = _now(connection.dialect.name)
    count, age = connection.execute(
        select(func.count(), now - func.min(waiting.c.created_at)).select_from(waiting)
    ).one()
    aside_count = connection.execute(select(func.count()).select_from(aside)).scalar_one()
    return Measured(count, max(0.0, age or 0.0), aside_count)


def _prepare_lease(connection: Connection) -> None:
    """Make the lease's row, if it is not there."""
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    row = {"name": LEASE_NAME, "holder": "", "expires_at": 0.0}
    connection.execute(dialect.insert(LEASE).values(row).on_conflict_do_nothing())


def _read_or_release(
    connection: Connection, holder: str, rows_max: int, skipped: Iterable[str]
) -> list[WaitingRow]:
    """Read what waits; give the lease back when it is nothing."""
    rows: list[WaitingRow] = []
    if rows_max:
        age = _now(connection.dialect.name) - OUTBOX.c.created_at
        columns = (OUTBOX.c.id, OUTBOX.c.uid, OUTBOX.c.channel, OUTBOX.c.publication)
        query = select(*columns, OUTBOX.c.options, age).where(
            _WAITING, OUTBOX.c.channel.not_in(list(skipped))
        )
        found = connection.execute(query.order_by(OUTBOX.c.id).limit(rows_max))
        rows = [WaitingRow(*row) for row in found]
    if not rows:
        release(connection, holder)
    return rows


def _oldest(query: Select[tuple[float]] | Select[tuple[int]]) -> Select[tuple[float | int]]:
    """Bound a count."""
    return query.order_by(OUTBOX.c.id).limit(COUNTED_MAX)


def _now(dialect: str) -> ColumnElement[float]:
    """Return the time, seconds since 1970, by the clock that counts."""
    if dialect == "postgresql":
        # Not now(): that is when the transaction began.
        return cast(extract("epoch", func.clock_timestamp()), Double)
    return literal(time.time(), Double)
