"""What the tests of the NATS broker share: brokers that run, and a link that loses answers."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.integration import lossy_links
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


class LossyLink(lossy_links.LossyLink):
    """A link that loses answers to what is published, and holds subscriptions back."""

    LOSES = b"PUB wirebell."
    HOLDS = b"SUB wirebell.c."

    @property
    def url(self) -> str:
        """Where it is."""
        return f"nats://{self.address}"
