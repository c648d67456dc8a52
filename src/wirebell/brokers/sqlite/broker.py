"""The broker and the presence store: what the engine asks, in words of the database's store."""

from __future__ import annotations

import time
from collections.abc import Awaitable
from typing import cast

from wirebell.brokers.sqlite.inbox import Delivery
from wirebell.brokers.sqlite.operations import (
    CONTROL,
    Add,
    OpenStream,
    Operation,
    Probe,
    Publish,
    Remove,
    RemoveHistory,
    Tell,
    TellNodes,
)
from wirebell.brokers.sqlite.store import ANSWER_SECONDS, Store
from wirebell.errors import BrokerClosed, BrokerUnavailable
from wirebell.history import StreamSlice
from wirebell.interfaces import BrokerListener
from wirebell.model import (
    ChannelItem,
    ChannelOptions,
    ClientInfo,
    History,
    Membership,
    Publication,
    Published,
    PublishOptions,
    StreamPosition,
)
from wirebell.records import (
    UnknownRecord,
    decode_info,
    decode_item,
    encode_info,
    encode_membership,
    encode_publication,
)

__all__ = ("SQLiteBroker", "SQLitePresenceStore")


class SQLiteBroker:
    """A `wirebell.interfaces.Broker` for all processes of one machine that name the same file.

    A publication is acknowledged when it is committed, which survives the death of any process.
    When the machine itself goes down, the last seconds may be missing; streams begin a new epoch
    then, so that nobody is told that it has everything.

    Args:
        store: Of the database, shared with the presence store.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.listener: BrokerListener | None = None
        self._reconnect_count = 0

    @property
    def is_connected(self) -> bool:
        """Whether what other workers publish arrives."""
        return self.listener is not None and not self.store.trouble

    @property
    def reconnect_count(self) -> int:
        """How often this worker may have missed something."""
        return self._reconnect_count

    async def start(self, listener: BrokerListener, node_id: str = "") -> None:
        """Begin to deliver to ``listener``.

        Raises:
            ConfigError: The file cannot be used as it is; the message says what to do.
            BrokerUnavailable: Somebody holds its lock, or the disk is full.
        """
        await self.store.acquire()
        try:
            self.store.deliver, self.store.handle_return = self._deliver, self._handle_return
            await self.store.follow(node_id)
        except BaseException:
            await self.store.release()
            raise
        self.listener = listener

    async def check(self) -> None:
        """Ask whether the database can be written, and whether what others publish arrives.

        Raises:
            BrokerUnavailable: One of both is not so.
            BrokerClosed: The broker is not running.
        """
        self._running()
        if self.store.trouble:
            raise BrokerUnavailable(
                f"what other workers publish does not arrive: {self.store.trouble}"
            )
        await self.store.write(Probe(_deadline()))

    async def aclose(self) -> None:
        """Stop; idempotent."""
        if self.listener is None:
            return
        self.listener = None
        self.store.unfollow()
        await self.store.release()

    async def subscribe(self, channel: str) -> None:
        """Receive what is put into a channel from now on; idempotent."""
        self._running()
        self.store.inbox.subscribed.add(channel)

    async def unsubscribe(self, channel: str) -> None:
        """Receive nothing of a channel any more; idempotent."""
        self._running()
        self.store.inbox.subscribed.discard(channel)

    def publish(
        self,
        channel: str,
        publication: Publication,
        options: ChannelOptions,
        how: PublishOptions | None = None,
    ) -> Awaitable[Published]:
        """Append to history, where the channel has one, and deliver; with the others of this turn.

        Raises:
            BrokerClosed: The broker is not running.
            BrokerUnavailable: The database cannot be written, or not soon enough.
        """
        self._running()
        written = self.store.write(
            Publish(
                channel,
                publication,
                encode_publication(publication),
                options.history,
                how,
                _deadline(),
            )
        )
        # What becomes of this kind of operation; see `Answer`.
        return cast("Awaitable[Published]", written)

    async def publish_membership(self, channel: str, membership: Membership) -> None:
        """Deliver a join or a leave."""
        record = encode_membership(membership)
        await self._write(Tell(channel, membership, record, _deadline()))

    async def publish_control(self, data: bytes, node_id: str = "") -> None:
        """Tell all nodes something, or one of them."""
        await self._write(TellNodes(node_id, data, _deadline()))

    async def history(
        self,
        channel: str,
        options: ChannelOptions,
        *,
        since: StreamPosition | None,
        limit: int,
        reverse: bool = False,
    ) -> StreamSlice:
        """Read what is kept."""
        self._running()
        if limit < 0:
            raise ValueError(f"limit must be 0 or more, got {limit}")
        while True:
            row = await self.store.read_history(
                channel, since=None if since is None else since.offset, limit=limit, reverse=reverse
            )
            if row is not None:
                position, records = row
                return StreamSlice(self._decode(records, position.epoch, reverse=reverse), position)
            # It gets an epoch now, which stays.
            opened = await self._write(
                OpenStream(channel, options.history or History(), _deadline())
            )
            assert isinstance(opened, StreamPosition)
            if opened.offset == 0:
                return StreamSlice((), opened)

    async def remove_history(self, channel: str) -> None:
        """Forget what is kept."""
        await self._write(RemoveHistory(channel, _deadline()))

    def _decode(
        self, records: list[tuple[int, bytes]], epoch: str, *, reverse: bool
    ) -> tuple[Publication, ...]:
        """Read kept publications; history begins behind one that a newer release wrote."""
        publications: list[Publication] = []
        for offset, record in records:
            try:
                item = decode_item(record, offset, epoch)
            except UnknownRecord as error:
                self.store.inbox.tell_unknown(error)
                if reverse:
                    break
                publications.clear()
                continue
            assert isinstance(item, Publication)
            publications.append(item)
        return tuple(publications)

    async def _write(self, operation: Operation) -> Published | StreamPosition | None:
        """Have an operation done."""
        self._running()
        return await self.store.write(operation)

    def _running(self) -> BrokerListener:
        """Return the listener, or say that there is none."""
        if self.listener is None:
            raise BrokerClosed("the sqlite broker is not running")
        return self.listener

    def _deliver(self, deliveries: list[Delivery]) -> None:
        """Hand over what came, as far as it is still wanted."""
        listener = self.listener
        if listener is None:
            return
        subscribed = self.store.inbox.subscribed
        for kind, channel, what in deliveries:
            if kind == CONTROL:
                listener.handle_control(cast("bytes", what))
            elif channel in subscribed:
                listener.handle_item(channel, cast("ChannelItem", what))

    def _handle_return(self) -> None:
        """Tell the node that it may have missed something."""
        if self.listener is not None:
            self._reconnect_count += 1
            self.listener.handle_reconnect()


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
