"""The object that people create: Wirebell inside a FastAPI application."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from typing import Any, TypeVar, overload

from fastapi import FastAPI
from starlette.websockets import WebSocket, WebSocketState

from wirebell.admission import Limit
from wirebell.auth import is_origin_allowed
from wirebell.brokers import create_broker
from wirebell.channels import Channel, ChannelRegistry, encode_payload
from wirebell.errors import (
    Denied,
    Disconnect,
    DisconnectCode,
    LimitExceeded,
    NotRunning,
    PermissionDenied,
    WirebellError,
)
from wirebell.interfaces import HistorySlice
from wirebell.model import (
    ChannelOptions,
    ClientInfo,
    History,
    Identity,
    Overflow,
    StreamPosition,
)
from wirebell.node import Node
from wirebell.permissions import PermissionApp
from wirebell.protocol.json import encode_disconnect
from wirebell.routes import create_router
from wirebell.settings import Settings
from wirebell.takeover import Takeover
from wirebell.transports.asgi_websocket import ASGIWebSocket, Writers
from wirebell.transports.engine_websocket import EngineWebSocket
from wirebell.transports.plain import (
    CloseHandler,
    PlainOptions,
    PlainReceiver,
    SignIn,
    TextHandler,
    disconnect_for,
    notice,
)
from wirebell.transports.process import abort_late
from wirebell.transports.unidirectional import UnidirectionalReceiver

__all__ = ("Realtime",)

logger = logging.getLogger(__name__)

# The name under which the authenticator can be asked; channels have hexadecimal ones.
AUTHENTICATE = "authenticate"

SendsT = TypeVar("SendsT")
Authenticator = TypeVar("Authenticator", bound=Callable[..., Any])


class Realtime:
    """Real-time channels in a FastAPI application.

    Create one per application, pass its ``lifespan`` to FastAPI, and publish from anywhere::

        rt = Realtime()
        app = FastAPI(lifespan=rt.lifespan)

    To be used on the application's event loop; from other threads only `publish_from_thread`.

    Args:
        settings: Limits and intervals; ``None`` reads them from the environment (``WIREBELL_*``).

    Raises:
        pydantic.ValidationError: The environment holds a value that is out of its bounds.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings if settings is not None else Settings()
        self.registry = ChannelRegistry()
        self.permissions = PermissionApp()
        self.authenticator: Callable[..., Any] | None = None
        self.running: Node | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.writers = Writers()

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Run the node as long as the application runs.

        Pass it as ``FastAPI(lifespan=rt.lifespan)``, or enter it in a lifespan of your own:
        ``async with rt.lifespan(app): yield``.

        Raises:
            ConfigError: ``broker_url`` names no broker.
            BrokerUnavailable: The broker cannot be reached.
        """
        self.permissions.join(app)
        broker, presence_store = create_broker(self.settings)
        node = Node(self.settings, broker, presence_store, self.registry.options_for)
        await node.start()
        self.running, self.loop = node, asyncio.get_running_loop()
        try:
            yield
        finally:
            self.running = self.loop = None
            await node.aclose()
            await self.writers.aclose()

    def node(self) -> Node:
        """Return the running node.

        Raises:
            NotRunning: Outside the lifespan.
        """
        if self.running is None:
            raise NotRunning
        return self.running

    def mount(self, app: FastAPI, path: str, *, metrics: bool = True) -> None:
        """Add Wirebell's own routes to an application.

        ``{path}/connection/uni_websocket`` is the live connection with recovery (protocol
        document, section 1.11), ``{path}/health`` and ``{path}/metrics`` are for operators.

        Args:
            app: The application.
            path: Where; begins with a slash, ends without.
            metrics: Answer ``{path}/metrics`` to whoever asks. Switch it off where the path is
                public, and register `wirebell.metrics.NodeCollector` where it is not.

        Raises:
            ValueError: ``path`` is not like that.
        """
        if not path.startswith("/") or path.endswith("/"):
            raise ValueError(f"path begins with a slash and ends without, got {path!r}")
        app.include_router(
            create_router(self.node, self._serve_unidirectional, metrics=metrics), prefix=path
        )

    # Channels

    @overload
    def channel(
        self,
        pattern: str,
        *,
        sends: type[SendsT],
        history: History | None = None,
        presence: bool = False,
        overflow: Overflow = Overflow.DISCONNECT,
        public: bool = False,
    ) -> Channel[SendsT]: ...

    @overload
    def channel(
        self,
        pattern: str,
        *,
        history: History | None = None,
        presence: bool = False,
        overflow: Overflow = Overflow.DISCONNECT,
        public: bool = False,
    ) -> Channel[object]: ...

    def channel(
        self,
        pattern: str,
        *,
        sends: type[SendsT] | None = None,
        history: History | None = None,
        presence: bool = False,
        overflow: Overflow = Overflow.DISCONNECT,
        public: bool = False,
    ) -> Channel[SendsT] | Channel[object]:
        """Declare channels: what travels there, what is kept, who may come.

        Args:
            pattern: ``room:{room_id}`` names one part without a colon, ``topic:{topic:path}``
                the rest. The first declaration that matches a name decides.
            sends: What is published: a Pydantic model or any type Pydantic knows, checked at
                ``publish``; ``None`` takes everything that is text or JSON.
            history: How much is kept for recovery; ``None`` keeps nothing and delivers at most
                once.
            presence: Keep who is subscribed, and tell subscribers of joins and leaves.
            overflow: What happens while a subscriber does not read: it is cut past
                ``send_queue_bytes_max`` and recovers from the log, or the channel may drop.
            public: Anybody may subscribe through `mount`. Otherwise ``authorize`` decides, and
                without it nobody may. `attach` asks neither: there the endpoint has decided.

        Raises:
            ConfigError: The pattern is malformed, or declared already.
        """
        options = ChannelOptions(history=history, presence=presence, overflow=overflow)
        declaration: Channel[Any] = Channel(
            pattern, sends, options, self.node, self.permissions, public=public
        )
        self.registry.add(declaration)
        return declaration

    async def publish(self, channel: str, data: object, *, key: str = "") -> StreamPosition:
        """Publish to a channel, declared or not. No peer is waited for or can make it fail.

        Args:
            channel: 1 or more printable characters, at most ``channel_bytes_max`` bytes.
            data: ``str`` travels as text, a Pydantic model or another value as JSON; at most
                ``publication_bytes_max`` bytes when serialised.
            key: As for `BoundChannel.publish`.

        Returns:
            The publication's position; offset 0 and an empty epoch where no history is kept.

        Raises:
            BadRequest: The name or the payload is out of bounds.
            BrokerUnavailable: The broker does not answer.
            NotRunning: Outside the lifespan.
        """
        return await self.node().publish(channel, encode_payload(data, key))

    def publish_from_thread(
        self, channel: str, data: object, *, timeout_seconds: float = 5.0
    ) -> StreamPosition:
        """Publish from a thread that is not the event loop's, as a sync endpoint runs in one.

        Args:
            channel: As for `publish`.
            data: As for `publish`.
            timeout_seconds: How long to wait for the position.

        Raises:
            TimeoutError: No answer in time; the publication may still happen.
            RuntimeError: Called on the event loop's own thread, which would wait for itself.
            NotRunning: Outside the lifespan.
        """
        self.node()
        loop = self.loop
        assert loop is not None
        try:
            here: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if here is loop:
            raise RuntimeError("on the event loop use 'await rt.publish(...)'")
        future = asyncio.run_coroutine_threadsafe(self.publish(channel, data), loop)
        return future.result(timeout_seconds)

    async def presence(self, channel: str) -> dict[str, ClientInfo]:
        """Read who is in a channel: client id → info.

        Raises:
            BadRequest: The channel keeps no presence.
            NotRunning: Outside the lifespan.
        """
        return await self.node().presence(channel)

    async def history(
        self, channel: str, *, since: StreamPosition | None = None, limit: int = 100
    ) -> HistorySlice:
        """Read a channel's kept publications after ``since``, oldest first, at most ``limit``.

        Raises:
            BadRequest: The channel keeps no history.
            NotRunning: Outside the lifespan.
        """
        return await self.node().history(channel, since=since, limit=limit)

    # Connections

    def authenticate(self, function: Authenticator) -> Authenticator:
        """Have a function say who connects through `mount`; a decorator.

        The function is an ordinary FastAPI dependency that returns an `Identity`. It sees the
        handshake's headers and cookies; raising `Denied` or an ``HTTPException`` keeps the peer
        out. Without it everybody is anonymous.
        """
        self.authenticator = function
        self.permissions.add(AUTHENTICATE, (), function)
        return function

    async def attach(
        self,
        websocket: WebSocket,
        *,
        channels: Sequence[str] = (),
        publish: str | None = None,
        on_text: TextHandler | None = None,
        first_text: SignIn | None = None,
        on_close: CloseHandler | None = None,
        heartbeat: str | None = None,
        user_id: str = "",
        expires_at: datetime | None = None,
        subprotocol: str | None = None,
    ) -> None:
        """Serve a plain text socket inside an endpoint of your own.

        Publications of ``channels`` arrive as text, in the order of each channel. The socket is
        accepted here unless it was before; a peer accepted here gets everything that is
        published after it has seen the handshake's answer. A peer that reads too slowly is
        closed with 3008 and nobody waits for it. Why a socket is closed is told in the
        close frame and, unless the peer reads nothing or the process stops, before that in a last
        text message ``{"error": {"code", "message"}}``.

        Args:
            websocket: The endpoint's.
            channels: What the peer hears; names as for `publish`.
            publish: A channel to which every text of the peer is published as it is.
            on_text: Takes every text of the peer, in order, one at a time; a ``str`` that it
                returns is sent to the peer. Raising `Denied` closes the socket with 4403, and
                any other exception that is no `CommandError` with 1011. With neither of the two
                the socket takes no messages: one is answered by 1008.
            first_text: Takes the peer's first text and returns its `Identity`; only then the
                channels are subscribed. Raising `Denied` closes with 4401, as does a peer that
                is silent for ``first_message_timeout_seconds``.
            on_close: Called once, after an attached connection has left its channels.
            heartbeat: A text that is sent every ``heartbeat_interval_seconds``.
            user_id: Who the peer is; counts against ``connections_per_user_max``.
            expires_at: When the peer's credentials end (aware): told why, closed with 4401.
            subprotocol: Named in the answer to the handshake.

        Raises:
            ValueError: ``publish`` and ``on_text`` are both given, or ``expires_at`` has no
                time zone.
            NotRunning: Outside the lifespan.
        """
        if publish is not None and on_text is not None:
            raise ValueError("give publish or on_text, not both")
        options = PlainOptions(
            channels=channels,
            publish=publish,
            on_text=on_text,
            first_text=first_text,
            on_close=on_close,
            heartbeat=heartbeat,
            identity=Identity(user_id, expires_at),
        )
        node = self.node()
        if not await self._check_origin(websocket, subprotocol):
            return
        carrier = self._create_carrier(node, websocket, subprotocol)
        receiver = PlainReceiver(node, carrier, options)
        try:
            await receiver.connect(_address(websocket))
        except WirebellError as error:
            await self._refuse(websocket, subprotocol, disconnect_for(error))
            return
        await carrier.run(receiver)

    async def refuse(
        self, websocket: WebSocket, code: int, reason: str, *, subprotocol: str | None = None
    ) -> None:
        """Accept a socket only to say why it cannot stay, then close it.

        A browser cannot read the status of a refused handshake; this is how it learns a reason.

        Args:
            websocket: The endpoint's.
            code: 4000 to 4999, or one of RFC 6455's.
            reason: For a person; at most 123 bytes of UTF-8.
            subprotocol: Named in the answer to the handshake; a browser that offered one takes
                no answer without.

        Raises:
            ValueError: ``reason`` is too long.
        """
        disconnect = Disconnect(code, reason)
        if await self._check_origin(websocket, subprotocol):
            await self._refuse(websocket, subprotocol, disconnect)

    def _create_carrier(
        self, node: Node, websocket: WebSocket, subprotocol: str | None
    ) -> ASGIWebSocket | EngineWebSocket:
        """Create what carries a socket: taken over where the server can, through ASGI elsewhere."""
        takeover: Takeover | None = (websocket.scope.get("extensions") or {}).get(
            "wirebell.takeover"
        )
        if takeover is None:
            return self._create_portable(websocket, subprotocol)
        return EngineWebSocket(
            takeover,
            websocket.receive,
            websocket.send,
            self.settings,
            node.pings,
            is_accepted=websocket.application_state is WebSocketState.CONNECTED,
            subprotocol=subprotocol,
        )

    def _create_portable(self, websocket: WebSocket, subprotocol: str | None) -> ASGIWebSocket:
        """Create what carries a socket on any server, and refuses one on ours as well."""
        return ASGIWebSocket(
            websocket.scope,
            websocket.receive,
            websocket.send,
            self.settings,
            self.writers,
            is_accepted=websocket.application_state is WebSocketState.CONNECTED,
            subprotocol=subprotocol,
            abort=_find_abort(websocket),
        )

    async def _check_origin(self, websocket: WebSocket, subprotocol: str | None) -> bool:
        """Refuse the page of a foreign Origin; true when the socket may go on."""
        origin = websocket.headers.get("origin")
        if origin is None:
            return True
        host = websocket.headers.get("host")
        scheme = websocket.scope.get("scheme", "ws")
        if is_origin_allowed(origin, host, scheme, self.settings.allowed_origins):
            return True
        reason = f"origin {origin!r:.80} is not allowed; set WIREBELL_ALLOWED_ORIGINS"
        if self.running is not None:
            self.running.statistics.refused_counts[Limit.ORIGIN] += 1
        logger.warning("refused a socket to host %r: %s", host, reason)
        if websocket.application_state is WebSocketState.CONNECTED:
            disconnect = Disconnect(
                DisconnectCode.FORBIDDEN, reason.encode()[:123].decode(errors="ignore")
            )
            await self._refuse(websocket, subprotocol, disconnect)
        else:
            await self._create_portable(websocket, subprotocol).deny(403, reason)
        return False

    async def _refuse(
        self, websocket: WebSocket, subprotocol: str | None, disconnect: Disconnect
    ) -> None:
        """Tell a plain socket why it cannot stay, and count it."""
        if self.running is not None:
            self.running.statistics.disconnect_counts[disconnect.code] += 1
        carrier = self._create_portable(websocket, subprotocol)
        await carrier.refuse(disconnect, notice=notice(disconnect))

    async def _serve_unidirectional(self, websocket: WebSocket) -> None:
        """Serve a live connection of `mount` to its end."""
        node = self.node()
        if not await self._check_origin(websocket, None):
            return
        carrier = self._create_carrier(node, websocket, None)

        async def authorize(channel: str) -> None:
            await self._authorize(websocket, channel)

        try:
            identity = await self._identify(websocket)
            receiver = UnidirectionalReceiver(node, carrier, identity, authorize)
            receiver.connect(_address(websocket))
        except Denied as error:
            logger.info("a connection was refused: %s", error.message)
            disconnect = Disconnect(DisconnectCode.INVALID_TOKEN, "invalid token")
        except LimitExceeded:
            disconnect = Disconnect(DisconnectCode.CONNECTION_LIMIT, "connection limit")
        except Exception:
            logger.exception("asking who connects failed")
            disconnect = Disconnect(DisconnectCode.INTERNAL_ERROR, "internal error")
        else:
            await carrier.run(receiver)
            return
        node.statistics.disconnect_counts[disconnect.code] += 1
        portable = self._create_portable(websocket, None)
        await portable.refuse(disconnect, notice=encode_disconnect(disconnect))

    async def _identify(self, websocket: WebSocket) -> Identity:
        """Ask who connects; anonymous without an authenticator."""
        if self.authenticator is None:
            return Identity()
        identity = await self.permissions.ask(websocket, AUTHENTICATE)
        if not isinstance(identity, Identity):
            # Taking it for nobody would lose the expiry and the limits of whoever it is.
            raise TypeError(f"authenticate must return an Identity, got {type(identity).__name__}")
        return identity

    async def _authorize(self, websocket: WebSocket, channel: str) -> None:
        """Let a peer into a channel, or raise; what is not declared is denied."""
        found = self.registry.find(channel)
        if found is None:
            raise PermissionDenied(f"channel {channel!r} is not declared")
        declaration, parameters = found
        await declaration.check_subscribe(websocket, parameters)


def _address(websocket: WebSocket) -> str:
    """Return the peer's address; empty over a Unix socket."""
    return websocket.client.host if websocket.client is not None else ""


def _find_abort(websocket: WebSocket) -> Callable[[], None] | None:
    """Find how to drop the link, where the server lets us reach it.

    Uvicorn's protocol classes pass a bound method as ``receive`` and own an asyncio transport;
    its ``close`` waits for a buffer that a stuck peer never drains. Other servers give nothing,
    and there the kernel's time-out has to do.
    """
    server = getattr(websocket._receive, "__self__", None)
    transport: Any = getattr(server, "transport", None)
    return partial(abort_late, transport) if callable(getattr(transport, "abort", None)) else None
