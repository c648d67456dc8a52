"""Which server has a part of a shard now: one that stands fast, a Sentinel's master, a cluster's.

A cluster's channels are shared out over a fixed number of partitions, each of which lies in one
slot, so that one call can carry everything of a partition.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

import hiredis
from redis.crc import key_slot

from wirebell.brokers.redis.addresses import Address, Place
from wirebell.brokers.redis.faults import explain, unavailable
from wirebell.brokers.redis.wire import ServerInfo, open_wire
from wirebell.errors import BrokerUnavailable, ConfigError

__all__ = ("PARTITION_COUNT", "Servers", "check_server", "create_servers")

PARTITION_COUNT = 32
"""Of a cluster; where a channel's data lies depends on it, so it never changes."""

VERSION_MIN = (7, 0)


class Servers(Protocol):
    """Knows the servers of one shard. To be used on one loop."""

    partition_count: int
    """1, or those of a cluster."""

    async def find(self, partition: int = 0) -> Address:
        """Return who has a partition.

        Raises:
            BrokerUnavailable: Nobody says so at this moment.
        """

    def forget(self) -> None:
        """Ask anew the next time: who was found is not it any more, or does not answer."""

    async def refresh(self, partition: int = 0) -> Address:
        """Ask anew now, where the answer may have changed; as `find`."""


class FixedServer:
    """One server."""

    partition_count = 1

    def __init__(self, place: Place) -> None:
        self.address = place.addresses[0]

    async def find(self, partition: int = 0) -> Address:
        """Return it."""
        return self.address

    def forget(self) -> None:
        """There is no other."""

    async def refresh(self, partition: int = 0) -> Address:
        """Return it."""
        return self.address


class _Asking:
    """Remembers an answer, and has one question at a time for all who wait for it."""

    def __init__(self, ask: Callable[[], Awaitable[list[Address]]]) -> None:
        self.ask = ask
        self.known: list[Address] | None = None
        self.question: asyncio.Task[list[Address]] | None = None

    async def get(self) -> list[Address]:
        """Return what is known, or ask."""
        if self.known is not None:
            return self.known
        if self.question is None:
            self.question = asyncio.create_task(self._ask())
            self.question.add_done_callback(_hear)
        # Others wait for it too.
        return await asyncio.shield(self.question)

    async def _ask(self) -> list[Address]:
        try:
            self.known = await self.ask()
            return self.known
        finally:
            self.question = None


def _hear(question: asyncio.Task[list[Address]]) -> None:
    """Take note of a failure that nobody waits for any more."""
    if not question.cancelled():
        question.exception()


class SentinelServers:
    """The master that Sentinels name."""

    partition_count = 1

    def __init__(self, place: Place) -> None:
        self.place = place
        self.sentinels = list(place.addresses)
        self.asking = _Asking(self._ask)

    async def find(self, partition: int = 0) -> Address:
        """Return the master."""
        return (await self.asking.get())[0]

    def forget(self) -> None:
        """Ask the Sentinels the next time."""
        self.asking.known = None

    async def refresh(self, partition: int = 0) -> Address:
        """Ask the Sentinels now; while they do not answer, the master that was found stays."""
        self.asking.known = await self._ask()
        return await self.find()

    async def _ask(self) -> list[Address]:
        """Ask one Sentinel after the other, the one that answered last time first."""
        problems: list[str] = []
        for sentinel in list(self.sentinels):
            try:
                wire, _ = await open_wire(sentinel, self.place.sentinel_access)
                try:
                    async with asyncio.timeout(self.place.sentinel_access.io_seconds):
                        answer = await wire.request(
                            "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.place.master_name
                        )
                finally:
                    wire.abort()
            except (OSError, EOFError, hiredis.ReplyError) as error:
                fault = explain(error)
                if fault.is_refusal:
                    raise ConfigError(f"the Sentinel at {sentinel}: {fault.text}") from error
                problems.append(f"{sentinel} {fault.text}")
                continue
            if answer is None:
                problems.append(f"{sentinel} knows no master {self.place.master_name!r}")
                continue
            self.sentinels.remove(sentinel)
            self.sentinels.insert(0, sentinel)
            return [Address(answer[0].decode(), int(answer[1]))]
        raise unavailable(self.place, "no Sentinel names a master: " + "; ".join(problems))


class ClusterServers:
    """The masters of a cluster."""

    partition_count = PARTITION_COUNT

    def __init__(self, place: Place, prefix: str) -> None:
        self.place = place
        self.slots = [key_slot(f"{prefix}.{part}".encode()) for part in range(PARTITION_COUNT)]
        self.nodes: list[Address] = []
        self.asking = _Asking(self._ask)

    async def find(self, partition: int = 0) -> Address:
        """Return the master that has a partition's slot."""
        return (await self.asking.get())[partition]

    def forget(self) -> None:
        """Ask the cluster the next time."""
        self.asking.known = None

    async def refresh(self, partition: int = 0) -> Address:
        """Ask the cluster now; while it does not answer, what was found stays."""
        self.asking.known = await self._ask()
        return await self.find(partition)

    async def _ask(self) -> list[Address]:
        """Ask one node after the other: those that were found, then those that were given."""
        problems: list[str] = []
        for node in dict.fromkeys((*self.nodes, *self.place.addresses)):
            try:
                wire, info = await open_wire(node, self.place.access)
                try:
                    check_server(node, info, "cluster")
                    async with asyncio.timeout(self.place.access.io_seconds):
                        answer = await wire.request("CLUSTER", "SLOTS")
                finally:
                    wire.abort()
            except (OSError, EOFError, hiredis.ReplyError) as error:
                fault = explain(error)
                if fault.is_refusal:
                    raise ConfigError(f"Redis at {node}: {fault.text}") from error
                problems.append(f"{node} {fault.text}")
                continue
            found = self._read(node, answer)
            if found is not None:
                self.nodes = list(dict.fromkeys(found))
                return found
            problems.append(f"{node} does not know who has every slot")
        raise unavailable(self.place, "the cluster does not answer: " + "; ".join(problems))

    def _read(self, asked: Address, answer: list[list[object]]) -> list[Address] | None:
        """Find the partitions in what a node says, or nothing while one of them is nowhere."""
        found: list[Address | None] = [None] * PARTITION_COUNT
        for first, last, master, *_ in answer:
            assert isinstance(first, int)
            assert isinstance(last, int)
            assert isinstance(master, list)
            # A node that does not know its own name leaves it out: it is who was asked.
            address = Address((master[0] or asked.host.encode()).decode(), int(master[1]))
            for part, slot in enumerate(self.slots):
                if first <= slot <= last:
                    found[part] = address
        whole = [address for address in found if address is not None]
        return whole if len(whole) == PARTITION_COUNT else None


def create_servers(place: Place, prefix: str) -> Servers:
    """Create what knows the servers of a place."""
    if place.kind == "sentinel":
        return SentinelServers(place)
    if place.kind == "cluster":
        return ClusterServers(place, prefix)
    return FixedServer(place)


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
