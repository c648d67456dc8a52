"""Plain text sockets: what ``new WebSocket(url)`` speaks without any SDK.

Publications arrive as text. What the peer sends is published, given to a handler, or refused.
Why a socket is closed is told twice: as the last text message, because a browser shows it, and
as the reason of the close frame.
"""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TypeVar

from wirebell.connection import Connection
from wirebell.deadlines import Deadline
from wirebell.errors import (
    BadRequest,
    BrokerError,
    CommandError,
    ConnectionClosed,
    Denied,
    Disconnect,
    DisconnectCode,
    ErrorCode,
    LimitExceeded,
    PermissionDenied,
    ProtocolError,
    WirebellError,
)
from wirebell.interfaces import Transport
from wirebell.model import Frames, Identity, Publication
from wirebell.node import Node
from wirebell.protocol.text import TEXT

__all__ = ("PlainOptions", "PlainReceiver", "disconnect_for", "notice")

logger = logging.getLogger(__name__)


ResultT = TypeVar("ResultT")

TextHandler = Callable[[str], Awaitable[str | None] | str | None]
SignIn = Callable[[str], Awaitable[Identity] | Identity]
CloseHandler = Callable[[], Awaitable[object] | object]


NOBODY = Identity()


@dataclass(frozen=True, slots=True)
class PlainOptions:
    """What `wirebell.Realtime.attach` was asked for; its docstring explains each."""

    channels: Sequence[str] = ()
    publish: str | None = None
    on_text: TextHandler | None = None
    first_text: SignIn | None = None
    on_close: CloseHandler | None = None
    heartbeat: str | None = None
    identity: Identity = NOBODY


CODES: dict[type[WirebellError], DisconnectCode] = {
    LimitExceeded: DisconnectCode.TRY_AGAIN_LATER,
    BadRequest: DisconnectCode.BAD_CHANNEL,
    PermissionDenied: DisconnectCode.FORBIDDEN,
    Denied: DisconnectCode.FORBIDDEN,
}
"""How a plain socket ends that one of these keeps out."""


def notice(disconnect: Disconnect) -> str:
    """Say why a plain socket is closed, in the one shape that errors have."""
    return json.dumps({"error": {"code": disconnect.code, "message": disconnect.reason}})


def disconnect_for(error: WirebellError) -> Disconnect:
    """Translate an error of ours into how a plain socket ends."""
    if isinstance(error, ConnectionClosed):
        return error.disconnect
    for kind, code in CODES.items():
        if isinstance(error, kind):
            return Disconnect(code, _shorten(str(error)))
    logger.error("a connection could not be served", exc_info=error)
    return Disconnect(DisconnectCode.INTERNAL_ERROR, "internal error")


