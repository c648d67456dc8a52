"""A running node with a broker that a test can hold back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.unit.fakes import FakeControl, FakeTransport, GatedStore, Gates, LossyBroker
from wirebell.connection import Connection
from wirebell.model import ChannelOptions, History, Overflow, Publication
from wirebell.node import Node
from wirebell.protocol.encoding import ChannelEncoding
from wirebell.protocol.json import JSON
from wirebell.protocol.text import TEXT
from wirebell.settings import Settings


def options_for(channel: str) -> ChannelOptions:
    """Read a name: ``h`` has history, ``p`` presence and joins, ``d`` drops the oldest."""
    return ChannelOptions(
        history=History(size=10) if "h" in channel else None,
        presence="p" in channel,
        join_leave="p" in channel,
        overflow=Overflow.DROP_OLDEST if "d" in channel else Overflow.DISCONNECT,
    )


class Rig:
    """A node, its broker's gates, and what it needs to be used."""

    def __init__(self, settings: Settings) -> None:
        self.gates = Gates()
        self.broker = LossyBroker(settings, self.gates)
        self.store = GatedStore(self.gates)
        self.node = Node(settings, self.broker, self.store, options_for)

    def connect(
        self, user_id: str = "", *, is_json: bool = False, control: FakeControl | None = None
    ) -> tuple[Connection, FakeTransport]:
        """Connect a peer."""
        transport = FakeTransport()
        encoding = ChannelEncoding(JSON) if is_json else TEXT
        connection = self.node.connect(transport, encoding, "10.0.0.1", control)
        self.node.identify(connection, user_id)
        return connection, transport

    async def publish(self, channel: str, *texts: str) -> None:
        """Publish texts, one after the other."""
        for text in texts:
            await self.node.publish(channel, Publication(text.encode()))


@asynccontextmanager
async def running(settings: Settings | None = None) -> AsyncIterator[Rig]:
    """Run a node."""
    rig = Rig(settings or Settings())
    await rig.node.start()
    try:
        yield rig
    finally:
        for gate in rig.gates.held.values():
            gate.set()
        rig.gates.failures.clear()
        await rig.node.aclose()
