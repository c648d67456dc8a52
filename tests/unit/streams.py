"""A streaming response with its peer and its receiver."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from tests.unit.clocks import turns
from tests.unit.links import FakeReceiver
from wirebell.liveness import PingRing
from wirebell.model import Frames
from wirebell.portable import Message, Writers
from wirebell.protocol.framing import NDJSON, Framing
from wirebell.settings import Settings
from wirebell.transports.http_stream import HTTPStream, Streams


class FakeRequest:
    """The server's side of one HTTP request, and of the answer."""

    def __init__(self, *pieces: bytes) -> None:
        self.incoming: asyncio.Queue[Message] = asyncio.Queue()
        self.sent: list[Message] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure: Exception | None = None
        for index, piece in enumerate(pieces, 1):
            self.put({"type": "http.request", "body": piece, "more_body": index < len(pieces)})

    def put(self, message: Message) -> None:
        """Have a message received."""
        self.incoming.put_nowait(message)

    def leave(self) -> None:
        """End the link."""
        self.put({"type": "http.disconnect"})

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
    def status(self) -> int | None:
        """The status, once it was sent."""
        return int(self.sent[0]["status"]) if self.sent else None

    @property
    def headers(self) -> dict[bytes, bytes]:
        """The headers."""
        return dict(self.sent[0]["headers"])

    @property
    def pieces(self) -> list[bytes]:
        """The pieces of the body."""
        return [bytes(message["body"]) for message in self.sent[1:]]

    @property
    def is_complete(self) -> bool:
        """Whether the body has ended."""
        return bool(self.sent[1:]) and not self.sent[-1].get("more_body", False)


class FakeConnection:
    """A transport of the loop below a response, and its protocol: what uvicorn would lead to."""

    def __init__(self) -> None:
        self.connections: set[Any] = set()
        self.buffer_bytes = 0
        self.aborts = 0
        self.is_closed = False
        self.options: list[tuple[Any, ...]] = []
        self.family = socket.AF_INET

    def abort(self) -> None:
        """Count."""
        self.aborts += 1

    def is_closing(self) -> bool:
        """Tell whether the server closes it."""
        return self.is_closed

    def get_write_buffer_size(self) -> int:
        """Return what a test has put there."""
        return self.buffer_bytes

    def get_protocol(self) -> FakeConnection:
        """Return what has the connections."""
        return self

    def get_extra_info(self, name: str) -> FakeConnection | None:
        """Return what takes options."""
        return self if name == "socket" else None

    def setsockopt(self, *option: Any) -> None:
        """Keep an option."""
        self.options.append(option)


class ReachableRequest(FakeRequest):
    """A request whose ``receive`` leads to a transport."""

    def __init__(self) -> None:
        super().__init__()
        self.transport = FakeConnection()


class PingedReceiver(FakeReceiver):
    """A receiver that notes pings."""

    def send_ping(self) -> bool:
        """Note it."""
        self.calls.append("ping")
        return True


class Download:
    """A carrier with its peer and its receiver."""

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        framing: Framing = NDJSON,
        request: FakeRequest | None = None,
        streams: Streams | None = None,
        **options: Any,
    ) -> None:
        self.settings = settings or Settings()
        self.request = request or FakeRequest()
        self.receiver = PingedReceiver()
        self.streams = streams or Streams(self.settings)
        self.pings = PingRing(25, 8)
        writers: Any = Writers()
        self.carrier = HTTPStream(
            self.request.receive,
            self.request.send,
            self.settings,
            writers,
            framing,
            self.streams,
            self.pings,
            **options,
        )

    async def start(self, first: str | bytes | None = None) -> asyncio.Task[None]:
        """Run until everybody waits."""
        task = asyncio.create_task(self.carrier.run(self.receiver, first))
        await turns()
        return task

    def write(self, *texts: str) -> bool:
        """Write a tick."""
        return self.carrier.write(Frames(texts, sum(len(text.encode()) for text in texts)))
