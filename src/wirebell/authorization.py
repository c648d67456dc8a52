"""Who connects and what they may do, from tokens, namespaces and an application's own functions.

`wirebell.authority` is made once; every connection gets an `Authorizer`, which remembers its
handshake.
Sources: protocol document, sections 1.6, 1.16, 2.3 to 2.5, and the transcripts of tokens and
permissions.
"""

import logging
import time
from collections.abc import Awaitable
from dataclasses import replace

from starlette.requests import HTTPConnection

from wirebell.access import ConnectGrant, RefreshGrant, ShownToken
from wirebell.authority import Authority
from wirebell.client import Client
from wirebell.errors import (
    ClientDisconnected,
    CommandError,
    Denied,
    DisconnectCode,
    ErrorCode,
    ProtocolError,
    TokenExpired,
    TokenInvalid,
    create_disconnect,
)
from wirebell.hooks import Caller
from wirebell.model import (
    ChannelOptions,
    PayloadFormat,
    Publication,
    PublicationFormat,
    ServerSubscribe,
)
from wirebell.namespaces import (
    check_publication,
    embed,
    may_history,
    may_presence,
    may_publish,
)
from wirebell.operations import end_predecessors
from wirebell.protocol.messages import (
    ConnectRequest,
    PublishRequest,
    SubRefreshRequest,
    SubscribeRequest,
)
from wirebell.tokens import (
    ConnectionClaims,
    SubscriptionClaims,
    SubscriptionOverride,
    TokenVerifier,
)

__all__ = ("Authorizer",)

logger = logging.getLogger(__name__)

ASKED_NOTHING = ServerSubscribe()
FORGOTTEN = HTTPConnection(
    {
        "type": "websocket",
        "asgi": {"version": "3.0"},
        "scheme": "ws",
        "path": "",
        "query_string": b"",
        "headers": [],
    }
)
_OBJECT = PublicationFormat.JSON_OBJECT


