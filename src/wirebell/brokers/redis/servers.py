"""Which server has a part of a shard now: one that stands fast, a Sentinel's master, a cluster's.

A cluster's channels are shared out over a fixed number of partitions, each of which lies in one
slot, so that one call can carry everything of a partition.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import hiredis
from redis.crc import key_slot

from wirebell.brokers.redis.addresses import Access, Address, Place
from wirebell.brokers.redis.faults import explain, unavailable
from wirebell.brokers.redis.wire import ServerInfo, open_wire
from wirebell.errors import BrokerUnavailable, ConfigError

__all__ = ("PARTITION_COUNT", "Servers", "check_server", "create_servers")

PARTITION_COUNT = 32
"""Of a cluster; where a channel's data lies depends on it, so it never changes."""

VERSION_MIN = (7, 0)


class Servers:
    """Knows the servers of one shard. To be used on one loop.

    Mutable state: what was found last, and the question that runs, one for all who wait for it.

    Args:
        ask: Finds the server of each partition, or raises `BrokerUnavailable`.
        partition_count: 1, or those of a cluster.
    """

    def __init__(
        self, ask: Callable[[], Awaitable[list[Address]]], partition_count: int = 1
    ) -> None:
        self.ask = ask
        self.partition_count = partition_count
        self.known: list[Address] | None = None
        self.question: asyncio.Task[list[Address]] | None = None

    async def find(self, partition: int = 0) -> Address:
        """Return who has a partition.

        Raises:
            BrokerUnavailable: Nobody says so at this moment.
            ConfigError: Who is asked refuses.
        """
        known = self.known
        if known is None:
            if self.question is None:
                self.question = asyncio.create_task(self._ask())
                self.question.add_done_callback(_hear)
            # Others wait for it too.
            known = await asyncio.shield(self.question)
        return known[partition]

    def forget(self) -> None:
        """Ask anew the next time: who was found is not it any more, or does not answer."""
        self.known = None

    async def refresh(self) -> Address:
        """Ask anew now; as `find`, but while nobody answers, who was found stays."""
        self.known = await self.ask()
        return self.known[0]

    async def _ask(self) -> list[Address]:
        """Ask, and remember."""
        try:
            self.known = await self.ask()
            return self.known
        finally:
            self.question = None


def _hear(question: asyncio.Task[list[Address]]) -> None:
    """Take note of a failure that nobody waits for any more."""
    if not question.cancelled():
        question.exception()


def create_servers(place: Place, prefix: str) -> Servers:
    """Create what knows the servers of a place."""
    if place.kind == "sentinel":
        return Servers(_Sentinels(place).ask)
    if place.kind == "cluster":
        return Servers(_Cluster(place, prefix).ask, PARTITION_COUNT)

    async def ask() -> list[Address]:
        return list(place.addresses)

    return Servers(ask)


class _Sentinels:
    """Name one master. Mutable state: who answered last is asked first."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.sentinels = list(place.addresses)

    async def ask(self) -> list[Address]:
        """Ask one Sentinel after the other for the master."""
        name = self.place.master_name

        def read(sentinel: Address, answer: list[bytes] | None) -> list[Address] | str:
            if answer is None:
                return f"knows no master {name!r}"
            self.sentinels.remove(sentinel)
            self.sentinels.insert(0, sentinel)
            return [Address(answer[0].decode(), int(answer[1]))]

        words = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", name)
        access = self.place.sentinel_access
        return await _ask_each(self.place, list(self.sentinels), access, words, read)


class _Cluster:
    """Its nodes know each other's slots. Mutable state: the masters that were found last."""

    def __init__(self, place: Place, prefix: str) -> None:
        self.place = place
        self.slots = [key_slot(f"{prefix}.{part}".encode()) for part in range(PARTITION_COUNT)]
        self.nodes: list[Address] = []

    async def ask(self) -> list[Address]:
        """Ask one node after the other: those that were found, then those that were given."""
        nodes = dict.fromkeys((*self.nodes, *self.place.addresses))
        found = await _ask_each(
            self.place, nodes, self.place.access, ("CLUSTER", "SLOTS"), self._read
        )
        self.nodes = list(dict.fromkeys(found))
        return found

    def _read(self, asked: Address, answer: list[list[Any]]) -> list[Address] | str:
        """Find the partitions in what a node says."""
        found: list[Address | None] = [None] * PARTITION_COUNT
        for first, last, master, *_ in answer:
            # A node that does not know its own name leaves it out: it is who was asked.
            address = Address((master[0] or asked.host.encode()).decode(), int(master[1]))
            for part, slot in enumerate(self.slots):
                if first <= slot <= last:
                    found[part] = address
        whole = [address for address in found if address is not None]
        return whole if len(whole) == PARTITION_COUNT else "does not know who has every slot"


