"""What a shard's servers tell: one subscriber connection, or one for each master of a cluster."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from wirebell.backoff import Backoff
from wirebell.brokers.redis.addresses import Address, Place
from wirebell.brokers.redis.servers import Servers
from wirebell.brokers.redis.subscriber import Subscriber
from wirebell.brokers.redis.wire import Wire
from wirebell.errors import BrokerClosed, BrokerError, ConfigError

__all__ = ("Reader", "ReaderEvents", "create_reader")

logger = logging.getLogger(__name__)

# A master that fails is replaced after its cluster's own time-out, which is seconds.
FIRST_LOOK_SECONDS = 0.1
LONGEST_LOOK_SECONDS = 2.0


class ReaderEvents(Protocol):
    """Who is told of what happens: the broker's shard."""

    @property
    def receive(self) -> Callable[[bytes, bytes], None]:
        """Takes the channel of Redis and what was published there; must not raise."""

    def handle_lost(self) -> None:
        """Learn that something of what is published does not arrive."""

    async def handle_back(self) -> None:
        """Learn that everything does again; what was published meanwhile did not."""


class Reader(Protocol):
    """Hands on what is published in the names that are wanted. To be used on one loop."""

    @property
    def is_connected(self) -> bool:
        """Whether everything that is published arrives."""

    async def start(self) -> None:
        """Connect, and stay connected from now on; raises as `Subscriber.start`."""

    async def aclose(self) -> None:
        """End it; idempotent."""

    def subscribe(self, name: bytes, partition: int) -> Awaitable[None]:
        """Want a name; done when it is confirmed. Raises `BrokerUnavailable`."""

    def unsubscribe(self, name: bytes, partition: int) -> Awaitable[None]:
        """Want it no more; likewise."""

    def wire_of(self, partition: int) -> Wire | None:
        """Return the connection on which a partition's publications arrive, while it stands."""


class _SingleReader:
    """One connection for everything."""

    def __init__(self, place: Place, servers: Servers, events: ReaderEvents) -> None:
        self.events = events
        self.receive = events.receive
        self.subscriber = Subscriber(servers, servers.find, place.kind, place.access, self)

    @property
    def is_connected(self) -> bool:
        return self.subscriber.is_connected

    async def start(self) -> None:
        await self.subscriber.start()

    async def aclose(self) -> None:
        await self.subscriber.aclose()

    def subscribe(self, name: bytes, partition: int) -> Awaitable[None]:
        return self.subscriber.subscribe(name)

    def unsubscribe(self, name: bytes, partition: int) -> Awaitable[None]:
        return self.subscriber.unsubscribe(name)

    def wire_of(self, partition: int) -> Wire | None:
        return self.subscriber.wire

    def handle_lost(self, subscriber: Subscriber) -> None:
        self.events.handle_lost()

    async def handle_back(self, subscriber: Subscriber) -> None:
        await self.events.handle_back()


class _ClusterReader:
    """A connection for each master; who has what is looked up again whenever one is lost.

    Mutable state: the subscriber of each master and the one of each partition, and the names of
    each partition.
    """

    def __init__(self, place: Place, servers: Servers, events: ReaderEvents) -> None:
        self.place = place
        self.servers = servers
        self.events = events
        self.receive = events.receive
        self.subscribers: dict[Address, Subscriber] = {}
        self.owners: list[Subscriber] = []
        self.names: list[set[bytes]] = [set() for _ in range(servers.partition_count)]
        self.looking: asyncio.Task[None] | None = None

    @property
    def is_connected(self) -> bool:
        return bool(self.owners) and all(each.is_connected for each in self.subscribers.values())

    async def start(self) -> None:
        found = [await self.servers.find(part) for part in range(self.servers.partition_count)]
        for address in dict.fromkeys(found):
            subscriber = self._create(address)
            await subscriber.start()
            self.subscribers[address] = subscriber
        self.owners = [self.subscribers[address] for address in found]

    async def aclose(self) -> None:
        looking, self.looking = self.looking, None
        if looking is not None:
            looking.cancel()
            await asyncio.wait((looking,))
        subscribers, self.subscribers = self.subscribers, {}
        await asyncio.gather(*(each.aclose() for each in subscribers.values()))
        self.owners = []

    async def subscribe(self, name: bytes, partition: int) -> None:
        self.names[partition].add(name)
        while True:
            owner = self.owners[partition]
            try:
                await owner.subscribe(name)
            except BrokerError:
                # Whoever took the partition over meanwhile has the name, or is asked now.
                if self.owners and self.owners[partition] is not owner:
                    continue
                self.names[partition].discard(name)
                raise
            return

    async def unsubscribe(self, name: bytes, partition: int) -> None:
        self.names[partition].discard(name)
        owner = self.owners[partition]
        try:
            await owner.unsubscribe(name)
        except BrokerClosed:
            if not self.owners or self.owners[partition] is owner:
                raise

    def wire_of(self, partition: int) -> Wire | None:
        return self.owners[partition].wire if self.owners else None

    def handle_lost(self, subscriber: Subscriber) -> None:
        self.events.handle_lost()
        if self.looking is None:
            self.looking = asyncio.create_task(self._look())

    async def handle_back(self, subscriber: Subscriber) -> None:
        """The look-up that runs since the loss tells it, when all are back."""

    def _create(self, address: Address) -> Subscriber:
        """Create a subscriber of one master."""

        async def find() -> Address:
            return address

        place = self.place
        return Subscriber(self.servers, find, place.kind, place.access, self, is_sharded=True)

    async def _look(self) -> None:
        """Find out who has what until everything arrives again, then tell."""
        backoff = Backoff(FIRST_LOOK_SECONDS, LONGEST_LOOK_SECONDS)
        while True:
            try:
                self.servers.forget()
                await self._arrange()
            except (BrokerError, ConfigError) as error:
                logger.debug("the cluster is not back: %s", error)
            except Exception:
                # What nobody looks for would stay away without a word.
                logger.exception("the masters of the cluster %s cannot be found", self.place)
            if self.is_connected:
                break
            await asyncio.sleep(backoff.next_delay())
        self.looking = None
        try:
            await self.events.handle_back()
        except Exception:
            logger.exception("nobody could be told that the cluster %s is back", self.place)

    async def _arrange(self) -> None:
        """Have each partition's names wanted of who has it, and of nobody else."""
        found = [await self.servers.find(part) for part in range(self.servers.partition_count)]
        for address in dict.fromkeys(found):
            if address not in self.subscribers:
                created = self.subscribers[address] = self._create(address)
                created.supervise()
        moved: list[Awaitable[None]] = []
        for partition, address in enumerate(found):
            owner, before = self.subscribers[address], self.owners[partition]
            if owner is before:
                continue
            before.names -= self.names[partition]
            # Where it does not stand yet it asks for all of them when it does.
            owner.names |= self.names[partition]
            self.owners[partition] = owner
            if owner.is_connected:
                moved += [owner.subscribe(name) for name in self.names[partition]]
        try:
            await asyncio.gather(*moved)
        except BrokerError:
            # Whoever lacks a name is connected anew, and asks for all of them.
            for subscriber in self.subscribers.values():
                subscriber.drop()
            raise
        for address in self.subscribers.keys() - set(found):
            await self.subscribers.pop(address).aclose()


def create_reader(place: Place, servers: Servers, events: ReaderEvents) -> Reader:
    """Create what reads a shard."""
    if place.kind == "cluster":
        return _ClusterReader(place, servers, events)
    return _SingleReader(place, servers, events)
