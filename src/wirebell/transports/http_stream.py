"""Messages down the body of an HTTP response, behind any ASGI server: SSE and HTTP streaming.

Strategy: the request's task waits for the peer to leave, and for nothing else. What is written
waits in a queue that is bounded in bytes, and the writers that all links share give the server one
piece of the body for all that waits. The response begins with the first message, so that a connect
that fails can still be answered by a status. What the peer says comes through other requests.
Sources: ASGI specification, HTTP section 2.3; protocol document, sections 1.2, 1.10 and 1.11.

Invariants: messages leave in the order of ``write``; after the last piece of the body nothing is
sent; ``run`` ends within ``close_timeout_seconds`` of a ``close``, whatever the peer does; the
receiver is told one thing at a time, and of the peer's end once, last.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from wirebell.errors import Disconnect, DisconnectCode, create_disconnect
from wirebell.interfaces import Receiver
from wirebell.liveness import PingRing
from wirebell.model import Frames
from wirebell.options import ConnectResponse
from wirebell.protocol.framing import Framing
from wirebell.settings import Settings

__all__ = ("HTTPStream", "Headers", "Streams", "Writers")

logger = logging.getLogger(__name__)

# ASGI's own types: a scope and a message are dictionaries of the specification.
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]

# What a waiting message takes besides its text; without it empty ones would be unbounded.
MESSAGE_BYTES = 64
# What is given to the server at once. It may wait there beside the queue, so it is kept small.
PIECE_BYTES_MAX = 65_536
# Messages of other requests that may wait for their turn. HTTP/2 lets a browser have 100 requests.
INBOX_MESSAGES_MAX = 128
# Shortest and mean time of an EventSource before it comes back from a server that stops.
RETRY_SECONDS = 1.0
# Closing 100 streams a second is no storm for anybody: fewer are not spread any thinner.
DRAIN_STEP_SECONDS_MAX = 0.01
# Between two looks at whether the last words have left.
LOOK_SECONDS = 0.05

# As recorded. Neither a cache nor a proxy that buffers would let a message through in time.
STREAM_HEADERS = (
    (b"cache-control", b"private, no-cache, no-store, must-revalidate, max-age=0"),
    (b"pragma", b"no-cache"),
    (b"expire", b"0"),
    (b"x-accel-buffering", b"no"),
)


class Writers(Protocol):
    """Writes for all links of a process; see `wirebell.transports.asgi_websocket.Writers`."""

    def offer(self, link: Any) -> None:
        """Have ``link.drain`` called by a task; the link must not be on offer already."""


class Streams:
    """The open streams of a process, so that they hear when it stops.

    A server waits for all responses when it stops, and tells no endpoint. Uvicorn calls
    ``shutdown`` of everything in a set of connections, and where a stream leads to that set this
    object is in it as long as there is a stream. For other servers somebody has to call it.

    Mutable state: the streams in the order in which they came. Used on one event loop.

    Args:
        settings: The window over which they are ended.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.links: dict[HTTPStream, None] = {}
        self.servers: list[set[Any]] = []
        self.is_stopping = False

    def add(self, link: HTTPStream, server: set[Any] | None) -> None:
        """Take note of a stream; one that comes while the process stops is sent away.

        Args:
            link: The stream, which has its receiver.
            server: The connections whose ``shutdown`` its server calls, if it can be found.
        """
        self.links[link] = None
        if server is not None and self not in server:
            server.add(self)
            self.servers.append(server)
        if self.is_stopping:
            link.shutdown()

    def discard(self, link: HTTPStream) -> None:
        """Forget a stream; idempotent."""
        self.links.pop(link, None)
        if not self.links:
            for server in self.servers:
                server.discard(self)
            self.servers.clear()
            # An application may be served again.
            self.is_stopping = False

    def shutdown(self) -> None:
        """End all streams, one after the other over the drain's window; idempotent."""
        if self.is_stopping or not self.links:
            return
        self.is_stopping = True
        window = self.settings.drain_window_seconds
        step = min(window / max(len(self.links), 1), DRAIN_STEP_SECONDS_MAX)
        loop = asyncio.get_running_loop()
        for index, link in enumerate(list(self.links)):
            if index and step:
                loop.call_later(index * step, link.shutdown)
            else:
                link.shutdown()


