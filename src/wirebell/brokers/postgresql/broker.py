"""The broker of PostgreSQL: publications, history and control as rows of one log.

A channel lies in the shard ``CRC-32 of its name in UTF-8, modulo shard_count``. Control lies in
shard 0, so that a sender's messages keep their order.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import uuid
from collections.abc import Awaitable, Sequence
from typing import Final

from wirebell.batching import Batcher
from wirebell.broker_options import PostgreSQLOptions
from wirebell.brokers.postgresql.addresses import read_place
from wirebell.brokers.postgresql.batches import (
    CONTROL,
    FOR_CHANNELS,
    PROBE,
    Batch,
    Item,
    key_of,
    shard_of,
    size_of,
)
from wirebell.brokers.postgresql.faults import (
    ERRORS,
    NO_PARTITION,
    TOO_LATE,
    Fault,
    UnknownLog,
    explain_start,
)
from wirebell.brokers.postgresql.histories import Histories
from wirebell.brokers.postgresql.keeper import Keeper
from wirebell.brokers.postgresql.link import Link
from wirebell.brokers.postgresql.reader import Reader
from wirebell.brokers.postgresql.schema import lock_key_of
from wirebell.errors import BrokerClosed, BrokerUnavailable
from wirebell.history import StreamSlice
from wirebell.interfaces import BrokerListener
from wirebell.model import (
    ChannelOptions,
    Membership,
    Publication,
    Published,
    PublishOptions,
    StreamPosition,
)
from wirebell.records import (
    UnknownRecord,
    decode_item,
    encode_membership,
    encode_publication,
)

__all__ = ("PostgreSQLBroker",)

logger = logging.getLogger(__name__)

CONTROL_BYTES_MAX = 1024 * 1024


PUBLISH: Final = """
SELECT * FROM {p}_publish_1(
    $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20
)
"""


class PostgreSQLBroker:
    """A `wirebell.interfaces.Broker` through PostgreSQL.

    Mutable state: the channels that are received, what waits to be written and to be read, and
    how far the server's clock is ahead of the loop's. To be used on the loop that called `start`.

    Args:
        options: Where PostgreSQL is.

    Raises:
        ConfigError: A value of the options is out of its bounds.
    """

    def __init__(self, options: PostgreSQLOptions) -> None:
        self.options = options
        self.place = read_place(options)
        self.lock_key = lock_key_of(options.table_prefix)
        self.listener: BrokerListener | None = None
        self.unknown = UnknownLog(logger)
        self._create_parts()
        self.subscribed: dict[bytes, str] = {}
        self.node_key = b""
        self.probes: dict[bytes, asyncio.Future[None]] = {}
        self.clock_lead: float | None = None
        self.reconnects = 0

    def _create_parts(self) -> None:
        """Create what a closed broker has ended."""
        self.link = Link(self.place, self.options.pool_size, self.options.table_prefix)
        listen_place = read_place(self.options, listens=True)
        self.reader = Reader(self.options, self.place, listen_place, self)
        self.keeper = Keeper(self.options, self.link)
        self.publications: Batcher[Item, Published] = Batcher(self._publish, size_of=size_of)
        self.histories = Histories(self.options, self.link, self.unknown)

    @property
    def is_connected(self) -> bool:
        """Whether what other nodes publish arrives at this moment."""
        return self.listener is not None and self.reader.is_connected

    @property
    def reconnect_count(self) -> int:
        """How often the link was lost and came back."""
        return self.reconnects

    # Life

    async def start(self, listener: BrokerListener, node_id: str = "") -> None:
        """Connect, make the tables where they are missing, and begin to deliver."""
        self.node_key = key_of(node_id or uuid.uuid4().hex)
        if self.publications.is_closed:
            self._create_parts()
        try:
            await self.reader.start()
        except ERRORS as error:
            raise explain_start(error, self.place) from error
        self.clock_lead = self.reader.clock_lead
        self.listener = listener
        self.keeper.start()

    async def check(self) -> None:
        """Have the server carry something to us."""
        self._running()
        if not self.reader.is_connected:
            raise BrokerUnavailable(
                f"PostgreSQL at {self.reader.listen_place} is away: what others publish does not "
                "arrive"
            )
        token = secrets.token_bytes(8)
        arrived = self.probes[token] = asyncio.get_running_loop().create_future()
        try:
            await self.publications.add(Item(self.node_key, 0, token, kind=PROBE))
            async with asyncio.timeout(self.place.io_seconds):
                await arrived
        except TimeoutError as error:
            raise BrokerUnavailable(
                f"PostgreSQL at {self.reader.listen_place} answers, but what is published does not "
                "arrive"
            ) from error
        finally:
            del self.probes[token]

    async def aclose(self) -> None:
        """Stop; idempotent. What was published before is still carried, within its bound."""
        self.listener = None
        await self.keeper.aclose()
        await asyncio.gather(self.publications.aclose(), self.histories.aclose())
        await self.reader.aclose()
        await self.link.aclose()
        self.subscribed.clear()

    # Channels

    async def subscribe(self, channel: str) -> None:
        """Receive what is put into a channel from now on: all that is written is read anyway."""
        self._running()
        self.subscribed[key_of(channel)] = channel

    async def unsubscribe(self, channel: str) -> None:
        """Receive nothing of a channel any more."""
        self._running()
        self.subscribed.pop(key_of(channel), None)

    def publish(
        self,
        channel: str,
        publication: Publication,
        options: ChannelOptions,
        how: PublishOptions | None = None,
    ) -> Awaitable[Published]:
        """Append to history, where the channel has one, and deliver: with this turn's call."""
        self._running()
        history = options.history
        if how is not None:
            if how.skip_history:
                history = None
            if not how.idempotency_key and (not how.version or history is None):
                how = None
        key = key_of(channel)
        return self.publications.add(
            Item(
                key,
                shard_of(key, self.options.shard_count),
                encode_publication(publication),
                history,
                how,
            )
        )

    async def publish_membership(self, channel: str, membership: Membership) -> None:
        """Deliver a join or a leave."""
        self._running()
        key = key_of(channel)
        shard = shard_of(key, self.options.shard_count)
        await self.publications.add(Item(key, shard, encode_membership(membership)))

    async def publish_control(self, data: bytes, node_id: str = "") -> None:
        """Tell all nodes something, or one of them."""
        self._running()
        if len(data) > CONTROL_BYTES_MAX:
            raise ValueError(f"a control message has {len(data)} bytes, limit {CONTROL_BYTES_MAX}")
        key = key_of(node_id) if node_id else b""
        await self.publications.add(Item(key, 0, data, kind=CONTROL))

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
        return await self.histories.read(
            channel, options, since=since, limit=limit, reverse=reverse
        )

    async def remove_history(self, channel: str) -> None:
        """Forget what is kept; offsets count on in the same epoch."""
        self._running()
        await self.histories.remove(channel)

    # What arrives

    def handle_row(self, kind: int, key: bytes, epoch: str, offset: int, record: bytes) -> None:
        """Take what somebody wrote."""
        listener = self.listener
        if listener is None:
            return
        if kind == CONTROL:
            if not key or key == self.node_key:
                listener.handle_control(record)
            return
        if kind == PROBE:
            waiting = self.probes.get(record)
            if waiting is not None and not waiting.done():
                waiting.set_result(None)
            return
        if kind != FOR_CHANNELS:
            # Of a newer release.
            return
        channel = self.subscribed.get(key)
        if channel is None:
            return
        try:
            item = decode_item(record, offset, epoch)
        except UnknownRecord as error:
            self.unknown.tell(error)
            return
        listener.handle_item(channel, item)

    def handle_back(self) -> None:
        """Tell that something may not have come."""
        if self.listener is not None:
            self.reconnects += 1
            self.listener.handle_reconnect()

    # Calls

    async def _publish(self, items: Sequence[Item]) -> Sequence[Published]:
        """Carry items: with one call, but for what must know what became of the ones before."""
        deadline = asyncio.get_running_loop().time() + self.place.io_seconds
        results: list[Published] = []
        while len(results) < len(items):
            results += await self._publish_batch(Batch(items[len(results) :]), deadline)
        return results

    async def _publish_batch(self, batch: Batch, deadline: float) -> list[Published]:
        """Carry a batch; it has an id, so that it happens once however often it is sent."""
        batch_id = uuid.uuid4()
        loop = asyncio.get_running_loop()

        def arguments(left: float, fault: Fault | None) -> tuple[object, ...]:
            if fault is not None and fault.code == TOO_LATE:
                # It came in time by our clock: the server's was set.
                self.clock_lead = None
            lead = self.clock_lead
            return (
                self.lock_key,
                batch_id,
                fault is not None,
                None if lead is None else deadline + lead,
                max(1, int(left * 1000)),
                *batch.arguments,
            )

        (answer,) = await self.link.call(PUBLISH, arguments, deadline=deadline, repair=self._repair)
        self.clock_lead = answer["answered_at"] - loop.time()
        return batch.read(answer)

    async def _repair(self, fault: Fault) -> None:
        """Make the partition that was missing."""
        if fault.code == NO_PARTITION:
            await self.keeper.make_partitions()

    def _running(self) -> None:
        """Raise `BrokerClosed` unless it runs."""
        if self.listener is None:
            raise BrokerClosed("the PostgreSQL broker is not running")
