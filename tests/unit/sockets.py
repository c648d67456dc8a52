"""A socket as asyncio's transports show it, without a socket, and its peer's frames."""

from __future__ import annotations

import asyncio
import socket
import zlib
from collections.abc import Callable
from typing import Any

from wirebell.takeover import Host, TakenSocket, Work
from wirebell.websocket.deflate import Deflate
from wirebell.websocket.frames import Event, FrameReader, mask_by_integer

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10

MASK = b"\x01\x02\x03\x04"


def masked(opcode: int, payload: bytes | str = b"", *, first: int = 0x80) -> bytes:
    """Write a frame as a client does; ``first`` has its FIN and reserved bits."""
    data = payload.encode() if isinstance(payload, str) else payload
    head = bytes((first | opcode,))
    if len(data) < 126:
        head += bytes((0x80 | len(data),))
    else:
        head += bytes((0x80 | 127,)) if len(data) > 0xFFFF else bytes((0x80 | 126,))
        head += len(data).to_bytes(8 if len(data) > 0xFFFF else 2, "big")
    return head + MASK + mask_by_integer(data, MASK)


def said(text: str) -> bytes:
    """Write a text message as a client does."""
    return masked(TEXT, text)


def closed(code: int = 1000, reason: str = "") -> bytes:
    """Write a close frame as a client does."""
    return masked(CLOSE, code.to_bytes(2, "big") + reason.encode())


def frames(data: bytes) -> list[tuple[int, bytes]]:
    """Read a server's whole frames: opcode and payload, inflated where it was compressed."""
    found = []
    while data:
        length, at = data[1], 2
        if length > 125:
            size = 2 if length == 126 else 8
            length, at = int.from_bytes(data[2 : 2 + size], "big"), 2 + size
        payload = data[at : at + length]
        assert len(payload) == length
        if data[0] & 0x40:
            payload = zlib.decompressobj(-15).decompress(payload + b"\x00\x00\xff\xff")
        found.append((data[0] & 0x0F, payload))
        data = data[at + length :]
    return found


def close_of(code: int, reason: str = "") -> tuple[int, bytes]:
    """Return a close frame as `frames` reads it."""
    return (CLOSE, code.to_bytes(2, "big") + reason.encode())


class FakeLink:
    """The socket object below a transport, as far as anybody asks it."""

    def __init__(self, family: int = socket.AF_INET, number: int = 20) -> None:
        self.family = family
        self.number = number
        self.options: list[tuple[int, int, int]] = []

    def fileno(self) -> int:
        """Return its number."""
        return self.number

    def setsockopt(self, level: int, name: int, value: int) -> None:
        """Note it."""
        self.options.append((level, name, value))

    def getpeername(self) -> tuple[str, int]:
        """Return where the peer is."""
        return ("10.0.0.1", 4_711)

    def getsockname(self) -> tuple[str, int]:
        """Return where the server is."""
        return ("10.0.0.2", 80)


