"""Presence in PostgreSQL: entries with leases that its own clock ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from typing import Final, NamedTuple

from wirebell.batching import Batcher
from wirebell.broker_options import PostgreSQLOptions
from wirebell.brokers.postgresql.addresses import read_place
from wirebell.brokers.postgresql.batches import bounded_seconds, key_of
from wirebell.brokers.postgresql.faults import ERRORS, UnknownLog, explain_start
from wirebell.brokers.postgresql.keeper import Keeper
from wirebell.brokers.postgresql.link import Link, open_connection
from wirebell.brokers.postgresql.schema import prepare
from wirebell.errors import BrokerClosed
from wirebell.model import ClientInfo
from wirebell.records import UnknownRecord, decode_info, encode_info

__all__ = ("PostgreSQLPresenceStore",)

logger = logging.getLogger(__name__)

CONNECTIONS_MAX = 4

WRITE: Final = """
WITH removed AS (
    DELETE FROM {p}_presence p USING unnest($1::bytea[], $2::bytea[]) AS r(channel, client_id)
    WHERE p.channel = r.channel AND p.client_id = r.client_id
)
INSERT INTO {p}_presence AS p (channel, client_id, expires_at, record)
SELECT a.channel, a.client_id, clock_timestamp() + a.lease * interval '1 second', a.record
FROM unnest($3::bytea[], $4::bytea[], $5::float8[], $6::bytea[])
    AS a(channel, client_id, lease, record)
ON CONFLICT (channel, client_id) DO UPDATE SET
    expires_at = excluded.expires_at, record = excluded.record
"""

READ: Final = """
SELECT q.number, p.record
FROM unnest($1::bytea[]) WITH ORDINALITY AS q(channel, number)
JOIN {p}_presence p ON p.channel = q.channel AND p.expires_at > clock_timestamp()
"""


class _Change(NamedTuple):
    """What happens to an entry."""

    key: tuple[bytes, bytes]
    record: bytes = b""
    lease_seconds: float = 0.0
    """0 removes it."""


class PostgreSQLPresenceStore:
    """A `wirebell.interfaces.PresenceStore` in PostgreSQL.

    Args:
        options: Where it is.

    Raises:
        ConfigError: A value of the options is out of its bounds.
    """

    def __init__(self, options: PostgreSQLOptions) -> None:
        self.options = options
        self.place = read_place(options)
        self.unknown = UnknownLog(logger)
        self.link: Link | None = None
        self.keeper: Keeper | None = None
        self.changes: Batcher[_Change, None] | None = None
        self.questions: Batcher[bytes, list[bytes]] | None = None

    async def start(self) -> None:
        """Begin.

        Raises:
            BrokerUnavailable: It cannot be reached.
            ConfigError: It refuses; the message says what to do.
        """
        try:
            connection = await open_connection(self.place)
            try:
                await prepare(connection, self.options, self.place)
            finally:
                connection.terminate()
        except ERRORS as error:
            raise explain_start(error, self.place) from error
        link = self.link = Link(
            self.place,
            min(CONNECTIONS_MAX, self.options.pool_size),
            self.options.table_prefix,
        )
        self.changes = Batcher(
            partial(self._change, link), size_of=lambda each: len(each.record) + 64
        )
        self.questions = Batcher(partial(self._answer, link), size_of=len)
        self.keeper = Keeper(self.options, link)
        self.keeper.start()

    async def aclose(self) -> None:
        """Stop; idempotent. Entries stay until their leases end."""
        link, self.link = self.link, None
        if link is None:
            return
        assert self.keeper is not None
        assert self.changes is not None
        assert self.questions is not None
        await self.keeper.aclose()
        await asyncio.gather(self.changes.aclose(), self.questions.aclose())
        await link.aclose()

    async def add(self, channel: str, info: ClientInfo, *, ttl_seconds: float) -> None:
        """Write an entry, or renew its lease."""
        key = (key_of(channel), key_of(info.client_id))
        lease = bounded_seconds(ttl_seconds)
        await self._changes().add(_Change(key, encode_info(info), lease))

    async def remove(self, channel: str, client_id: str) -> None:
        """Remove an entry; idempotent."""
        await self._changes().add(_Change((key_of(channel), key_of(client_id))))

    async def members(self, channel: str) -> dict[str, ClientInfo]:
        """Read who is there."""
        if self.link is None or self.questions is None:
            raise BrokerClosed("the PostgreSQL presence store is not running")
        members: dict[str, ClientInfo] = {}
        for record in await self.questions.add(key_of(channel)):
            try:
                info = decode_info(record)
            except UnknownRecord as error:
                self.unknown.tell(error)
                continue
            members[info.client_id] = info
        return members

    def _changes(self) -> Batcher[_Change, None]:
        """Return where changes go.

        Raises:
            BrokerClosed: The store is not running.
        """
        if self.link is None or self.changes is None:
            raise BrokerClosed("the PostgreSQL presence store is not running")
        return self.changes

    async def _change(self, link: Link, changes: Sequence[_Change]) -> list[None]:
        """Carry changes; of several to an entry the last one counts. Twice is once."""
        newest = {change.key: change for change in changes}
        ordered = [newest[key] for key in sorted(newest)]
        added = [change for change in ordered if change.lease_seconds > 0]
        removed = [change for change in ordered if change.lease_seconds <= 0]
        await link.ask(
            WRITE,
            [change.key[0] for change in removed],
            [change.key[1] for change in removed],
            [change.key[0] for change in added],
            [change.key[1] for change in added],
            [change.lease_seconds for change in added],
            [change.record for change in added],
        )
        return [None] * len(changes)

    async def _answer(self, link: Link, keys: Sequence[bytes]) -> list[list[bytes]]:
        """Read who is in several channels."""
        found: list[list[bytes]] = [[] for _ in keys]
        for number, record in await link.ask(READ, list(keys)):
            found[number - 1].append(record)
        return found
