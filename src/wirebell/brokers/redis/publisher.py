"""What this process puts into one partition: one call at a time, each of which happens once."""

from __future__ import annotations

import asyncio
import logging
import secrets
import uuid
from collections.abc import Collection, Sequence

from wirebell.batching import Batcher
from wirebell.brokers.redis.batches import Batch, Item, Partition
from wirebell.brokers.redis.link import Link
from wirebell.brokers.redis.reader import Reader
from wirebell.brokers.redis.scripts import PUBLISH, RENEW, SENDER_SECONDS
from wirebell.brokers.redis.wire import Wire
from wirebell.errors import BrokerUnavailable
from wirebell.model import Published

__all__ = ("Publisher",)

logger = logging.getLogger(__name__)

# In place of results; the only other number is 2, of a call that comes too late to matter.
LOST_DATA = 1
# What is forgotten after a day must not be taken for lost.
ACKNOWLEDGED_SECONDS = SENDER_SECONDS / 2
# A marker comes with the answer. A slot that is just moving loses it: only a probe waits longer.
MARKER_SECONDS = 1.0


class Publisher:
    """Gathers publications of a turn, and carries them in one call.

    Redis remembers the number and the results of the last call of each publisher, so a call whose
    answer was lost is repeated without happening twice, and one that was given up is refused when
    it arrives late. From the same number Redis tells that it lost what it had acknowledged.

    Where this node receives what it publishes, it has done so before `publish` is answered: the
    call ends with a marker that arrives behind everything else.

    Mutable state: numbers of calls, and the marker that arrived last.

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
        self.partition = partition
        self.followed = followed
        self.command = "SPUBLISH" if is_sharded else "PUBLISH"
        sender = uuid.uuid4().hex
        self.keys = (
            f"{names.keys}.sender.{sender}".encode(),
            f"{names.keys}.generation".encode(),
        )
        self.marker = f"{names.channels}.marker.{sender}"
        self.number = 0
        self.acknowledged = 0
        self.acknowledged_at = 0.0
        self.arrived = 0
        self.waiter: asyncio.Future[None] | None = None
        self.batcher: Batcher[Item | None, Published | bool] = Batcher(self._run, size_of=_size_of)

    async def probe(self) -> None:
        """Go the whole way once, with nothing to deliver.

        Raises:
            BrokerUnavailable: The server does not answer, or what is published does not arrive.
        """
        if not await self.batcher.add(None):
            raise BrokerUnavailable(
                f"Redis at {self.link.place} answers, and what is published there does not arrive"
            )

    def handle_marker(self, data: bytes) -> None:
        """Learn that everything up to a call has arrived."""
        self.arrived = int(data)
        waiter = self.waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def handle_lost(self) -> None:
        """Learn that no marker will arrive."""
        waiter = self.waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def aclose(self) -> None:
        """Carry what waits, within bounds, and take no more."""
        await self.batcher.aclose()

    async def _run(self, given: Sequence[Item | None]) -> list[Published | bool | Exception]:
        """Carry a batch."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.link.place.access.io_seconds
        items = [item for item in given if item is not None]
        batch = Batch(items, self.keys)
        has_probe = len(items) < len(given)
        wire = self.reader.wire_of(self.partition)
        if not has_probe and batch.names.isdisjoint(self.followed):
            # Nothing of it comes here.
            wire = None
        self.number += 1
        if loop.time() - self.acknowledged_at > ACKNOWLEDGED_SECONDS:
            self.acknowledged = 0
        number = self.number
        marker = self.marker if wire is not None else ""
        answer = await self._call(batch, number, marker, deadline)
        if answer == LOST_DATA:
            await self._renew(deadline)
            answer = await self._call(batch, number, marker, deadline)
        if isinstance(answer, int):
            raise BrokerUnavailable(
                f"Redis at {self.link.place} came back with other data while it was written to"
            )
        self.acknowledged, self.acknowledged_at = number, loop.time()
        if not has_probe:
            deadline = min(deadline, loop.time() + MARKER_SECONDS)
        has_arrived = wire is not None and await self._wait_marker(number, wire, deadline)
        results = iter(batch.read(answer))
        return [has_arrived if item is None else next(results) for item in given]

    async def _call(
        self,
        batch: Batch,
        number: int,
        marker: str,
        deadline: float,
    ) -> bytes | int:
        """Carry a call; the same number is carried once."""
        values: list[str | bytes | int] = [
            number,
            self.acknowledged,
            self.command,
            marker,
            secrets.randbits(32),
            batch.string_count,
            batch.structure,
            *batch.records,
        ]
        answer: bytes | int = await self.link.call(
            PUBLISH, batch.keys, values, partition=self.partition, deadline=deadline
        )
        return answer

    async def _renew(self, deadline: float) -> None:
        """Have every stream begin anew: the server has less than it had acknowledged."""
        generation = await self.link.call(
            RENEW,
            self.keys,
            [self.acknowledged, secrets.token_hex(4)],
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

    async def _wait_marker(self, number: int, wire: Wire, deadline: float) -> bool:
        """Wait until what was published has arrived here; false when it will not, or too late."""
        loop = asyncio.get_running_loop()
        while self.arrived < number:
            if self.reader.wire_of(self.partition) is not wire:
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


def _size_of(item: Item | None) -> int:
    """Return the bytes of an item, what stands around it estimated."""
    return 64 if item is None else len(item.record) + 64
