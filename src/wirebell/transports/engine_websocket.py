"""A WebSocket that was taken over from its endpoint: no task, no queue, a few small objects.

Strategy: the object is the event loop's protocol of the socket itself. What the peer sends is
read and handled where it arrives; only what has to wait becomes a task, and that ends. ``write``
hands the loop bytes that all subscribers share. While the loop says that the peer does not take
them, and only then, frames wait in a queue that is bounded in bytes. Sources: RFC 6455 for frames
and closing, RFC 7692 for compression.

Invariants: messages leave in the order of ``write``; after the close frame nothing is sent; the
receiver is told one thing at a time, and of the peer's end once, last.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
from collections import deque
from collections.abc import Awaitable, Coroutine
from dataclasses import dataclass
from enum import Enum
from typing import Any

from wirebell.deferred import Deferred
from wirebell.errors import Disconnect, DisconnectCode, create_disconnect
from wirebell.interfaces import Receiver
from wirebell.liveness import LEAVE_SECONDS, PingRing
from wirebell.model import Frames
from wirebell.portable import (
    INBOX_BYTES_MAX,
    INBOX_MESSAGES_MAX,
    Receive,
    Send,
    finish,
    measure,
)
from wirebell.process import set_user_timeout
from wirebell.settings import Settings
from wirebell.takeover import Host, LiveSocket, Successor, TakenSocket, Takeover, Work
from wirebell.websocket.deflate import Deflate
from wirebell.websocket.frames import (
    Close,
    Event,
    Failure,
    FrameReader,
    Ping,
    encode_close,
)
from wirebell.websocket.wire import deflate_wire, encode_wire

__all__ = ("EngineWebSocket",)

logger = logging.getLogger(__name__)


class State(Enum):
    """How far a link has come."""

    OPENING = "opening"
    """Not taken over yet: what is written waits."""
    OPEN = "open"
    """Messages flow."""
    CLOSING = "closing"
    """A close frame was sent; the peer's is awaited."""
    CLOSED = "closed"
    """Both sides said goodbye; the loop closes the socket."""
    LOST = "lost"
    """The socket is gone; a handler may still run."""
    ENDED = "ended"
    """The receiver knows."""


# A peer that is gone may have sent messages before, and they are handled all the same.
IN_TURN = frozenset((State.OPEN, State.LOST))
# Looking a member up costs more than taking a message.
_OPEN = State.OPEN


@dataclass(slots=True)
class Opening:
    """What is needed until the socket is taken over, and forgotten then."""

    takeover: Takeover
    receive: Receive
    send: Send
    is_accepted: bool
    subprotocol: str | None
    closing: tuple[Disconnect, str | bytes | None] | None = None


