"""What carriers behind ASGI's ``send`` have in common: a bounded queue, and an end in time.

Strategy: the endpoint's task waits for input and for handlers. `Writers` has one task write for all
links of the process, and one more for each peer that makes its own wait. ``write`` never waits:
what the server does not take at once stays in a queue that is bounded in bytes. Behind a handler
that takes long the link is read on, a bounded piece, so that a peer that leaves is not taken for
present until the handler ends. Source: ASGI specification.

Invariants: messages leave in the order of ``write``; a link ends within ``close_timeout_seconds``
of a ``close``, whatever the peer does, and where the server lets us it is gone by then, too; nobody
calls the server's ``receive`` while another call of it waits.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from enum import Enum
from typing import Any, ClassVar

from wirebell.errors import Disconnect, DisconnectCode, create_disconnect
from wirebell.interfaces import Receiver
from wirebell.liveness import LEAVE_SECONDS, PingRing
from wirebell.model import Frames
from wirebell.settings import Settings

__all__ = (
    "INBOX_BYTES_MAX",
    "INBOX_MESSAGES_MAX",
    "Message",
    "PortableCarrier",
    "Receive",
    "Send",
    "State",
    "Writers",
    "finish",
    "measure",
)

logger = logging.getLogger(__name__)

# ASGI's own types: a scope and a message are dictionaries of the specification.
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

# What a waiting message takes besides its text; without it empty ones would be unbounded.
MESSAGE_BYTES = 64
# Input that may wait behind a handler that takes long, before nothing more is read.
INBOX_MESSAGES_MAX = 32
INBOX_BYTES_MAX = 65_536
ENDS = frozenset(("http.disconnect", "websocket.disconnect"))


class State(Enum):
    """How far a link has come."""

    OPENING = "opening"
    """The peer was not answered yet."""
    OPEN = "open"
    """Messages flow."""
    CLOSED = "closed"
    """The last words were sent, or the peer is gone: what is written is dropped."""


# Looked at with every write; looking a member up costs more.
_OPEN, _CLOSED = State.OPEN, State.CLOSED


class Writers:
    """The tasks that write for all links of a process.

    A task of its own for each link and tick would be most of what a tick costs, and thousands of
    them at once wake the garbage collector. So one task serves link after link; when it has to
    wait for a peer another takes over the rest, and there are never more tasks than peers that
    make them wait, and one.

    Mutable state: the links that have something to write, and the tasks. Used on one event loop.
    """

    def __init__(self) -> None:
        self.ready: deque[PortableCarrier] = deque()
        self.tasks: set[asyncio.Task[None]] = set()
        self.is_planned = False

    def offer(self, link: PortableCarrier) -> None:
        """Have a link's queue written; it must not be on offer already."""
        self.ready.append(link)
        self._plan()

    async def aclose(self) -> None:
        """End all writing."""
        self.ready.clear()
        for task in self.tasks:
            task.cancel()
        if self.tasks:
            await asyncio.wait(self.tasks)

    def _plan(self) -> None:
        """Have a task start in this turn of the loop, unless one will."""
        if not self.is_planned and self.ready:
            self.is_planned = True
            task = asyncio.get_running_loop().create_task(self._write())
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def _write(self) -> None:
        """Write for one link after the other."""
        # Called as soon as this task waits or ends: if it waits for a peer, others must not.
        asyncio.get_running_loop().call_soon(self._hand_over)
        task = asyncio.current_task()
        try:
            while self.ready:
                await self.ready.popleft().drain(task)
        finally:
            self._plan()

    def _hand_over(self) -> None:
        """Start another task for what the last one did not come to."""
        self.is_planned = False
        self._plan()


