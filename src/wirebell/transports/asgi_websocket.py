"""A WebSocket behind any ASGI server: uvicorn with each of its classes, hypercorn, granian.

Strategy: that of `wirebell.portable`; each message is one of ASGI's. Source: ASGI specification,
WebSocket section 2.4.

Invariants: after the close message nothing is sent; ``run`` and ``refuse`` end within
``close_timeout_seconds`` of a ``close``, whatever the peer does.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable

from wirebell.errors import Disconnect, DisconnectCode
from wirebell.interfaces import Receiver
from wirebell.liveness import PingRing
from wirebell.portable import (
    Message,
    PortableCarrier,
    Receive,
    Send,
    State,
    Writers,
    finish,
    measure,
)
from wirebell.settings import Settings

__all__ = ("ASGIWebSocket",)

logger = logging.getLogger(__name__)


class ASGIWebSocket(PortableCarrier):
    """A WebSocket over ASGI's ``receive`` and ``send``.

    Mutable state: that of `PortableCarrier`. What is written before the handshake is answered
    waits.

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

    __slots__ = ("is_accepted", "scope", "subprotocol")

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
        super().__init__(receive, send, settings, writers, pings=pings, abort=abort)
        self.scope = scope
        self.is_accepted = is_accepted
        self.subprotocol = subprotocol

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
                await self._end()
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
                await self._serve(self._read(receiver))
                await self._end()
        finally:
            if self.pings is not None:
                self.pings.remove(self)
            self._stop()
            await finish(receiver.receive_eof())

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
        await self._handle(receiver.receive_open())
        while not self.is_ending:
            message = await self._wait_input()
            if message["type"] == "websocket.disconnect":
                self.state = State.CLOSED
            elif not self.is_ending:
                await self._handle(self._hand_over(receiver, message))

    def _hand_over(self, receiver: Receiver, message: Message) -> Awaitable[None] | None:
        """Hand over one message, within the bound of bytes."""
        text, data = message.get("text"), message.get("bytes") or b""
        size = len(data) if text is None else len(text)
        limit = self.settings.message_bytes_max
        if text is not None and size * 4 > limit:
            size = len(text.encode())
        if size > limit:
            reason = f"message has {size} bytes, limit {limit}"
            receiver.close(Disconnect(DisconnectCode.MESSAGE_TOO_BIG, reason))
            return None
        return receiver.receive_bytes(data) if text is None else receiver.receive_text(text)

    # What `PortableCarrier` asks for

    async def _send_queued(self) -> None:
        """Send the messages of the oldest frames."""
        frames = self.queue.popleft()
        for message in frames.messages:
            await self.send(_message(message))
            self.piece_count += 1
        self.queued_bytes -= measure(frames)

    async def _send_last(self) -> None:
        """Say why, and send the close frame."""
        if self.notice is not None:
            await self.send(_message(self.notice))
        if self.disconnect is not None:
            code, reason = self.disconnect.code, self.disconnect.reason
            await self.send({"type": "websocket.close", "code": code, "reason": reason})

    async def _wait_end(self) -> None:
        """Wait for the peer's close frame.

        Granian sends no close frame while somebody waits for input, and drops the link when the
        endpoint returns before the peer has answered; so this comes behind the last words.
        """
        while (await self._receive())["type"] != "websocket.disconnect":
            pass

    def _stop(self) -> None:
        """Write nothing more, and have a link dropped that does not end."""
        has_ended = self.is_ending
        super()._stop()
        if has_ended and self.is_accepted and not self.has_given_up:
            self._plan_abort()

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


def _message(message: str | bytes) -> Message:
    """Create the event that sends a text or a binary message."""
    kind = "text" if isinstance(message, str) else "bytes"
    return {"type": "websocket.send", kind: message}