class EngineWebSocket(LiveSocket[Host], Successor):
    """A `wirebell.interfaces.Transport` that is the protocol of its own socket.

    Mutable state: how far the link has come, and, only while there are any, queued frames, messages
    that wait behind a handler, the task of that handler. Used on one event loop.

    Args:
        takeover: The server's extension.
        receive: The endpoint's, for the handshake.
        send: The endpoint's, for the handshake.
        settings: Bounds of messages, of the queue and of the closing handshake.
        pings: The ring that pings it.
        is_accepted: The endpoint has accepted the socket already.
        subprotocol: Named in the answer to the handshake.
    """

    __slots__ = (
        "context",
        "deflate",
        "idle_pings",
        "inbox",
        "is_direct",
        "opening",
        "queue",
        "queued_bytes",
        "reader",
        "receiver",
        "settings",
        "stalled_bytes",
        "state",
        "work",
    )

    # Set by `run` and `_begin`, as ``transport`` is; what is written before goes to the queue.
    receiver: Receiver
    reader: FrameReader

    def __init__(
        self,
        takeover: Takeover,
        receive: Receive,
        send: Send,
        settings: Settings,
        pings: PingRing,
        *,
        is_accepted: bool = False,
        subprotocol: str | None = None,
    ) -> None:
        super().__init__(takeover.host, pings)
        self.opening: Opening | None = Opening(takeover, receive, send, is_accepted, subprotocol)
        self.settings = settings
        self.state = State.OPENING
        self.is_direct = False
        self.stalled_bytes: int | None = None
        self.queue: deque[Frames] | None = None
        self.queued_bytes = 0
        self.inbox: deque[Event] | None = None
        self.work: Work | None = None
        self.context: contextvars.Context | None = None
        self.deflate: Deflate | None = None
        self.idle_pings = 0

    # The connection's side

    @property
    def is_writable(self) -> bool:
        """Whether the loop takes bytes for the peer."""
        return not self.is_paused and not self.queue

    def write(self, frames: Frames) -> bool:
        """Take messages for the peer; false when too many bytes would wait.

        A tick that finds nothing waiting is always taken: a peer is slow only when it has not
        read what earlier ticks gave it.
        """
        if self.is_direct:
            self.transport.write(frames.wire or encode_wire(frames))
            return True
        return self._write_slowly(frames)

    def close(self, disconnect: Disconnect, *, notice: str | bytes | None = None) -> None:
        """Send what waits, then ``notice``, then the close frame; idempotent."""
        if self.opening is not None:
            if self.opening.closing is None:
                self.opening.closing = (disconnect, notice)
            return
        if self.state is not State.OPEN:
            return
        if disconnect.code != DisconnectCode.SLOW:
            # Of a slow peer's what waits is why it is cut, and the log has it.
            self._write_queue()
            if notice is not None:
                self.transport.write(self._wire(Frames.from_message(notice)))
        self._send_close(disconnect.code, disconnect.reason)

    # The endpoint's side

    async def run(self, receiver: Receiver) -> None:
        """Complete the handshake and take the socket over; returns at once then.

        ``receiver.receive_eof`` is called once, last, whatever happens.
        """
        opening = self.opening
        assert opening is not None
        self.receiver = receiver
        taken: TakenSocket | None = None
        try:
            if await self._accept(opening):
                taken = opening.takeover.take_over(self)
        finally:
            self.opening = None
            if taken is None:
                self.state = State.ENDED
                self.queue = None
                await finish(receiver.receive_eof())
        if taken is not None:
            self.context = contextvars.copy_context()
            self._begin(taken, opening)

    async def _accept(self, opening: Opening) -> bool:
        """Answer the handshake; false when the peer is gone already."""
        if opening.is_accepted:
            return True
        opening.takeover.offer_compression(is_offered=self.settings.compression)
        if (await opening.receive())["type"] != "websocket.connect":
            return False
        try:
            await opening.send({"type": "websocket.accept", "subprotocol": opening.subprotocol})
        except OSError as error:
            logger.debug("the peer left during the handshake: %r", error)
            return False
        return True

    def _begin(self, taken: TakenSocket, opening: Opening) -> None:
        """Serve the socket from now on."""
        self.transport, self.reader = taken.transport, taken.reader
        # What was negotiated before we were asked is understood, and not used.
        self.deflate = taken.deflate if self.settings.compression else None
        self.reader.message_bytes_max = self.settings.message_bytes_max
        set_user_timeout(self.transport, self.settings.tcp_user_timeout_seconds)
        self.state = State.OPEN
        self.is_paused, self.late_pong = taken.is_paused, taken.late_pong
        self.start_pings()
        has_waited = bool(self.queue)
        self._write_queue(until_paused=True)
        self.is_direct = self.deflate is None and not self.is_paused
        if opening.closing is not None:
            disconnect, notice = opening.closing
            self.close(disconnect, notice=notice)
            return
        self._handle(self.receiver.receive_open())
        if has_waited and self.is_writable:
            self.receiver.receive_writable()
        for event in taken.events:
            self._receive(self._bound(event))

    def _bound(self, event: Event) -> Event:
        """Apply our bound to a message that the server took by its own."""
        if isinstance(event, str | bytes):
            size = len(event.encode()) if isinstance(event, str) else len(event)
            limit = self.settings.message_bytes_max
            if size > limit:
                reason = f"message is longer than {limit} bytes"
                return Failure(DisconnectCode.MESSAGE_TOO_BIG, reason)
        return event

    # The loop's side

    def data_received(self, data: bytes) -> None:
        """Read what came, and handle it here and now."""
        self.unheard_since = None
        context = self.context
        for event in self.reader.receive_data(data):
            if (
                context is not None
                and isinstance(event, str)
                and self.work is None
                and self.state is _OPEN
            ):
                # As `_receive` does, with nothing in between: nearly all there is to read.
                self.idle_pings = 0
                waiting = context.run(self.receiver.receive_text, event)
                if waiting is not None:
                    self._handle(waiting)
            else:
                self._receive(event)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the peer; a handler that runs may finish."""
        super().connection_lost(exc)
        self.state = State.LOST
        # Nobody has to wait for it to read any more.
        self.is_direct = self.is_paused = False
        self.queue = None
        if self.work is None:
            self._end()
        else:
            self._plan_leave()

    def pause_writing(self) -> None:
        """Queue what is written from now on."""
        super().pause_writing()
        self.is_direct = False

    def resume_writing(self) -> None:
        """Write what waits, and go on without a queue when the loop took it all."""
        self.stalled_bytes = None
        super().resume_writing()
        self._write_queue(until_paused=True)
        if not self.is_paused and self.state is State.OPEN:
            self.is_direct = self.deflate is None
            self.receiver.receive_writable()

    def shutdown(self) -> None:
        """Close within the drain's window; called by the server when it stops."""
        self.host.plan_drain(self._drain)

    # The ring's side

    @property
    def is_open(self) -> bool:
        """Whether frames may be sent."""
        return self.state is State.OPEN

    def send_ping(self) -> None:
        """Ping the peer, or cut it when it took nothing since the last time, or said nothing."""
        if self.state is State.OPEN:
            if self.is_paused:
                self._check_stuck()
            else:
                self._check_idle()
                if self.state is State.OPEN and self.receiver.send_ping():
                    # It has time-outs of its own.
                    self.unheard_since = None
                    return
        super().send_ping()

    def _check_stuck(self) -> None:
        """Cut a peer that does not read; who takes nothing in a whole interval is stuck."""
        waiting = self.transport.get_write_buffer_size()
        if self.stalled_bytes is not None and waiting >= self.stalled_bytes:
            self.receiver.close(create_disconnect(DisconnectCode.SLOW))
        self.stalled_bytes = waiting

    def _check_idle(self) -> None:
        """Close a peer that only answers pings, where that is limited."""
        limit = self.settings.idle_timeout_seconds
        if limit and self.idle_pings * self.settings.ping_interval_seconds >= limit:
            reason = f"no message for {limit:g} seconds"
            self.receiver.close(Disconnect(DisconnectCode.IDLE, reason))
        self.idle_pings += 1

    def drop_silent(self) -> None:
        """Drop a peer that did not answer: nobody would read a close frame."""
        logger.debug("a peer did not answer a ping, dropping it")
        self.transport.abort()

    # Input

    @property
    def is_busy(self) -> bool:
        """Whether a handler runs."""
        return self.work is not None

    def _receive(self, event: Event) -> None:
        """Take what the peer sent: pings now, the rest in its turn."""
        if isinstance(event, Ping):
            self.receive_ping(event.data)
        elif self.work is not None and self.state in IN_TURN:
            self._keep(event)
        elif self.context is not None:
            self._handle(self.context.run(self._take, event))

    def _take(self, event: Event) -> Awaitable[None] | None:
        """Hand a message to the receiver, or end the link; returns what has to be waited for."""
        if isinstance(event, str | bytes):
            self.idle_pings = 0
            if self.state not in IN_TURN:
                return None
            if isinstance(event, str):
                return self.receiver.receive_text(event)
            return self.receiver.receive_bytes(event)
        if isinstance(event, Failure):
            self._fail(event)
        elif isinstance(event, Close):
            self._receive_close(event)
        return None

    def _keep(self, event: Event) -> None:
        """Have a message wait behind a handler; past a bound the peer is not read any more."""
        if self.inbox is None:
            self.inbox = deque()
        self.inbox.append(event)
        if isinstance(event, Close):
            self._plan_leave()
        if len(self.inbox) > INBOX_MESSAGES_MAX:
            # Past the bound already, and what was read at once may be thousands of messages.
            return
        size = sum(len(event) for event in self.inbox if isinstance(event, str | bytes))
        if len(self.inbox) >= INBOX_MESSAGES_MAX or size >= INBOX_BYTES_MAX:
            self.transport.pause_reading()

    def _fail(self, failure: Failure) -> None:
        """End the link for what the peer did wrong."""
        if self.state is State.LOST:
            return
        if failure.code == DisconnectCode.MESSAGE_TOO_BIG and self.state is State.OPEN:
            # The receiver's own words: it is a limit of ours, not a mistake in the frames.
            self.receiver.close(Disconnect(failure.code, failure.reason))
        elif self.state is State.OPEN:
            self._send_close(failure.code, failure.reason)
        self.linger()

    def _receive_close(self, close: Close) -> None:
        """Answer the peer's close frame, or take it as the answer to ours."""
        if self.state is State.LOST:
            return
        if self.state is State.OPEN:
            self._send_close(close.code, "")
        self.state = State.CLOSED
        self.transport.close()

    def _handle(self, waiting: Awaitable[None] | None) -> None:
        """Wait for what a receiver could not do at once: as it is, or in a task of its own."""
        if isinstance(waiting, Deferred):
            self._expect(waiting)
        elif waiting is not None:
            self._start(self._run(waiting))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run work in the endpoint's context; from Python 3.12 on its first step runs here."""
        loop = asyncio.get_running_loop()
        if sys.version_info >= (3, 12):
            task = asyncio.Task(work, loop=loop, context=self.context, eager_start=True)
            if task.done():
                self._finish_work(task)
                return
        else:
            task = loop.create_task(work, context=self.context)
        self._expect(task)

    def _expect(self, work: Work) -> None:
        """Go on when something has ended, and have the server wait for it when it stops."""
        self.work = work
        self.host.tasks.add(work)
        work.add_done_callback(self._finish_work)

    async def _run(self, waiting: Awaitable[None]) -> None:
        """Wait for a handler, then for those of the messages that came meanwhile."""
        try:
            await waiting
            while self.inbox:
                await finish(self._take(self.inbox.popleft()))
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Not we were cancelled, but what the handler waited for.
            raise RuntimeError("a handler waited for what was cancelled") from error

    def _finish_work(self, task: Work) -> None:
        """Go on without a task; what came while it ended is handled now."""
        self.work = None
        self.host.tasks.discard(task)
        if task.cancelled():
            # The server's deadline for handlers has passed.
            self.inbox = None
            self.transport.abort()
        elif (error := task.exception()) is not None:
            logger.error("serving a connection failed", exc_info=error)
            self.receiver.close(Disconnect(DisconnectCode.INTERNAL_ERROR, "internal error"))
        # Handling one may end at once, and come here again before this goes on.
        while self.inbox and not self.is_busy:
            self._receive(self.inbox.popleft())
        if self.is_busy:
            return
        if self.inbox is not None and self.state is State.OPEN:
            self.transport.resume_reading()
        self.inbox = None
        if self.state is State.LOST:
            self._end()
        elif self.state is State.ENDED:
            self._forget()

    # The end

    def _plan_leave(self) -> None:
        """Bound how long a peer that is gone stays in its channels because of its handlers."""
        asyncio.get_running_loop().call_later(LEAVE_SECONDS, self._leave)

    def _leave(self) -> None:
        """Have a peer that is gone leave, unless that has happened."""
        if self.work is not None and self.state in IN_TURN:
            self.receiver.receive_leave()

    def _end(self) -> None:
        """Tell the receiver that the peer is gone."""
        self.state = State.ENDED
        self._handle(self.receiver.receive_eof())
        if self.work is None:
            self._forget()

    def _forget(self) -> None:
        """Let go of the receiver: it holds us, and only a collection would find the two."""
        if hasattr(self, "receiver"):
            del self.receiver
        self.context = None

    def _drain(self) -> None:
        """Close because the process stops."""
        if self.state is not State.OPEN:
            return
        self.receiver.receive_shutdown()
        if self.give_up is not None:
            self.plan_abort(self.host.drain_timeout_seconds)

    def _send_close(self, code: int, reason: str) -> None:
        """Send the close frame; the peer has ``close_timeout_seconds`` to answer it."""
        # First of all: a code that no frame may carry must not leave half an end.
        frame = encode_close(code, reason)
        self.state = State.CLOSING
        self.is_direct = False
        self.queue = self.inbox = None
        self.transport.write(frame)
        self.transport.resume_reading()
        self.plan_abort(self.settings.close_timeout_seconds)

    # Output

    def _write_slowly(self, frames: Frames) -> bool:
        """Write while the link is opening, paused, compressed or over."""
        if self.state is State.OPEN and not self.is_paused:
            self.transport.write(self._wire(frames))
            return True
        if self.state not in {State.OPENING, State.OPEN}:
            return True
        waiting = self.queued_bytes + measure(frames)
        if self.queue is None:
            self.queue, self.queued_bytes = deque(), 0
        elif self.queue and waiting > self.settings.send_queue_bytes_max:
            return False
        self.queue.append(frames)
        self.queued_bytes = waiting
        return True

    def _write_queue(self, *, until_paused: bool = False) -> None:
        """Hand the loop what waits."""
        queue = self.queue
        while queue and not (until_paused and self.is_paused):
            frames = queue.popleft()
            self.queued_bytes -= measure(frames)
            self.transport.write(self._wire(frames))
        if not queue:
            self.queue, self.queued_bytes = None, 0

    def _wire(self, frames: Frames) -> bytes:
        """Encode frames as this peer reads them; others that read the same share the bytes."""
        if self.deflate is None:
            return frames.wire or encode_wire(frames)
        bits = self.deflate.server_window_bits
        return deflate_wire(frames, bits, self.settings.compression_bytes_min)
