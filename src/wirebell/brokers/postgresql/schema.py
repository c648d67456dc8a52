"""Tables and functions: whether they are there, which version they have, and making them."""

from __future__ import annotations

import asyncio
import uuid
import zlib
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from wirebell.broker_options import PostgreSQLOptions
from wirebell.brokers.postgresql import statements
from wirebell.brokers.postgresql.addresses import Place
from wirebell.brokers.postgresql.link import Connection
from wirebell.brokers.postgresql.statements import fill
from wirebell.errors import ConfigError

__all__ = ("PARTITIONS", "VERSION_MIN", "Schema", "check_server", "lock_key_of", "prepare")

VERSION_MIN = 130_000
"""The oldest server, as it says its version; older ones are maintained by nobody."""

SERVER: Final = """
SELECT
    current_setting('server_version_num')::int AS version,
    pg_is_in_recovery() AS is_standby,
    current_setting('transaction_read_only') = 'on' AS is_read_only,
    current_setting('transaction_isolation') AS isolation,
    to_regclass('{p}_meta') IS NOT NULL AS has_tables,
    extract(epoch FROM clock_timestamp())::float8 AS seconds
"""

INSTANCE: Final = "SELECT version, instance, shard_count FROM {p}_meta"

PARTITIONS: Final = "SELECT {p}_partitions_1($1, $2, $3)"


@dataclass(frozen=True, slots=True)
class Schema:
    """What a node found.

    Attributes:
        instance: Another one after the tables were made anew.
        clock_lead: Seconds by which the server's clock is ahead of the loop's, or a little less.
    """

    instance: str
    clock_lead: float


def lock_key_of(prefix: str) -> int:
    """Return the first half of the advisory locks of a prefix: a signed number of 32 bits."""
    return zlib.crc32(prefix.encode()) - 2**31


def check_server(server: Any, place: Place) -> None:
    """Refuse a server on which this cannot work.

    Args:
        server: A row of `SERVER`.
        place: Of the server.

    Raises:
        ConfigError: It is too old, read-only, or isolates transactions in another way.
    """
    if server["version"] < VERSION_MIN:
        major = server["version"] // 10_000
        raise ConfigError(
            f"PostgreSQL at {place} has version {major}, needed is {VERSION_MIN // 10_000} or "
            "newer: upgrade it"
        )
    if server["is_standby"]:
        raise ConfigError(
            f"PostgreSQL at {place} is a standby and takes no writes: give the primary's address, "
            "or several hosts with target_session_attrs=read-write"
        )
    if server["is_read_only"]:
        raise ConfigError(
            f"PostgreSQL at {place} is read-only for this role and database: "
            "see default_transaction_read_only"
        )
    if server["isolation"] != "read committed":
        raise ConfigError(
            f"PostgreSQL at {place} isolates transactions as {server['isolation']!r}, needed is "
            "'read committed': ALTER ROLE … SET default_transaction_isolation = 'read committed'"
        )


async def prepare(connection: Connection, options: PostgreSQLOptions, place: Place) -> Schema:
    """See that the tables are there, in our version; make them where that is allowed.

    Raises:
        ConfigError: They are of a newer release, or made for other options, or missing and not
            to be made; or the server is none on which this works.
        OSError, asyncpg.PostgresError, asyncpg.InterfaceError: As the driver puts it.
    """
    prefix = options.table_prefix
    async with asyncio.timeout(place.io_seconds * 4):
        async with connection.transaction():
            server = await connection.fetchrow(fill(SERVER, prefix))
        clock_lead = server["seconds"] - asyncio.get_running_loop().time()
        check_server(server, place)
        if not options.skip_schema_init:
            async with connection.transaction():
                await _make(connection, options)
        elif not server["has_tables"]:
            raise ConfigError(
                f"PostgreSQL at {place} has no tables named {prefix}_…: start once without "
                "skip_schema_init, as a role that may make them"
            )
        async with connection.transaction():
            found = await connection.fetchrow(fill(INSTANCE, prefix))
        _check_tables(found, options, place)
        async with connection.transaction():
            await connection.execute(
                fill(PARTITIONS, prefix),
                lock_key_of(prefix),
                options.lookahead_days,
                options.partition_retention_days,
            )
    return Schema(found["instance"], clock_lead)


async def _make(connection: Connection, options: PostgreSQLOptions) -> None:
    """Make what is missing; one node at a time."""
    prefix = options.table_prefix
    key = lock_key_of(prefix)
    await connection.execute("SELECT pg_advisory_xact_lock($1, -2)", key)
    # Not by `to_regclass`: what it remembers from before the wait may be wrong now.
    has_tables = await connection.fetchval(
        "SELECT EXISTS (SELECT FROM pg_class WHERE relname = $1 AND pg_table_is_visible(oid))",
        f"{prefix}_meta",
    )
    if has_tables:
        version = await connection.fetchval(f"SELECT version FROM {prefix}_meta")  # noqa: S608
        has_functions = await connection.fetchval(
            "SELECT EXISTS (SELECT FROM pg_proc "
            "WHERE proname = $1 AND pg_function_is_visible(oid))",
            f"{prefix}_publish_1",
        )
        if version != statements.SCHEMA_VERSION or has_functions:
            # Newer tables are refused by who called; functions of a version never change.
            return
    else:
        await connection.execute(fill(statements.TABLES, prefix))
        await connection.execute(
            f"INSERT INTO {prefix}_meta VALUES ($1, $2, $3, 1, '')",  # noqa: S608
            statements.SCHEMA_VERSION,
            uuid.uuid4().hex,
            options.shard_count,
        )
        await connection.execute(
            f"INSERT INTO {prefix}_shards (shard) SELECT generate_series(0, $1 - 1)",
            options.shard_count,
        )
    await _make_timeline(connection, prefix)
    await connection.execute(fill(statements.FUNCTIONS, prefix))


async def _make_timeline(connection: Connection, prefix: str) -> None:
    """Make the function that tells a server's timeline, where the server tells it."""
    try:
        async with connection.transaction():
            await connection.execute(fill(statements.TIMELINE, prefix))
    except asyncpg.PostgresError:
        await connection.execute(
            f"CREATE OR REPLACE FUNCTION {prefix}_timeline() RETURNS text LANGUAGE sql STABLE AS "
            "$$ SELECT '' $$"
        )


def _check_tables(found: Any, options: PostgreSQLOptions, place: Place) -> None:
    """Refuse tables that are not ours.

    Raises:
        ConfigError: Likewise.
    """
    prefix = options.table_prefix
    if found is None:
        raise ConfigError(
            f"PostgreSQL at {place}: {prefix}_meta is empty, so the tables {prefix}_… are not "
            "whole: drop them, or choose another table_prefix"
        )
    if found["version"] > statements.SCHEMA_VERSION:
        raise ConfigError(
            f"PostgreSQL at {place}: the tables {prefix}_… have version {found['version']}, this "
            f"release reads up to {statements.SCHEMA_VERSION}: upgrade this node too"
        )
    if found["shard_count"] != options.shard_count:
        raise ConfigError(
            f"PostgreSQL at {place}: the tables {prefix}_… were made for shard_count "
            f"{found['shard_count']}, got {options.shard_count}: all nodes have the same"
        )
