"""Presence in Redis: entries with leases that its own clock ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from wirebell.batching import Batcher
from wirebell.broker_options import RedisOptions
from wirebell.brokers.redis.addresses import Place, read_places
from wirebell.brokers.redis.batches import Partition, milliseconds, pack
from wirebell.brokers.redis.broker import locate
from wirebell.brokers.redis.link import Link
from wirebell.brokers.redis.scripts import PRESENCE
from wirebell.brokers.redis.servers import create_servers
from wirebell.brokers.redis.shard import start_all
from wirebell.errors import BrokerClosed
from wirebell.model import ClientInfo
from wirebell.records import UnknownRecord, decode_info, encode_info

__all__ = ("RedisPresenceStore",)

logger = logging.getLogger(__name__)

ADD, REMOVE, READ = 1, 2, 3
CALLS_MAX = 500


class _Call(NamedTuple):
    """What is asked of a channel."""

    channel: str
    kind: int
    client_id: str = ""
    record: bytes = b""
    lease: int = 0


class _Shard:
    """The links of one shard, and for each partition what waits to be asked."""

    def __init__(self, place: Place, prefix: str) -> None:
        self.servers = create_servers(place, prefix)
        self.link = Link(place, self.servers)
        is_cluster = place.kind == "cluster"
        count = self.servers.partition_count
        self.partitions = [
            Partition.create(prefix, place.access.db, part if is_cluster else None)
            for part in range(count)
        ]
        self.batchers: list[Batcher[_Call, list[bytes]]] = [
            Batcher(self._create_run(part), size_of=_size_of, count_max=CALLS_MAX)
            for part in range(count)
        ]

    def _create_run(
        self, partition: int
    ) -> Callable[[Sequence[_Call]], Awaitable[list[list[bytes] | Exception]]]:
        """Create what carries the calls of a partition."""
        ahead = self.partitions[partition].keys

        async def run(calls: Sequence[_Call]) -> list[list[bytes] | Exception]:
            keys: list[str] = []
            for call in calls:
                keys += (f"{ahead}.leases.{call.channel}", f"{ahead}.members.{call.channel}")
            structure = pack([(call.kind, call.client_id, call.lease) for call in calls])
            records = [call.record for call in calls if call.kind == ADD]
            # Twice is once: a lease is renewed, who is gone is gone.
            answers: list[Any] = await self.link.call(
                PRESENCE, keys, [structure, *records], partition=partition
            )
            return answers

        return run

    async def aclose(self) -> None:
        """Carry what waits, and end."""
        await asyncio.gather(*(each.aclose() for each in self.batchers))
        await self.link.aclose()


class RedisPresenceStore:
    """A `wirebell.interfaces.PresenceStore` in Redis.

    A channel has a hash of its members and a sorted set of the instants at which their leases
    end. Whoever reads or adds removes what has ended, and both keys end with the longest lease.
    Channels lie where `wirebell.brokers.redis.RedisBroker` has them.

    Args:
        options: Where Redis is.

    Raises:
        ConfigError: A value of the options is out of its bounds.
    """

    def __init__(self, options: RedisOptions) -> None:
        self.prefix = options.prefix
        self.places = read_places(options)
        self.shards: list[_Shard] = []

    async def start(self) -> None:
        """Connect.

        Raises:
            BrokerUnavailable: It cannot be reached.
            ConfigError: It refuses, or is not what the URL says.
        """
        self.shards = [_Shard(place, self.prefix) for place in self.places]
        try:
            await start_all([shard.link.start() for shard in self.shards])
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """Stop; idempotent. Entries stay until their leases end."""
        shards, self.shards = self.shards, []
        await asyncio.gather(*(shard.aclose() for shard in shards))

    async def add(self, channel: str, info: ClientInfo, *, ttl_seconds: float) -> None:
        """Write an entry, or renew its lease."""
        lease = milliseconds(ttl_seconds)
        await self._call(_Call(channel, ADD, info.client_id, encode_info(info), lease))

    async def remove(self, channel: str, client_id: str) -> None:
        """Remove an entry; idempotent."""
        await self._call(_Call(channel, REMOVE, client_id))

    async def members(self, channel: str) -> dict[str, ClientInfo]:
        """Read who is there."""
        members: dict[str, ClientInfo] = {}
        for record in await self._call(_Call(channel, READ)):
            try:
                info = decode_info(record)
            except UnknownRecord as error:
                logger.warning("a member of a channel is left out: %s", error)
                continue
            members[info.client_id] = info
        return members

    def _call(self, call: _Call) -> Awaitable[list[bytes]]:
        """Have a call carried with the others of this turn.

        Raises:
            BrokerClosed: The store is not running.
            BrokerUnavailable: It does not answer within its bound, or too much waits for it.
        """
        if not self.shards:
            raise BrokerClosed("the presence store of Redis is not running")
        shard_count, partition_count = len(self.shards), self.shards[0].servers.partition_count
        number, partition = locate(call.channel, shard_count, partition_count)
        return self.shards[number].batchers[partition].add(call)


def _size_of(call: _Call) -> int:
    """Return the bytes of a call."""
    return len(call.record) + len(call.channel) + 64