async def _ask_each(
    place: Place,
    addresses: Iterable[Address],
    access: Access,
    words: tuple[str, ...],
    read: Callable[[Address, Any], list[Address] | str],
) -> list[Address]:
    """Ask one after the other until ``read`` finds in an answer more than a reason why not.

    Raises:
        BrokerUnavailable: Nobody knows; names each reason.
        ConfigError: One refuses, or is of the wrong kind.
    """
    is_cluster = place.kind == "cluster"
    who = "Redis" if is_cluster else "the Sentinel"
    problems: list[str] = []
    for address in addresses:
        try:
            wire, info = await open_wire(address, access)
            try:
                _check_asked(address, info, place.kind)
                async with asyncio.timeout(access.io_seconds):
                    answer = await wire.request(*words)
            finally:
                wire.abort()
        except (OSError, EOFError, hiredis.ReplyError) as error:
            fault = explain(error)
            if fault.is_refusal:
                raise ConfigError(f"{who} at {address}: {fault.text}") from error
            problems.append(f"{address} {fault.text}")
            continue
        found = read(address, answer)
        if not isinstance(found, str):
            return found
        problems.append(f"{address} {found}")
    what = "the cluster does not answer" if is_cluster else "no Sentinel names a master"
    raise unavailable(place, f"{what}: {'; '.join(problems)}")


def _check_asked(address: Address, info: ServerInfo, kind: str) -> None:
    """Refuse to ask a server that cannot know.

    Raises:
        ConfigError: It is no Sentinel, or none of a cluster.
    """
    if kind == "cluster":
        check_server(address, info, kind)
    elif info.mode != "sentinel":
        raise ConfigError(f"Redis at {address} is no Sentinel: write redis://")


def check_server(address: Address, info: ServerInfo, kind: str) -> None:
    """Refuse a server of the wrong kind, or a role that has passed to another.

    Raises:
        ConfigError: It is too old, or not what the URL says.
        BrokerUnavailable: It is a replica where Sentinels or a cluster named a master.
    """
    version = ".".join(map(str, info.version))
    if info.version < VERSION_MIN:
        raise ConfigError(
            f"Redis at {address} is {'older than 6' if not any(info.version) else version}, "
            f"needed is {'.'.join(map(str, VERSION_MIN))} or newer"
        )
    expected = "cluster" if kind == "cluster" else "standalone"
    if info.mode != expected:
        advice = {
            "cluster": "part of a cluster: write redis+cluster://",
            "sentinel": "a Sentinel: write redis+sentinel://host/name",
            "standalone": "not part of a cluster: write redis://",
        }.get(info.mode, info.mode)
        raise ConfigError(f"Redis at {address} is {advice}")
    if info.role != "master":
        if kind == "single":
            raise ConfigError(
                f"Redis at {address} is a replica and takes no writes: give the master's address, "
                "or Sentinels"
            )
        if kind == "sentinel":
            raise BrokerUnavailable(f"Redis at {address} is not the master any more")
