"""The live endpoints: every transport of the client protocol, as plain ASGI applications.

They join carriers with receivers. `wirebell.Realtime.mount` puts them into an application;
``wirebell serve`` has no other.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from starlette.requests import HTTPConnection

from wirebell.access import Access
from wirebell.admission import Limit
from wirebell.auth import AllowedOrigins, is_origin_allowed
from wirebell.carriers import create_carrier, create_portable
from wirebell.control import QUESTION_BYTES_MAX
from wirebell.endpoints import (
    SSE,
    Emulation,
    Handshake,
    HTTPStreaming,
    StreamHost,
    UniHTTPStream,
    UniSSE,
)
from wirebell.errors import (
    BadRequest,
    BrokerError,
    CommandError,
    Disconnect,
    HandshakeError,
    LimitExceeded,
)
from wirebell.interfaces import Receiver
from wirebell.node import Node
from wirebell.options import (
    ClientOptions,
    TransportOptions,
    UnidirectionalWebSocketOptions,
)
from wirebell.portable import Writers
from wirebell.protocol import find_protobuf
from wirebell.protocol.codec import Codec
from wirebell.protocol.json import JSON
from wirebell.settings import Settings
from wirebell.transports.bidirectional import BidirectionalReceiver
from wirebell.transports.emulation import ForwardedCommands, Sessions
from wirebell.transports.http_stream import HTTPStream, Streams
from wirebell.transports.unidirectional import UnidirectionalReceiver

__all__ = ("Live", "OriginPolicy")

logger = logging.getLogger(__name__)

Scope = Any
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

NO_PROTOBUF = "protobuf is not installed: pip install 'wirebell[server]'"

# What another node is asked to do with commands of its session.
FORWARD = "emulate"
# Half of what a node may ask others at once: peers must not keep its own orders from them.
FORWARDING_MAX = 500

# Ours has three; what else is in an address is the application's.
QUERY_FIELDS_MAX = 100

SUBPROTOCOLS = {"centrifuge-json": False, "centrifuge-protobuf": True}
"""What a handshake may offer (section 1.2) → whether messages are binary."""


class OriginPolicy:
    """Which pages may connect.

    Args:
        allowed: ``scheme://host[:port]``, with wildcards where ``is_standalone``.
        is_standalone: The server has no pages of its own: only what is listed is allowed.
        setting: What the refusal tells to set.
    """

    def __init__(self, allowed: tuple[str, ...], *, is_standalone: bool, setting: str) -> None:
        self.allowed = allowed
        self.listed = AllowedOrigins(allowed) if is_standalone else None
        self.setting = setting

    def check(self, scope: Scope) -> str | None:
        """Return why a request is refused, or ``None``; counts nothing."""
        origin, host = find_header(scope, b"origin"), find_header(scope, b"host")
        if self.listed is not None:
            allowed = self.listed.allows(origin)
        else:
            allowed = is_origin_allowed(origin, host, scope.get("scheme", "ws"), self.allowed)
        if allowed:
            return None
        reason = f"origin {origin!r:.80} is not allowed; set {self.setting}"
        logger.warning("refused a connection to host %r: %s", host, reason)
        return reason


class Live:
    """The live endpoints of one application.

    Args:
        node: Gives the running node.
        settings: Bounds and time-outs.
        options: Which transports are served.
        clients: What unidirectional transports tell of a failed connect.
        origins: Which pages may connect.
        create_access: Decides for one connection what its client may do.
        writers: The tasks that write.
    """

    def __init__(
        self,
        node: Callable[[], Node],
        settings: Settings,
        options: TransportOptions,
        clients: ClientOptions,
        origins: OriginPolicy,
        create_access: Callable[[HTTPConnection], Access],
        writers: Writers,
    ) -> None:
        self.node = node
        self.settings = settings
        self.uni_settings = _narrow(settings, options.uni_websocket)
        self.options = options
        self.clients = clients
        self.origins = origins
        self.create_access = create_access
        self.writers = writers
        self.streams = Streams(settings)
        self.sessions: Sessions | None = None
        self.forwarding_count = 0

    def applications(self) -> dict[str, Any]:
        """Return the endpoints that are served: path → ASGI application."""
        options = self.options
        host = StreamHost(
            self.settings,
            self.writers,
            self.streams,
            lambda: self.node().pings,
            self.allow_origin,
            self,
        )
        served: dict[str, Any] = {}
        if options.websocket.enabled:
            served[options.websocket.path] = self.serve_websocket
        if options.uni_websocket.enabled:
            served[options.uni_websocket.path] = self.serve_uni_websocket
        if options.sse.enabled:
            served[options.sse.path] = SSE(host, options.sse)
        if options.http_stream.enabled:
            served[options.http_stream.path] = HTTPStreaming(host, options.http_stream)
        if options.uni_sse.enabled:
            served[options.uni_sse.path] = UniSSE(host, options.uni_sse)
        if options.uni_http_stream.enabled:
            served[options.uni_http_stream.path] = UniHTTPStream(host, options.uni_http_stream)
        if options.sse.enabled or options.http_stream.enabled:
            served[options.emulation.path] = Emulation(
                self.allow_origin, self.settings, options.emulation, self.deliver
            )
        return served

    # WebSockets

    async def serve_websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a bidirectional WebSocket; returns at once where the server lets it go."""
        if scope["type"] != "websocket":
            await _answer_bad_request(send)
            return
        query = _read_query(scope)
        subprotocol, codec = _choose(scope, query)
        has_native_pings = query.get("cf_ws_frame_ping_pong") == "true"

        def create(carrier: Any, access: Access) -> BidirectionalReceiver:
            return BidirectionalReceiver(
                self.node(),
                carrier,
                codec,
                access,
                address=_address(scope),
                has_native_pings=has_native_pings,
            )

        await self._serve(scope, receive, send, subprotocol, create, self.settings)

    async def serve_uni_websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a unidirectional WebSocket."""
        if scope["type"] != "websocket":
            await _answer_bad_request(send)
            return
        options, first = self.options.uni_websocket, _find_connect(scope)
        if first is not None:
            try:
                JSON.decode_connect(first)
            except BadRequest as error:
                await self._deny(scope, receive, send, 400, error.message)
                return

        def create(carrier: Any, access: Access) -> UnidirectionalReceiver:
            return UnidirectionalReceiver(
                self.node(),
                carrier,
                JSON,
                access,
                address=_address(scope),
                has_disconnect_push=not options.disable_disconnect_push,
                joins_messages=options.join_push_messages,
                disconnects=self.clients.connect_disconnects,
                first=first,
            )

        await self._serve(scope, receive, send, None, create, self.uni_settings)

    async def _serve(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        subprotocol: str | None,
        create: Callable[[Any, Access], Receiver],
        settings: Settings,
    ) -> None:
        """Join a WebSocket's carrier with its receiver, or refuse it."""
        node = self.node()
        reason = self.origins.check(scope)
        if reason is not None:
            node.statistics.refused_counts[Limit.ORIGIN] += 1
            await self._deny(scope, receive, send, 403, reason)
            return
        carrier = create_carrier(
            scope, receive, send, settings, node.pings, self.writers, subprotocol=subprotocol
        )
        try:
            receiver = create(carrier, self.create_access(HTTPConnection(scope)))
        except LimitExceeded as error:
            await self._deny(scope, receive, send, 503, error.message)
            return
        await carrier.run(receiver)

    async def _deny(
        self, scope: Scope, receive: Receive, send: Send, status: int, reason: str
    ) -> None:
        """Answer a handshake with an HTTP status."""
        portable = create_portable(scope, receive, send, self.settings, self.writers)
        await portable.deny(status, reason)

    # Streams

    def allow_origin(self, scope: Scope) -> str:
        """Return the Origin that an answer allows, empty without one.

        Raises:
            HandshakeError: 403: It is not allowed.
        """
        reason = self.origins.check(scope)
        if reason is not None:
            self.node().statistics.refused_counts[Limit.ORIGIN] += 1
            raise HandshakeError(403, reason)
        return find_header(scope, b"origin") or ""

    async def connect(self, carrier: HTTPStream, handshake: Handshake) -> Receiver | None:
        """Join a stream with its receiver; see `wirebell.endpoints.Connector`."""
        scope = handshake.scope
        access = self.create_access(HTTPConnection(scope))
        try:
            if handshake.is_unidirectional:
                return self._connect_unidirectional(carrier, scope, access)
            return self._connect_emulated(carrier, handshake, access)
        except LimitExceeded as error:
            raise HandshakeError(503, error.message) from error

    def _connect_unidirectional(
        self, carrier: HTTPStream, scope: Scope, access: Access
    ) -> Receiver:
        """Create the receiver of a unidirectional stream."""

        def refuse(code: int, disconnect: Disconnect) -> bool:
            del disconnect
            return carrier.refuse_connect(code)

        return UnidirectionalReceiver(
            self.node(),
            carrier,
            JSON,
            access,
            address=_address(scope),
            transport_name=_transport_name(scope),
            disconnects=self.clients.connect_disconnects,
            on_failure=refuse,
        )

    def _connect_emulated(
        self, carrier: HTTPStream, handshake: Handshake, access: Access
    ) -> Receiver:
        """Create the receiver of a client that speaks through other requests."""
        codec: Codec = JSON
        if handshake.is_binary:
            binary = find_protobuf()
            if binary is None:
                raise HandshakeError(
                    415, "protobuf is not installed: pip install 'wirebell[server]'"
                )
            codec = binary
        sessions = self._sessions()
        return BidirectionalReceiver(
            self.node(),
            carrier,
            codec,
            access,
            address=_address(handshake.scope),
            transport_name=_transport_name(handshake.scope),
            is_emulated=True,
            on_connect=lambda session_id: sessions.add(session_id, carrier),
            on_end=sessions.remove,
        )

    async def deliver(
        self,
        node_id: str,
        session_id: str,
        data: bytes,
        is_binary: bool,  # noqa: FBT001
    ) -> bool:
        """Have commands handled by whoever has the session; false for an unknown node.

        Those of another node's session are handled there; this returns when that node has them.

        Raises:
            HandshakeError: 413: They are too many to be given to another node; 503: It does not
                answer, or too many wait for other nodes.
        """
        cluster = self.node().cluster
        if node_id not in cluster.members:
            return await self._sessions().deliver(node_id, session_id, data, is_binary)
        body = msgspec.msgpack.encode(ForwardedCommands(session_id, data, is_binary))
        if len(body) > QUESTION_BYTES_MAX:
            raise HandshakeError(
                413, f"another node takes at most {QUESTION_BYTES_MAX} bytes, got {len(body)}"
            )
        if self.forwarding_count >= FORWARDING_MAX:
            raise HandshakeError(503, f"{FORWARDING_MAX} requests wait for other nodes")
        self.forwarding_count += 1
        try:
            await cluster.ask(node_id, FORWARD, body)
        except (CommandError, BrokerError) as error:
            raise HandshakeError(503, str(error)) from error
        finally:
            self.forwarding_count -= 1
        return True

    def answer_for(self, node: Node) -> None:
        """Have a node take commands that come to others; to be called once, before it starts."""
        node.cluster.handlers[FORWARD] = self._take_forwarded

    async def _take_forwarded(self, body: bytes) -> bytes:
        """Begin to handle commands that came to another node, in the order of their coming."""
        commands = msgspec.msgpack.decode(body, type=ForwardedCommands)
        node = self.node()
        work = self._deliver_here(node.node_id, commands)
        # The other node must not wait for the application.
        node.spawn(work)
        return b""

    async def _deliver_here(self, node_id: str, commands: ForwardedCommands) -> None:
        """Handle commands of a session of this node."""
        await self._sessions().deliver(
            node_id, commands.session_id, commands.data, commands.is_binary
        )

    def _sessions(self) -> Sessions:
        """Return the sessions of the running node."""
        node_id = self.node().node_id
        if self.sessions is None or self.sessions.node_id != node_id:
            self.sessions = Sessions(node_id)
        return self.sessions


