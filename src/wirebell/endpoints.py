"""The client protocol over HTTP: one plain ASGI application for each endpoint.

An endpoint reads the request, makes a carrier for the response, has a `Connector` join it with a
receiver, and runs it. Statuses and headers are those of the recorded server, except that a foreign
Origin is refused everywhere. Source: protocol document, sections 1.2, 1.10, 1.11 and 1.16.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import parse_qsl

from wirebell.errors import BadRequest, HandshakeError
from wirebell.interfaces import Receiver
from wirebell.liveness import PingRing
from wirebell.options import (
    ConnectResponse,
    EmulationOptions,
    StreamOptions,
    UnidirectionalStreamOptions,
)
from wirebell.portable import Writers
from wirebell.protocol import find_protobuf
from wirebell.protocol.codec import Codec
from wirebell.protocol.framing import (
    NDJSON,
    SSE as SSE_FRAMING,
    VARINT,
    EventStream,
    Framing,
)
from wirebell.protocol.json import JSON
from wirebell.protocol.sse import EventIds, read_event_id, resume
from wirebell.settings import Settings
from wirebell.transports.http_stream import Headers, HTTPStream, Streams

__all__ = (
    "SSE",
    "AllowOrigin",
    "Connector",
    "Deliver",
    "Emulation",
    "HTTPStreaming",
    "Handshake",
    "StreamHost",
    "UniHTTPStream",
    "UniSSE",
)

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

AllowOrigin = Callable[[Scope], str | None]
"""Takes a scope; returns the Origin to allow (empty for a request without one). Refuses with
``None``, or by raising a `wirebell.errors.HandshakeError` whose words the peer is told."""

Deliver = Callable[[str, str, bytes, bool], Awaitable[bool]]
"""As `wirebell.transports.emulation.Sessions.deliver`; may ask another node."""

BINARY = "application/octet-stream"
PREFLIGHT_SECONDS = 300
QUERY_FIELDS_MAX = 100
WHITE_SPACE = " \t\r\n"


@dataclass(frozen=True, slots=True)
class Handshake:
    """What a peer's request says before it is read as the protocol.

    Attributes:
        scope: The request's, for the address and the headers.
        is_binary: Protobuf; otherwise JSON.
        is_unidirectional: The first message is a ConnectRequest and there is no other.
    """

    scope: Scope
    is_binary: bool
    is_unidirectional: bool


class Connector(Protocol):
    """Joins carriers with receivers."""

    async def connect(self, carrier: HTTPStream, handshake: Handshake) -> Receiver | None:
        """Admit a peer.

        Returns:
            Who takes its messages, the first of which follows at once; ``None`` when the carrier
            was closed or refused instead.

        Raises:
            HandshakeError: It is answered with that status.
        """


@dataclass(frozen=True, slots=True)
class StreamHost:
    """What all streams of an application share.

    Attributes:
        settings: Bounds and time-outs.
        writers: The tasks that write.
        streams: Those that are open.
        pings: Returns the running node's ring.
        allow_origin: Decides who may ask.
        connector: Joins carriers with receivers.
    """

    settings: Settings
    writers: Writers
    streams: Streams
    pings: Callable[[], PingRing]
    allow_origin: AllowOrigin
    connector: Connector


@dataclass(slots=True)
class Request:
    """One HTTP request, and its answer where that is no stream.

    Args:
        scope: ASGI's.
        receive: The server's.
        send: The server's.
        headers: Of every answer.
    """

    scope: Scope
    receive: Receive
    send: Send
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)

    @property
    def method(self) -> str:
        """The method, in capitals."""
        return str(self.scope["method"])

    def find_header(self, name: bytes) -> str | None:
        """Return a header's value, the last one where there are several."""
        found = None
        for key, value in self.scope["headers"]:
            if key == name:
                found = value
        return None if found is None else found.decode("latin-1")

    def find_query(self, name: str) -> str | None:
        """Return a field of the query, the first one where there are several.

        Raises:
            HandshakeError: 400: The query cannot be read.
        """
        try:
            pairs = parse_qsl(
                self.scope["query_string"].decode("latin-1"),
                keep_blank_values=True,
                max_num_fields=QUERY_FIELDS_MAX,
            )
        except ValueError as error:
            raise HandshakeError(400, "the query cannot be read") from error
        return next((value for key, value in pairs if key == name), None)

    async def read_body(self, bytes_max: int, seconds_max: float) -> bytes | None:
        """Return the whole body; ``None`` when the peer left.

        Args:
            bytes_max: Longest body.
            seconds_max: Longest time for it to come; 0 is no limit.

        Raises:
            HandshakeError: 413 for a body that is longer; 408 for one that takes longer.
        """
        length = self.find_header(b"content-length")
        if length is not None and length.isdecimal() and int(length[:20]) > bytes_max:
            raise HandshakeError(413, f"the body has more than {bytes_max} bytes")
        parts, size = [], 0
        try:
            async with asyncio.timeout(seconds_max or None):
                while True:
                    message = await self.receive()
                    if message["type"] == "http.disconnect":
                        return None
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > bytes_max:
                        raise HandshakeError(413, f"the body has more than {bytes_max} bytes")
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise HandshakeError(408, f"no body within {seconds_max:g} seconds") from None

    async def answer(self, status: int, body: bytes = b"", *, headers: Headers = ()) -> None:
        """Answer, and that is all."""
        length = [] if status == 204 else [(b"content-length", str(len(body)).encode())]
        await self.send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [*self.headers, *headers, *length],
            }
        )
        await self.send({"type": "http.response.body", "body": body})

    async def answer_text(self, status: int, text: str) -> None:
        """Answer in words for a person."""
        content_type = (b"content-type", b"text/plain; charset=utf-8")
        await self.answer(status, text.encode(), headers=[content_type])