class FakeSocket(asyncio.Transport):
    """A transport of the loop: it keeps what is written, and calls its protocol as asyncio's do.

    Mutable state: what a test looks at, and ``is_stuck``: the peer reads nothing.
    """

    def __init__(self, protocol: Any = None, *, can_end: bool = True, **extra: Any) -> None:
        super().__init__(extra)
        self.protocol = protocol
        self.can_end = can_end
        self.written: list[bytes] = []
        self.is_stuck = False
        self.buffer_bytes = 0
        self.is_paused = False
        self.is_reading_ = True
        self.has_ended = False
        self.is_closed = False
        self.is_aborted = False
        self.is_lost = False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Change who is called."""
        self.protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return who is called."""
        return self.protocol  # type: ignore[no-any-return]

    def write(self, data: bytes) -> None:  # type: ignore[override]
        """Keep bytes; a peer that does not read pauses the protocol."""
        if self.has_ended:
            raise RuntimeError("Cannot call write() after write_eof()")
        assert isinstance(data, bytes)
        if data and not self.is_lost:
            self.written.append(data)
            if self.is_stuck:
                self.pause()

    def pause(self) -> None:
        """Say that too much waits, once."""
        if not self.is_paused:
            self.is_paused = True
            self.protocol.pause_writing()

    def get_stuck(self) -> None:
        """Have the peer read nothing from now on, and the loop's buffer be full."""
        self.is_stuck = True
        self.buffer_bytes = 100_000
        self.pause()

    def get_write_buffer_size(self) -> int:
        """Tell what the loop holds."""
        return self.buffer_bytes

    def flow(self) -> None:
        """Have the peer read again."""
        self.is_stuck = self.is_paused = False
        self.protocol.resume_writing()
        if self.is_closed:
            self.lose()

    def pause_reading(self) -> None:
        """Read nothing."""
        self.is_reading_ = False

    def resume_reading(self) -> None:
        """Read again."""
        self.is_reading_ = True

    def is_reading(self) -> bool:
        """Tell whether it reads."""
        return self.is_reading_ and not self.is_closed

    def can_write_eof(self) -> bool:
        """Tell whether one direction can be ended: not with TLS."""
        return self.can_end

    def write_eof(self) -> None:
        """End our direction."""
        assert self.can_end
        self.has_ended = True

    def is_closing(self) -> bool:
        """Tell whether it is closed, or about to be."""
        return self.is_closed

    def close(self) -> None:
        """Close once everything is written."""
        if not self.is_closed:
            self.is_closed = True
            if not self.is_stuck:
                self.lose()

    def abort(self) -> None:
        """Close now."""
        self.is_aborted = self.is_closed = True
        self.lose()

    def lose(self) -> None:
        """Have the protocol learn that the socket is gone, once, in the next turn of the loop."""
        if not self.is_lost:
            self.is_lost = self.is_closed = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    def receive(self, *data: bytes) -> None:
        """Have the peer send, in one segment."""
        assert self.is_reading(), "the socket is not read"
        self.protocol.data_received(b"".join(data))

    @property
    def frames(self) -> list[tuple[int, bytes]]:
        """The frames that were written."""
        return frames(b"".join(self.written))

    @property
    def texts(self) -> list[str]:
        """The text messages that were written."""
        return [payload.decode() for opcode, payload in self.frames if opcode == TEXT]


class FakeHost:
    """A server, as far as a socket that was taken over needs it; it drains when told."""

    def __init__(self) -> None:
        self.tasks: set[Work] = set()
        self.connections: set[Any] = set()
        self.drains: list[Callable[[], None]] = []
        self.drain_timeout_seconds = 5.0
        self.abort_count = 0

    def plan_drain(self, close: Callable[[], None]) -> None:
        """Keep it."""
        self.drains.append(close)

    def abort(self, transport: asyncio.Transport) -> None:
        """Cut a link, and count it."""
        self.abort_count += 1
        transport.abort()


class FakeTakeover:
    """The server's side of a take-over: the handshake, then the socket."""

    def __init__(self, host: FakeHost | None = None, *, deflate: Deflate | None = None) -> None:
        self.server = host or FakeHost()
        self.host: Host = self.server
        self.deflate = deflate
        self.socket = FakeSocket(socket=FakeLink())
        self.reader = FrameReader(16_777_216, inflates=deflate is not None)
        self.events: list[Event] = []
        self.offers: list[bool] = []
        self.incoming = "websocket.connect"
        self.sent: list[dict[str, Any]] = []
        self.failure: Exception | None = None
        self.is_gone = False
        self.late_pong: bytes | None = None
        # What happens while the server answers the handshake.
        self.meanwhile: Callable[[], None] = lambda: None

    async def receive(self) -> dict[str, Any]:
        """Say that a peer connects."""
        return {"type": self.incoming}

    async def send(self, message: Any) -> None:
        """Answer the handshake."""
        self.meanwhile()
        if self.failure is not None:
            raise self.failure
        self.sent.append(message)

    def offer_compression(self, *, is_offered: bool) -> None:
        """Note it."""
        self.offers.append(is_offered)

    def take_over(self, successor: asyncio.Protocol) -> TakenSocket | None:
        """Hand the socket over."""
        if self.is_gone:
            return None
        self.socket.protocol = successor
        self.server.connections.add(successor)
        return TakenSocket(
            self.socket,
            self.reader,
            self.deflate,
            self.events,
            self.socket.is_paused,
            self.late_pong,
        )
