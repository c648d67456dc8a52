"""Stand-ins for the world: peers, transports, and brokers whose calls wait to be let go."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, MutableMapping
from typing import Any

from wirebell.brokers.memory import MemoryBroker, MemoryPresenceStore
from wirebell.errors import Disconnect
from wirebell.history import StreamSlice
from wirebell.interfaces import BrokerListener, Encoding
from wirebell.model import (
    ChannelItem,
    ChannelOptions,
    ClientInfo,
    Frames,
    Membership,
    Publication,
    Published,
    PublishOptions,
    ServerSubscribe,
    StreamPosition,
)
from wirebell.protocol.text import TEXT
from wirebell.settings import Settings

Message = MutableMapping[str, Any]


class FakeSubscriber:
    """A subscriber of the hub that keeps what it is given; its channels are kept by the test."""

    def __init__(
        self, *, writes_max: int = 1_000, encoding: Encoding = TEXT, client_id: str = "client"
    ) -> None:
        self.client_id = client_id
        self.encoding = encoding
        self.channels: dict[str, object] = {}
        self.is_writable = True
        self.writes_max = writes_max
        self.written: list[Frames] = []

    def write(self, frames: Frames) -> bool:
        """Take frames, up to a number of writes."""
        if len(self.written) >= self.writes_max:
            return False
        self.written.append(frames)
        return True

    @property
    def messages(self) -> list[str]:
        """All messages, in order."""
        return [str(message) for frames in self.written for message in frames.messages]


class FakeTransport:
    """A `wirebell.interfaces.Transport` that keeps what it is given."""

    def __init__(self) -> None:
        self.messages: list[str | bytes] = []
        self.writes: list[tuple[str | bytes, ...]] = []
        self.is_full = False
        self.is_writable = True
        self.closed: list[tuple[int, str]] = []
        self.notices: list[str | bytes | None] = []

    def write(self, frames: Frames) -> bool:
        """Take messages unless told to be full."""
        if self.is_full:
            return False
        if not self.closed:
            self.messages.extend(frames.messages)
            self.writes.append(frames.messages)
        return True

    def close(self, disconnect: Disconnect, *, notice: str | bytes | None = None) -> None:
        """Keep why; the first counts."""
        self.closed.append((int(disconnect.code), disconnect.reason))
        self.notices.append(notice)


class FakePeer:
    """The server's side of ASGI: what a peer sends, and what it was sent."""

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[Message] = asyncio.Queue()
        self.sent: list[Message] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure: Exception | None = None
        self.put({"type": "websocket.connect"})

    def put(self, message: Message) -> None:
        """Have a message received."""
        self.incoming.put_nowait(message)

    def say(self, text: str) -> None:
        """Send a text message."""
        self.put({"type": "websocket.receive", "text": text})

    def leave(self) -> None:
        """End the link."""
        self.put({"type": "websocket.disconnect", "code": 1005})

    async def receive(self) -> Message:
        """Give the application what the peer sent."""
        return await self.incoming.get()

    async def send(self, message: Message) -> None:
        """Take what the application sends, when the gate is open."""
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        self.sent.append(message)

    @property
    def texts(self) -> list[str]:
        """The text messages that arrived."""
        return [str(m["text"]) for m in self.sent if m["type"] == "websocket.send"]

    @property
    def closes(self) -> list[tuple[int, str]]:
        """The close frames that arrived."""
        return [
            (int(m["code"]), str(m["reason"])) for m in self.sent if m["type"] == "websocket.close"
        ]


