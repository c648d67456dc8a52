"""Uvicorn's WebSocket protocol class: ASGI for any application, and sockets that are taken over.

Strategy: until an application says otherwise the class speaks the ASGI specification (WebSocket,
version 2.4) for one endpoint, and uvicorn's flags are the limits. An endpoint that finds
``wirebell.takeover`` in its scope may have the accepted socket taken over: then the loop's protocol
is exchanged, this object and everything ASGI is forgotten, and the endpoint returns.

Invariants: what is sent after the close frame is an error of the application; ``receive`` never
waits for a peer that is gone; the application never holds more than ``ws_max_queue`` messages that
it did not receive.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
from collections import deque
from collections.abc import MutableMapping
from enum import Enum
from typing import Any, cast
from urllib.parse import quote, unquote

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.utils import ClientDisconnected, get_local_addr, get_remote_addr, is_ssl
from uvicorn.server import ServerState

from wirebell.errors import DisconnectCode
from wirebell.process import PROCESS
from wirebell.takeover import LiveSocket, Successor, TakenSocket
from wirebell.uvicorn.host import ServerHost, host_of
from wirebell.websocket.deflate import Deflate, compress, negotiate
from wirebell.websocket.frames import (
    Close,
    Event,
    Failure,
    FrameReader,
    Opcode,
    Ping,
    encode_close,
    encode_frame,
)
from wirebell.websocket.handshake import (
    HandshakeError,
    RequestReader,
    Upgrade,
    check_upgrade,
    encode_accept,
    encode_response,
)

__all__ = ("WebSocketProtocol",)

logger = logging.getLogger("uvicorn.error")

Message = MutableMapping[str, Any]  # of ASGI: a dictionary of its specification

ABNORMAL = 1006
SHUTTING_DOWN = "the server is shutting down"
# As uvicorn's own classes: time for the peer to answer a close frame.
CLOSE_TIMEOUT_SECONDS = 10.0
# Input that waits for the application, in bytes: past it the socket is not read any more.
INBOX_BYTES_MAX = 65_536


class State(Enum):
    """How far a socket has come."""

    HANDSHAKE = "handshake"
    """The request is being read."""
    CONNECTING = "connecting"
    """The application decides."""
    DENYING = "denying"
    """The application answers with an HTTP response."""
    OPEN = "open"
    """Messages flow."""
    CLOSING = "closing"
    """We sent a close frame; the peer's is awaited."""
    CLOSED = "closed"
    """The handshake was refused, both sides said goodbye, or the socket is gone."""
    TAKEN = "taken"
    """Another protocol has the socket."""


WAITING = frozenset((State.CONNECTING, State.DENYING, State.OPEN))