class Authorizer:
    """A `wirebell.access.Access` for one connection.

    Args:
        authority: Shared by all.
        handshake: The connection's; kept as long as it where permissions are asked with it, or
            the application's functions. Where there are none of either when the client connects,
            it is forgotten; a client that is asked about later is sent to come back, and brings
            a new one.
    """

    __slots__ = ("authority", "handshake")

    def __init__(self, authority: Authority, handshake: HTTPConnection) -> None:
        self.authority = authority
        self.handshake = handshake

    @property
    def tells_time(self) -> bool:
        """Whether the connect result has the server's time."""
        return self.authority.options.connect_include_server_time

    # Connecting

    async def connect(self, client: Client, request: ConnectRequest) -> ConnectGrant:
        """Say who connects; see `wirebell.access.Access`."""
        grant = await self._identify(request)
        channels = dict(grant.channels)
        for channel in channels:
            # Before anything is subscribed: an unknown namespace is answered with 102.
            self.authority.options_for(channel)
        await self._add_requested(client, request, grant.user_id, channels)
        personal = self.authority.options.personal
        if personal is not None and grant.user_id:
            name = self.authority.namespaces.personal_channel(grant.user_id, personal.namespace)
            self.authority.options_for(name)
            channels.setdefault(name, ASKED_NOTHING)
        if self.authority.hooks.on_connect:
            await self.authority.hooks.connect(self._caller(client, grant.user_id))
        self._forget_handshake()
        if personal is not None and personal.single_connection and grant.user_id:
            # Last: whoever is refused ends nobody, and of two that come at once one stays.
            _check_limits(client, grant.user_id, len(channels))
            _end_others(client, grant.user_id)
        return replace(grant, channels=channels) if channels else grant

    def _forget_handshake(self) -> None:
        """Keep of the handshake what may still be asked for: most of what an idle peer takes."""
        hooks = self.authority.hooks
        ends = (hooks.on_unsubscribe, hooks.on_disconnect, hooks.on_refresh)
        calls = (hooks.on_subscribe, hooks.on_send, hooks.rpc_handlers)
        if self.authority.registry.declarations or any(ends) or any(calls):
            # What took the socket over holds all that the server needed for the handshake.
            (self.handshake.scope.get("extensions") or {}).pop("wirebell.takeover", None)
        else:
            self.handshake = FORGOTTEN

    def _caller(self, client: Client, user_id: str) -> Caller:
        """Say who a function is asked about.

        Raises:
            ClientDisconnected: The handshake was not kept.
        """
        return Caller(client.client_id, user_id, self._recall_handshake())

    def _recall_handshake(self) -> HTTPConnection:
        """Return the handshake, to ask somebody about it.

        Raises:
            ClientDisconnected: It was not kept, since nobody was there to ask; the client comes
                back with another.
        """
        if self.handshake is FORGOTTEN:
            raise _disconnect(DisconnectCode.FORCE_RECONNECT)
        return self.handshake

    async def _identify(self, request: ConnectRequest) -> ConnectGrant:
        """Find out who it is: by a token, a header, the application, or nobody."""
        authority, options = self.authority, self.authority.options
        if request.token and authority.connection_tokens is not None:
            return await self._read_token(authority.connection_tokens, request.token)
        if options.user_id_http_header:
            user_id = self.handshake.headers.get(options.user_id_http_header, "")
            if user_id:
                return ConnectGrant(user_id)
        if authority.identify is not None:
            try:
                identity = await authority.identify(self.handshake)
            except Denied as error:
                logger.info("a connection was refused: %s", error.message)
                raise _disconnect(DisconnectCode.INVALID_TOKEN) from error
            expires_at = identity.expires_at.timestamp() if identity.expires_at else None
            return ConnectGrant(identity.user_id, expires_at, 0.0, identity.encode_info())
        if request.token and not options.insecure:
            logger.info("a connection showed a token, and no key for tokens is configured")
            raise _disconnect(DisconnectCode.INVALID_TOKEN)
        if options.insecure or options.allow_anonymous_connect_without_token:
            return ConnectGrant()
        raise _disconnect(DisconnectCode.BAD_REQUEST)

    async def _read_token(self, verifier: TokenVerifier, token: str) -> ConnectGrant:
        """Believe a connection token, or raise."""
        options = self.authority.options
        try:
            claims: ConnectionClaims = await self.authority.verify(
                verifier, verifier.verify_connection, token
            )
        except TokenExpired as error:
            logger.info("a connection was refused: %s", error)
            raise ProtocolError(ErrorCode.TOKEN_EXPIRED) from error
        except TokenInvalid as error:
            logger.info("a connection was refused: %s", error)
            raise _disconnect(DisconnectCode.INVALID_TOKEN) from error
        if not claims.user_id and options.disallow_anonymous_connection_tokens:
            raise _disconnect(DisconnectCode.PERMISSION_DENIED)
        channels = dict.fromkeys(claims.channels, ASKED_NOTHING)
        for channel, claim in claims.subs.items():
            channels[channel] = _subscribe(claim.override, claim.info, claim.data)
        expires_at = self._end_of(claims.expires_at)
        return ConnectGrant(
            user_id=claims.user_id,
            expires_at=expires_at,
            grace_seconds=self.authority.grace_seconds,
            info=embed(claims.info),
            channels=channels,
            is_refreshed_by_client=True,
            token=ShownToken(claims.token_id, claims.issued_at),
        )

    async def _add_requested(
        self,
        client: Client,
        request: ConnectRequest,
        user_id: str,
        channels: dict[str, ServerSubscribe],
    ) -> None:
        """Add the channels that the client asks for by connecting, as far as it may have them."""
        if len(request.subs) > client.node.settings.channels_per_connection_max:
            # Before the application is asked about thousands of them, one after the other.
            raise _disconnect(DisconnectCode.CHANNEL_LIMIT)
        for channel, wish in request.subs.items():
            if channel in channels:
                continue
            try:
                self.authority.check_command(channel)
                granted = await self._permit(client, channel, wish, user_id)
            except ProtocolError as error:
                if error.code in {ErrorCode.UNKNOWN_CHANNEL, ErrorCode.BAD_REQUEST}:
                    raise _disconnect(DisconnectCode.BAD_REQUEST) from error
                continue
            except CommandError as error:
                logger.info("a channel was left out: %s", error.message)
                continue
            channels[channel] = granted

    async def refresh(self, client: Client, token: str) -> RefreshGrant:
        """Take new credentials; see `wirebell.access.Access`."""
        verifier = self.authority.connection_tokens
        if verifier is None:
            raise _disconnect(DisconnectCode.INVALID_TOKEN)
        try:
            claims: ConnectionClaims = await self.authority.verify(
                verifier, verifier.verify_connection, token
            )
        except TokenExpired as error:
            raise _disconnect(DisconnectCode.EXPIRED) from error
        except TokenInvalid as error:
            raise _disconnect(DisconnectCode.INVALID_TOKEN) from error
        if claims.user_id != client.user_id:
            raise _disconnect(DisconnectCode.INVALID_TOKEN)
        expires_at = None if self.authority.options.insecure else claims.expires_at
        if _has_ended(expires_at):
            raise _disconnect(DisconnectCode.EXPIRED)
        shown = ShownToken(claims.token_id, claims.issued_at)
        return RefreshGrant(expires_at, frozenset(claims.channels) | set(claims.subs), shown)

    async def renew(self, client: Client) -> RefreshGrant | None:
        """Ask the application for a longer life; see `wirebell.access.Access`."""
        if self.handshake is FORGOTTEN:
            # Whoever renews was not there yet: it comes back, and is asked about with a handshake.
            return None
        identity = await self.authority.hooks.refresh(self._caller(client, client.user_id))
        if identity is None or identity.user_id != client.user_id:
            return None
        return RefreshGrant(identity.expires_at.timestamp() if identity.expires_at else None)

    # Channels

    def options_for(self, channel: str) -> ChannelOptions:
        """Return a channel's options; see `wirebell.access.Access`."""
        return self.authority.options_for(channel)

    async def subscribe(self, client: Client, request: SubscribeRequest) -> ServerSubscribe:
        """Let a client into a channel; see `wirebell.access.Access`."""
        channel = request.channel
        self.authority.check_name(channel)
        if client.is_subscribed(channel):
            raise ProtocolError(ErrorCode.ALREADY_SUBSCRIBED)
        if len(client.connection.channels) >= client.node.settings.channels_per_connection_max:
            raise ProtocolError(ErrorCode.LIMIT_EXCEEDED)
        return await self._permit(client, channel, request, client.user_id)

    async def _permit(
        self, client: Client, channel: str, request: SubscribeRequest, user_id: str
    ) -> ServerSubscribe:
        """Let somebody into a channel: by a token, a declaration's function, or its namespace."""
        authority = self.authority
        options = self.authority.options_for(channel)
        wishes = (request.positioned, request.recoverable, request.recover, request.join_leave)
        client.node.patterns.check(channel, *wishes)
        found = authority.registry.find(channel)
        if found is not None:
            declaration, parameters = found
            if not declaration.lets_in(user_id):
                await declaration.check_subscribe(self._recall_handshake(), parameters)
            granted = ASKED_NOTHING
        elif request.token:
            granted = await self._read_subscription(client, channel, request.token, user_id)
        elif authority.namespaces.may_subscribe(
            channel, options, user_id, insecure=authority.options.insecure
        ):
            granted = ASKED_NOTHING
        else:
            raise ProtocolError(ErrorCode.PERMISSION_DENIED)
        if authority.hooks.on_subscribe:
            await authority.hooks.subscribe(self._caller(client, user_id), channel)
        return granted

    async def _read_subscription(
        self, client: Client, channel: str, token: str, user_id: str
    ) -> ServerSubscribe:
        """Believe a subscription token, or raise."""
        verifier = self._subscription_tokens()
        if verifier is None:
            raise ProtocolError(ErrorCode.PERMISSION_DENIED)
        try:
            claims: SubscriptionClaims = await self.authority.verify(
                verifier, verifier.verify_subscription, token
            )
        except TokenExpired as error:
            raise ProtocolError(ErrorCode.TOKEN_EXPIRED) from error
        except TokenInvalid as error:
            logger.info("a subscription was refused: %s", error)
            raise ProtocolError(ErrorCode.PERMISSION_DENIED) from error
        _check_bearer(claims, client, channel, user_id)
        expires_at = self._end_of(claims.expires_at)
        return _subscribe(claims.override, claims.info, claims.data, expires_at)

    async def sub_refresh(
        self, client: Client, request: SubRefreshRequest
    ) -> tuple[str, float | None]:
        """Take a new token of a subscription; see `wirebell.access.Access`."""
        if not request.token:
            raise _missing(request)
        verifier = self._subscription_tokens()
        channel = request.channel
        if channel and not client.is_subscribed(channel):
            raise ProtocolError(ErrorCode.PERMISSION_DENIED)
        if verifier is None:
            raise _disconnect(DisconnectCode.INVALID_TOKEN)
        try:
            claims: SubscriptionClaims = await self.authority.verify(
                verifier, verifier.verify_subscription, request.token
            )
        except TokenExpired as error:
            raise ProtocolError(ErrorCode.TOKEN_EXPIRED) from error
        except TokenInvalid as error:
            code = DisconnectCode.INVALID_TOKEN if channel else DisconnectCode.BAD_REQUEST
            raise _disconnect(code) from error
        # The Python SDK leaves the channel out; the token has it (section 1.15).
        channel = channel or claims.channel
        _check_bearer(claims, client, channel, client.user_id)
        return channel, self._end_of(claims.expires_at)

    def _end_of(self, expires_at: float | None) -> float | None:
        """Return when something ends whose token does; what has ended already is refused."""
        if self.authority.options.insecure:
            return None
        if _has_ended(expires_at):
            raise ProtocolError(ErrorCode.EXPIRED)
        return expires_at

    def _subscription_tokens(self) -> TokenVerifier | None:
        """Return who checks subscription tokens: the same keys unless there are others."""
        return self.authority.subscription_tokens or self.authority.connection_tokens

    # Publications

    def publish(
        self, client: Client, request: PublishRequest
    ) -> Publication | Awaitable[Publication | None] | None:
        """Check what a client publishes; see `wirebell.access.Access`."""
        authority, channel = self.authority, request.channel
        options = authority.check_command(channel)
        connection = client.connection
        if not may_publish(
            options,
            connection.user_id,
            is_subscribed=channel in connection.channels,
            insecure=authority.options.insecure,
        ):
            raise ProtocolError(ErrorCode.PERMISSION_DENIED)
        if request.type or request.key or request.removed:
            raise ProtocolError(ErrorCode.PERMISSION_DENIED)
        data = bytes(request.data)
        if data and not client.codec.is_binary and options.publication_format is not _OBJECT:
            # The frame was read as JSON, and this value with it.
            kind = PayloadFormat.JSON
        else:
            kind = check_publication(options, data)
        authority.registry.check_data(channel, data)
        return Publication(
            data, kind, info=connection.info(channel), has_delta=options.delta_publish
        )

    def check_presence(self, client: Client, channel: str) -> None:
        """Let a client see who is in a channel; see `wirebell.access.Access`."""
        options = self.authority.check_command(channel)
        if not options.presence:
            raise ProtocolError(ErrorCode.NOT_AVAILABLE)
        if not may_presence(
            options,
            client.user_id,
            is_subscribed=client.is_subscribed(channel),
            insecure=self.authority.options.insecure,
        ):
            raise ProtocolError(ErrorCode.PERMISSION_DENIED)

    def may_see_presence(self, client: Client, channel: str, options: ChannelOptions) -> bool:
        """Tell whether a subscriber may see who is there; see `wirebell.access.Access`."""
        del channel
        insecure = self.authority.options.insecure
        return may_presence(options, client.user_id, is_subscribed=True, insecure=insecure)

    def may_recover(self, client: Client, options: ChannelOptions) -> bool:
        """Tell whether a subscriber may read history; see `wirebell.access.Access`."""
        insecure = self.authority.options.insecure
        return may_history(options, client.user_id, is_subscribed=True, insecure=insecure)

    def check_history(self, client: Client, channel: str) -> None:
        """Let a client read a channel's history; see `wirebell.access.Access`."""
        options = self.authority.check_command(channel)
        if options.history is None:
            raise ProtocolError(ErrorCode.NOT_AVAILABLE)
        if not may_history(
            options,
            client.user_id,
            is_subscribed=client.is_subscribed(channel),
            insecure=self.authority.options.insecure,
        ):
            raise ProtocolError(ErrorCode.PERMISSION_DENIED)

    # The application's own

    async def rpc(self, client: Client, method: str, data: bytes) -> bytes:
        """Answer a remote procedure call; see `wirebell.access.Access`."""
        options, hooks = self.authority.options, self.authority.hooks
        if options.rpc_ping_method and method == options.rpc_ping_method:
            return b""
        if not hooks.rpc_handlers:
            has_any = bool(options.rpc_ping_method)
            raise ProtocolError(ErrorCode.METHOD_NOT_FOUND if has_any else ErrorCode.NOT_AVAILABLE)
        return await hooks.call(self._caller(client, client.user_id), method, data)

    async def send(self, client: Client, data: bytes) -> None:
        """Take a message that has no answer; see `wirebell.access.Access`."""
        hooks = self.authority.hooks
        if hooks.on_send is None or not await hooks.send(
            self._caller(client, client.user_id), data
        ):
            raise _disconnect(DisconnectCode.NOT_AVAILABLE)

    def unsubscribed(self, client: Client, channel: str, code: int, reason: str) -> None:
        """Tell the application; see `wirebell.access.Access`."""
        if self.authority.hooks.on_unsubscribe:
            caller = Caller(client.client_id, client.user_id, self.handshake)
            self.authority.hooks.unsubscribe(caller, channel, code, reason)

    def disconnected(self, client: Client) -> None:
        """Tell the application; see `wirebell.access.Access`."""
        if self.authority.hooks.on_disconnect:
            caller = Caller(client.client_id, client.user_id, self.handshake)
            self.authority.hooks.disconnect(caller)


