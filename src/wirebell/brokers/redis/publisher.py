"""What this process puts into one partition: two calls at once, each of which happens once."""

from __future__ import annotations

import asyncio
import logging
import secrets
import uuid
from collections.abc import Collection, Sequence

from wirebell.batching import Batcher
from wirebell.brokers.redis.batches import Batch, Item, Partition, pack
from wirebell.brokers.redis.link import Link
from wirebell.brokers.redis.reader import Reader
from wirebell.brokers.redis.scripts import PUBLISH, RENEW, SENDER_SECONDS
from wirebell.brokers.redis.wire import Wire
from wirebell.errors import BrokerUnavailable
from wirebell.model import Published

__all__ = ("Lane", "Publisher")

logger = logging.getLogger(__name__)

# In place of results; the only other number is 2, of a call that comes too late to matter.
LOST_DATA = 1
# What is forgotten after a day must not be taken for lost.
ACKNOWLEDGED_SECONDS = SENDER_SECONDS / 2
# Calls to one server that are on its way; a cluster has one for each of its partitions.
LANES = 2
# A marker comes with the answer. A slot that is just moving loses it: only a probe waits longer.
MARKER_SECONDS = 1.0


class Publisher:
    """Gathers publications of a turn, and carries them in one call.

    Two calls may be on their way at once, so that neither side waits for the other; what goes into
    a channel never is in both.

    Args:
        link: Carries calls.
        reader: Brings the markers.
        names: Of the partition.
        partition: Its number.
        followed: Names of the channels of Redis that this node receives.
        is_sharded: Publish in a cluster's shard channels.
    """

    def __init__(
        self,
        link: Link,
        reader: Reader,
        names: Partition,
        partition: int,
        followed: Collection[str],
        *,
        is_sharded: bool,
    ) -> None:
        self.link = link
        self.reader = reader
        self.names = names
        self.partition = partition
        self.followed = followed
        self.command = "SPUBLISH" if is_sharded else "PUBLISH"
        self.generation_key = f"{names.keys}.generation".encode()
        self.lanes = [Lane(self, place) for place in range(1 if is_sharded else LANES)]
        self.batcher: Batcher[Item | None, Published | bool] = Batcher(
            *(lane.run for lane in self.lanes), size_of=_size_of, key_of=_key_of
        )

    @property
    def has_acknowledged(self) -> bool:
        """Whether anything was put there that a server must still know of."""
        return any(lane.acknowledged for lane in self.lanes)

    async def probe(self) -> None:
        """Go the whole way once, with nothing to deliver.

        Raises:
            BrokerUnavailable: The server does not answer, or what is published does not arrive.
        """
        if not await self.batcher.add(None):
            raise BrokerUnavailable(
                f"Redis at {self.link.place} answers, and what is published there does not arrive"
            )

    def handle_lost(self) -> None:
        """Learn that no marker will arrive."""
        for lane in self.lanes:
            lane.wake()

    async def aclose(self) -> None:
        """Carry what waits, within bounds, and take no more."""
        await self.batcher.aclose()

    async def renew(self, deadline: float) -> None:
        """Have every stream begin anew: the server has less than it had acknowledged."""
        generation = await self.link.call(
            RENEW,
            [self.generation_key, *(lane.key for lane in self.lanes)],
            [secrets.token_hex(4), *(lane.acknowledged for lane in self.lanes)],
            partition=self.partition,
            deadline=deadline,
        )
        if generation == self.link.generation:
            # Another partition found out the same, and told.
            return
        self.link.generation = generation
        logger.warning(
            "Redis at %s lost data that it had acknowledged: its channels start a new epoch",
            self.link.place,
        )


