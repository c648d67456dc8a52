"""Who is in which channel, in the same database."""

from __future__ import annotations

import time

from wirebell.brokers.sqlite.operations import Add, Remove
from wirebell.brokers.sqlite.store import ANSWER_SECONDS, Store
from wirebell.errors import BrokerClosed
from wirebell.model import ClientInfo
from wirebell.records import UnknownRecord, decode_info, encode_info

__all__ = ("SQLitePresenceStore",)


class SQLitePresenceStore:
    """A `wirebell.interfaces.PresenceStore` for all processes that name the same file.

    Leases go by this machine's clock (``time.time()``).

    Args:
        store: Of the database, shared with the broker.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.is_running = False

    async def start(self) -> None:
        """Begin.

        Raises:
            ConfigError: The file cannot be used as it is; the message says what to do.
            BrokerUnavailable: Somebody holds its lock, or the disk is full.
        """
        await self.store.acquire()
        self.is_running = True

    async def aclose(self) -> None:
        """Stop; idempotent. Entries stay until their leases end."""
        if self.is_running:
            self.is_running = False
            await self.store.release()

    async def add(self, channel: str, info: ClientInfo, *, ttl_seconds: float) -> None:
        """Write an entry, or renew its lease."""
        self._running()
        record = encode_info(info)
        await self.store.write(Add(channel, info.client_id, record, ttl_seconds, _deadline()))

    async def remove(self, channel: str, client_id: str) -> None:
        """Remove an entry; idempotent."""
        self._running()
        await self.store.write(Remove(channel, client_id, _deadline()))

    async def members(self, channel: str) -> dict[str, ClientInfo]:
        """Read who is there, but for entries that only a newer release can read."""
        self._running()
        members: dict[str, ClientInfo] = {}
        for record in await self.store.read_members(channel):
            try:
                info = decode_info(record)
            except UnknownRecord as error:
                self.store.inbox.tell_unknown(error)
            else:
                members[info.client_id] = info
        return members

    def _running(self) -> None:
        """Say so if it does not run."""
        if not self.is_running:
            raise BrokerClosed("the sqlite presence store is not running")


def _deadline() -> float:
    """Say until when an operation that begins now is to be done."""
    return time.monotonic() + ANSWER_SECONDS
