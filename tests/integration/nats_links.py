"""What the tests of the NATS broker share: brokers that run, and a link that loses answers."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from wirebell.brokers.nats import NATSBroker, NATSPresenceStore, read_url
from wirebell.model import ChannelOptions, History, Publication, PublishOptions
from wirebell.testing import RecordingListener

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from wirebell.model import Published

__all__ = ("KEPT", "LossyLink", "Running", "broker_at", "publish", "store_at")

KEPT = ChannelOptions(history=History(size=10, ttl_seconds=60))


@dataclass
class Running:
    """A broker that runs, and what it delivers."""

    broker: NATSBroker
    listener: RecordingListener = field(default_factory=RecordingListener)

    async def payloads(self, channel: str, options: ChannelOptions = KEPT) -> list[bytes]:
        """Read what is kept."""
        part = await self.broker.history(channel, options, since=None, limit=1000)
        return [each.data for each in part.publications]

    def arrived(self, channel: str) -> list[bytes]:
        """Return what was delivered."""
        return [item.data for item in self.listener.of(channel) if isinstance(item, Publication)]


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
    running = Running(NATSBroker(read_url(url)))
    await running.broker.start(running.listener, node_id)
    try:
        yield running
    finally:
        await running.broker.aclose()


@asynccontextmanager
async def store_at(url: str) -> AsyncIterator[NATSPresenceStore]:
    """Run a presence store until the block ends."""
    store = NATSPresenceStore(read_url(url))
    await store.start()
    try:
        yield store
    finally:
        await store.aclose()


class LossyLink:
    """A TCP proxy to a server: on demand it loses answers to what is published, or everything.

    Attributes:
        lost_answers: So many answers more are lost, each with its connection.
        refuses: Close whatever comes.
        is_open: Subscriptions pass; else they wait, and everything behind them.
        has_held: One waits.
    """

    def __init__(self, port: int) -> None:
        self.target = port
        self.lost_answers = 0
        self.refuses = False
        self.is_open = asyncio.Event()
        self.is_open.set()
        self.has_held = asyncio.Event()
        self.server: asyncio.Server | None = None
        self.tasks: set[asyncio.Task[None]] = set()
        self.writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        """Where it is."""
        assert self.server is not None
        return f"nats://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

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
        own = asyncio.current_task()
        assert own is not None
        self.tasks.add(own)
        writers = {writer}
        self.writers.add(writer)
        try:
            if not self.refuses:
                answers, questions = await asyncio.open_connection("127.0.0.1", self.target)
                writers.add(questions)
                self.writers.add(questions)
                await self._carry((reader, questions), (answers, writer))
        except asyncio.CancelledError:
            # The end of the block; streams of Python 3.11 take it for a mistake.
            pass
        finally:
            for each in writers:
                each.transport.abort()
            self.writers -= writers
            self.tasks.discard(own)

    async def _carry(
        self,
        there: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        back: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        """Carry both directions until one of them ends."""
        is_losing = asyncio.Event()

        async def ask() -> None:
            while data := await there[0].read(65536):
                if b"PUB wirebell." in data and self.lost_answers:
                    self.lost_answers -= 1
                    is_losing.set()
                if b"SUB wirebell.c." in data and not self.is_open.is_set():
                    self.has_held.set()
                    await self.is_open.wait()
                there[1].write(data)

        async def answer() -> None:
            while data := await back[0].read(65536):
                if is_losing.is_set():
                    break
                back[1].write(data)

        tasks = [asyncio.create_task(ask()), asyncio.create_task(answer())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
