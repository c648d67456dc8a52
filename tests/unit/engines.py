"""A socket that was taken over, with its peer and its receiver."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from tests.unit.clocks import turns
from tests.unit.sockets import FakeSocket, FakeTakeover, masked
from wirebell.errors import Disconnect
from wirebell.liveness import PingRing
from wirebell.model import Frames
from wirebell.settings import Settings
from wirebell.transports.engine_websocket import EngineWebSocket
from wirebell.websocket.deflate import Deflate


class EngineReceiver:
    """A receiver that notes its calls, ends the link as the engine does, and waits when told.

    Mutable state: what a test looks at; ``waits``: texts whose handler waits for ``gate``.
    """

    def __init__(self, carrier: EngineWebSocket) -> None:
        self.carrier = carrier
        self.calls: list[str] = []
        self.done: list[str] = []
        self.waits: set[str] = set()
        self.gate = asyncio.Event()
        self.failure: Exception | None = None
        self.writable_count = 0
        self.has_own_pings = False

    def receive_open(self) -> Awaitable[None] | None:
        """Note it."""
        self.calls.append("open")
        return self.handle("open") if "open" in self.waits else None

    def receive_text(self, text: str) -> Awaitable[None] | None:
        """Note a text, and wait when told."""
        self.calls.append(text)
        return self.handle(text) if text in self.waits else None

    def receive_bytes(self, data: bytes) -> Awaitable[None] | None:
        """Note a binary message."""
        self.calls.append(f"bytes {len(data)}")
        return None

    def send_ping(self) -> bool:
        """Ping in words of its own, when told to."""
        if self.has_own_pings:
            self.calls.append("ping")
        return self.has_own_pings

    def receive_writable(self) -> None:
        """Count it."""
        self.writable_count += 1

    def receive_shutdown(self) -> None:
        """End the link for it."""
        self.close(Disconnect(1012, "shutting down"))

    def close(self, disconnect: Disconnect) -> None:
        """Note why the transport wants an end, and end it."""
        self.calls.append(f"close {int(disconnect.code)}: {disconnect.reason}")
        self.carrier.close(disconnect, notice="why")

    def receive_leave(self) -> None:
        """Note it."""
        self.calls.append("leave")

    def receive_eof(self) -> Awaitable[None] | None:
        """Note the end."""
        self.calls.append("eof")
        return self.handle("eof") if "eof" in self.waits else None

    async def handle(self, name: str) -> None:
        """Do the work of a handler."""
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        self.done.append(name)


class EngineLink:
    """A carrier with its peer and its receiver."""

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        deflate: Deflate | None = None,
        is_accepted: bool = False,
        subprotocol: str | None = None,
    ) -> None:
        self.settings = settings or Settings()
        self.takeover = FakeTakeover(deflate=deflate)
        self.host = self.takeover.server
        self.pings = PingRing(
            self.settings.ping_interval_seconds, self.settings.pong_timeout_seconds
        )
        self.carrier = EngineWebSocket(
            self.takeover,
            self.takeover.receive,
            self.takeover.send,
            self.settings,
            self.pings,
            is_accepted=is_accepted,
            subprotocol=subprotocol,
        )
        self.receiver = EngineReceiver(self.carrier)

    @property
    def socket(self) -> FakeSocket:
        """The transport of the loop."""
        return self.takeover.socket

    async def open(self) -> None:
        """Have the socket taken over."""
        await self.carrier.run(self.receiver)

    def say(self, *texts: str) -> None:
        """Have the peer send texts, in one segment."""
        self.socket.receive(*(masked(1, text) for text in texts))

    def write(self, *texts: str) -> bool:
        """Write a tick."""
        return self.carrier.write(Frames(texts, sum(len(text.encode()) for text in texts)))

    async def let_go(self) -> None:
        """Let waiting handlers finish."""
        self.receiver.gate.set()
        await turns()
