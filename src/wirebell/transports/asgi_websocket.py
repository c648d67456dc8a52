"""A WebSocket behind any ASGI server: uvicorn with each of its classes, hypercorn, granian.

Strategy: the endpoint's task reads. `Writers` has one task write for all links of the process,
and one more for each peer that makes its own wait. ``write`` never waits: what the server does not
take at once stays in a queue that is bounded in bytes. Source: ASGI specification, WebSocket
section 2.4.

Invariants: messages leave in the order of ``write``; after the close message nothing is sent;
``run`` and ``refuse`` end within ``close_timeout_seconds`` of a ``close``, whatever the peer does,
and where the server lets us the link is gone by then, too.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from enum import Enum
from typing import Any

from wirebell.errors import Disconnect, DisconnectCode
from wirebell.interfaces import Receiver
from wirebell.liveness import PingRing
from wirebell.model import Frames
from wirebell.settings import Settings

__all__ = ("ASGIWebSocket", "Writers")

logger = logging.getLogger(__name__)

# ASGI's own types: a scope and a message are dictionaries of the specification.
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


# What a waiting message takes besides its text; without it empty ones would be unbounded.
MESSAGE_BYTES = 64


class State(Enum):
    """How far a link has come."""

    OPENING = "opening"
    """Not accepted yet: what is written waits."""
    OPEN = "open"
    """Messages flow."""
    CLOSED = "closed"
    """The close message was sent, or the peer is gone: what is written is dropped."""


class Writers:
    """The tasks that write for all links of a process.

    A task of its own for each link and tick would be most of what a tick costs, and thousands of
    them at once wake the garbage collector. So one task serves link after link; when it has to
    wait for a peer another takes over the rest, and there are never more tasks than peers that
    make them wait, and one.

    Mutable state: the links that have something to write, and the tasks. Used on one event loop.
    """

    def __init__(self) -> None:
        self.ready: deque[ASGIWebSocket] = deque()
        self.tasks: set[asyncio.Task[None]] = set()
        self.is_planned = False

    def offer(self, link: ASGIWebSocket) -> None:
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


class ASGIWebSocket:
    """A `wirebell.interfaces.Transport` over ASGI's ``receive`` and ``send``.

    Mutable state: how far the link has come, the queue of frames with its bytes, the task that
    writes right now. Used on one event loop.

    Args:
        scope: The connection's ASGI scope; read for the denial extension only.
        receive: The server's.
        send: The server's.
        settings: Bounds of messages, of the queue and of the closing handshake.
        writers: The tasks that write.
        is_accepted: The endpoint has accepted the socket already.
        subprotocol: Named in the answer to the handshake.
        pings: The ring that has the receiver ping the peer; ``None`` where it does not.
        abort: Drops the link without a word, where the server can: the last resort against a
            peer that takes nothing. Called also for a link that has closed since, at most once.
    """

    __slots__ = (
        "abort",
        "disconnect",
        "drained",
        "give_up",
        "has_given_up",
        "is_accepted",
        "is_offered",
        "is_waiting",
        "notice",
        "ping_slot",
        "pings",
        "queue",
        "queued_bytes",
        "reading",
        "receive",
        "receiver",
        "scope",
        "send",
        "settings",
        "state",
        "subprotocol",
        "unheard_since",
        "writer",
        "writers",
    )

    def __init__(
        self,
        scope: Message,
        receive: Receive,
        send: Send,
        settings: Settings,
        writers: Writers,
        *,
        is_accepted: bool = False,
        subprotocol: str | None = None,
        pings: PingRing | None = None,
        abort: Callable[[], None] | None = None,
    ) -> None:
        self.scope = scope
        self.receive = receive
        self.send = send
        self.settings = settings
        self.writers = writers
        self.is_accepted = is_accepted
        self.subprotocol = subprotocol
        self.pings = pings
        self.ping_slot = -1
        self.unheard_since: int | None = None
        self.abort = abort
        self.state = State.OPENING
        self.queue: deque[Frames] = deque()
        self.queued_bytes = 0
        self.is_offered = False
        self.writer: asyncio.Task[None] | None = None
        self.disconnect: Disconnect | None = None
        self.notice: str | bytes | None = None
        self.give_up: asyncio.TimerHandle | None = None
        self.drained: asyncio.Future[None] | None = None
        self.reading: asyncio.Timeout | None = None
        self.is_waiting = False
        self.has_given_up = False
        self.receiver: Receiver | None = None

    # The connection's side

    @property
    def is_writable(self) -> bool:
        """Whether nothing waits."""
        return not self.queue and not self.is_offered

    def write(self, frames: Frames) -> bool:
        """Take messages for the peer; false when too many bytes would wait.

        A tick that finds the queue empty is always taken: a peer is slow only when it has not
        read what earlier ticks gave it.
        """
        if self.state is State.CLOSED or self.disconnect is not None:
            return True
        waiting = self.queued_bytes + frames.byte_count + MESSAGE_BYTES * len(frames.messages)
        if self.queued_bytes and waiting > self.settings.send_queue_bytes_max:
            return False
        self.queue.append(frames)
        self.queued_bytes = waiting
        if not self.is_offered and self.state is State.OPEN:
            self._offer()
        return True

    def close(self, disconnect: Disconnect, *, notice: str | bytes | None = None) -> None:
        """Send what waits, then ``notice``, then the close frame; idempotent."""
        if self.state is State.CLOSED or self.disconnect is not None:
            return
        self.disconnect, self.notice = disconnect, notice
        if disconnect.code == DisconnectCode.SLOW:
            # What waits is why it is cut, and the log has it for those who come back.
            self.queue.clear()
        loop = asyncio.get_running_loop()
        self.give_up = loop.call_later(self.settings.close_timeout_seconds, self._give_up)
        self._interrupt()

    # The endpoint's side

    async def deny(self, status: int, message: str) -> None:
        """Answer the handshake with an HTTP status and a JSON body, instead of a socket.

        A server without the ASGI extension ``websocket.http.response`` answers a bare 403.
        """
        await self.receive()
        self.state = State.CLOSED
        if "websocket.http.response" not in (self.scope.get("extensions") or {}):
            await self.send({"type": "websocket.close", "code": 1000, "reason": ""})
            return
        body = json.dumps({"detail": message}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ]
        await self.send(
            {"type": "websocket.http.response.start", "status": status, "headers": headers}
        )
        await self.send({"type": "websocket.http.response.body", "body": body})

    async def refuse(self, disconnect: Disconnect, *, notice: str | bytes | None) -> None:
        """Accept, so that a browser can learn why, say why, and close."""
        self.close(disconnect, notice=notice)
        try:
            if await self._accept():
                await self._close()
        finally:
            self._stop()

    async def run(self, receiver: Receiver) -> None:
        """Carry messages until either side ends the link.

        ``receiver.receive_eof`` is called once, last, also under cancellation.
        """
        self.receiver = receiver
        try:
            if await self._accept():
                if self.pings is not None:
                    self.pings.add(self)
                await self._read(receiver)
                await self._close()
        finally:
            if self.pings is not None:
                self.pings.remove(self)
            self._stop()
            await _finish(receiver.receive_eof())

    async def _accept(self) -> bool:
        """Complete the handshake; false when the peer is gone already."""
        if not self.is_accepted:
            message = await self.receive()
            if message["type"] != "websocket.connect":
                return False
            try:
                await self.send({"type": "websocket.accept", "subprotocol": self.subprotocol})
            except Exception as error:  # noqa: BLE001 - see `drain`
                logger.debug("the peer left during the handshake: %r", error)
                return False
            self.is_accepted = True
        self.state = State.OPEN
        if self.queue:
            self._offer()
        return True

    async def _read(self, receiver: Receiver) -> None:
        """Hand the peer's messages over, until it is gone or a close was decided."""
        try:
            async with asyncio.timeout(None) as self.reading:
                await _finish(receiver.receive_open())
                while self.disconnect is None and self.state is State.OPEN:
                    self.is_waiting = True
                    message = await self.receive()
                    self.is_waiting = False
                    if message["type"] == "websocket.disconnect":
                        self.state = State.CLOSED
                    elif self.disconnect is None:
                        await self._dispatch(receiver, message)
        except TimeoutError:
            # Either `_interrupt` ended the wait for input, or a handler let a time-out of its own
            # escape.
            assert self.reading is not None
            if not self.reading.expired():
                raise
        finally:
            self.is_waiting = False

    async def _close(self) -> None:
        """Send what waits and the last words, then see the peer's end, all within the bound.

        Granian sends no close frame while somebody waits for input, and drops the link when the
        endpoint returns before the peer has answered; so both happen here, one after the other.
        """
        if self.disconnect is None or self.give_up is None or self.state is State.CLOSED:
            return
        try:
            async with asyncio.timeout_at(self.give_up.when()):
                if self.is_offered:
                    self.drained = asyncio.get_running_loop().create_future()
                    await self.drained
                await self._send_close(self.disconnect)
                self.state = State.CLOSED
                while (await self.receive())["type"] != "websocket.disconnect":
                    pass
        except TimeoutError:
            self._give_up()
        except Exception as error:  # noqa: BLE001 - see `drain`
            logger.debug("the peer left while it was closed: %r", error)

    async def _dispatch(self, receiver: Receiver, message: Message) -> None:
        """Hand over one message, within the bound of bytes."""
        text, data = message.get("text"), message.get("bytes") or b""
        size = len(data) if text is None else len(text)
        limit = self.settings.message_bytes_max
        if text is not None and size * 4 > limit:
            size = len(text.encode())
        if size > limit:
            reason = f"message has {size} bytes, limit {limit}"
            receiver.close(Disconnect(DisconnectCode.MESSAGE_TOO_BIG, reason))
        elif text is not None:
            await _finish(receiver.receive_text(text))
        else:
            await _finish(receiver.receive_bytes(data))

    # The ring's side

    def send_ping(self) -> None:
        """Have the receiver ping; a ping frame is the server's own."""
        self.unheard_since = None
        if self.receiver is not None and self.state is State.OPEN and self.is_writable:
            self.receiver.send_ping()

    def handle_silence(self) -> None:
        """Do nothing: whoever pings has time-outs of its own."""

    # Inside

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
        if self.state is not State.OPEN:
            return
        self.writer = writer
        queue, send = self.queue, self.send
        try:
            while queue:
                frames = queue.popleft()
                for message in frames.messages:
                    await send(_message(message))
                self.queued_bytes -= frames.byte_count + MESSAGE_BYTES * len(frames.messages)
        except Exception as error:  # noqa: BLE001
            # Servers and frameworks raise what they like for a peer that is gone.
            logger.debug("the peer does not take messages any more: %r", error)
            self.state = State.CLOSED
            self._interrupt()
        finally:
            self.writer = None
            self.is_offered = False
            if self.state is State.OPEN and self.receiver is not None:
                self.receiver.receive_writable()
            if self.drained is not None and not self.drained.done():
                self.drained.set_result(None)

    async def _send_close(self, disconnect: Disconnect) -> None:
        """Say the last words."""
        if self.notice is not None:
            await self.send(_message(self.notice))
        await self.send(
            {"type": "websocket.close", "code": disconnect.code, "reason": disconnect.reason}
        )

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
        has_ended = self.state is State.CLOSED or self.disconnect is not None
        self.state = State.CLOSED
        self.queue.clear()
        if self.writer is not None:
            self.writer.cancel()
        if has_ended and self.is_accepted and not self.has_given_up:
            self._plan_abort()
        if self.give_up is not None:
            self.give_up.cancel()

    def _plan_abort(self) -> None:
        """Have the link dropped that has ended for us and may still hold what its peer never reads.

        Uvicorn reports its end as soon as it has sent the close frame, and a transport that closes
        waits for its buffer as long as the peer's system acknowledges anything: for ever. Not of
        this object: only the transport is kept so long.
        """
        if self.abort is None:
            return
        loop = asyncio.get_running_loop()
        at = loop.time() + self.settings.close_timeout_seconds
        loop.call_at(at if self.give_up is None else self.give_up.when(), self.abort)


async def _finish(work: Awaitable[None] | None) -> None:
    """Wait for what a receiver could not do at once."""
    if work is not None:
        await work


def _message(message: str | bytes) -> Message:
    """Create the event that sends a text or a binary message."""
    kind = "text" if isinstance(message, str) else "bytes"
    return {"type": "websocket.send", kind: message}