class Endpoint:
    """An ASGI application that answers what all endpoints answer alike.

    Args:
        allow_origin: Decides who may ask.
        settings: Time for a body.
        body_bytes_max: Longest body.
    """

    methods: tuple[str, ...] = ("POST",)
    """Which requests are served; OPTIONS is answered here."""

    def __init__(
        self, allow_origin: AllowOrigin, settings: Settings, *, body_bytes_max: int
    ) -> None:
        self.allow_origin = allow_origin
        self.settings = settings
        self.body_bytes_max = body_bytes_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            # A WebSocket: closing it before it is accepted answers 403.
            await receive()
            await send({"type": "websocket.close", "code": 1000, "reason": ""})
            return
        request = Request(scope, receive, send)
        try:
            origin = self.allow_origin(scope)
        except HandshakeError as error:
            await request.answer_text(error.status, error.message)
            return
        if origin is None:
            await self._refuse_origin(request)
            return
        request.headers = [
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"access-control-allow-credentials", b"true"),
        ]
        if request.method == "OPTIONS":
            requested = request.find_header(b"access-control-request-headers")
            if requested:
                request.headers.append(
                    (b"access-control-allow-headers", requested.encode("latin-1"))
                )
        await self._dispatch(request)

    async def serve(self, request: Request) -> None:
        """Serve a request with one of `methods`.

        Raises:
            HandshakeError: It is answered with that status and, as recorded, without a body.
        """
        raise NotImplementedError

    async def _dispatch(self, request: Request) -> None:
        """Go by the method."""
        allowed = ", ".join(self.methods).encode()
        if request.method not in self.methods:
            await request.answer(405, headers=[(b"allow", allowed)])
        elif request.method == "OPTIONS":
            await request.answer(
                204,
                headers=[
                    (b"access-control-allow-methods", allowed),
                    (b"access-control-max-age", str(PREFLIGHT_SECONDS).encode()),
                ],
            )
        else:
            try:
                await self.serve(request)
            except HandshakeError as error:
                logger.info("a request was refused: %s", error.message)
                await request.answer(error.status, headers=error.headers)

    async def _read_body(self, request: Request) -> bytes | None:
        """Read the body within its bounds."""
        return await request.read_body(self.body_bytes_max, self.settings.request_timeout_seconds)

    async def _refuse_origin(self, request: Request) -> None:
        """Refuse the page of a foreign Origin, and say what allows it."""
        origin = request.find_header(b"origin")
        reason = f"origin {origin!r:.80} is not allowed; set WIREBELL_ALLOWED_ORIGINS"
        host = request.find_header(b"host")
        logger.warning("refused a request to host %r: %s", host, reason)
        await request.answer_text(403, reason)


