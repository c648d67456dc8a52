"""One shard of the broker: what is asked of it, and what it tells."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from typing import Any, NamedTuple, Protocol

from wirebell.batching import PENDING_MAX, Batcher
from wirebell.brokers.redis.addresses import Place
from wirebell.brokers.redis.batches import ChannelNames, Partition, milliseconds, pack
from wirebell.brokers.redis.link import Link
from wirebell.brokers.redis.publisher import Publisher
from wirebell.brokers.redis.reader import create_reader
from wirebell.brokers.redis.scripts import HISTORY
from wirebell.brokers.redis.servers import create_servers
from wirebell.errors import BrokerError
from wirebell.history import StreamSlice
from wirebell.model import History, Publication, StreamPosition

__all__ = ("Question", "Shard", "ShardEvents", "start_all")

# A read of 5,000 publications of 1 KiB holds Redis for some milliseconds.
QUESTIONS_MAX = 100
PUBLICATIONS_MAX = 5000
# Channels that are only asked for must not stay for a month.
UNUSED_SECONDS_MAX = 3600.0


class ShardEvents(Protocol):
    """Who is told of what happens: the broker."""

    def receive(self, name: bytes, data: bytes) -> None:
        """Take what was published in a channel of Redis; must not raise."""

    def handle_back(self) -> None:
        """Learn that a shard stands again."""

    def read_record(self, record: bytes, offset: int, epoch: str) -> Publication | None:
        """Read a record of a stream, or nothing where that cannot be."""


class Question(NamedTuple):
    """A read of history. Equal ones of a turn are asked once.

    Attributes:
        names: Of the channel.
        history: What to keep of it.
        since: Offset after, or before, which; 0 for none.
        limit: Most publications; -1 removes what is kept.
        is_reverse: Newest first.
    """

    names: ChannelNames
    history: History
    since: int
    limit: int
    is_reverse: bool


class Shard:
    """One shard.

    Mutable state: its links, and for each partition what waits to be asked.

    Args:
        place: Where it is.
        prefix: Of all names.
        events: Is told.
        followed: Names of the channels of Redis that this node receives.
    """

    def __init__(
        self, place: Place, prefix: str, events: ShardEvents, followed: Collection[str]
    ) -> None:
        self.place = place
        self.events = events
        self.servers = create_servers(place, prefix)
        self.link = Link(place, self.servers)
        self.reader = create_reader(place, self.servers, self)
        is_cluster = place.kind == "cluster"
        self.partitions = [
            Partition.create(prefix, place.access.db, part if is_cluster else None)
            for part in range(self.servers.partition_count)
        ]
        self.publishers = [
            Publisher(self.link, self.reader, names, part, followed, is_sharded=is_cluster)
            for part, names in enumerate(self.partitions)
        ]
        self.readers: list[Batcher[Question, StreamSlice]] = [
            Batcher(
                self._create_read(part),
                size_of=_limit_of,
                count_max=QUESTIONS_MAX,
                # Publications, not bytes, are counted; what waits is bounded by the questions.
                bytes_max=PUBLICATIONS_MAX,
                pending_bytes_max=PENDING_MAX * (PUBLICATIONS_MAX + 1),
            )
            for part in range(self.servers.partition_count)
        ]

    async def start(self) -> None:
        """Connect.

        Raises:
            BrokerUnavailable: It cannot be reached.
            ConfigError: It refuses, or is not what the URL says.
        """
        await self.link.start()
        await self.reader.start()

    async def aclose(self) -> None:
        """Carry what waits, and end."""
        await asyncio.gather(
            *(each.aclose() for each in self.publishers), *(each.aclose() for each in self.readers)
        )
        await self.reader.aclose()
        await self.link.aclose()

    @property
    def receive(self) -> Callable[[bytes, bytes], None]:
        """Who takes what was published: the broker itself, one call less for each message."""
        return self.events.receive

    def handle_lost(self) -> None:
        """Have nobody wait for a marker that does not arrive."""
        for publisher in self.publishers:
            publisher.handle_lost()

    async def handle_back(self) -> None:
        """Find out whether the server lost something, before anybody reads on from there."""
        probes = [each.probe() for each in self.publishers if each.has_acknowledged]
        for result in await asyncio.gather(*probes, return_exceptions=True):
            if isinstance(result, BaseException) and not isinstance(result, BrokerError):
                raise result
        self.events.handle_back()

    def _create_read(
        self, partition: int
    ) -> Callable[[Sequence[Question]], Awaitable[list[StreamSlice | Exception]]]:
        """Create what reads a partition's history."""

        async def read(asked: Sequence[Question]) -> list[StreamSlice | Exception]:
            questions = list(dict.fromkeys(asked))
            keys = [f"{self.partitions[partition].keys}.generation".encode()]
            structure: list[tuple[int, int, int, int]] = []
            for names, history, since, limit, is_reverse in questions:
                keys += (names.meta, names.stream)
                unused_seconds = min(history.meta_ttl_seconds, UNUSED_SECONDS_MAX)
                structure.append((since, limit, int(is_reverse), milliseconds(unused_seconds)))
            answers = await self.link.call(
                HISTORY, keys, [secrets.randbits(32), pack(structure)], partition=partition
            )
            slices = {
                question: self._read_answer(answer)
                for question, answer in zip(questions, answers, strict=True)
            }
            return [slices[question] for question in asked]

        return read

    def _read_answer(self, answer: list[bytes]) -> StreamSlice:
        """Read the answer to one question."""
        epoch, offset = answer[0].decode(), int(answer[1])
        found = [
            self.events.read_record(record, int(name.partition(b"-")[0]), epoch)
            for name, record in zip(answer[2::2], answer[3::2], strict=True)
        ]
        kept = tuple(each for each in found if each is not None)
        return StreamSlice(kept, StreamPosition(offset, epoch))


async def start_all(starting: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Start several things; when one fails the others have ended, too.

    Raises:
        BaseException: What the first of them raised.
    """
    for result in await asyncio.gather(*starting, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


def _limit_of(question: Question) -> int:
    """Return how many publications are read at most; a question costs something in any case."""
    return min(question.limit, PUBLICATIONS_MAX) + 1