def find_header(scope: Scope, name: bytes) -> str | None:
    """Return a header's first value; ``None`` where there is none."""
    for key, value in scope["headers"]:
        if key == name:
            text: str = value.decode("latin-1")
            return text
    return None


def _narrow(settings: Settings, options: UnidirectionalWebSocketOptions) -> Settings:
    """Return the settings of unidirectional WebSockets, which may have bounds of their own."""
    own = {
        "message_bytes_max": options.message_bytes_max,
        "compression": options.compression,
        "compression_bytes_min": options.compression_bytes_min,
    }
    return settings.model_copy(update={k: v for k, v in own.items() if v is not None})


def _choose(scope: Scope, query: dict[str, str]) -> tuple[str | None, Codec]:
    """Choose encoding and subprotocol as a handshake offers them (section 1.2)."""
    wants_binary = "protobuf" in {query.get("format"), query.get("cf_protocol")}
    subprotocol = next(
        (name for name in scope.get("subprotocols", ()) if name in SUBPROTOCOLS), None
    )
    if subprotocol is not None:
        wants_binary = wants_binary or SUBPROTOCOLS[subprotocol]
    if wants_binary:
        codec = find_protobuf()
        if codec is not None:
            return subprotocol, codec
        logger.error("a client speaks protobuf: %s", NO_PROTOBUF)
        return None, JSON
    return subprotocol, JSON


def _read_query(scope: Scope) -> dict[str, str]:
    """Read a query; one with too many fields is nobody's of ours, and says nothing."""
    try:
        fields = parse_qsl(scope["query_string"].decode("latin-1"), max_num_fields=QUERY_FIELDS_MAX)
    except ValueError:
        return {}
    return dict(fields)


def _find_connect(scope: Scope) -> str | None:
    """Return the ConnectRequest in the query of a unidirectional WebSocket."""
    return _read_query(scope).get("cf_connect")


def _transport_name(scope: Scope) -> str:
    """Return how ``connections`` shows a stream: the last part of its path."""
    return str(scope["path"]).rpartition("/")[2]


def _address(scope: Scope) -> str:
    """Return the peer's address; empty over a Unix socket."""
    client = scope.get("client")
    return client[0] if client else ""


async def _answer_bad_request(send: Send) -> None:
    """Answer a request that is no WebSocket handshake."""
    body = b"Bad Request\n"
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": 400, "headers": headers})
    await send({"type": "http.response.body", "body": body})