class StreamEndpoint(Endpoint):
    """An endpoint whose answer is a stream.

    Args:
        host: What all streams share.
        options: Of this transport.
    """

    is_unidirectional = False

    def __init__(self, host: StreamHost, options: StreamOptions) -> None:
        super().__init__(host.allow_origin, host.settings, body_bytes_max=options.body_bytes_max)
        self.host = host
        self.connect_responses: Mapping[int, ConnectResponse] | None = None

    async def serve(self, request: Request) -> None:
        """Read what the peer says first, and carry what it is told."""
        first = await self.read_first(request)
        if first is None:
            return
        is_binary = isinstance(first, bytes)
        carrier = HTTPStream(
            request.receive,
            request.send,
            self.settings,
            self.host.writers,
            self.create_framing(request, is_binary=is_binary),
            self.host.streams,
            self.host.pings(),
            headers=request.headers,
            connect_responses=self.connect_responses,
        )
        handshake = Handshake(request.scope, is_binary, self.is_unidirectional)
        receiver = await self.host.connector.connect(carrier, handshake)
        if receiver is None:
            await carrier.finish()
        else:
            await carrier.run(receiver, first)

    async def read_first(self, request: Request) -> str | bytes | None:
        """Return what the peer says with the request; ``None`` when it has left.

        Raises:
            HandshakeError: It cannot be taken.
        """
        raise NotImplementedError

    def create_framing(self, request: Request, *, is_binary: bool) -> Framing:
        """Return how messages are told apart in the answer."""
        raise NotImplementedError

    def _find_connect(self, request: Request) -> str | None:
        """Return what a GET says."""
        connect = request.find_query("cf_connect")
        if connect is not None and len(connect.encode()) > self.body_bytes_max:
            raise HandshakeError(413, f"cf_connect has more than {self.body_bytes_max} bytes")
        return connect


class SSE(StreamEndpoint):
    """Commands by ``cf_connect`` of a GET or by POST, replies and pushes as server-sent events."""

    methods: tuple[str, ...] = ("GET", "POST")

    async def read_first(self, request: Request) -> str | None:
        """Return the first commands; a GET without any is answered 400."""
        if request.method == "POST":
            body = await self._read_body(request)
            return None if body is None else body.decode(errors="replace")
        connect = self._find_connect(request)
        if not connect:
            raise HandshakeError(400, "cf_connect is missing")
        return connect

    def create_framing(self, request: Request, *, is_binary: bool) -> Framing:
        """Return server-sent events."""
        del request, is_binary
        return SSE_FRAMING


class HTTPStreaming(StreamEndpoint):
    """Commands by POST, replies and pushes as lines, or as protobuf when the commands are."""

    methods: tuple[str, ...] = ("POST", "OPTIONS")

    async def read_first(self, request: Request) -> str | bytes | None:
        """Return the first commands."""
        body = await self._read_body(request)
        if body is None or _is_binary(request):
            return body
        return body.decode(errors="replace")

    def create_framing(self, request: Request, *, is_binary: bool) -> Framing:
        """Return lines, or protobuf."""
        del request
        return VARINT if is_binary else NDJSON


