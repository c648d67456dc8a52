"""Messages down the body of an HTTP response, behind any ASGI server: SSE and HTTP streaming.

Strategy: that of `wirebell.portable`. The request's task waits for the peer to leave; the server is
given one piece of the body for all that waits. The response begins with the first message, so that
a connect that fails can still be answered by a status. What the peer says comes through other
requests. Sources: ASGI specification, HTTP section 2.3; protocol document, sections 1.2, 1.10 and
1.11.

Invariants: after the last piece of the body nothing is sent; ``run`` ends within
``close_timeout_seconds`` of a ``close``, whatever the peer does; messages of the peer are handled
one at a time, and its end is told once, whether one of them is still handled or not.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from wirebell.errors import DisconnectCode, create_disconnect
from wirebell.interfaces import Receiver
from wirebell.liveness import PingRing
from wirebell.model import Frames
from wirebell.options import ConnectResponse
from wirebell.portable import PortableCarrier, Receive, Send, State, Writers, finish, measure
from wirebell.process import PROCESS, abort_late, set_user_timeout
from wirebell.protocol.framing import Framing
from wirebell.settings import Settings

__all__ = ("HTTPStream", "Headers", "Streams")

Headers = Iterable[tuple[bytes, bytes]]

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


@dataclass(frozen=True, slots=True)
class Refusal:
    """A whole response in place of a stream."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


class HTTPStream(PortableCarrier):
    """One HTTP response over ASGI's ``send``.

    Mutable state: that of `PortableCarrier`, and the messages that wait for their turn.

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

    opens_by_writing = True

    __slots__ = (
        "connect_responses",
        "framing",
        "headers",
        "refusal",
        "streams",
        "transport",
        "turn",
        "turn_count",
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
        self.transport = _find_transport(receive)
        abort = None if self.transport is None else partial(abort_late, self.transport)
        super().__init__(receive, send, settings, writers, pings=pings, abort=abort)
        self.framing = framing
        self.streams = streams
        self.headers: tuple[tuple[bytes, bytes], ...] = tuple(headers)
        self.connect_responses = connect_responses
        self.refusal: Refusal | None = None
        self.turn = asyncio.Lock()
        self.turn_count = 0

    # The connection's side

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
            False where failed connects are told as messages, or the response has begun or was
            ended: the caller must close then.
        """
        has_begun = self.state is not State.OPENING or self.is_offered
        if self.connect_responses is None or has_begun or self.is_ending:
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
        try:
            if self.transport is not None:
                set_user_timeout(self.transport, self.settings.tcp_user_timeout_seconds)
            self.streams.add(self, _find_connections(self.transport))
            if self.pings is not None:
                self.pings.add(self)
            await self._serve(self._read(receiver, first))
            await self._end()
        finally:
            self.streams.discard(self)
            if self.pings is not None:
                self.pings.remove(self)
            self._stop()
            await finish(receiver.receive_eof())

    async def finish(self) -> None:
        """Send what was decided before `run`; `run` does that itself."""
        if self.give_up is None:
            return
        try:
            await self._end()
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
        """Tell the receiver that the process stops, and count it."""
        if self.receiver is not None and not self.is_ending:
            PROCESS.drained_count += 1
            self.receiver.receive_shutdown()

    # Input

    async def _read(self, receiver: Receiver, first: str | bytes | None) -> None:
        """Handle what came with the request, then wait until the peer is gone or a close."""
        await self._handle(receiver.receive_open())
        if first is not None:
            await self._handle(self._hand_over(receiver, first))
        while not self.is_ending:
            message = await self._wait_input()
            if message["type"] == "http.disconnect":
                self.state = State.CLOSED

    async def _hand_over(self, receiver: Receiver, data: str | bytes) -> None:
        """Hand a message over, in its turn."""
        async with self.turn:
            if self.is_ending:
                return
            if isinstance(data, str):
                await finish(receiver.receive_text(data))
            else:
                await finish(receiver.receive_bytes(data))

    # What `PortableCarrier` asks for

    async def _send_queued(self) -> None:
        """Send one piece of the body."""
        body, size = self._take()
        await self._send_body(body, more_body=True)
        self.queued_bytes -= size
        self.piece_count += 1

    def _take(self) -> tuple[bytes, int]:
        """Take one piece of the body from the queue, and what it counted there."""
        parts, size = [], 0
        while self.queue and size < PIECE_BYTES_MAX:
            frames = self.queue.popleft()
            parts.append(self.framing.encode(frames))
            size += measure(frames)
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

    async def _wait_end(self) -> None:
        """Wait until the last words have left, where that can be seen."""
        if self.transport is not None:
            while self.transport.get_write_buffer_size():  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(LOOK_SECONDS)


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
