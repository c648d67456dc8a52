"""The object that people create: Wirebell inside a FastAPI application."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, overload

from fastapi import FastAPI
from jwt import PyJWK
from starlette.requests import HTTPConnection
from starlette.websockets import WebSocket

from wirebell.authority import Authority
from wirebell.authorization import Authorizer
from wirebell.broker_options import BrokerOptions
from wirebell.brokers import create_broker
from wirebell.channels import (
    Channel,
    ChannelKeywords,
    ChannelRegistry,
    create_options,
)
from wirebell.errors import ConfigError, Disconnect, NotRunning
from wirebell.hooks import HookDecorators, Hooks
from wirebell.http_api import create_api_router
from wirebell.jwks import KeySets
from wirebell.live import Live, OriginPolicy
from wirebell.model import ChannelOptions, Identity, StreamPosition
from wirebell.namespaces import Namespaces
from wirebell.node import Node
from wirebell.operations import Operations, answer_for
from wirebell.options import (
    APIOptions,
    ChannelNames,
    ClientOptions,
    EndpointOptions,
    TransportOptions,
)
from wirebell.permissions import PermissionApp
from wirebell.plain_sockets import PlainSockets
from wirebell.portable import Writers
from wirebell.publishing import PublishKeywords, compose, encode_payload, require
from wirebell.revocations import Revocations
from wirebell.routes import BrowserClient, LiveRoute, create_router
from wirebell.settings import Settings
from wirebell.tokens import KeyLocation, TokenKeys, TokenVerifier
from wirebell.transports.plain import CloseHandler, PlainOptions, SignIn, TextHandler
from wirebell.workers import check_workers

if TYPE_CHECKING:
    from wirebell.outbox import Outbox, OutboxSession

__all__ = ("Realtime",)

logger = logging.getLogger(__name__)

# The name under which the authenticator can be asked; channels have hexadecimal ones.
AUTHENTICATE = "authenticate"

SendsT = TypeVar("SendsT")
Authenticator = TypeVar("Authenticator", bound=Callable[..., Any])


class Realtime(Operations, HookDecorators):
    """Real-time channels in a FastAPI application.

    Create one per application, pass its ``lifespan`` to FastAPI, and publish from anywhere::

        rt = Realtime()
        app = FastAPI(lifespan=rt.lifespan)

    To be used on the application's event loop; from other threads only `publish_from_thread`.

    Args:
        settings: Limits and intervals; ``None`` reads them from the environment (``WIREBELL_*``).
        broker: What joins the nodes, from `wirebell.broker_options`; ``None`` is what
            ``settings.broker_url`` says.
        presence: Where presence is kept, if not with the broker.
        tokens: Keys of connection tokens, and of subscription tokens unless those have others;
            ``None`` takes no tokens, and `authenticate` says who connects.
        subscription_tokens: Keys of subscription tokens.
        namespaces: Channels by configuration: namespace → options. They count where no
            declaration matches a name.
        without_namespace: Options of names without a namespace; ``None`` allows nothing there.
        clients: Who may connect; ``None`` lets anonymous peers connect unless there are tokens.
        transports: What `mount` serves; ``None`` is everything.
        api: The server API that `mount` serves; ``None`` serves none.
        names: How a channel's name is read.
        unavailable: Namespaces whose kind of channel is not there yet.
        outbox: Publishes what ``publish(..., outbox=session)`` wrote into the application's
            database; see `wirebell.outbox.Outbox`. ``None`` refuses such publications.
        name: Of the node, as `info` shows it; empty is the machine's and the process' id.
        is_standalone: The server has no pages of its own: only origins that are listed may
            connect.

    Raises:
        pydantic.ValidationError: The environment holds a value that is out of its bounds.
        ConfigError: A key or an expression cannot be read.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        broker: BrokerOptions | None = None,
        presence: BrokerOptions | None = None,
        tokens: TokenKeys | None = None,
        subscription_tokens: TokenKeys | None = None,
        namespaces: Mapping[str, ChannelOptions] | None = None,
        without_namespace: ChannelOptions | None = None,
        clients: ClientOptions | None = None,
        transports: TransportOptions | None = None,
        api: APIOptions | None = None,
        names: ChannelNames | None = None,
        unavailable: Collection[str] = (),
        outbox: "Outbox | None" = None,
        name: str = "",
        is_standalone: bool = False,
    ) -> None:
        self.settings = settings if settings is not None else Settings()
        self.broker_options = (broker, presence)
        self.registry = ChannelRegistry(name_bytes_max=self.settings.channel_bytes_max)
        self.permissions = PermissionApp()
        self.hooks = Hooks()
        self.api = api
        self.is_standalone = is_standalone
        self.name = name
        self.running: Node | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.writers = Writers()
        self.key_sets: KeySets | None = None
        if clients is None:
            clients = ClientOptions(allow_anonymous_connect_without_token=tokens is None)
        self.authority: Authority = Authority(
            registry=self.registry,
            namespaces=_create_namespaces(
                self.settings, namespaces or {}, without_namespace, names or ChannelNames()
            ),
            options=clients,
            hooks=self.hooks,
            grace_seconds=self.settings.expired_close_delay_seconds,
            connection_tokens=None if tokens is None else TokenVerifier(tokens),
            subscription_tokens=(
                None if subscription_tokens is None else TokenVerifier(subscription_tokens)
            ),
            find_key=self._find_key,
            unavailable=frozenset(unavailable),
            revocations=Revocations(self.settings.revocations_max),
        )
        self.outbox = outbox
        if outbox is not None:
            outbox.configure(self.settings, self.authority.known_options)
        self.origins = OriginPolicy(
            self.settings.allowed_origins,
            is_standalone=is_standalone,
            setting="client.allowed_origins" if is_standalone else "WIREBELL_ALLOWED_ORIGINS",
        )
        self.live = Live(
            self.node,
            self.settings,
            transports if transports is not None else TransportOptions.create_all(),
            clients,
            self.origins,
            lambda handshake: Authorizer(self.authority, handshake),
            self.writers,
        )
        self.plain_sockets = PlainSockets(
            lambda: self.running, self.settings, self.origins, self.writers
        )

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Run the node as long as the application runs.

        Pass it as ``FastAPI(lifespan=rt.lifespan)``, or enter it in a lifespan of your own:
        ``async with rt.lifespan(app): yield``.

        Raises:
            ConfigError: ``broker_url`` names no broker, or one that refuses; or it is ``memory://``
                and this process is one of several workers.
            BrokerUnavailable: The broker cannot be reached.
        """
        self.permissions.join(app)
        for weakness in self.authority.find_weaknesses():
            logger.warning("tokens: %s", weakness)
        broker, presence_store = create_broker(self.settings, *self.broker_options)
        check_workers(broker)
        node = Node(
            self.settings,
            broker,
            presence_store,
            self.authority.known_options,
            name=self.name,
            hears=self.authority.hears,
            revocations=self.authority.revocations,
        )
        answer_for(self, node)
        self.live.answer_for(node)
        # Other nodes ask as soon as they hear of this one.
        self.running, self.loop = node, asyncio.get_running_loop()
        try:
            await node.start()
            if self.outbox is not None:
                await self.outbox.start(node, node.statistics)
            yield
        finally:
            self.running = self.loop = None
            if self.outbox is not None:
                await self.outbox.aclose()
            await node.aclose()
            await self.hooks.aclose(self.settings.close_timeout_seconds)
            await self.writers.aclose()
            if self.key_sets is not None:
                await self.key_sets.aclose()
                self.key_sets = None

    def node(self) -> Node:
        """Return the running node.

        Raises:
            NotRunning: Outside the lifespan.
        """
        if self.running is None:
            raise NotRunning
        return self.running

    def mount(
        self,
        app: FastAPI,
        path: str,
        *,
        metrics: bool = True,
        endpoints: EndpointOptions | None = None,
    ) -> None:
        """Add Wirebell's own routes to an application.

        ``{path}/connection/websocket`` and the other transports are the client protocol, so that
        its SDKs connect (protocol document, sections 1.2, 1.10 and 1.11), ``{path}/api`` is the
        server API where there is a key for it, ``{path}/browser/index.js`` is the client for
        browsers, and ``{path}/health``, ``{path}/ready`` and ``{path}/metrics`` are for operators.

        Args:
            app: The application.
            path: Where; begins with a slash, ends without. Empty is the application's root.
            metrics: Answer ``{path}/metrics`` to whoever asks. Switch it off where the path is
                public, and register `wirebell.metrics.NodeCollector` where it is not.
            endpoints: What else is served, and where; ``None`` is the client for browsers and all
                of what operators ask.

        Raises:
            ValueError: ``path`` is not like that, or the server API's is not.
        """
        if path:
            _check_path("path", path)
        if endpoints is None:
            endpoints = EndpointOptions(
                health="/health",
                ready="/ready",
                metrics="/metrics" if metrics else "",
                browser="/browser",
            )
        app.include_router(create_router(self.node, endpoints), prefix=path)
        for below, application in self.live.applications().items():
            app.router.routes.append(LiveRoute(path + below, application))
        if endpoints.browser:
            app.mount(path + endpoints.browser, BrowserClient())
        # Last: it answers everything below its path.
        if self.api is not None and self.api.enabled:
            _check_path("the path of the server API", self.api.path)
            app.include_router(create_api_router(self, self.api), prefix=path + self.api.path)

    # Channels

    @overload
    def channel(
        self,
        pattern: str,
        *,
        sends: type[SendsT],
        public: bool = False,
        **options: Unpack[ChannelKeywords],
    ) -> Channel[SendsT]: ...

    @overload
    def channel(
        self, pattern: str, *, public: bool = False, **options: Unpack[ChannelKeywords]
    ) -> Channel[object]: ...

    def channel(
        self,
        pattern: str,
        *,
        sends: type[SendsT] | None = None,
        public: bool = False,
        **options: Unpack[ChannelKeywords],
    ) -> Channel[SendsT] | Channel[object]:
        """Declare channels: what travels there, what is kept, who may come.

        Args:
            pattern: ``room:{room_id}`` names one part without a colon, ``topic:{topic:path}``
                the rest. The first declaration that matches a name decides.
            sends: What is published: a Pydantic model or any type Pydantic knows, checked at
                ``publish``; ``None`` takes everything that is text or JSON.
            public: Anybody may subscribe through `mount`, unless ``authorize`` decides; without
                either nobody may. `attach` asks neither: there the endpoint has decided.
            **options: What is kept, announced and allowed, by the names of
                `wirebell.ChannelOptions` and `wirebell.ChannelPermissions`. Two of them bring
                others along, unless those are given. With ``history``, subscribers may read it
                and recover. With ``presence``, subscribers may ask who is there, and are told of
                joins and leaves.

        Raises:
            ConfigError: The pattern is malformed, or declared already.
        """
        declaration: Channel[Any] = Channel(
            pattern,
            sends,
            create_options(options),
            self.node,
            self.permissions,
            public=public,
            outbox=self.outbox,
        )
        self.registry.add(declaration)
        return declaration

    def publish_from_thread(
        self,
        channel: str,
        data: object,
        *,
        timeout_seconds: float = 5.0,
        outbox: "OutboxSession | None" = None,
        **how: Unpack[PublishKeywords],
    ) -> StreamPosition:
        """Publish from a thread that is not the event loop's, as a sync endpoint runs in one.

        Args:
            channel: As for `publish`.
            data: As for `publish`.
            timeout_seconds: How long to wait for the position.
            outbox: As for `publish`, a session of this thread: it waits for the database only,
                and needs no lifespan.
            **how: As for `publish`.

        Raises:
            TimeoutError: No answer in time; the publication may still happen.
            RuntimeError: Called on the event loop's own thread, which would wait for itself.
            NotRunning: Outside the lifespan.
        """
        if outbox is not None:
            publication, options = compose(encode_payload(data), how)
            return require(self.outbox).add_now(outbox, channel, publication, options)
        self.node()
        loop = self.loop
        assert loop is not None
        try:
            here: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if here is loop:
            raise RuntimeError("on the event loop use 'await rt.publish(...)'")
        future = asyncio.run_coroutine_threadsafe(self.publish(channel, data, **how), loop)
        return future.result(timeout_seconds)

    # Connections

    def authenticate(self, function: Authenticator) -> Authenticator:
        """Have a function say who connects through `mount`; a decorator.

        The function is an ordinary FastAPI dependency that returns an `Identity`. It sees the
        handshake's headers and cookies; raising `Denied` or an ``HTTPException`` keeps the peer
        out. Without it everybody is anonymous.

        Raises:
            ConfigError: There is such a function already.
        """
        if self.authority.identify is not None:
            raise ConfigError("authenticate has a function already")
        self.authority.identify = self._identify
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
        closed with 3008 and nobody waits for it; one that misses publications of a channel with
        history, because the broker lost them, with 3010. Why a socket is closed is told in the
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
        await self.plain_sockets.serve(self.node(), websocket, options, subprotocol)

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
        await self.plain_sockets.refuse(websocket, Disconnect(code, reason), subprotocol)

    async def _identify(self, handshake: HTTPConnection) -> Identity:
        """Ask who connects.

        Raises:
            Denied: Nobody who may.
        """
        identity = await self.permissions.ask(handshake, AUTHENTICATE)
        if not isinstance(identity, Identity):
            # Taking it for nobody would lose the expiry and the limits of whoever it is.
            raise TypeError(f"authenticate must return an Identity, got {type(identity).__name__}")
        return identity

    async def _find_key(self, location: KeyLocation) -> PyJWK:
        """Get a key that a token names from its key set."""
        if self.key_sets is None:
            self.key_sets = KeySets(allow_http=self.is_standalone)
        return await self.key_sets.find(location)


def _check_path(what: str, path: str) -> None:
    """Refuse a path that no route could have."""
    if not path.startswith("/") or path.endswith("/"):
        raise ValueError(f"{what} begins with a slash and ends without, got {path!r}")


def _create_namespaces(
    settings: Settings,
    namespaces: Mapping[str, ChannelOptions],
    without_namespace: ChannelOptions | None,
    names: ChannelNames,
) -> Namespaces:
    """Create the configured channels."""
    return Namespaces(
        without_namespace or ChannelOptions(),
        namespaces,
        boundary=names.namespace_boundary,
        private_prefix=names.private_prefix,
        user_boundary=names.user_boundary,
        user_separator=names.user_separator,
        name_bytes_max=settings.channel_bytes_max,
    )