class UnidirectionalEndpoint(StreamEndpoint):
    """A stream that begins with a ConnectRequest.

    Args:
        host: What all streams share.
        options: Of this transport.
    """

    is_unidirectional = True

    def __init__(self, host: StreamHost, options: UnidirectionalStreamOptions) -> None:
        super().__init__(host, options)
        self.connect_responses = options.connect_responses

    async def _read_request(self, request: Request) -> str | None:
        """Return a POST's ConnectRequest."""
        body = await self._read_body(request)
        return None if body is None else _check_connect(body.decode(errors="replace"))


class UniSSE(UnidirectionalEndpoint):
    """A ConnectRequest by ``cf_connect`` of a GET or by POST, pushes as server-sent events.

    Events carry ids where a channel is recoverable, and ``Last-Event-ID`` is where to go on: it
    wins over the positions of the ConnectRequest, which an EventSource repeats as they were.
    """

    methods: tuple[str, ...] = ("GET", "POST")

    async def read_first(self, request: Request) -> str | None:
        """Return the ConnectRequest; a GET without one has an empty one."""
        if request.method == "POST":
            connect = await self._read_request(request)
            if connect is None:
                return None
        else:
            connect = _check_connect(self._find_connect(request) or "{}")
        positions = read_event_id(request.find_header(b"last-event-id") or "")
        return resume(connect, positions) if positions else connect

    def create_framing(self, request: Request, *, is_binary: bool) -> Framing:
        """Return server-sent events with ids."""
        del is_binary
        return EventStream(EventIds(has_given=bool(request.find_header(b"last-event-id"))))


class UniHTTPStream(UnidirectionalEndpoint):
    """A ConnectRequest by POST, pushes as lines."""

    methods: tuple[str, ...] = ("POST", "OPTIONS")

    async def read_first(self, request: Request) -> str | None:
        """Return the ConnectRequest."""
        return await self._read_request(request)

    def create_framing(self, request: Request, *, is_binary: bool) -> Framing:
        """Return lines."""
        del request, is_binary
        return NDJSON


class Emulation(Endpoint):
    """Commands of clients that listen to another request: 204, or 404 for an unknown node.

    Args:
        allow_origin: Decides who may ask.
        settings: Time for a body.
        options: The bound of a body.
        deliver: Has the commands handled by whoever has the session.
    """

    methods: tuple[str, ...] = ("POST", "OPTIONS")

    def __init__(
        self,
        allow_origin: AllowOrigin,
        settings: Settings,
        options: EmulationOptions,
        deliver: Deliver,
    ) -> None:
        super().__init__(allow_origin, settings, body_bytes_max=options.body_bytes_max)
        self.deliver = deliver

    async def serve(self, request: Request) -> None:
        """Deliver commands."""
        body = await self._read_body(request)
        if body is None:
            return
        is_binary = _is_binary(request)
        codec: Codec | None = find_protobuf() if is_binary else JSON
        if codec is None:
            raise HandshakeError(415, "protobuf is not installed: pip install 'wirebell[server]'")
        try:
            commands = codec.decode_emulation(body)
        except BadRequest as error:
            raise HandshakeError(400, error.message) from error
        is_known = await self.deliver(commands.node, commands.session, commands.data, is_binary)
        await request.answer(204 if is_known else 404)


def _is_binary(request: Request) -> bool:
    """Tell whether a request's body is protobuf."""
    content_type = request.find_header(b"content-type") or ""
    return content_type.partition(";")[0].strip().lower() == BINARY


def _check_connect(connect: str) -> str:
    """Return a ConnectRequest that can be read; ``null`` is an empty one, as recorded.

    Raises:
        HandshakeError: 400: It cannot be read.
    """
    if connect.strip(WHITE_SPACE) == "null":
        connect = "{}"
    try:
        JSON.decode_connect(connect)
    except BadRequest as error:
        raise HandshakeError(400, error.message) from error
    return connect