class PortableCarrier:
    """A `wirebell.interfaces.Transport` over ASGI's ``receive`` and ``send``; to be derived from.

    Who derives says how messages are sent, what the last words are, and when the link has ended.

    Mutable state: how far the link has come, the queue of frames with its bytes, the task that
    writes right now, what came behind a handler that takes long. Used on one event loop.

    Args:
        receive: The server's.
        send: The server's.
        settings: Bounds of the queue and of closing.
        writers: The tasks that write.
        pings: The ring that has the receiver ping the peer; ``None`` where it does not.
        abort: Drops the link without a word, where the server can: the last resort against a
            peer that takes nothing. May be called for a link that has closed since.
    """

    opens_by_writing: ClassVar[bool] = False
    """Whether the first message opens the link; otherwise what is written before waits."""

    __slots__ = (
        "abort",
        "ahead",
        "disconnect",
        "drained",
        "give_up",
        "has_given_up",
        "inbox",
        "is_busy",
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
        "send",
        "settings",
        "stalled_at",
        "state",
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
        *,
        pings: PingRing | None,
        abort: Callable[[], None] | None,
    ) -> None:
        self.receive = receive
        self.send = send
        self.settings = settings
        self.writers = writers
        self.pings = pings
        self.abort = abort
        self.ping_slot = -1
        self.unheard_since: int | None = None
        self.state = State.OPENING
        self.queue: deque[Frames] = deque()
        self.queued_bytes = 0
        self.is_offered = False
        self.writer: asyncio.Task[None] | None = None
        self.piece_count = 0
        self.stalled_at = -1
        self.disconnect: Disconnect | None = None
        self.notice: str | bytes | None = None
        self.give_up: asyncio.TimerHandle | None = None
        self.has_given_up = False
        self.drained: asyncio.Future[None] | None = None
        self.reading: asyncio.Timeout | None = None
        self.is_waiting = False
        self.is_busy = False
        self.inbox: deque[Message] = deque()
        self.ahead: asyncio.Future[Message] | None = None
        self.receiver: Receiver | None = None

    # For whoever derives

    async def _send_queued(self) -> None:
        """Send the oldest of the queue, and count it; the queue is not empty."""
        raise NotImplementedError

    async def _send_last(self) -> None:
        """Say the last words."""
        raise NotImplementedError

    async def _wait_end(self) -> None:
        """Wait until the peer has the last words, as far as that can be seen."""
        raise NotImplementedError

    # The connection's side

    @property
    def is_writable(self) -> bool:
        """Whether nothing waits."""
        return not self.queue and not self.is_offered

    @property
    def is_ending(self) -> bool:
        """Whether nothing more is taken."""
        return self.give_up is not None or self.state is _CLOSED

    def write(self, frames: Frames) -> bool:
        """Take messages for the peer; false when too many bytes would wait.

        A tick that finds the queue empty is always taken: a peer is slow only when it has not
        read what earlier ticks gave it.
        """
        if self.give_up is not None or self.state is _CLOSED or not frames.messages:
            return True
        waiting = self.queued_bytes + measure(frames)
        if self.queued_bytes and waiting > self.settings.send_queue_bytes_max:
            return False
        self.queue.append(frames)
        self.queued_bytes = waiting
        if not self.is_offered and (self.state is _OPEN or self.opens_by_writing):
            self._offer()
        return True

    def close(self, disconnect: Disconnect, *, notice: str | bytes | None = None) -> None:
        """Send what waits, then ``notice``, then the end of the link; idempotent."""
        if self.is_ending:
            return
        self.disconnect, self.notice = disconnect, notice
        if disconnect.code == DisconnectCode.SLOW:
            # What waits is why it is cut, and the log has it for those who come back.
            self.queue.clear()
        self._begin_end()

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
        """Do nothing: whoever pings has time-outs of its own."""

    # Input

    async def _serve(self, serving: Awaitable[None]) -> None:
        """Wait for the work on what the peer says, of which `_interrupt` may end the waiting."""
        try:
            async with asyncio.timeout(None) as self.reading:
                await serving
        except TimeoutError:
            # Either `_interrupt` ended the wait for input, or a handler let a time-out of its own
            # escape.
            assert self.reading is not None
            if not self.reading.expired():
                raise
        finally:
            self.is_waiting = False

    async def _wait_input(self) -> Message:
        """Wait for what the peer says next; `_interrupt` may end that."""
        self.is_waiting = True
        message = await self._receive()
        self.is_waiting = False
        return message

    async def _receive(self) -> Message:
        """Return what came behind a handler, or wait for what comes."""
        while not self.inbox:
            ahead = self.ahead
            if ahead is None:
                return await self.receive()
            # Unlike awaiting it, this does not cancel it when we are cancelled.
            await asyncio.wait((ahead,))
            if self.ahead is ahead:
                # `_keep` has left a failure to us.
                self.ahead = None
                return ahead.result()
        return self.inbox.popleft()

    async def _handle(self, waiting: Awaitable[None] | None) -> None:
        """Wait for what a receiver could not do at once; read on when that takes long."""
        if waiting is None:
            return
        late = asyncio.get_running_loop().call_later(LEAVE_SECONDS, self._read_on)
        self.is_busy = True
        try:
            await waiting
        finally:
            self.is_busy = False
            late.cancel()

    def _read_on(self) -> None:
        """Receive behind a handler that takes long, within bounds: the peer may have left."""
        size = sum(len(each.get("text") or each.get("bytes") or b"") for each in self.inbox)
        is_full = len(self.inbox) >= INBOX_MESSAGES_MAX or size >= INBOX_BYTES_MAX
        if self.ahead is None and not self.is_ending and not is_full:
            self.ahead = asyncio.ensure_future(self.receive())
            self.ahead.add_done_callback(self._keep)

    def _keep(self, ahead: asyncio.Future[Message]) -> None:
        """Have a message wait behind a handler; a peer that is gone leaves its channels now."""
        if ahead is not self.ahead or ahead.cancelled() or ahead.exception() is not None:
            return
        self.ahead = None
        message = ahead.result()
        self.inbox.append(message)
        if not self.is_busy:
            return
        if message["type"] not in ENDS:
            self._read_on()
        elif self.receiver is not None:
            self.receiver.receive_leave()

    # Output

    def _offer(self) -> None:
        """Have the queue written."""
        self.is_offered = True
        self.writers.offer(self)

    async def drain(self, writer: asyncio.Task[None] | None) -> None:
        """Write the queue until it is empty; called by `Writers` only.

        The peer's failure ends its own link.

        Args:
            writer: The task that runs this. It is cancelled when the link is given up.
        """
        if self.state is _CLOSED:
            return
        self.writer = writer
        try:
            while self.queue:
                await self._send_queued()
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

    # The end

    def _begin_end(self) -> None:
        """Have the link end within the bound."""
        loop = asyncio.get_running_loop()
        self.give_up = loop.call_later(self.settings.close_timeout_seconds, self._give_up)
        self._interrupt()

    async def _end(self) -> None:
        """Send what waits and the last words, then see the link end, all within the bound."""
        if self.give_up is None or self.state is _CLOSED:
            return
        try:
            async with asyncio.timeout_at(self.give_up.when()):
                await self._stop_reading()
                if self.is_offered:
                    self.drained = asyncio.get_running_loop().create_future()
                    await self.drained
                await self._send_last()
                self.state = State.CLOSED
                await self._wait_end()
        except TimeoutError:
            self._give_up()
        except Exception as error:  # noqa: BLE001 - see `drain`
            logger.debug("the peer left while it was closed: %r", error)

    async def _stop_reading(self) -> None:
        """End a wait for input that runs ahead: some servers close nothing meanwhile."""
        if self.ahead is not None:
            self.ahead.cancel()
            await asyncio.wait((self.ahead,))
            self.ahead = None

    def _give_up(self) -> None:
        """Drop a peer that did not end the link in time; a handler that runs may finish."""
        if self.has_given_up:
            return
        logger.info("a peer did not close in time, aborting the link")
        self.has_given_up = True
        self._stop()
        if self.abort is not None:
            self.abort()
        self._interrupt()

    def _interrupt(self) -> None:
        """End the wait for input, where the endpoint's task is in it."""
        if self.is_waiting and self.reading is not None:
            self.is_waiting = False
            self.reading.reschedule(0)

    def _stop(self) -> None:
        """Write nothing more."""
        self.state = State.CLOSED
        self.queue.clear()
        if self.ahead is not None:
            self.ahead.cancel()
            self.ahead = None
        if self.writer is not None:
            self.writer.cancel()
        if self.give_up is not None:
            self.give_up.cancel()


async def finish(work: Awaitable[None] | None) -> None:
    """Wait for what a receiver could not do at once."""
    if work is not None:
        await work


def measure(frames: Frames) -> int:
    """Return what frames count in a queue."""
    return frames.byte_count + MESSAGE_BYTES * len(frames.messages)
