"""What the tests of the PostgreSQL broker share: brokers, and a link that loses answers."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.integration import lossy_links
from tests.services.postgresql import USER
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


class LossyLink(lossy_links.LossyLink):
    """A link that loses answers to calls which carry `LOSES`."""

    LOSES = b"lose my answer"

    @property
    def url(self) -> str:
        """Where it is, for the server's owner."""
        return f"postgresql://{USER}@{self.address}/postgres?sslmode=disable"
