"""What the player holds of its connections: an inbox of messages, and ways to send.

The WebSocket client is the sans-I/O half of ``websockets``: it shows native pings and the absence
of a close frame, and sends whatever it is given.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import httpx2
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.uri import parse_uri

from tests.transcripts.framing import create_decoder, decode_frame

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from websockets.protocol import Event

__all__ = ("Closed", "Inbox", "Link", "NativePing", "Refused", "Socket", "Stream", "open_socket")

OPEN_SECONDS = 30.0
CLOSE_SECONDS = 2.0
READ_BYTES = 65_536

# What goes wrong on the wire is compared, not logged.
_logger = logging.getLogger("wirebell.tests.transcripts")
_logger.propagate = False


@dataclass(frozen=True, slots=True)
class Closed:
    """The last item of an inbox.

    Attributes:
        code: Of the close frame; 1006 without one; ``None`` for HTTP.
        reason: Of the close frame.
    """

    code: int | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class NativePing:
    """A ping frame of WebSocket."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Refused:
    """The answer to a handshake, when it is not 101."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Inbox:
    """What came from the server and was not looked at yet, oldest first."""

    items: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)

    def put(self, item: Any) -> None:
        """Append a message, a `NativePing` or `Closed`."""
        self.items.put_nowait(item)

    async def get(self, timeout_seconds: float) -> Any:
        """Return the next item, or raise ``TimeoutError``."""
        async with asyncio.timeout(timeout_seconds):
            return await self.items.get()

    def drain(self) -> list[Any]:
        """Return everything that is there."""
        return [self.items.get_nowait() for _ in range(self.items.qsize())]


class Link(Protocol):
    """An open connection of one client."""

    inbox: Inbox

    async def close(self, code: int = 1000) -> None:
        """End it from our side; everything that came before is in the inbox then."""


class Socket:
    """A WebSocket connection."""

    def __init__(
        self,
        protocol: ClientProtocol,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        early: Sequence[Frame],
        *,
        is_push: bool,
    ) -> None:
        """Take over after the handshake, with the frames that came together with its answer."""
        self.inbox = Inbox()
        self._protocol, self._reader, self._writer = protocol, reader, writer
        self._is_push = is_push
        self._parts: list[bytes] = []
        self._is_text = True
        for frame in early:
            self._take_frame(frame)
        self._task = asyncio.create_task(self._read())

    async def send(self, payload: str | bytes) -> None:
        """Send one message: text, or bytes as a binary frame."""
        if isinstance(payload, str):
            self._protocol.send_text(payload.encode())
        else:
            self._protocol.send_binary(payload)
        await self._flush()

    async def close(self, code: int = 1000) -> None:
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(code)
            await self._flush()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._task
        self._task.cancel()
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()

    async def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                self._writer.write(data)
            elif self._writer.can_write_eof():
                self._writer.write_eof()
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()

    async def _read(self) -> None:
        is_open = True
        while is_open:
            self._take_frames()
            with contextlib.suppress(OSError):
                await self._flush()
            try:
                data = await self._reader.read(READ_BYTES)
            except ConnectionError:
                data = b""
            if data:
                self._protocol.receive_data(data)
            else:
                self._protocol.receive_eof()
            is_open = bool(data)
        self._take_frames()
        code, reason = self._protocol.close_code, self._protocol.close_reason
        self.inbox.put(Closed(code and int(code), reason or ""))

    def _take_frames(self) -> None:
        for event in self._protocol.events_received():
            assert isinstance(event, Frame)
            self._take_frame(event)

    def _take_frame(self, frame: Frame) -> None:
        if frame.opcode is Opcode.PING:
            self.inbox.put(NativePing(bytes(frame.data)))
        elif frame.opcode in {Opcode.TEXT, Opcode.BINARY, Opcode.CONT}:
            self._take_data(frame)

    def _take_data(self, frame: Frame) -> None:
        if frame.opcode is not Opcode.CONT:
            self._is_text = frame.opcode is Opcode.TEXT
        self._parts.append(bytes(frame.data))
        if frame.fin:
            whole = b"".join(self._parts)
            self._parts = []
            payload = whole.decode() if self._is_text else whole
            for message in decode_frame(payload, is_push=self._is_push):
                self.inbox.put(message)


async def open_socket(
    url: str, headers: Mapping[str, str], *, is_push: bool
) -> tuple[Socket | None, Refused]:
    """Open a WebSocket.

    Args:
        url: As ``ws://127.0.0.1:8000/connection/websocket``.
        headers: Of the handshake, added to the usual ones.
        is_push: The server sends bare pushes.

    Returns:
        The connection, or ``None`` when it was refused; and the answer to the handshake.
    """
    uri = parse_uri(url)
    protocol = ClientProtocol(uri, max_size=2**24, logger=_logger)
    request = protocol.connect()
    for name, value in headers.items():
        if name.lower() != "upgrade":
            request.headers[name] = value
    if "Sec-WebSocket-Protocol" in headers:
        protocol.available_subprotocols = [headers["Sec-WebSocket-Protocol"]]  # type: ignore[list-item]
    reader, writer = await asyncio.open_connection(uri.host, uri.port)
    protocol.send_request(request)
    for data in protocol.data_to_send():
        writer.write(data)
    try:
        async with asyncio.timeout(OPEN_SECONDS):
            answer, *frames = await _read_answer(protocol, reader)
    except (TimeoutError, ConnectionError):
        writer.close()
        raise
    assert isinstance(answer, Response)
    if protocol.handshake_exc is None:
        refused = Refused(answer.status_code, dict(answer.headers.raw_items()), b"")
        early = [frame for frame in frames if isinstance(frame, Frame)]
        return Socket(protocol, reader, writer, early, is_push=is_push), refused
    writer.close()
    if not isinstance(protocol.handshake_exc, InvalidStatus):
        raise protocol.handshake_exc
    body = bytes(answer.body or b"")
    return None, Refused(answer.status_code, dict(answer.headers.raw_items()), body)


async def _read_answer(protocol: ClientProtocol, reader: asyncio.StreamReader) -> list[Event]:
    """Return the answer to the handshake, and the frames that came with it."""
    while True:
        data = await reader.read(READ_BYTES)
        if data:
            protocol.receive_data(data)
        else:
            protocol.receive_eof()
        if events := protocol.events_received():
            return events
        if not data:
            raise ConnectionError("the connection ended before the answer to the handshake")


class Stream:
    """A streamed HTTP response."""

    def __init__(self, response: httpx2.Response) -> None:
        self.inbox = Inbox()
        self._response = response
        self._decoder = create_decoder(response.headers.get("content-type", ""))
        self._task = asyncio.create_task(self._read())

    async def close(self, code: int = 1000) -> None:
        """End the request; HTTP has no codes."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        await self._response.aclose()

    async def _read(self) -> None:
        with contextlib.suppress(httpx2.TransportError):
            async for piece in self._response.aiter_raw():
                for message in self._decoder.feed(piece):
                    self.inbox.put(message)
        self.inbox.put(Closed())
