"""A broker for several nodes of one process: what the shared contract is tried on, and broken.

Its nodes share one log, one set of idempotency keys and one presence.
"""

from __future__ import annotations

import asyncio

from wirebell.brokers.memory import MemoryBroker, MemoryPresenceStore
from wirebell.history import HistoryLog, IdempotentResults
from wirebell.interfaces import Broker, BrokerListener, PresenceStore
from wirebell.model import (
    ChannelItem,
    ChannelOptions,
    Membership,
    Publication,
    Published,
    PublishOptions,
)
from wirebell.presence import Presence
from wirebell.settings import Settings

__all__ = ("MemoryNode", "SharedMemory")


class SharedMemory:
    """What the nodes share.

    Args:
        node: Kind of its nodes.
    """

    def __init__(self, node: type[MemoryNode] | None = None) -> None:
        self.node = MemoryNode if node is None else node
        # It gives the first node's log and results to all.
        self.first = MemoryBroker(Settings())
        self.presence = Presence()
        self.nodes: list[MemoryNode] = []
        self.created_count = 0

    @property
    def log(self) -> HistoryLog:
        """The streams of all nodes."""
        return self.first.log

    @property
    def results(self) -> IdempotentResults:
        """The idempotency keys of all nodes."""
        return self.first.results

    def create(self) -> tuple[Broker, PresenceStore]:
        """Make a node's broker and presence store."""
        self.created_count += 1
        return self.node(self), self.create_store()

    def create_store(self) -> MemoryPresenceStore:
        """Make a presence store; its clock is the event loop's, which a test may have jump."""
        store = MemoryPresenceStore(clock=asyncio.get_running_loop().time)
        store.presence = self.presence
        return store

    def tell(self, channel: str, item: ChannelItem, sender: MemoryNode) -> None:
        """Hand an item to all nodes."""
        for node in list(self.nodes):
            node.receive(channel, item, sender)


class MemoryNode(MemoryBroker):
    """One of several nodes."""

    def __init__(self, memory: SharedMemory) -> None:
        super().__init__(Settings())
        self.memory = memory
        self.log = memory.log
        self.results = memory.results

    async def start(self, listener: BrokerListener, node_id: str = "") -> None:
        """Be one of them."""
        await super().start(listener, node_id)
        self.memory.nodes.append(self)

    async def aclose(self) -> None:
        """Be none of them."""
        await super().aclose()
        if self in self.memory.nodes:
            self.memory.nodes.remove(self)

    def publish(
        self,
        channel: str,
        publication: Publication,
        options: ChannelOptions,
        how: PublishOptions | None = None,
    ) -> Published:
        """Publish, and hand it to all nodes."""
        caught = _Caught()
        listener, self.listener = self.listener, caught if self.listener else None
        subscribed, self.subscribed = self.subscribed, {channel}
        try:
            published = super().publish(channel, publication, options, how)
        finally:
            self.listener, self.subscribed = listener, subscribed
        for item in caught.items:
            self.memory.tell(channel, item, self)
        return published

    async def publish_membership(self, channel: str, membership: Membership) -> None:
        """Hand it to all nodes."""
        await self.check()
        self.memory.tell(channel, membership, self)

    async def publish_control(self, data: bytes, node_id: str = "") -> None:
        """Tell all nodes, or the one that is meant."""
        await self.check()
        for node in list(self.memory.nodes):
            if node_id in {"", node.node_id}:
                node.told(data, self)

    def receive(self, channel: str, item: ChannelItem, sender: MemoryNode) -> None:
        """Take what a node published."""
        if channel in self.subscribed and self.listener is not None:
            self.listener.handle_item(channel, item)

    def told(self, data: bytes, sender: MemoryNode) -> None:
        """Take what a node told."""
        if self.listener is not None:
            self.listener.handle_control(data)


class _Caught:
    """A listener that keeps the one item it is given."""

    def __init__(self) -> None:
        self.items: list[ChannelItem] = []

    def handle_item(self, channel: str, item: ChannelItem) -> None:
        """Keep it."""
        self.items.append(item)

    def handle_control(self, data: bytes) -> None:
        """Take nothing."""

    def handle_reconnect(self) -> None:
        """Take nothing."""