class WebSocketProtocol(LiveSocket[ServerHost]):
    """One WebSocket of uvicorn: ``--ws wirebell.uvicorn:WebSocketProtocol``.

    Mutable state: how far the socket has come, messages that the application has not received, and
    the answer of a denial.

    Args:
        config: Uvicorn's.
        server_state: What the server shares among its connections.
        app_state: The lifespan's state.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        if not config.loaded:
            config.load()
        host = host_of(config, server_state)
        super().__init__(host, host.ring)
        self.config = config
        self.server_state = server_state
        self.app_state = app_state
        self.loop = _loop or asyncio.get_event_loop()
        self.state = State.HANDSHAKE
        self.request_reader: RequestReader | None = RequestReader()
        self.reader = FrameReader(config.ws_max_size)
        self.upgrade: Upgrade | None = None
        self.scope: Message = {}
        self.may_compress = config.ws_per_message_deflate
        self.deflate: Deflate | None = None
        self.has_connected = False
        self.has_said_end = False
        self.early = b""
        self.inbox: deque[str | bytes] = deque()
        self.inbox_bytes = 0
        self.arrival: asyncio.Future[None] | None = None
        self.writable: asyncio.Future[None] | None = None
        self.denial: tuple[int, list[tuple[bytes, bytes]], bytearray] | None = None
        self.ending: Message = {"type": "websocket.disconnect", "code": ABNORMAL, "reason": ""}

    # The loop's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to read the request."""
        # uvloop's transports are no subclasses of asyncio's.
        self.transport = cast(asyncio.Transport, transport)
        self.host.connections.add(self)
        former = self.transport.get_protocol()
        if isinstance(former, HttpToolsProtocol):
            # It and its parser hold each other: 4 KB of every link, until all is collected. It lets
            # go of it in the same way when a link is lost.
            former.parser = None  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Read the request, then frames."""
        self.unheard_since = None
        if self.request_reader is not None:
            self._receive_request(self.request_reader, data)
            return
        if self.state in {State.CONNECTING, State.DENYING}:
            self._keep_early(data)
            return
        for event in self.reader.receive_data(data):
            self._receive(event)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the application, and wake it where it waits."""
        super().connection_lost(exc)
        if self.state is not State.TAKEN:
            self.state = State.CLOSED
        _wake(self.arrival)
        _wake(self.writable)

    def resume_writing(self) -> None:
        """Let the application go on, which waits before it sends while the peer does not read."""
        super().resume_writing()
        _wake(self.writable)

    def shutdown(self) -> None:
        """Close within the drain's window; called by uvicorn when it stops."""
        self.host.is_draining = True
        if self.state in {State.HANDSHAKE, State.CONNECTING, State.DENYING}:
            self._refuse(503, SHUTTING_DOWN, [(b"retry-after", b"1")])
        else:
            self.host.plan_drain(self._drain)

    # The ring's side

    @property
    def is_open(self) -> bool:
        """Whether frames may be sent."""
        return self.state is State.OPEN

    def drop_silent(self) -> None:
        """Give a peer up that did not answer, with the code of uvicorn's own classes."""
        if self.state is State.OPEN:
            self._send_close(DisconnectCode.INTERNAL_ERROR, "keepalive ping timeout")
        self.transport.close()

    # The handshake

    def _receive_request(self, reader: RequestReader, data: bytes) -> None:
        """Read the request; ask the application when it is whole and good."""
        try:
            request = reader.receive_data(data)
            if request is None:
                return
            self.request_reader = None
            self.upgrade = check_upgrade(request)
        except HandshakeError as error:
            self._refuse(error.status, error.message, error.headers)
            return
        if self.host.is_draining:
            # A link that was still being made when the stop began: nobody would tell it.
            self._refuse(503, SHUTTING_DOWN, [(b"retry-after", b"1")])
            return
        if not self.host.has_descriptor(self.transport):
            PROCESS.descriptors_refused_count += 1
            message = "the server is out of file descriptors, try again later"
            self._refuse(503, message, [(b"retry-after", b"5")])
            return
        self.state = State.CONNECTING
        self.scope = self._create_scope(request.target, request.headers, self.upgrade)
        # As uvicorn: the option keeps an application from seeing the lifespan's context variables.
        is_fresh = getattr(self.config, "reset_contextvars", False)  # since uvicorn 0.53
        context = contextvars.Context() if is_fresh else None
        task = self.loop.create_task(self._run_application(), context=context)
        self.host.tasks.add(task)
        task.add_done_callback(self._finish)
        if reader.rest:
            self.data_received(reader.rest)

    def _create_scope(
        self, target: bytes, headers: list[tuple[bytes, bytes]], upgrade: Upgrade
    ) -> Message:
        """Describe the connection as ASGI does."""
        raw_path, _, query = target.partition(b"?")
        root_path = self.config.root_path
        return {
            "type": "websocket",
            "asgi": {"version": self.config.asgi_version, "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "wss" if is_ssl(self.transport) else "ws",
            "server": get_local_addr(self.transport),
            "client": get_remote_addr(self.transport),
            "root_path": root_path,
            "path": root_path + unquote(raw_path.decode("latin-1")),
            "raw_path": root_path.encode() + raw_path,
            "query_string": query,
            "headers": headers,
            "subprotocols": upgrade.subprotocols,
            "state": self.app_state.copy(),
            "extensions": {"websocket.http.response": {}, "wirebell.takeover": self},
        }

    def _refuse(self, status: int, message: str, headers: list[tuple[bytes, bytes]]) -> None:
        """Answer the handshake with an HTTP status of our own."""
        body = json.dumps({"detail": message}).encode()
        self._respond(status, [(b"content-type", b"application/json"), *headers], body)

    def _respond(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        """Answer the handshake with an HTTP response, and close."""
        response = encode_response(status, [*self.server_state.default_headers, *headers], body)
        self._log(str(status))
        self.state = State.CLOSED
        self.request_reader = None
        self.transport.write(response)
        self.transport.close()
        # A peer that does not read its answer must not stay for ever.
        self.plan_abort(CLOSE_TIMEOUT_SECONDS)
        _wake(self.arrival)

    def _log(self, outcome: str) -> None:
        """Say how a handshake ended, in uvicorn's words."""
        if self.scope and self.config.access_log and logger.isEnabledFor(logging.INFO):
            client = self.scope["client"]
            path = quote(self.scope["path"])
            if self.scope["query_string"]:
                path += "?" + self.scope["query_string"].decode("ascii", "backslashreplace")
            address = "%s:%d" % client if client else ""  # noqa: UP031 - two values of a tuple
            logger.info('%s - "WebSocket %s" %s', address, path, outcome)

    def _keep_early(self, data: bytes) -> None:
        """Keep frames that came before the answer, which no client should send; bounded."""
        self.early += data
        if len(self.early) >= INBOX_BYTES_MAX:
            self.transport.pause_reading()

    # The application

    async def _run_application(self) -> None:
        """Call the application, and end what it left open."""
        application: Any = self.config.loaded_app
        try:
            await application(self.scope, self._asgi_receive, self._asgi_send)
        except ClientDisconnected:
            pass
        except Exception:
            logger.exception("Exception in ASGI application\n")
            self._end(DisconnectCode.INTERNAL_ERROR)
        else:
            if self.state in {State.CONNECTING, State.DENYING}:
                logger.error("ASGI callable returned without completing handshake.")
            self._end(1000)

    def _end(self, code: int) -> None:
        """End a socket whose application is done."""
        if self.state in {State.CONNECTING, State.DENYING}:
            self._respond(500, [(b"content-type", b"text/plain")], b"Internal Server Error")
        elif self.state is State.OPEN:
            self._send_close(code, "")

    def _finish(self, task: asyncio.Task[None]) -> None:
        """Let go of the application; one that was cancelled leaves its socket."""
        self.host.tasks.discard(task)
        if task.cancelled() and self.state is not State.TAKEN:
            self.transport.abort()
        self.scope = {}

    async def _asgi_receive(self) -> Message:
        """Give the application the next message; once the socket has ended, always its end."""
        if not self.has_connected:
            self.has_connected = True
            return {"type": "websocket.connect"}
        while not self.inbox and self.state in WAITING:
            if self.arrival is None or self.arrival.done():
                self.arrival = self.loop.create_future()
            # Several may wait, and one that gives up must not take it from the others.
            await asyncio.shield(self.arrival)
        if not self.inbox:
            return self.ending
        message = self.inbox.popleft()
        self.inbox_bytes -= len(message)
        if not self.inbox and not self.transport.is_closing():
            self.transport.resume_reading()
        if isinstance(message, str):
            return {"type": "websocket.receive", "text": message}
        return {"type": "websocket.receive", "bytes": message}

    async def _asgi_send(self, message: Message) -> None:
        """Take a message of the application; waits while the peer does not read.

        Raises:
            ClientDisconnected: The peer is gone (an `OSError`, as ASGI 2.4 has it).
            RuntimeError: The application sends what it may not send now.
        """
        while self.is_paused and self.state in WAITING:
            if self.writable is None or self.writable.done():
                self.writable = self.loop.create_future()
            await asyncio.shield(self.writable)
        kind = message["type"]
        if self.state is State.CONNECTING:
            self._decide(kind, message)
        elif self.state is State.DENYING:
            self._deny(kind, message)
        elif self.state is State.OPEN:
            self._send(kind, message)
        elif self.has_said_end:
            raise RuntimeError(f"Unexpected ASGI message {kind!r}, after the socket was closed.")
        else:
            raise ClientDisconnected

    def _decide(self, kind: str, message: Message) -> None:
        """Accept the socket, or begin to refuse it."""
        if kind == "websocket.accept":
            self._accept(message.get("subprotocol"), list(message.get("headers") or ()))
        elif kind == "websocket.close":
            self.has_said_end = True
            self._respond(403, [(b"content-type", b"text/plain")], b"")
        elif kind == "websocket.http.response.start":
            status = message["status"]
            if not 200 <= status < 600:
                raise RuntimeError(f"a denial has a status of 200 to 599, got {status}")
            self.denial = (status, list(message.get("headers") or ()), bytearray())
            self.state = State.DENYING
        else:
            raise RuntimeError(
                "Expected ASGI message 'websocket.accept', 'websocket.close' or "
                f"'websocket.http.response.start', got {kind!r}."
            )

    def _accept(self, subprotocol: str | None, headers: list[tuple[bytes, bytes]]) -> None:
        """Answer 101, with compression where both sides want it."""
        assert self.upgrade is not None
        extension = None
        agreed = negotiate(self.upgrade.extensions) if self.may_compress else None
        if agreed is not None:
            self.deflate, extension = agreed
            bits = self.deflate.client_window_bits
            self.reader = FrameReader(self.config.ws_max_size, inflates=True, window_bits=bits)
        response = encode_accept(
            self.upgrade,
            headers=[*self.server_state.default_headers, *headers],
            subprotocol=subprotocol or None,
            extension=extension,
        )
        self.state = State.OPEN
        self.transport.write(response)
        self._log("[accepted]")
        self.start_pings()
        self.host.start_pings()
        if self.early:
            early, self.early = self.early, b""
            self.transport.resume_reading()
            self.data_received(early)

    def _deny(self, kind: str, message: Message) -> None:
        """Take the body of a denial, and answer when it is whole."""
        if kind != "websocket.http.response.body":
            raise RuntimeError(
                f"Expected ASGI message 'websocket.http.response.body', got {kind!r}."
            )
        assert self.denial is not None
        status, headers, body = self.denial
        body += message.get("body") or b""
        if not message.get("more_body", False):
            self.has_said_end = True
            self._respond(status, headers, bytes(body))

    def _send(self, kind: str, message: Message) -> None:
        """Send a message, or close."""
        if kind == "websocket.send":
            data, text = message.get("bytes"), message.get("text")
            if data is not None:
                self._write(Opcode.BINARY, data)
            elif text is not None:
                self._write(Opcode.TEXT, text.encode())
        elif kind == "websocket.close":
            code = message.get("code") or 1000
            reason = message.get("reason") or ""
            self._send_close(code, reason)
            self._set_ending(code, reason)
            self.has_said_end = True
        else:
            raise RuntimeError(
                f"Expected ASGI message 'websocket.send' or 'websocket.close', got {kind!r}."
            )

    def _write(self, opcode: Opcode, payload: bytes) -> None:
        """Frame a message, compressed where that was agreed."""
        if self.deflate is None:
            self.transport.write(encode_frame(opcode, payload))
        else:
            compressed = compress(payload, self.deflate.server_window_bits)
            self.transport.write(encode_frame(opcode, compressed, is_compressed=True))

    # Frames

    def _receive(self, event: Event) -> None:
        """Take what the peer sent."""
        if isinstance(event, str | bytes):
            self._keep(event)
        elif isinstance(event, Ping):
            self.receive_ping(event.data)
        elif isinstance(event, Failure):
            if self.state is State.OPEN:
                self._set_ending(event.code, event.reason)
                self._send_close(event.code, event.reason)
            self.linger()
        elif isinstance(event, Close):
            if self.state is State.OPEN:
                self._set_ending(event.code, event.reason)
                self._send_close(event.code, "")
            self.state = State.CLOSED
            self.transport.close()

    def _keep(self, message: str | bytes) -> None:
        """Have a message wait for the application; past a bound the peer is not read any more."""
        if self.state is not State.OPEN:
            return
        self.inbox.append(message)
        self.inbox_bytes += len(message)
        if len(self.inbox) >= self.config.ws_max_queue or self.inbox_bytes >= INBOX_BYTES_MAX:
            self.transport.pause_reading()
        _wake(self.arrival)

    def _set_ending(self, code: int, reason: str) -> None:
        """Remember how the socket ended, for the application."""
        self.ending = {"type": "websocket.disconnect", "code": code, "reason": reason}

    def _send_close(
        self, code: int, reason: str, timeout_seconds: float = CLOSE_TIMEOUT_SECONDS
    ) -> None:
        """Send the close frame; the peer has a while to answer it."""
        frame = encode_close(code, reason)
        self.state = State.CLOSING
        self.transport.write(frame)
        self.transport.resume_reading()
        self.plan_abort(timeout_seconds)
        _wake(self.arrival)
        _wake(self.writable)

    def _drain(self) -> None:
        """Close because the server stops."""
        if self.state is State.OPEN:
            self._set_ending(DisconnectCode.SERVICE_RESTART, "")
            timeout = self.host.drain_timeout_seconds
            self._send_close(DisconnectCode.SERVICE_RESTART, "", timeout)

    # The extension `wirebell.takeover.Takeover`

    def offer_compression(self, *, is_offered: bool) -> None:
        """Say whether permessage-deflate may be negotiated; before the socket is accepted."""
        self.may_compress = is_offered

    def take_over(self, successor: Successor) -> TakenSocket | None:
        """Make ``successor`` the protocol of an accepted socket; ``None`` when it has closed."""
        if self.state is not State.OPEN or self.transport.is_closing():
            return None
        self.state = State.TAKEN
        self.stop_pings()
        self.host.connections.discard(self)
        self.host.connections.add(successor)
        self.transport.set_protocol(successor)
        self.transport.resume_reading()
        events: list[Event] = list(self.inbox)
        self.inbox.clear()
        # Whoever still waits learns that there is nothing to wait for any more.
        _wake(self.arrival)
        _wake(self.writable)
        if self.host.is_draining:
            self.loop.call_soon(successor.shutdown)
        return TakenSocket(
            self.transport, self.reader, self.deflate, events, self.is_paused, self.late_pong
        )


def _wake(waiter: asyncio.Future[None] | None) -> None:
    """Let go whoever waits."""
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
