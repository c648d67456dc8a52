"""The broker of Redis: publications, history and control of all its shards.

A channel lies in the shard ``CRC-32 of its name in UTF-8, modulo the number of shards``, and in a
cluster in the partition ``the quotient of that, modulo 32``: the same on every node that has the
same addresses in the same order.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
import zlib
from collections.abc import Awaitable
from typing import Final, NamedTuple

from wirebell.broker_options import RedisOptions
from wirebell.brokers.redis.addresses import read_places
from wirebell.brokers.redis.batches import ChannelNames, Item, read_frames, read_terms
from wirebell.brokers.redis.faults import explain
from wirebell.brokers.redis.publisher import Lane, Publisher
from wirebell.brokers.redis.shard import Question, Shard, start_all
from wirebell.errors import BrokerClosed, BrokerError, BrokerUnavailable, ConfigError
from wirebell.history import StreamSlice
from wirebell.interfaces import BrokerListener
from wirebell.model import (
    ChannelOptions,
    History,
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

__all__ = ("RedisBroker", "locate")

logger = logging.getLogger(__name__)

ROUTES_MAX = 20_000
"""Channels whose names in Redis are remembered; about 1 KB each."""

# What a peer may name is larger than what a script of Redis counts exactly, and prints in full.
OFFSET_MAX = 10**13
LIMIT_MAX = 10**9

CONTROL_BYTES_MAX = 1024 * 1024
UNKNOWN_LOG_SECONDS = 60.0

CONTROL: Final = ""
"""In place of a channel's name, which is never empty: for this node's ears."""


class _Route(NamedTuple):
    """Where a channel goes."""

    names: ChannelNames
    shard: Shard
    partition: int
    publisher: Publisher


def locate(channel: str, shard_count: int, partition_count: int) -> tuple[int, int]:
    """Return the shard and the partition of a channel."""
    rest, shard = divmod(zlib.crc32(channel.encode()), shard_count)
    return shard, rest % partition_count


class RedisBroker:
    """A `wirebell.interfaces.Broker` through Redis.

    Mutable state: its shards, the channels that are received, and routes that were used lately.
    To be used on the loop that called `start`.

    Args:
        options: Where Redis is.

    Raises:
        ConfigError: A value of the options is out of its bounds.
    """

    def __init__(self, options: RedisOptions) -> None:
        self.prefix = options.prefix
        self.places = read_places(options)
        self.listener: BrokerListener | None = None
        self.shards: list[Shard] = []
        # What arrives under a name of Redis belongs to a channel, to the node, or to a lane.
        self.targets: dict[bytes, str | Lane] = {}
        self.followed: set[str] = set()
        self.routes: dict[str, _Route] = {}
        self.reconnects = 0
        self.unknown_logged_at = -UNKNOWN_LOG_SECONDS

    @property
    def is_connected(self) -> bool:
        """Whether what other nodes publish arrives at this moment, from every shard."""
        return self.listener is not None and all(shard.reader.is_connected for shard in self.shards)

    @property
    def reconnect_count(self) -> int:
        """How often the link to a shard was lost and came back."""
        return self.reconnects

    # Life

    async def start(self, listener: BrokerListener, node_id: str = "") -> None:
        """Connect, and begin to deliver to ``listener``."""
        self.shards = [Shard(place, self.prefix, self, self.followed) for place in self.places]
        self.listener = listener
        try:
            await start_all([shard.start() for shard in self.shards])
            await self._listen(node_id or uuid.uuid4().hex)
        except BrokerUnavailable as error:
            # Nobody listens yet: what is refused now is refused for good.
            await self.aclose()
            raise _refusal_of(error) from error
        except BaseException:
            await self.aclose()
            raise

    async def _listen(self, node_id: str) -> None:
        """Receive what is for this node itself, and see that it arrives."""
        partition = self.shards[0].partitions[0]
        wanted = []
        for names in (
            partition.deliver_only("control"),
            partition.deliver_only(f"node.{node_id}"),
        ):
            name = names.name.encode()
            self.targets[name] = CONTROL
            self.followed.add(names.name)
            wanted.append(self.shards[0].reader.subscribe(name, 0))
        for shard in self.shards:
            for publisher in shard.publishers:
                for lane in publisher.lanes:
                    name = lane.marker.encode()
                    self.targets[name] = lane
                    wanted.append(shard.reader.subscribe(name, publisher.partition))
        await asyncio.gather(*wanted)
        await asyncio.gather(
            *(publisher.probe() for shard in self.shards for publisher in shard.publishers)
        )

    async def check(self) -> None:
        """Have each server carry something to us, through both links."""
        self._running()
        for shard in self.shards:
            if not shard.reader.is_connected:
                raise BrokerUnavailable(
                    f"Redis at {shard.place} is away: what others publish does not arrive"
                )
        owners: dict[object, Publisher] = {}
        for shard in self.shards:
            for publisher in shard.publishers:
                owners.setdefault(shard.reader.wire_of(publisher.partition), publisher)
        await asyncio.gather(*(publisher.probe() for publisher in owners.values()))

    async def aclose(self) -> None:
        """Stop; idempotent. What was published before is still carried, within its bound."""
        self.listener = None
        shards, self.shards = self.shards, []
        await asyncio.gather(*(shard.aclose() for shard in shards))
        self.targets.clear()
        self.followed.clear()
        self.routes.clear()

    # Channels

    async def subscribe(self, channel: str) -> None:
        """Receive what is put into a channel from now on; Redis has confirmed it then."""
        route = self._route(channel)
        name = route.names.name.encode()
        was_known = name in self.targets
        self.targets[name] = channel
        self.followed.add(route.names.name)
        try:
            await route.shard.reader.subscribe(name, route.partition)
        except BrokerError:
            if not was_known:
                self.targets.pop(name, None)
                self.followed.discard(route.names.name)
            raise

    async def unsubscribe(self, channel: str) -> None:
        """Receive nothing of a channel any more, from now on."""
        route = self._route(channel)
        name = route.names.name.encode()
        if self.targets.pop(name, None) is None:
            return
        self.followed.discard(route.names.name)
        await route.shard.reader.unsubscribe(name, route.partition)

    def publish(
        self,
        channel: str,
        publication: Publication,
        options: ChannelOptions,
        how: PublishOptions | None = None,
    ) -> Awaitable[Published]:
        """Append to history, where the channel has one, and deliver: with this turn's call."""
        route = self.routes.get(channel) or self._route(channel)
        names, history, terms = route.names, options.history, None
        if how is not None:
            history, terms = read_terms(names, history, how)
        item = Item(names, encode_publication(publication), history, terms)
        return route.publisher.batcher.add(item)  # type: ignore[return-value]  # no probe

    async def publish_membership(self, channel: str, membership: Membership) -> None:
        """Deliver a join or a leave."""
        route = self._route(channel)
        await route.publisher.batcher.add(Item(route.names, encode_membership(membership)))

    async def publish_control(self, data: bytes, node_id: str = "") -> None:
        """Tell all nodes something, or one of them; through the first shard, in order."""
        self._running()
        if len(data) > CONTROL_BYTES_MAX:
            raise ValueError(f"a control message has {len(data)} bytes, limit {CONTROL_BYTES_MAX}")
        shard = self.shards[0]
        names = shard.partitions[0].deliver_only(f"node.{node_id}" if node_id else "control")
        await shard.publishers[0].batcher.add(Item(names, data))

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
        if limit < 0:
            raise ValueError(f"limit must be 0 or more, got {limit}")
        route = self._route(channel)
        after = 0 if since is None else min(since.offset, OFFSET_MAX)
        if reverse and since is not None and after <= 1:
            # Nothing is before the first; 0 would ask for the newest.
            limit, after = 0, 0
        limit = min(limit, LIMIT_MAX)
        question = Question(route.names, options.history or History(), after, limit, reverse)
        return await route.shard.readers[route.partition].add(question)

    async def remove_history(self, channel: str) -> None:
        """Forget what is kept; offsets count on in the same epoch."""
        route = self._route(channel)
        question = Question(route.names, History(), 0, -1, is_reverse=False)
        await route.shard.readers[route.partition].add(question)

    # What arrives

    def receive(self, name: bytes, data: bytes) -> None:
        """Take what was published in a channel of Redis."""
        listener, target = self.listener, self.targets.get(name)
        if listener is None or target is None:
            # Let go of, and not known there yet.
            return
        if not isinstance(target, str):
            target.handle_marker(data)
            return
        try:
            frames = read_frames(data)
        except UnknownRecord as error:
            self._note_unknown(error)
            return
        for offset, epoch, record in frames:
            if target == CONTROL:
                listener.handle_control(record)
                continue
            try:
                item = decode_item(record, offset, epoch)
            except UnknownRecord as error:
                # It is left out, and the gap shows.
                self._note_unknown(error)
                continue
            listener.handle_item(target, item)

    def read_record(self, record: bytes, offset: int, epoch: str) -> Publication | None:
        """Read a record of a stream; what cannot be read is left out, and the hole shows."""
        try:
            item = decode_item(record, offset, epoch)
        except UnknownRecord as error:
            self._note_unknown(error)
            return None
        return item if isinstance(item, Publication) else None

    def handle_back(self) -> None:
        """Tell that a shard stands again."""
        listener = self.listener
        if listener is not None:
            self.reconnects += 1
            listener.handle_reconnect()

    # Inside

    def _note_unknown(self, error: UnknownRecord) -> None:
        """Log what could not be read, at most once a minute."""
        now = time.monotonic()
        if now - self.unknown_logged_at >= UNKNOWN_LOG_SECONDS:
            self.unknown_logged_at = now
            logger.error("left out: %s", error)

    def _running(self) -> None:
        """Raise `BrokerClosed` unless it runs."""
        if self.listener is None:
            raise BrokerClosed("the Redis broker is not running")

    def _route(self, channel: str) -> _Route:
        """Find where a channel goes."""
        self._running()
        route = self.routes.get(channel)
        if route is None:
            number, partition = locate(
                channel, len(self.shards), self.shards[0].servers.partition_count
            )
            shard = self.shards[number]
            route = _Route(
                shard.partitions[partition].channel(channel),
                shard,
                partition,
                shard.publishers[partition],
            )
            if len(self.routes) >= ROUTES_MAX:
                self.routes.clear()
            self.routes[channel] = route
        return route


def _refusal_of(error: BrokerUnavailable) -> BrokerUnavailable | ConfigError:
    """Find out whether an error of the start is one that waiting does not help."""
    cause = error.__cause__
    fault = explain(cause) if cause is not None else None
    return ConfigError(str(error)) if fault is not None and fault.is_final else error
