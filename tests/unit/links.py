"""A WebSocket carrier with its peer and its receiver."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from tests.unit.clocks import turns
from tests.unit.fakes import FakePeer
from wirebell.errors import Disconnect
from wirebell.model import Frames
from wirebell.portable import Writers
from wirebell.settings import Settings
from wirebell.transports.asgi_websocket import ASGIWebSocket


class FakeReceiver:
    """A receiver that notes its calls, and may wait in a handler."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.writable_count = 0
        self.handler = asyncio.Event()
        self.handler.set()
        self.failure: Exception | None = None

    def receive_open(self) -> None:
        """Note it."""
        self.calls.append("open")

    def receive_text(self, text: str) -> Awaitable[None]:
        """Note a text, and wait when told."""
        self.calls.append(text)
        return self.handle()

    def receive_bytes(self, data: bytes) -> None:
        """Note a binary message."""
        self.calls.append(f"bytes {len(data)}")

    def send_ping(self) -> bool:
        """Ping in words of its own."""
        self.calls.append("ping")
        return True

    def receive_writable(self) -> None:
        """Count: it comes with every tick that was written."""
        self.writable_count += 1

    def receive_shutdown(self) -> None:
        """Note that the process stops."""
        self.calls.append("shutdown")

    def close(self, disconnect: Disconnect) -> None:
        """Note why the transport wants an end."""
        self.calls.append(f"close {int(disconnect.code)}: {disconnect.reason}")

    def receive_leave(self) -> None:
        """Note it."""
        self.calls.append("leave")

    async def receive_eof(self) -> None:
        """Note the end."""
        self.calls.append("eof")

    async def handle(self) -> None:
        """Do the work of a handler."""
        await self.handler.wait()
        if self.failure is not None:
            raise self.failure


class Link:
    """A carrier with its peer and its receiver."""

    def __init__(
        self, settings: Settings | None = None, *, writers: Writers | None = None, **options: Any
    ) -> None:
        self.peer = FakePeer()
        self.receiver = FakeReceiver()
        self.aborts: list[str] = []
        self.writers = writers or Writers()
        self.carrier = ASGIWebSocket(
            {"type": "websocket"},
            self.peer.receive,
            self.peer.send,
            settings or Settings(),
            self.writers,
            abort=lambda: self.aborts.append("abort"),
            **options,
        )

    async def start(self) -> asyncio.Task[None]:
        """Run until everybody waits."""
        task = asyncio.create_task(self.carrier.run(self.receiver))
        await turns()
        return task

    def write(self, *texts: str) -> bool:
        """Write a tick."""
        return self.carrier.write(Frames(texts, sum(len(text.encode()) for text in texts)))