class Gates:
    """Lets a test hold calls back by their names, fail them, and see them."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.held: dict[str, asyncio.Event] = {}
        self.failures: dict[str, Exception] = {}

    def hold(self, name: str) -> asyncio.Event:
        """Have calls of a name wait; setting the event lets them go."""
        self.held[name] = asyncio.Event()
        return self.held[name]

    async def enter(self, name: str) -> None:
        """Note a call, and wait or fail as told."""
        self.calls.append(name)
        if name in self.held:
            await self.held[name].wait()
        if name in self.failures:
            raise self.failures[name]


class GatedBroker(MemoryBroker):
    """A memory broker behind gates."""

    def __init__(self, settings: Settings, gates: Gates) -> None:
        super().__init__(settings, clock=lambda: 0.0)
        self.gates = gates
        self.is_closed = False

    async def check(self) -> None:
        """Answer when the gate is open."""
        await self.gates.enter("check")
        await super().check()

    async def aclose(self) -> None:
        """Stop."""
        self.is_closed = True
        await super().aclose()

    async def subscribe(self, channel: str) -> None:
        """Subscribe when the gate is open."""
        await self.gates.enter("subscribe")
        await super().subscribe(channel)

    async def unsubscribe(self, channel: str) -> None:
        """Unsubscribe when the gate is open."""
        await self.gates.enter("unsubscribe")
        await super().unsubscribe(channel)

    async def history(
        self,
        channel: str,
        options: ChannelOptions,
        *,
        since: StreamPosition | None,
        limit: int,
        reverse: bool = False,
    ) -> StreamSlice:
        """Read, then wait: what is published meanwhile is not in the answer."""
        part = await super().history(channel, options, since=since, limit=limit, reverse=reverse)
        await self.gates.enter("history")
        return part

    def publish(  # type: ignore[override]  # this one answers later where it is told to
        self,
        channel: str,
        publication: Publication,
        options: ChannelOptions,
        how: PublishOptions | None = None,
    ) -> Published | Awaitable[Published]:
        """Publish at once, or when the gate is open."""
        if "publish" in self.gates.held or "publish" in self.gates.failures:
            return self.publish_later(channel, publication, options, how)
        self.gates.calls.append("publish")
        return super().publish(channel, publication, options, how)

    async def publish_later(
        self,
        channel: str,
        publication: Publication,
        options: ChannelOptions,
        how: PublishOptions | None,
    ) -> Published:
        """Publish when the gate is open."""
        await self.gates.enter("publish")
        return super().publish(channel, publication, options, how)

    async def publish_membership(self, channel: str, membership: Membership) -> None:
        """Tell of a join or a leave when the gate is open."""
        await self.gates.enter("join" if membership.joined else "leave")
        await super().publish_membership(channel, membership)


class LossyBroker(GatedBroker):
    """A broker whose deliveries can be lost on their way to the node.

    Mutable state: the channels that lose what is published, until they are taken out.
    """

    def __init__(self, settings: Settings, gates: Gates) -> None:
        super().__init__(settings, gates)
        self.lost: set[str] = set()

    async def start(self, listener: BrokerListener, node_id: str = "") -> None:
        """Begin to deliver what is not lost."""
        await super().start(LossyLink(listener, self.lost), node_id)


class LossyLink:
    """A `wirebell.interfaces.BrokerListener` in front of another, which gets what is not lost."""

    def __init__(self, listener: BrokerListener, lost: set[str]) -> None:
        self.listener = listener
        self.lost = lost

    def handle_item(self, channel: str, item: ChannelItem) -> None:
        """Hand on an item, or lose it."""
        if channel not in self.lost:
            self.listener.handle_item(channel, item)

    def handle_control(self, data: bytes) -> None:
        """Hand on a message of a node."""
        self.listener.handle_control(data)

    def handle_reconnect(self) -> None:
        """Hand on that the link stands again."""
        self.listener.handle_reconnect()


class FakeControl:
    """A `wirebell.interfaces.ClientControl` that notes what is done to it."""

    def __init__(self) -> None:
        self.gaps: list[str] = []
        self.calls: list[str] = []

    async def subscribe(self, channel: str, options: ServerSubscribe) -> None:
        """Note it."""
        self.calls.append(f"subscribe {channel} {options.presence}")

    def unsubscribe(self, channel: str, code: int, reason: str) -> None:
        """Note it."""
        self.calls.append(f"unsubscribe {channel} {code} {reason}")

    def refresh(self, expires_at: float | None) -> None:
        """Note it."""
        self.calls.append(f"refresh {expires_at}")

    def handle_gap(self, channel: str) -> None:
        """Note the channel."""
        self.gaps.append(channel)

    def close(self, disconnect: Disconnect) -> None:
        """Note it."""
        self.calls.append(f"close {int(disconnect.code)}")


class GatedStore(MemoryPresenceStore):
    """A memory presence store behind gates."""

    def __init__(self, gates: Gates) -> None:
        super().__init__(clock=lambda: 0.0)
        self.gates = gates

    async def add(self, channel: str, info: ClientInfo, *, ttl_seconds: float) -> None:
        """Add when the gate is open."""
        await self.gates.enter("add")
        await super().add(channel, info, ttl_seconds=ttl_seconds)

    async def remove(self, channel: str, client_id: str) -> None:
        """Remove when the gate is open."""
        await self.gates.enter("remove")
        await super().remove(channel, client_id)

    async def members(self, channel: str) -> dict[str, ClientInfo]:
        """Read when the gate is open."""
        await self.gates.enter("members")
        return await super().members(channel)
