"""The unidirectional connection: the client says once what it wants, then only listens.

The first message is a ConnectRequest; everything the server sends is a push, the first of them
``connect`` with the position of every channel and what was missed. Later messages of the client
are ignored. Source: protocol document, sections 1.5, 1.8 and 1.11.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from wirebell.connection import Connection
from wirebell.deadlines import Deadline
from wirebell.errors import (
    BadRequest,
    CommandError,
    ConnectionClosed,
    Disconnect,
    DisconnectCode,
    LimitExceeded,
)
from wirebell.interfaces import Transport
from wirebell.model import Identity, StreamPosition
from wirebell.node import Node
from wirebell.protocol.json import (
    JSON,
    PING,
    ConnectRequest,
    SubscribeRequest,
    SubscribeResult,
    decode_connect,
    encode_connect,
    encode_disconnect,
)
from wirebell.version import __version__

__all__ = ("Authorize", "UnidirectionalReceiver")

logger = logging.getLogger(__name__)

Authorize = Callable[[str], Awaitable[None]]
"""Lets the peer into a channel by returning, or raises a `wirebell.errors.CommandError`."""


class UnidirectionalReceiver:
    """A `wirebell.interfaces.Receiver` for one unidirectional connection.

    Mutable state: the connection, its deadlines, and whether it has connected.

    Args:
        node: The engine.
        transport: The peer.
        identity: Who the handshake said the peer is.
        authorize: Decides channel by channel.
    """

    def __init__(
        self, node: Node, transport: Transport, identity: Identity, authorize: Authorize
    ) -> None:
        self.node = node
        self.transport = transport
        self.identity = identity
        self.authorize: Authorize | None = authorize
        self.connection: Connection | None = None
        self.is_connected = False
        self.deadlines: dict[str, Deadline] = {}

    def connect(self, address: str) -> None:
        """Admit the connection.

        Raises:
            LimitExceeded: A limit of how many was reached; nothing is left behind.
        """
        self.connection = self.node.connect(self.transport, JSON, address)
        try:
            self.node.identify(self.connection, self.identity.user_id)
        except BaseException:
            self.node.disconnect(self.connection)
            raise

    def receive_open(self) -> None:
        """Start the deadlines."""
        self._schedule("connect", self.node.settings.first_message_timeout_seconds, self._stale)
        if self.identity.expires_at is not None:
            remaining = (self.identity.expires_at - datetime.now(UTC)).total_seconds()
            self._schedule("expiry", remaining, self._expire)

    def receive_text(self, text: str) -> Awaitable[None] | None:
        """Take the ConnectRequest; ignore what follows it."""
        return None if self.is_connected else self._connect(text)

    def receive_bytes(self, data: bytes) -> None:
        """Refuse: this connection speaks JSON."""
        del data
        self.close(Disconnect(DisconnectCode.BAD_REQUEST, "bad request"))

    def receive_eof(self) -> None:
        """Leave the channels."""
        for deadline in self.deadlines.values():
            self.node.cancel(deadline)
        if self.connection is not None:
            self.node.disconnect(self.connection)

    def receive_writable(self) -> None:
        """Go on with channels that held back."""
        if self.connection is not None:
            self.node.resume(self.connection)

    def receive_shutdown(self) -> None:
        """Send the client elsewhere."""
        self.close(Disconnect(DisconnectCode.SHUTDOWN, "shutdown"))

    def close(self, disconnect: Disconnect) -> None:
        """End the connection and say why."""
        if self.connection is not None:
            self.node.close(self.connection, disconnect, notice=encode_disconnect(disconnect))

    async def _connect(self, text: str) -> None:
        """Subscribe to what was asked for, and answer; one refusal ends the connection."""
        connection = self.connection
        assert connection is not None
        try:
            results = await self._subscribe(connection, decode_connect(text))
        except ConnectionClosed:
            return
        except CommandError as error:
            logger.info("a connection was refused: %s", error.message)
            self.close(_disconnect_for(error))
        except Exception:
            logger.exception("connecting failed", extra={"client_id": connection.client_id})
            self.close(Disconnect(DisconnectCode.INTERNAL_ERROR, "internal error"))
        else:
            self._answer(connection, results)

    async def _subscribe(
        self, connection: Connection, request: ConnectRequest
    ) -> dict[str, tuple[StreamPosition | None, SubscribeResult]]:
        """Subscribe to the channels of a request, in its order; live items are held back."""
        results: dict[str, tuple[StreamPosition | None, SubscribeResult]] = {}
        authorize = self.authorize
        assert authorize is not None
        for channel, wish in request.subs.items():
            self.node.check_channel(channel)
            await authorize(channel)
            since = _since(wish)
            subscription = await self.node.subscribe(connection, channel, since=since, hold=True)
            recovery = subscription.recovery
            results[channel] = (
                subscription.position,
                SubscribeResult.create(
                    subscription.position,
                    recovery.publications if recovery is not None else (),
                    since=since,
                    recovered=recovery is not None and recovery.recovered,
                ),
            )
        return results

    def _answer(
        self,
        connection: Connection,
        results: dict[str, tuple[StreamPosition | None, SubscribeResult]],
    ) -> None:
        """Send the connect push, then let live items follow it. Nothing waits in between."""
        self.is_connected = True
        # It holds the whole handshake, which nobody needs any more.
        self.authorize = None
        deadline = self.deadlines.pop("connect", None)
        if deadline is not None:
            self.node.cancel(deadline)
        interval = self.node.settings.ping_interval_seconds
        push = encode_connect(
            connection.client_id,
            __version__,
            {channel: result for channel, (_, result) in results.items()},
            ping_seconds=max(1, round(interval)),
        )
        self.node.write(connection, push)
        for channel, (position, _) in results.items():
            self.node.release(connection, channel, position)
        self._schedule("ping", interval, self._ping)

    def _schedule(self, name: str, delay_seconds: float, callback: Callable[[], None]) -> None:
        """Keep one deadline of a name."""
        self.deadlines[name] = self.node.schedule(delay_seconds, callback)

    def _ping(self) -> None:
        """Say that the server is alive, and plan the next."""
        connection = self.connection
        if connection is None or connection.is_closed:
            return
        self.node.write(connection, PING)
        self._schedule("ping", self.node.settings.ping_interval_seconds, self._ping)

    def _expire(self) -> None:
        """End a connection whose credentials have ended."""
        self.close(Disconnect(DisconnectCode.EXPIRED, "connection expired"))

    def _stale(self) -> None:
        """End a connection that did not say what it wants."""
        self.close(Disconnect(DisconnectCode.STALE, "stale"))


def _since(wish: SubscribeRequest) -> StreamPosition | None:
    """Read the position that a client wants to come back from."""
    return StreamPosition(wish.offset, wish.epoch) if wish.recover else None


def _disconnect_for(error: CommandError) -> Disconnect:
    """Translate a refusal into how this connection ends (section 1.14)."""
    if isinstance(error, LimitExceeded):
        return Disconnect(DisconnectCode.CONNECTION_LIMIT, "connection limit")
    if isinstance(error, BadRequest):
        return Disconnect(DisconnectCode.BAD_REQUEST, "bad request")
    return Disconnect(DisconnectCode.PERMISSION_DENIED, "permission denied")