class State(Enum):
    """How far a response has come."""

    OPENING = "opening"
    """Not begun."""
    OPEN = "open"
    """The status is out."""
    CLOSED = "closed"
    """The body has ended, or the peer is gone: what is written is dropped."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A whole response in place of a stream."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


class HTTPStream:
    """A `wirebell.interfaces.Transport` over ASGI's ``send``, for one response.

    Mutable state: how far the response has come, the queue of frames with its bytes, the task that
    writes right now, the messages that wait for their turn. Used on one event loop.

    Args:
        receive: The server's; the body of the request was received already.
        send: The server's.
        settings: Bounds of the queue and of closing.
        writers: The tasks that write.
        framing: How messages are told apart.
        streams: Where the stream is known as long as it runs.
        pings: The ring that has the receiver ping the peer.
        headers: Of every response, besides those of a stream.
        connect_responses: Code → answer for a connect that fails; see `refuse_connect`.
    """

    __slots__ = (
        "connect_responses",
        "disconnect",
        "drained",
        "framing",
        "give_up",
        "has_given_up",
        "headers",
        "is_offered",
        "is_waiting",
        "notice",
        "piece_count",
        "ping_slot",
        "pings",
        "queue",
        "queued_bytes",
        "reading",
        "receive",
        "receiver",
        "refusal",
        "send",
        "settings",
        "stalled_at",
        "state",
        "streams",
        "transport",
        "turn",
        "turn_count",
        "unheard_since",
        "writer",
        "writers",
    )

    def __init__(
        self,
        receive: Receive,
        send: Send,
        settings: Settings,
        writers: Writers,
        framing: Framing,
        streams: Streams,
        pings: PingRing,
        *,
        headers: Headers = (),
        connect_responses: Mapping[int, ConnectResponse] | None = None,
    ) -> None:
        self.receive = receive
        self.send = send
        self.settings = settings
        self.writers = writers
        self.framing = framing
        self.streams = streams
        self.pings = pings
        self.headers: tuple[tuple[bytes, bytes], ...] = tuple(headers)
        self.connect_responses = connect_responses
        self.transport = _find_transport(receive)
        self.state = State.OPENING
        self.queue: deque[Frames] = deque()
        self.queued_bytes = 0
        self.is_offered = False
        self.writer: asyncio.Task[None] | None = None
        self.disconnect: Disconnect | None = None
        self.notice: str | bytes | None = None
        self.refusal: Refusal | None = None
        self.give_up: asyncio.TimerHandle | None = None
        self.drained: asyncio.Future[None] | None = None
        self.reading: asyncio.Timeout | None = None
        self.is_waiting = False
        self.has_given_up = False
        self.receiver: Receiver | None = None
        self.turn = asyncio.Lock()
        self.turn_count = 0
        self.piece_count = 0
        self.stalled_at = -1
        self.unheard_since: int | None = None
        self.ping_slot = -1

    # The connection's side

    @property
    def is_writable(self) -> bool:
        """Whether nothing waits."""
        return not self.is_offered

    @property
    def is_ending(self) -> bool:
        """Whether nothing more is taken."""
        return self.give_up is not None or self.state is State.CLOSED

    def write(self, frames: Frames) -> bool:
        """Take messages for the peer; false when too many bytes would wait.

        A tick that finds the queue empty is always taken: a peer is slow only when it has not
        read what earlier ticks gave it.
        """
        if self.is_ending or not frames.messages:
            return True
        waiting = self.queued_bytes + _measure(frames)
        if self.queued_bytes and waiting > self.settings.send_queue_bytes_max:
            return False
        self.queue.append(frames)
        self.queued_bytes = waiting
        if not self.is_offered:
            self.is_offered = True
            self.writers.offer(self)
        return True

    def close(self, disconnect: Disconnect, *, notice: str | bytes | None = None) -> None:
        """Send what waits, then ``notice``, then the end of the body; idempotent.

        A process that stops tells an EventSource to come back after a time of its own.
        """
        if self.is_ending:
            return
        self.disconnect, self.notice = disconnect, notice
        if disconnect.code == DisconnectCode.SLOW:
            # What waits is why it is cut, and the log has it for those who come back.
            self.queue.clear()
        self._begin_end()

    def refuse(self, status: int, body: bytes, *, headers: Headers = ()) -> None:
        """Answer with a status in place of a stream; only while nothing was written.

        Raises:
            RuntimeError: The response has begun.
        """
        if self.state is not State.OPENING or self.is_offered or self.is_ending:
            raise RuntimeError("the response has begun: close it instead")
        self.refusal = Refusal(status, (*self.headers, *headers), body)
        self._begin_end()

    def refuse_connect(self, code: int) -> bool:
        """Answer a connect that failed with the status that the operator chose.

        Args:
            code: Of the error or of the disconnect. One that has no answer is answered 500.

        Returns:
            False where failed connects are told as messages, or the response has begun: the
            caller must close then.
        """
        if self.connect_responses is None or self.state is not State.OPENING or self.is_offered:
            return False
        default = ConnectResponse(status=500, body="Internal Server Error")
        answer = self.connect_responses.get(code, default)
        content_type = (b"content-type", b"text/plain; charset=utf-8")
        self.refuse(answer.status, answer.body.encode(), headers=[content_type])
        return True

    # The endpoint's side

    async def run(self, receiver: Receiver, first: str | bytes | None = None) -> None:
        """Carry messages until either side ends the stream.

        ``receiver.receive_eof`` is called once, last, also under cancellation.

        Args:
            receiver: Who the messages are for.
            first: What the peer said with the request itself.
        """
        self.receiver = receiver
        if self.transport is not None:
            _set_user_timeout(self.transport, self.settings.tcp_user_timeout_seconds)
        self.streams.add(self, _find_connections(self.transport))
        self.pings.add(self)
        try:
            await self._read(receiver, first)
            await self.finish()
        finally:
            self.streams.discard(self)
            self.pings.remove(self)
            self._stop()
            await _finish(receiver.receive_eof())

    async def finish(self) -> None:
        """Send what was decided before `run`; `run` does that itself."""
        if self.give_up is None or self.state is State.CLOSED:
            return
        try:
            async with asyncio.timeout_at(self.give_up.when()):
                if self.is_offered:
                    self.drained = asyncio.get_running_loop().create_future()
                    await self.drained
                await self._send_last()
                self.state = State.CLOSED
                await self._wait_sent()
        except TimeoutError:
            self._give_up()
        except Exception as error:  # noqa: BLE001 - see `drain`
            logger.debug("the peer left while it was closed: %r", error)
        finally:
            self._stop()

    async def receive_message(self, data: str | bytes) -> None:
        """Handle a message that came by another request, after those that came before it.

        Returns when it was handled, so that a peer does not get ahead of its handlers. A peer with
        more than `INBOX_MESSAGES_MAX` such requests is closed with 3013.
        """
        if self.receiver is None or self.is_ending:
            return
        if self.turn_count >= INBOX_MESSAGES_MAX:
            self.receiver.close(create_disconnect(DisconnectCode.TOO_MANY_REQUESTS))
            return
        self.turn_count += 1
        try:
            await self._hand_over(self.receiver, data)
        finally:
            self.turn_count -= 1

    def shutdown(self) -> None:
        """Tell the receiver that the process stops."""
        if self.receiver is not None and not self.is_ending:
            self.receiver.receive_shutdown()

    # The ring's side

    def send_ping(self) -> None:
        """Have the receiver ping, or cut a peer that took nothing since the last time."""
        self.unheard_since = None
        if self.receiver is None or self.is_ending:
            return
        if not self.is_offered:
            self.stalled_at = -1
            self.receiver.send_ping()
        elif self.stalled_at == self.piece_count:
            self.receiver.close(create_disconnect(DisconnectCode.SLOW))
        else:
            # A ping would wait behind the rest.
            self.stalled_at = self.piece_count

    def handle_silence(self) -> None:
        """Do nothing: the answer to a ping comes by another request, and its receiver waits."""

    # Inside

    async def _read(self, receiver: Receiver, first: str | bytes | None) -> None:
        """Handle what came with the request, then wait until the peer is gone or a close."""
        try:
            async with asyncio.timeout(None) as self.reading:
                await _finish(receiver.receive_open())
                if first is not None:
                    await self._hand_over(receiver, first)
                while not self.is_ending:
                    self.is_waiting = True
                    message = await self.receive()
                    self.is_waiting = False
                    if message["type"] == "http.disconnect":
                        self.state = State.CLOSED
        except TimeoutError:
            # Either `_interrupt` ended the wait for the peer's end, or a handler let a time-out of
            # its own escape.
            assert self.reading is not None
            if not self.reading.expired():
                raise
        finally:
            self.is_waiting = False

    async def _hand_over(self, receiver: Receiver, data: str | bytes) -> None:
        """Hand a message over, in its turn."""
        async with self.turn:
            if self.is_ending:
                return
            if isinstance(data, str):
                await _finish(receiver.receive_text(data))
            else:
                await _finish(receiver.receive_bytes(data))

    async def drain(self, writer: asyncio.Task[None] | None) -> None:
        """Write the queue until it is empty; called by `Writers` only.

        The peer's failure ends its own stream.

        Args:
            writer: The task that runs this. It is cancelled when the stream is given up.
        """
        if self.state is State.CLOSED:
            return
        self.writer = writer
        try:
            while self.queue:
                body, size = self._take()
                await self._send_body(body, more_body=True)
                self.queued_bytes -= size
                self.piece_count += 1
        except Exception as error:  # noqa: BLE001
            # Servers and frameworks raise what they like for a peer that is gone.
            logger.debug("the peer does not take messages any more: %r", error)
            self.state = State.CLOSED
            self._interrupt()
        finally:
            self.writer = None
            self.is_offered = False
            if self.receiver is not None and not self.is_ending:
                self.receiver.receive_writable()
            if self.drained is not None and not self.drained.done():
                self.drained.set_result(None)

    def _take(self) -> tuple[bytes, int]:
        """Take one piece of the body from the queue, and what it counted there."""
        parts, size = [], 0
        while self.queue and size < PIECE_BYTES_MAX:
            frames = self.queue.popleft()
            parts.append(self.framing.encode(frames))
            size += _measure(frames)
        return b"".join(parts) if len(parts) > 1 else parts[0], size

    async def _send_body(self, body: bytes, *, more_body: bool) -> None:
        """Send a piece of the body; before the first the status and the headers."""
        if self.state is State.OPENING:
            self.state = State.OPEN
            content_type = (b"content-type", self.framing.content_type)
            headers = [*self.headers, content_type, *STREAM_HEADERS]
            await self.send({"type": "http.response.start", "status": 200, "headers": headers})
            body = self.framing.prelude + body
        await self.send({"type": "http.response.body", "body": body, "more_body": more_body})

    async def _send_last(self) -> None:
        """Say the last words, or the refusal."""
        refusal = self.refusal
        if refusal is not None:
            length = (b"content-length", str(len(refusal.body)).encode())
            headers = [*refusal.headers, length]
            await self.send(
                {"type": "http.response.start", "status": refusal.status, "headers": headers}
            )
            await self.send({"type": "http.response.body", "body": refusal.body})
            return
        body = b""
        if self.disconnect is not None and self.disconnect.code == DisconnectCode.SHUTDOWN:
            window = self.settings.drain_window_seconds
            # Spread as the closes are: everybody has a delay of its own.
            body = self.framing.encode_retry(RETRY_SECONDS + random.random() * window)  # noqa: S311
        if self.notice is not None:
            body += self.framing.encode(Frames.from_message(self.notice))
        await self._send_body(body, more_body=False)

    async def _wait_sent(self) -> None:
        """Wait until the last words have left, where that can be seen; `finish` bounds it."""
        if self.transport is not None:
            while self.transport.get_write_buffer_size():  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(LOOK_SECONDS)

    def _begin_end(self) -> None:
        """Have the stream end within the bound."""
        loop = asyncio.get_running_loop()
        self.give_up = loop.call_later(self.settings.close_timeout_seconds, self._give_up)
        self._interrupt()

    def _give_up(self) -> None:
        """Drop a peer that did not take the end in time; a handler that runs may finish."""
        if self.has_given_up:
            return
        logger.info("a peer did not take its last words in time, aborting the stream")
        self.has_given_up = True
        self._stop()
        if self.transport is not None:
            self.transport.abort()
        self._interrupt()

    def _interrupt(self) -> None:
        """End the wait for the peer's end, where the endpoint's task is in it."""
        if self.is_waiting and self.reading is not None:
            self.is_waiting = False
            self.reading.reschedule(0)

    def _stop(self) -> None:
        """Write nothing more."""
        self.state = State.CLOSED
        self.queue.clear()
        if self.writer is not None:
            self.writer.cancel()
        if self.give_up is not None:
            self.give_up.cancel()


def _measure(frames: Frames) -> int:
    """Return what frames count in the queue."""
    return frames.byte_count + MESSAGE_BYTES * len(frames.messages)


def _find_transport(receive: Receive) -> asyncio.Transport | None:
    """Find the loop's transport below a response, where the server lets us reach it.

    Uvicorn passes a bound method of an object that has it. It is the only way to free a peer that
    reads nothing; elsewhere the kernel's time-out has to do.
    """
    transport = getattr(getattr(receive, "__self__", None), "transport", None)
    # uvloop's transports are no subclasses of asyncio's.
    found = callable(getattr(transport, "abort", None))
    return transport if found and hasattr(transport, "get_write_buffer_size") else None


def _find_connections(transport: asyncio.Transport | None) -> set[Any] | None:
    """Find the connections whose ``shutdown`` the server calls when it stops."""
    protocol = None if transport is None else transport.get_protocol()
    connections = getattr(protocol, "connections", None)
    return connections if isinstance(connections, set) else None


def _set_user_timeout(transport: asyncio.Transport, seconds: float) -> None:
    """Have the kernel drop a peer that acknowledges nothing; Linux only, and TCP only."""
    link = transport.get_extra_info("socket")
    if link is not None and hasattr(socket, "TCP_USER_TIMEOUT") and link.family != socket.AF_UNIX:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))


async def _finish(work: Awaitable[None] | None) -> None:
    """Wait for what a receiver could not do at once."""
    if work is not None:
        await work
