"""The unidirectional connection: the client says once what it wants, then only listens.

The first message is a ConnectRequest; everything the server sends is a push, the first of them
``connect`` with the server-side subscriptions and what was missed there. Later messages of the
client are ignored. Source: protocol document, sections 1.5, 1.8 and 1.11.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping

from wirebell.access import Access
from wirebell.client import Client
from wirebell.errors import (
    BadRequest,
    ClientDisconnected,
    CommandError,
    ConnectionClosed,
    Disconnect,
    DisconnectCode,
    ErrorCode,
    create_disconnect,
)
from wirebell.interfaces import Transport
from wirebell.model import Frames
from wirebell.node import Node
from wirebell.protocol.codec import Codec
from wirebell.protocol.messages import ConnectRequest
from wirebell.protocol.pushes import ConnectPush, DisconnectPush
from wirebell.subscribing import create_encoding

__all__ = ("ConnectFailed", "UnidirectionalReceiver")

logger = logging.getLogger(__name__)

ConnectFailed = Callable[[int, Disconnect], bool]
"""Is told why connecting failed: the code of the error or the disconnect, and how it would be told.
True: it has answered the peer itself, and nothing more is to be said."""

EXPIRED_CODES = frozenset((ErrorCode.TOKEN_EXPIRED, ErrorCode.EXPIRED))


class UnidirectionalReceiver:
    """A `wirebell.interfaces.Receiver` for one unidirectional connection.

    Mutable state: the client, and whether it has asked to connect.

    Args:
        node: The engine.
        transport: The peer.
        codec: Its encoding.
        access: Decides what it may do.
        address: The peer's; empty when unknown.
        transport_name: As ``connections`` shows it.
        has_disconnect_push: A push says why the connection ends, before the link does.
        joins_messages: Several pushes may share a message.
        first: The ConnectRequest, where the handshake had it already.
        disconnects: Code of an error or a disconnect → what is told instead when connecting fails.
        on_failure: Asked when connecting fails, before anything is told; ``None`` for nobody.

    Raises:
        LimitExceeded: A limit of how many connections was reached; nothing is left behind.
    """

    __slots__ = (
        "client",
        "disconnects",
        "first",
        "has_asked",
        "has_disconnect_push",
        "node",
        "on_failure",
    )

    def __init__(
        self,
        node: Node,
        transport: Transport,
        codec: Codec,
        access: Access,
        *,
        address: str = "",
        transport_name: str = "uni_websocket",
        has_disconnect_push: bool = True,
        joins_messages: bool = False,
        first: str | None = None,
        disconnects: Mapping[int, Disconnect] | None = None,
        on_failure: ConnectFailed | None = None,
    ) -> None:
        self.node = node
        self.has_asked = False
        self.first = first
        self.has_disconnect_push = has_disconnect_push
        self.disconnects = disconnects or {}
        self.on_failure = on_failure
        self.client = Client(
            node,
            transport,
            codec,
            create_encoding(codec, is_unidirectional=True, joins_messages=joins_messages),
            access,
            self.close,
            address=address,
            transport_name=transport_name,
            is_unidirectional=True,
            joins_messages=joins_messages,
            has_session=True,
        )

    def receive_open(self) -> Awaitable[None] | None:
        """Connect, or give the client its time to ask."""
        if not self.has_asked:
            delay = self.node.settings.first_message_timeout_seconds
            self.client.deadlines.plan("connect", delay, self._stale)
        if self.first is not None:
            first, self.first = self.first, None
            return self._connect(first)
        return None

    def receive_text(self, text: str) -> Awaitable[None] | None:
        """Take the ConnectRequest; ignore what follows it."""
        return None if self.has_asked else self._connect(text)

    def receive_bytes(self, data: bytes) -> Awaitable[None] | None:
        """Take the ConnectRequest; ignore what follows it."""
        return None if self.has_asked else self._connect(data)

    def receive_leave(self) -> None:
        """Leave the channels."""
        self.node.disconnect(self.client.connection)

    def receive_eof(self) -> None:
        """Leave the channels, and forget the client."""
        self.client.end()

    def receive_writable(self) -> None:
        """Go on with channels that held back."""
        self.node.resume(self.client.connection)

    def receive_shutdown(self) -> None:
        """Send the client elsewhere."""
        self.close(create_disconnect(DisconnectCode.SHUTDOWN))

    def send_ping(self) -> bool:
        """Say that the server is alive; a carrier that has pings of its own sends those too."""
        if self.client.is_connected:
            self.node.write(self.client.connection, self.client.codec.ping)
        return False

    def close(self, disconnect: Disconnect) -> None:
        """End the connection and say why."""
        if self.client.connection.is_closed:
            return
        notice = None
        if self.has_disconnect_push:
            push = DisconnectPush(disconnect.code, disconnect.reason)
            notice = self.client.codec.encode_push(push, is_bare=True)
        self.node.close(self.client.connection, disconnect, notice=notice)

    async def connect(self, request: ConnectRequest) -> None:
        """Connect as if the peer had sent the request."""
        self.has_asked = True
        try:
            result = await self.client.connect(request)
        except ConnectionClosed:
            return
        except ClientDisconnected as error:
            self._refuse(error.disconnect.code, error.disconnect)
        except CommandError as error:
            logger.info("a connection was refused: %d %s", error.code, error.message)
            self._refuse(int(error.code), _disconnect_for(error))
        except Exception:
            logger.exception("connecting failed", extra={"client_id": self.client.client_id})
            code = DisconnectCode.INTERNAL_SERVER_ERROR
            self._refuse(code, create_disconnect(code))
        else:
            self.client.deadlines.cancel("connect")
            message = self.client.codec.encode_push(ConnectPush(result), is_bare=True)
            self.node.write(self.client.connection, Frames.from_message(message))
            self.client.settle()

    async def _connect(self, data: str | bytes) -> None:
        """Read the ConnectRequest, and do it."""
        try:
            request = self.client.codec.decode_connect(data)
        except BadRequest as error:
            self.has_asked = True
            logger.info("a connection was refused: %s", error.message)
            code = DisconnectCode.BAD_REQUEST
            self._refuse(code, create_disconnect(code))
            return
        await self.connect(request)

    def _refuse(self, code: int, disconnect: Disconnect) -> None:
        """Tell why connecting failed, in the words that were configured for it."""
        disconnect = self.disconnects.get(code, disconnect)
        if self.on_failure is None or not self.on_failure(code, disconnect):
            self.close(disconnect)

    def _stale(self) -> None:
        """End a connection that did not say what it wants."""
        self.close(create_disconnect(DisconnectCode.STALE))


def _disconnect_for(error: CommandError) -> Disconnect:
    """Translate an error of connect into how this connection ends (section 1.16, 6)."""
    if error.code in EXPIRED_CODES:
        return create_disconnect(DisconnectCode.EXPIRED)
    if error.code == ErrorCode.PERMISSION_DENIED:
        return create_disconnect(DisconnectCode.PERMISSION_DENIED)
    if error.code == ErrorCode.LIMIT_EXCEEDED:
        return create_disconnect(DisconnectCode.CHANNEL_LIMIT)
    if error.temporary:
        return create_disconnect(DisconnectCode.INTERNAL_SERVER_ERROR)
    return create_disconnect(DisconnectCode.BAD_REQUEST)