class PlainReceiver:
    """A `wirebell.interfaces.Receiver` for one plain socket.

    Mutable state: the connection, its deadlines, and whether it still has to sign in.

    Args:
        node: The engine.
        transport: The peer.
        options: What the endpoint wants of the socket.
    """

    __slots__ = ("connection", "deadlines", "is_signing_in", "node", "options", "transport")

    def __init__(self, node: Node, transport: Transport, options: PlainOptions) -> None:
        self.node = node
        self.transport = transport
        self.options = options
        self.connection: Connection | None = None
        self.is_signing_in = options.first_text is not None
        # Most connections have none, and a dictionary each would be the larger part of them.
        self.deadlines: dict[str, Deadline] | None = None

    async def connect(self, address: str) -> None:
        """Admit the connection, and subscribe it unless it has to sign in first.

        Done before the handshake is answered, so that a peer that has seen the answer misses
        nothing that is published afterwards.

        Raises:
            CommandError: A limit, a name or a user forbids it; nothing is left behind.
        """
        self.connection = self.node.connect(self.transport, TEXT, address)
        try:
            if not self.is_signing_in:
                await self._enter(self.connection, self.options.identity)
        except BaseException:
            self._cancel_all()
            self.node.disconnect(self.connection)
            raise

    def receive_open(self) -> None:
        """Start the deadlines."""
        settings = self.node.settings
        if self.is_signing_in:
            self._schedule("sign in", settings.first_message_timeout_seconds, self._sign_in_late)
        if self.options.heartbeat is not None:
            self._schedule("heartbeat", settings.heartbeat_interval_seconds, self._beat)

    def receive_text(self, text: str) -> Awaitable[None] | None:
        """Sign in, publish, hand over, or refuse; a plain function has answered on return."""
        connection, options = self.connection, self.options
        assert connection is not None
        if self.is_signing_in:
            if connection.is_closed:
                # It left while the text before was looked at; this one is no other token.
                return None
            return self._guard(connection, self._sign_in(connection, text))
        if options.on_text is not None:
            return self._ask(connection, options.on_text, text)
        if options.publish is not None:
            return self._guard(connection, self._publish(options.publish, text))
        self.close(
            Disconnect(DisconnectCode.POLICY_VIOLATION, "this socket sends and takes no messages")
        )
        return None

    def receive_bytes(self, data: bytes) -> None:
        """Refuse: a plain socket speaks text."""
        reason = f"this socket speaks text, got a binary message of {len(data)} bytes"
        self.close(Disconnect(DisconnectCode.UNSUPPORTED_DATA, reason))

    def receive_leave(self) -> None:
        """Leave the channels; texts that came before are handled, and answers go nowhere."""
        self._cancel_all()
        if self.connection is not None:
            self.node.disconnect(self.connection)

    def receive_eof(self) -> Awaitable[None] | None:
        """Leave the channels; then the endpoint's ``on_close`` runs."""
        self.receive_leave()
        if self.connection is None or self.options.on_close is None:
            return None
        return self._run_on_close(self.options.on_close)

    def send_ping(self) -> bool:
        """Leave pings to the carrier: text has no words for them."""
        return False

    def receive_writable(self) -> None:
        """Go on with channels that held back."""
        if self.connection is not None:
            self.node.resume(self.connection)

    def receive_shutdown(self) -> None:
        """Send the peer elsewhere; RFC 6455 has a code that says it, so no text does."""
        if self.connection is not None:
            disconnect = Disconnect(DisconnectCode.SERVICE_RESTART, "shutting down")
            self.node.close(self.connection, disconnect)

    def close(self, disconnect: Disconnect) -> None:
        """End the connection and say why; one that has ended has nobody to tell."""
        if self.connection is not None and not self.connection.is_closed:
            self.node.close(self.connection, disconnect, notice=notice(disconnect))

    def _ask(
        self, connection: Connection, on_text: TextHandler, text: str
    ) -> Awaitable[None] | None:
        """Hand a message to the endpoint's function, and send what it returns."""
        try:
            answer = on_text(text)
            if inspect.isawaitable(answer):
                return self._guard(connection, self._send_answer(connection, answer))
            if answer is not None:
                self._reply(connection, answer)
        except Exception as error:  # noqa: BLE001 - told by `_fail`
            self._fail(connection, error)
        return None

    async def _send_answer(self, connection: Connection, answer: Awaitable[str | None]) -> None:
        """Wait for a handler's answer, and send it."""
        text = await answer
        if text is not None:
            self._reply(connection, text)

    async def _publish(self, channel: str, text: str) -> None:
        """Publish what the peer said, as it is."""
        await self.node.publish(channel, Publication(text.encode()))

    async def _guard(self, connection: Connection, work: Awaitable[None]) -> None:
        """Do what the endpoint wants with a message; its failure ends this socket only."""
        try:
            await work
        except Exception as error:  # noqa: BLE001 - told by `_fail`
            self._fail(connection, error)

    def _fail(self, connection: Connection, error: Exception) -> None:
        """Tell the peer what became of its message; the log has what is not the peer's business."""
        if isinstance(error, ConnectionClosed):
            return
        if isinstance(error, CommandError):
            self._refuse(connection, error)
            return
        if isinstance(error, BrokerError) and not self.is_signing_in:
            # The broker is away: the peer may say it again.
            self.node.note_failure(error)
            self._refuse(connection, ProtocolError(ErrorCode.INTERNAL))
            return
        logger.error(
            "a text handler failed", exc_info=error, extra={"client_id": connection.client_id}
        )
        self.close(Disconnect(DisconnectCode.INTERNAL_ERROR, "internal error"))

    async def _sign_in(self, connection: Connection, text: str) -> None:
        """Learn who the peer is from its first message, then subscribe it."""
        assert self.options.first_text is not None
        self._cancel("sign in")
        try:
            identity = await _result(self.options.first_text(text))
        except Denied as error:
            self.close(Disconnect(DisconnectCode.UNAUTHORIZED, _shorten(error.message)))
            return
        await self._enter(connection, identity)
        self.is_signing_in = False

    async def _enter(self, connection: Connection, identity: Identity) -> None:
        """Say who the peer is, and subscribe it.

        Raises:
            ConnectionClosed: It left while somebody found out.
        """
        if connection.is_closed:
            raise ConnectionClosed(Disconnect(DisconnectCode.GOING_AWAY, "connection ended"))
        self.node.identify(connection, identity.user_id)
        if identity.expires_at is not None:
            remaining = (identity.expires_at - datetime.now(UTC)).total_seconds()
            self._schedule("expiry", remaining, self._expire)
        for channel in self.options.channels:
            subscription = await self.node.subscribe(connection, channel)
            if subscription.position is not None:
                self.node.release(connection, channel, subscription.position)
        # Nobody asks for these again, and there may be very many idle sockets.
        self.options = replace(self.options, channels=(), identity=NOBODY)

    def _reply(self, connection: Connection, text: str) -> None:
        """Send a handler's answer, after whatever the peer was sent before."""
        self.node.write(connection, Frames.from_text(text))

    def _refuse(self, connection: Connection, error: CommandError) -> None:
        """Tell the peer what was wrong with its message; a denial ends the socket."""
        if self.is_signing_in or isinstance(error, Denied):
            self.close(disconnect_for(error))
        else:
            body = {"error": {"code": int(error.code), "message": error.message}}
            self._reply(connection, json.dumps(body))

    async def _run_on_close(self, on_close: CloseHandler) -> None:
        """Run the endpoint's last words; a failure is logged and nobody else's."""
        try:
            await _result(on_close())
        except Exception:
            logger.exception("an on_close handler failed")

    def _schedule(self, name: str, delay_seconds: float, callback: Callable[[], None]) -> None:
        """Keep one deadline of a name."""
        if self.deadlines is None:
            self.deadlines = {}
        self.deadlines[name] = self.node.schedule(delay_seconds, callback)

    def _cancel(self, name: str) -> None:
        """Forget the deadline of a name."""
        deadline = None if self.deadlines is None else self.deadlines.pop(name, None)
        if deadline is not None:
            self.node.cancel(deadline)

    def _cancel_all(self) -> None:
        """Forget all deadlines."""
        for deadline in (self.deadlines or {}).values():
            self.node.cancel(deadline)
        self.deadlines = None

    def _beat(self) -> None:
        """Send the heartbeat, and plan the next."""
        connection, text = self.connection, self.options.heartbeat
        if connection is None or text is None or connection.is_closed:
            return
        self._reply(connection, text)
        self._schedule("heartbeat", self.node.settings.heartbeat_interval_seconds, self._beat)

    def _expire(self) -> None:
        """End a connection whose credentials have ended."""
        self.close(Disconnect(DisconnectCode.UNAUTHORIZED, "token expired"))

    def _sign_in_late(self) -> None:
        """End a connection that did not say who it is."""
        seconds = self.node.settings.first_message_timeout_seconds
        reason = f"no credentials within {seconds:g} seconds: send the token as the first message"
        self.close(Disconnect(DisconnectCode.UNAUTHORIZED, reason))


async def _result(value: Awaitable[ResultT] | ResultT) -> ResultT:
    """Take what a handler returned, or wait for it."""
    if inspect.isawaitable(value):
        awaited: ResultT = await value
        return awaited
    return value


def _shorten(reason: str) -> str:
    """Cut a reason to what a close frame can carry: 123 bytes (RFC 6455, section 5.5)."""
    return reason.encode()[:123].decode(errors="ignore")