class Lane:
    """One call at a time.

    Redis remembers the number and the results of the last call of each lane, so a call whose answer
    was lost is repeated without happening twice, and one that was given up is refused when it
    arrives late. From the same numbers, of all lanes, Redis tells that it lost what it had
    acknowledged.

    Where this node receives what it publishes, it has done so before `publish` is answered: the
    call ends with a marker that arrives behind everything else. It carries the results, so that who
    published is answered together with what came; those of the call are read where it is missing.

    Mutable state: numbers of calls, the batch that is carried, and the marker that arrived last.

    Args:
        publisher: Whose.
        place: Among its lanes, from 0.
    """

    def __init__(self, publisher: Publisher, place: int) -> None:
        self.publisher = publisher
        self.place = place
        sender = uuid.uuid4().hex
        self.key = f"{publisher.names.keys}.sender.{sender}".encode()
        self.marker = f"{publisher.names.channels}.marker.{sender}"
        self.number = 0
        self.acknowledged = 0
        self.acknowledged_at = 0.0
        self.carried: Batch | None = None
        self.results: list[Published] | None = None
        self.arrived = 0
        self.waiter: asyncio.Future[None] | None = None

    @property
    def senders(self) -> list[Lane]:
        """Whose keys and numbers a call of this lane carries, in that order: its own come first."""
        return [self, *(lane for lane in self.publisher.lanes if lane is not self)]

    def handle_marker(self, data: bytes) -> None:
        """Learn that everything up to a call has arrived, and what became of it."""
        number, _, results = data.partition(b" ")
        self.arrived = int(number)
        batch, self.carried = self.carried, None
        if batch is not None and self.arrived == self.number:
            self._acknowledge()
            self.results = batch.read(results)
            self.publisher.batcher.settle(self.place, self.results)
        self.wake()

    def wake(self) -> None:
        """Have who waits for a marker look again."""
        waiter = self.waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def run(self, given: Sequence[Item | None]) -> list[Published | bool | Exception]:
        """Carry a batch; without an item it is a probe.

        Raises:
            BrokerUnavailable: There was no answer in time, or the server lost its data meanwhile.
        """
        loop, publisher = asyncio.get_running_loop(), self.publisher
        deadline = loop.time() + publisher.link.place.access.io_seconds
        items = [item for item in given if item is not None]
        batch = Batch(items, [publisher.generation_key, *(lane.key for lane in self.senders)])
        has_probe = len(items) < len(given)
        wire = publisher.reader.wire_of(publisher.partition)
        if not has_probe and batch.names.isdisjoint(publisher.followed):
            # Nothing of it comes here.
            wire = None
        self.number += 1
        for lane in publisher.lanes:
            lane.forget(loop.time())
        self.carried, self.results = None if has_probe else batch, None
        try:
            answer = await self._carry(batch, self.marker if wire is not None else "", deadline)
            if not has_probe:
                deadline = min(deadline, loop.time() + MARKER_SECONDS)
            has_arrived = wire is not None and await self._wait_marker(wire, deadline)
        finally:
            self.carried = None
        results = iter(self.results or batch.read(answer))
        return [has_arrived if item is None else next(results) for item in given]

    def forget(self, now: float) -> None:
        """Expect nothing of a server that may have forgotten it by itself."""
        if now - self.acknowledged_at > ACKNOWLEDGED_SECONDS:
            self.acknowledged = 0

    async def _carry(self, batch: Batch, marker: str, deadline: float) -> bytes:
        """Carry a call until it has happened, and return what became of it."""
        answer = await self._call(batch, marker, deadline)
        if answer == LOST_DATA:
            await self.publisher.renew(deadline)
            if self.results is None:
                answer = await self._call(batch, marker, deadline)
        if self.results is not None:
            # The marker told it already; what the server has now is another matter.
            return b""
        if isinstance(answer, int):
            raise BrokerUnavailable(
                f"Redis at {self.publisher.link.place} came back with other data while it was "
                "written to"
            )
        self._acknowledge()
        return answer

    def _acknowledge(self) -> None:
        """Note that the newest call has happened: a server that does not know it has lost data."""
        self.acknowledged = self.number
        self.acknowledged_at = asyncio.get_running_loop().time()

    async def _call(self, batch: Batch, marker: str, deadline: float) -> bytes | int:
        """Carry a call; the same number is carried once."""
        publisher = self.publisher
        values: list[str | bytes | int] = [
            self.number,
            publisher.command,
            marker,
            secrets.randbits(32),
            batch.string_count,
            batch.structure,
            pack([lane.acknowledged for lane in self.senders]),
            *batch.records,
        ]
        answer: bytes | int = await publisher.link.call(
            PUBLISH, batch.keys, values, partition=publisher.partition, deadline=deadline
        )
        return answer

    async def _wait_marker(self, wire: Wire, deadline: float) -> bool:
        """Wait until what was published has arrived here; false when it will not, or too late."""
        loop, publisher = asyncio.get_running_loop(), self.publisher
        while self.arrived < self.number:
            if publisher.reader.wire_of(publisher.partition) is not wire:
                return False
            self.waiter = loop.create_future()
            try:
                async with asyncio.timeout_at(deadline):
                    await self.waiter
            except TimeoutError:
                return False
            finally:
                self.waiter = None
        return True


def _key_of(item: Item | None) -> bytes:
    """Return what an item is about: its channel. What is for nodes, and probes, are one thing."""
    return b"" if item is None else item.names.meta


def _size_of(item: Item | None) -> int:
    """Return the bytes of an item, what stands around it estimated."""
    return 64 if item is None else len(item.record) + 64
