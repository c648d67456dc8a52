"""What the tests of the PostgreSQL broker share: brokers, and a link that loses answers."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from wirebell.backoff import Backoff
from wirebell.brokers.postgresql import PostgreSQLBroker, PostgreSQLPresenceStore, read_url
from wirebell.model import ChannelOptions, History, Publication, PublishOptions
from wirebell.testing import RecordingListener

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from wirebell.model import Published

__all__ = (
    "KEPT",
    "PASSWORD",
    "LossyLink",
    "Running",
    "broker_at",
    "publish",
    "refusal_of",
    "store_at",
)

PASSWORD = "s3cret-word"
"""That no message may show."""

KEPT = ChannelOptions(history=History(size=10, ttl_seconds=60))


@dataclass
class Running:
    """A broker that runs, and what it delivers."""

    broker: PostgreSQLBroker
    listener: RecordingListener = field(default_factory=RecordingListener)

    async def payloads(self, channel: str) -> list[bytes]:
        """Read what is kept."""
        part = await self.broker.history(channel, KEPT, since=None, limit=100)
        return [each.data for each in part.publications]

    def delivered(self, channel: str) -> list[bytes]:
        """Return what arrived of a channel."""
        return [each.data for each in self.listener.of(channel) if isinstance(each, Publication)]


async def publish(
    running: Running,
    channel: str,
    data: bytes,
    options: ChannelOptions = KEPT,
    how: PublishOptions | None = None,
) -> Published:
    """Publish, and wait for the answer."""
    return await running.broker.publish(channel, Publication(data), options, how)


@asynccontextmanager
async def broker_at(url: str, node_id: str = "") -> AsyncIterator[Running]:
    """Run a broker until the block ends."""
    running = Running(PostgreSQLBroker(read_url(url)))
    # Whoever waits for it to come back waits less.
    running.broker.reader.backoff = Backoff(0.05, 0.2)
    await running.broker.start(running.listener, node_id)
    try:
        yield running
    finally:
        await running.broker.aclose()


@asynccontextmanager
async def store_at(url: str) -> AsyncIterator[PostgreSQLPresenceStore]:
    """Run a presence store until the block ends."""
    store = PostgreSQLPresenceStore(read_url(url))
    await store.start()
    try:
        yield store
    finally:
        await store.aclose()


async def refusal_of(url: str) -> BaseException:
    """Start a broker and a store, and return what they raise; neither shows the password."""
    broker, store = PostgreSQLBroker(read_url(url)), PostgreSQLPresenceStore(read_url(url))
    one, other = await asyncio.gather(
        broker.start(RecordingListener()), store.start(), return_exceptions=True
    )
    await broker.aclose()
    await store.aclose()
    assert one is not None
    assert type(one) is type(other)
    assert PASSWORD not in f"{one}{other}"
    return one


class LossyLink:
    """A TCP proxy to a server: on demand it loses answers, or everything.

    Attributes:
        lost_answers: So many calls more that carry `LOSE` lose their answer and their connection.
        refuses: Close whatever comes.
    """

    LOSE = b"lose my answer"

    def __init__(self, url: str) -> None:
        self.target = url
        self.lost_answers = 0
        self.refuses = False
        self.server: asyncio.Server | None = None
        self.tasks: set[asyncio.Task[None]] = set()
        self.writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        """Where it is."""
        assert self.server is not None
        before, _, after = self.target.rpartition(":")
        port = self.server.sockets[0].getsockname()[1]
        return f"{before}:{port}/{after.partition('/')[2]}?sslmode=disable"

    @property
    def port(self) -> int:
        """Of the server."""
        return int(self.target.rpartition(":")[2].partition("/")[0])

    async def __aenter__(self) -> Self:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self.server is not None
        self.server.close()
        self.cut()
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def cut(self) -> None:
        """End every connection at once."""
        for writer in self.writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection."""
        if self.refuses:
            writer.transport.abort()
            return
        answers, questions = await asyncio.open_connection("127.0.0.1", self.port)
        self.writers |= {writer, questions}
        is_losing = asyncio.Event()

        async def ask() -> None:
            while data := await reader.read(65536):
                if self.LOSE in data and self.lost_answers:
                    self.lost_answers -= 1
                    is_losing.set()
                questions.write(data)

        async def answer() -> None:
            while data := await answers.read(65536):
                if is_losing.is_set():
                    break
                writer.write(data)

        tasks = {asyncio.create_task(ask()), asyncio.create_task(answer())}
        self.tasks |= tasks
        with contextlib.suppress(OSError):
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.tasks -= tasks
        for each in (writer, questions):
            each.transport.abort()
            self.writers.discard(each)