def _subscribe(
    override: SubscriptionOverride, info: bytes, data: bytes, expires_at: float | None = None
) -> ServerSubscribe:
    """Create a grant from a token's claims."""
    return ServerSubscribe(
        info=embed(info),
        data=embed(data),
        expires_at=expires_at,
        presence=override.presence,
        join_leave=override.join_leave,
        force_push_join_leave=override.force_push_join_leave,
        force_positioning=override.force_positioning,
        force_recovery=override.force_recovery,
    )


def _check_bearer(claims: SubscriptionClaims, client: Client, channel: str, user_id: str) -> None:
    """End a connection that shows somebody else's token (``subscribe_token_mismatch``)."""
    is_theirs = (
        claims.channel == channel
        and claims.user_id == user_id
        and claims.client_id in {"", client.client_id}
    )
    if not is_theirs:
        raise _disconnect(DisconnectCode.INVALID_TOKEN)


def _missing(request: SubRefreshRequest) -> ProtocolError | ClientDisconnected:
    """Refuse a refresh without a token (``sub_refresh_errors``, ``frames_missing_fields``)."""
    if request.channel:
        return ProtocolError(ErrorCode.BAD_REQUEST)
    return _disconnect(DisconnectCode.BAD_REQUEST)


def _check_limits(client: Client, user_id: str, channel_count: int) -> None:
    """Refuse a connection that would be refused right after this by a limit of how many."""
    settings = client.node.settings
    if channel_count > settings.channels_per_connection_max:
        raise _disconnect(DisconnectCode.CHANNEL_LIMIT)
    # Those that end now still count: their peers have not answered yet.
    if 0 < settings.connections_per_user_max <= len(client.node.users.get(user_id, ())):
        raise _disconnect(DisconnectCode.CONNECTION_LIMIT)


def _end_others(client: Client, user_id: str) -> None:
    """End a user's other connections, since only one may be."""
    for connection in list(client.node.users.get(user_id, {}).values()):
        if connection is not client.connection and connection.control is not None:
            connection.control.close(create_disconnect(DisconnectCode.CONNECTION_LIMIT))
    node = client.node
    if node.cluster.members:
        node.spawn(end_predecessors(node, user_id, client.client_id))


def _has_ended(expires_at: float | None) -> bool:
    """Tell whether an instant has passed: a token may be good and what it gives be over."""
    return expires_at is not None and expires_at <= time.time()


def _disconnect(code: DisconnectCode) -> ClientDisconnected:
    """Create what ends a connection."""
    return ClientDisconnected(create_disconnect(code))
