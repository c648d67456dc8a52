"""A client of the protocol on this node: what its commands do, and what the server does to it.

Strategy: a receiver hands over one command at a time (`wirebell.client_commands`) and sends the
reply; what must follow the reply (held publications, joins) is let go by `Client.settle` right
after it. What a client may do is decided by its `Access`.

It knows the protocol's messages and the node, and no transport.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from wirebell.access import Access, ShownToken
from wirebell.client_deadlines import ClientDeadlines
from wirebell.client_requests import (
    handle_history,
    handle_presence,
    handle_presence_stats,
    handle_rpc,
    handle_send,
)
from wirebell.connection import Connection, Subscription
from wirebell.errors import (
    UNSUBSCRIBE_REASONS,
    ClientDisconnected,
    ConnectionClosed,
    Disconnect,
    DisconnectCode,
    ErrorCode,
    LimitExceeded,
    ProtocolError,
    UnsubscribeCode,
    create_disconnect,
)
from wirebell.interfaces import Encoding, Transport
from wirebell.model import (
    Frames,
    ServerSubscribe,
    StreamPosition,
)
from wirebell.node import Node
from wirebell.protocol import messages
from wirebell.protocol.codec import Codec
from wirebell.protocol.encoding import ChannelEncoding, Delta
from wirebell.protocol.messages import (
    ConnectRequest,
    ConnectResult,
    SubscribeRequest,
    SubscribeResult,
)
from wirebell.protocol.pushes import Push, RefreshPush, SubscribePush, UnsubscribePush
from wirebell.subscribing import REJECT_UNRECOVERED, Terms, agree, describe
from wirebell.version import __version__

__all__ = ("HANDLERS", "Client")

logger = logging.getLogger(__name__)

# A year: what is announced of a longer life (transcript connect_token_exp_far).
TTL_SECONDS_MAX = 31_536_000


class Client:
    """One client of the protocol. A `wirebell.interfaces.ClientControl`.

    Mutable state: its connection, subscriptions that wait for their reply, deadlines. Used on the
    node's event loop.

    Args:
        node: The engine.
        transport: The peer.
        codec: Its encoding.
        access: Decides.
        address: The peer's; empty when unknown.
        transport_name: As ``connections`` shows it.
        is_unidirectional: It only listens.
        has_session: It sends its commands by another request (section 1.10).
        announces_ping: The connect result tells of pings.
        joins_messages: Of a unidirectional one, several pushes may share a message.

    Raises:
        LimitExceeded: A limit of how many connections was reached; nothing is left behind.
    """

    __slots__ = (
        "access",
        "announces_ping",
        "buckets",
        "codec",
        "connected_at",
        "connection",
        "deadlines",
        "expires_at",
        "is_connected",
        "is_unidirectional",
        "joins_messages",
        "name",
        "node",
        "send_close",
        "session_id",
        "token",
        "transport_name",
        "unreleased",
        "version",
    )

    def __init__(
        self,
        node: Node,
        transport: Transport,
        codec: Codec,
        encoding: Encoding,
        access: Access,
        send_close: Callable[[Disconnect], None],
        *,
        address: str = "",
        transport_name: str = "websocket",
        is_unidirectional: bool = False,
        has_session: bool = False,
        announces_ping: bool = True,
        joins_messages: bool = False,
    ) -> None:
        self.node = node
        self.codec = codec
        self.access = access
        self.send_close = send_close
        self.is_unidirectional = is_unidirectional
        self.announces_ping = announces_ping
        self.joins_messages = joins_messages
        self.transport_name = transport_name
        self.name = self.version = ""
        self.session_id = str(uuid.uuid4()) if has_session else ""
        self.token: ShownToken | None = None
        self.is_connected = False
        self.connected_at = time.time()
        self.deadlines = ClientDeadlines(node)
        self.expires_at: float | None = None
        # Subscribed, and not told yet → the position from which live items follow.
        self.buckets = node.rates.create_buckets()
        self.unreleased: dict[str, StreamPosition | None] = {}
        self.connection: Connection = node.connect(transport, encoding, address, self)

    # Who it is

    @property
    def client_id(self) -> str:
        """Unique for ever."""
        return self.connection.client_id

    @property
    def user_id(self) -> str:
        """Empty for somebody anonymous."""
        return self.connection.user_id

    def is_subscribed(self, channel: str) -> bool:
        """Tell whether it is subscribed to a channel."""
        return channel in self.connection.channels

    def settle(self) -> None:
        """Let live items follow, now that the reply has gone."""
        unreleased, self.unreleased = self.unreleased, {}
        for channel, position in unreleased.items():
            self.node.release(self.connection, channel, position)

    # Connecting

    async def connect(self, request: ConnectRequest) -> ConnectResult:
        """Connect: say who it is, and subscribe it on the server's side.

        Raises:
            CommandError: It is refused, with an answer.
            ClientDisconnected: It is refused without one.
            ConnectionClosed: It went away meanwhile.
        """
        grant = await self.access.connect(self, request)
        connection, settings = self.connection, self.node.settings
        self._check_open()
        try:
            self.node.identify(connection, grant.user_id)
        except LimitExceeded as error:
            raise ClientDisconnected(create_disconnect(DisconnectCode.CONNECTION_LIMIT)) from error
        self.token = grant.token
        self._check_token()
        connection.conn_info = grant.info
        # Mostly those of one SDK: clients share the words.
        self.name, self.version = sys.intern(request.name[:64]), sys.intern(request.version[:64])
        if len(grant.channels) > settings.channels_per_connection_max:
            raise ClientDisconnected(create_disconnect(DisconnectCode.CHANNEL_LIMIT))
        subs = await self._enter_all(request, grant.channels)
        self._check_open()
        self.is_connected = True
        expires_at = grant.expires_at
        self.expire_at(expires_at, grant.grace_seconds)
        announced = expires_at if grant.is_refreshed_by_client else None
        return ConnectResult(
            client=connection.client_id,
            version=__version__,
            expires=announced is not None,
            ttl=_ttl(announced),
            data=grant.data,
            subs=subs,
            ping=max(1, round(settings.ping_interval_seconds)) if self.announces_ping else 0,
            pong=self.announces_ping and not self.is_unidirectional,
            session=self.session_id,
            node=self.node.node_id if self.session_id and not self.is_unidirectional else "",
            time=int(time.time() * 1000) if self.access.tells_time else 0,
        )

    def _check_token(self) -> None:
        """Refuse what was revoked while others were asked; later it is found here."""
        # Whoever shows no token came when its link did.
        token = self.token or ShownToken("", self.connected_at)
        refuses = self.node.cluster.revocations.refuses
        if refuses(self.user_id, token.token_id, token.issued_at, time.time()):
            raise ClientDisconnected(create_disconnect(DisconnectCode.INVALID_TOKEN))

    async def _enter_all(
        self, request: ConnectRequest, channels: Mapping[str, ServerSubscribe]
    ) -> dict[str, SubscribeResult]:
        """Subscribe it to what connecting brings: all of it, or nothing."""
        subs: dict[str, SubscribeResult] = {}
        try:
            for channel, how in channels.items():
                wish = request.subs.get(channel) or SubscribeRequest()
                result = await self._enter(channel, wish, how, is_server_side=True)
                if result is not None:
                    subs[channel] = result
        except BaseException:
            for channel in list(self.connection.channels):
                self._leave(channel)
            self.unreleased.clear()
            raise
        # The server may have taken it out of the first while it waited for the last.
        return {channel: sub for channel, sub in subs.items() if self.is_subscribed(channel)}

    def _check_open(self) -> None:
        """Go on with a connection that nobody has ended meanwhile."""
        if self.connection.is_closed or self.connection.is_closing:
            raise ConnectionClosed(Disconnect(DisconnectCode.GOING_AWAY, "connection ended"))

    async def _refresh(self, request: messages.RefreshRequest) -> messages.RefreshResult:
        """Take new credentials for a live connection."""
        grant = await self.access.refresh(self, request.token)
        if grant.channels is not None:
            channels = self.connection.channels
            ours = {name for name, entry in channels.items() if entry.is_server_side}
            if not grant.channels <= ours:
                raise ClientDisconnected(create_disconnect(DisconnectCode.INSUFFICIENT_STATE))
        self.token = grant.token or self.token
        self._check_token()
        self.expire_at(grant.expires_at, self.node.settings.expired_close_delay_seconds)
        return messages.RefreshResult(grant.expires_at is not None, _ttl(grant.expires_at))

    def expire_at(self, expires_at: float | None, grace_seconds: float) -> None:
        """Have the connection end with its credentials, unless they are refreshed."""
        self.expires_at = expires_at
        self.deadlines.cancel("expiry")
        if expires_at is not None:
            delay = expires_at - time.time() + grace_seconds
            self.deadlines.plan("expiry", delay, self._expire)

    def _expire(self) -> None:
        """End a connection whose credentials have ended, unless the application renews them."""
        self.node.spawn(self._renew())

    async def _renew(self) -> None:
        """Ask the application for a longer life; it has as long as a client would have."""
        ended, grant = self.expires_at, None
        try:
            async with asyncio.timeout(self.node.settings.expired_close_delay_seconds):
                grant = await self.access.renew(self)
        except Exception:
            logger.exception("renewing failed", extra={"client_id": self.client_id})
        if self.connection.is_closed or self.expires_at != ended:
            # It left, or showed new credentials meanwhile.
            return
        if grant is None or (grant.expires_at is not None and grant.expires_at <= time.time()):
            self.send_close(create_disconnect(DisconnectCode.EXPIRED))
        else:
            self.expire_at(grant.expires_at, 0.0)
            self.push(RefreshPush())

    # Channels

    async def _subscribe(self, request: SubscribeRequest) -> SubscribeResult:
        """Subscribe it at its own wish."""
        channel = request.channel
        grant = await self.access.subscribe(self, request)
        result = await self._enter(channel, request, grant, is_server_side=False)
        if result is None:
            raise ProtocolError(ErrorCode.PERMISSION_DENIED)
        return result

    async def _enter(
        self, channel: str, wish: SubscribeRequest, grant: ServerSubscribe, *, is_server_side: bool
    ) -> SubscribeResult | None:
        """Subscribe it to a channel; live items wait for `settle`.

        Returns:
            ``None`` when the server took it out again before it was in.
        """
        self._check_open()
        if self.is_subscribed(channel):
            # By the server, while the application was asked.
            raise ProtocolError(ErrorCode.ALREADY_SUBSCRIBED)
        options = self.access.options_for(channel)
        terms = agree(
            wish,
            options,
            grant,
            may_see_presence=self.access.may_see_presence(self, channel, options),
            may_read_history=self.access.may_recover(self, options),
        )
        subscription = Subscription(
            encoding=self._encoding(terms),
            is_positioned=terms.is_positioned,
            has_presence=terms.has_presence,
            has_join_leave=terms.has_join_leave,
            is_server_side=is_server_side,
            chan_info=grant.info,
            expires_at=grant.expires_at,
        )
        subscribed = await self.node.subscribe(
            self.connection,
            channel,
            subscription=subscription,
            since=terms.since,
            mode=terms.mode,
            must_recover=bool(wish.flag & REJECT_UNRECOVERED) and not is_server_side,
            hold=True,
        )
        if self.connection.channels.get(channel) is not subscription:
            return None
        recovery = subscribed.recovery
        if recovery is not None and recovery.recovered and terms.delta is Delta.FRESH:
            settled = self._encoding(terms).settled
            self.node.hub.recode(channel, self.connection, settled)
        self.unreleased[channel] = subscribed.position
        self._expire_subscription(channel, grant.expires_at)
        ttl = _ttl(grant.expires_at, longest=None)
        return describe(terms, subscribed.position, recovery, grant, self.codec, ttl_seconds=ttl)

    def _encoding(self, terms: Terms) -> ChannelEncoding:
        """Return how a channel's publications are written for it."""
        return terms.encoding(
            self.codec,
            is_unidirectional=self.is_unidirectional,
            joins_messages=self.joins_messages,
        )

    async def _unsubscribe(
        self, request: messages.UnsubscribeRequest
    ) -> messages.UnsubscribeResult:
        """Take it out of a channel at its own wish; without a subscription nothing happens."""
        if self._leave(request.channel):
            self.access.unsubscribed(self, request.channel, 0, "client")
        return messages.UnsubscribeResult()

    def _leave(self, channel: str) -> bool:
        """Take it out of a channel; false when it was not in."""
        if not self.node.unsubscribe(self.connection, channel):
            return False
        self.unreleased.pop(channel, None)
        self.deadlines.cancel(f"sub {channel}")
        return True

    async def _sub_refresh(self, request: messages.SubRefreshRequest) -> messages.SubRefreshResult:
        """Take a new token for a subscription."""
        channel, expires_at = await self.access.sub_refresh(self, request)
        subscription = self.connection.channels.get(channel)
        if subscription is None:
            raise ProtocolError(ErrorCode.PERMISSION_DENIED)
        subscription.expires_at = expires_at
        self._expire_subscription(channel, expires_at)
        return messages.SubRefreshResult(expires_at is not None, _ttl(expires_at))

    def _expire_subscription(self, channel: str, expires_at: float | None) -> None:
        """Have a subscription end with its token, unless that is refreshed."""
        name = f"sub {channel}"
        self.deadlines.cancel(name)
        if expires_at is not None:
            delay = expires_at - time.time() + self.node.settings.expired_sub_close_delay_seconds
            self.deadlines.plan(name, delay, lambda: self._end_expired(channel))

    def _end_expired(self, channel: str) -> None:
        """End a subscription whose token has ended."""
        self._end_subscription(
            channel, UnsubscribeCode.EXPIRED, DisconnectCode.SUBSCRIPTION_EXPIRED
        )

    def _end_subscription(
        self, channel: str, code: UnsubscribeCode, disconnect: DisconnectCode
    ) -> None:
        """End what a client began by a push, and what the server began with the connection."""
        subscription = self.connection.channels.get(channel)
        if subscription is None:
            return
        if subscription.is_server_side:
            self.send_close(create_disconnect(disconnect))
        else:
            self.unsubscribe(channel, code, UNSUBSCRIBE_REASONS[code])

    # What the server does to it

    async def subscribe(self, channel: str, options: ServerSubscribe) -> None:
        """Subscribe it on the server's side; see `wirebell.interfaces.ClientControl`."""
        if not self.is_connected:
            # Its connect result is on the way, and nothing may come before that.
            return
        if self.is_subscribed(channel):
            self.push(SubscribePush(channel, data=options.data))
            return
        if len(self.connection.channels) >= self.node.settings.channels_per_connection_max:
            raise ProtocolError(ErrorCode.LIMIT_EXCEEDED)
        since = options.since
        wish = SubscribeRequest(channel=channel)
        if since is not None:
            wish = SubscribeRequest(channel, recover=True, epoch=since.epoch, offset=since.offset)
        try:
            result = await self._enter(channel, wish, options, is_server_side=True)
        except ConnectionClosed:
            return
        if result is None:
            return
        self.push(
            SubscribePush(
                channel,
                recoverable=result.recoverable,
                epoch=result.epoch,
                offset=result.offset,
                positioned=result.positioned,
                data=options.data,
            )
        )
        entry = self.connection.channels.get(channel)
        if entry is not None and entry.encoding is not None and result.publications:
            frames = entry.encoding.join(channel, result.publications)
            self.node.write(self.connection, frames)
        self.node.release(self.connection, channel, self.unreleased.pop(channel, None))

    def unsubscribe(self, channel: str, code: int, reason: str) -> None:
        """End a subscription and push that; see `wirebell.interfaces.ClientControl`."""
        if self._leave(channel):
            if self.is_connected:
                self.push(UnsubscribePush(channel, code, reason))
            self.access.unsubscribed(self, channel, code, reason)

    def refresh(self, expires_at: float | None) -> None:
        """Change when it expires; see `wirebell.interfaces.ClientControl`."""
        if not self.is_connected:
            # Its credentials are being read, and decide.
            return
        has_ended = expires_at is not None and expires_at <= time.time()
        grace = 0.0 if has_ended else self.node.settings.expired_close_delay_seconds
        self.expire_at(expires_at, grace)
        self.push(RefreshPush(expires_at is not None, _ttl(expires_at)))

    def handle_gap(self, channel: str) -> None:
        """Have it recover; see `wirebell.interfaces.ClientControl`."""
        self._end_subscription(
            channel, UnsubscribeCode.INSUFFICIENT_STATE, DisconnectCode.INSUFFICIENT_STATE
        )

    def close(self, disconnect: Disconnect) -> None:
        """End the connection."""
        self.send_close(disconnect)

    def push(self, push: Push) -> None:
        """Tell this client alone, in order with what its channels get."""
        message = self.codec.encode_push(push, is_bare=self.is_unidirectional)
        self.write(message)

    def write(self, message: str | bytes) -> None:
        """Send one encoded message with the tick."""
        self.node.write(self.connection, Frames.from_message(message))

    # The end

    def end(self) -> None:
        """Learn that the peer is gone: nothing of it stays. Idempotent."""
        self.deadlines.close()
        self.unreleased.clear()
        self.node.disconnect(self.connection)
        if self.is_connected:
            self.is_connected = False
            self.access.disconnected(self)


def _ttl(expires_at: float | None, *, longest: int | None = TTL_SECONDS_MAX) -> int:
    """Count the seconds to an instant, at most ``longest``; 0 where there is none."""
    if expires_at is None:
        return 0
    seconds = max(0, round(expires_at - time.time()))
    return seconds if longest is None else min(seconds, longest)


HANDLERS: Mapping[str, Callable[[Client, Any], Awaitable[object]]] = {
    "connect": Client.connect,
    "subscribe": Client._subscribe,
    "unsubscribe": Client._unsubscribe,
    "presence": handle_presence,
    "presence_stats": handle_presence_stats,
    "history": handle_history,
    "send": handle_send,
    "rpc": handle_rpc,
    "refresh": Client._refresh,
    "sub_refresh": Client._sub_refresh,
}
"""Request → what answers it; ``publish`` is apart, since it mostly has nothing to wait for."""
