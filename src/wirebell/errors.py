"""Every exception of Wirebell, and the codes that reach a peer.

The tree (a test compares it with the classes)::

    WirebellError
    ├── CommandError
    │   ├── ProtocolError
    │   ├── BadRequest
    │   ├── LimitExceeded
    │   ├── PermissionDenied
    │   ├── NodesSilent
    │   └── Denied
    ├── ClientDisconnected
    ├── TokenError
    │   ├── TokenInvalid
    │   └── TokenExpired
    ├── BrokerError
    │   ├── BrokerUnavailable
    │   ├── BrokerClosed
    │   └── UnknownRecord
    ├── ConnectionClosed
    ├── ConfigError
    ├── NotRunning
    ├── HandshakeError
    ├── TooLong
    └── Corrupt

It knows nothing of transports: a code is a number, whoever carries it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum

__all__ = (
    "DISCONNECT_REASONS",
    "ERROR_MESSAGES",
    "TEMPORARY_CODES",
    "UNSUBSCRIBE_REASONS",
    "BadRequest",
    "BrokerClosed",
    "BrokerError",
    "BrokerUnavailable",
    "ClientDisconnected",
    "CommandError",
    "ConfigError",
    "ConnectionClosed",
    "Corrupt",
    "Denied",
    "Disconnect",
    "DisconnectCode",
    "ErrorCode",
    "HandshakeError",
    "LimitExceeded",
    "NodesSilent",
    "NotRunning",
    "PermissionDenied",
    "ProtocolError",
    "TokenError",
    "TokenExpired",
    "TokenInvalid",
    "TooLong",
    "UnknownRecord",
    "UnsubscribeCode",
    "WirebellError",
    "create_disconnect",
)


class ErrorCode(IntEnum):
    """Codes of errors that answer a command or an API call (protocol document, section 1.14)."""

    INTERNAL = 100
    """Something broke on our side; temporary."""
    UNAUTHORIZED = 101
    """Nobody is known by these credentials."""
    UNKNOWN_CHANNEL = 102
    """The channel's namespace does not exist."""
    PERMISSION_DENIED = 103
    """The identity may not do this."""
    METHOD_NOT_FOUND = 104
    """There is no such remote procedure."""
    ALREADY_SUBSCRIBED = 105
    """The connection is subscribed to the channel."""
    LIMIT_EXCEEDED = 106
    """A limit of counts was reached."""
    BAD_REQUEST = 107
    """The request is malformed, or a value is out of bounds."""
    NOT_AVAILABLE = 108
    """The channel does not have what was asked of it."""
    TOKEN_EXPIRED = 109
    """The token has ended: a client gets a new one and tries again."""
    EXPIRED = 110
    """What was to be refreshed has ended already."""
    TOO_MANY_REQUESTS = 111
    """More commands than allowed; temporary."""
    UNRECOVERABLE_POSITION = 112
    """The log does not reach back to the position."""
    CONCURRENT_PAGINATION = 113
    """Another page is being read; temporary."""


ERROR_MESSAGES: Mapping[ErrorCode, str] = {
    ErrorCode.INTERNAL: "internal server error",
    ErrorCode.UNAUTHORIZED: "unauthorized",
    ErrorCode.UNKNOWN_CHANNEL: "unknown channel",
    ErrorCode.PERMISSION_DENIED: "permission denied",
    ErrorCode.METHOD_NOT_FOUND: "method not found",
    ErrorCode.ALREADY_SUBSCRIBED: "already subscribed",
    ErrorCode.LIMIT_EXCEEDED: "limit exceeded",
    ErrorCode.BAD_REQUEST: "bad request",
    ErrorCode.NOT_AVAILABLE: "not available",
    ErrorCode.TOKEN_EXPIRED: "token expired",
    ErrorCode.EXPIRED: "expired",
    ErrorCode.TOO_MANY_REQUESTS: "too many requests",
    ErrorCode.UNRECOVERABLE_POSITION: "unrecoverable position",
    ErrorCode.CONCURRENT_PAGINATION: "concurrent pagination",
}
"""Code → the words that the wire carries for it (section 1.14)."""

TEMPORARY_CODES = frozenset(
    (ErrorCode.INTERNAL, ErrorCode.TOO_MANY_REQUESTS, ErrorCode.CONCURRENT_PAGINATION)
)
"""Errors after which the same command may succeed."""


class UnsubscribeCode(IntEnum):
    """Codes of an unsubscribe push (section 1.14); from 2500 on a client subscribes again."""

    SERVER = 2000
    """The server, or its API, ended the subscription."""
    INSUFFICIENT_STATE = 2500
    """The stream has a gap, or is another one: the client recovers."""
    EXPIRED = 2501
    """The subscription's token has ended."""
    STATE_INVALIDATED = 2502
    """The client drops its token and its position."""


UNSUBSCRIBE_REASONS: Mapping[UnsubscribeCode, str] = {
    UnsubscribeCode.SERVER: "server unsubscribe",
    UnsubscribeCode.INSUFFICIENT_STATE: "insufficient state",
    UnsubscribeCode.EXPIRED: "subscription expired",
    UnsubscribeCode.STATE_INVALIDATED: "state invalidated",
}
"""Code → the words that the wire carries for it."""


class DisconnectCode(IntEnum):
    """Close codes that Wirebell sends.

    1000–1013 are RFC 6455's and carry the plain text sockets; 3000–3999 are the client protocol's
    (section 1.14: 3500–3999 tell a client not to come back); 4400 and up are ours, and their last
    three digits are the HTTP status that says the same.
    """

    GOING_AWAY = 1001
    """The process stops."""
    PROTOCOL_ERROR = 1002
    """Frames that are none (RFC 6455, section 5)."""
    UNSUPPORTED_DATA = 1003
    """A binary message came to a text socket."""
    POLICY_VIOLATION = 1008
    """The peer sent something to a socket that takes nothing."""
    INVALID_DATA = 1007
    """Text that is not UTF-8."""
    MESSAGE_TOO_BIG = 1009
    """A message is longer than ``message_bytes_max``."""
    INTERNAL_ERROR = 1011
    """A handler raised; the log has the traceback."""
    SERVICE_RESTART = 1012
    """The process stops and another takes over: come back."""
    TRY_AGAIN_LATER = 1013
    """A limit of connections is reached."""
    CONNECTION_CLOSED = 3000
    """The server ended a protocol connection for no other reason."""
    SHUTDOWN = 3001
    """The process stops: a protocol client comes back, to another one."""
    INTERNAL_SERVER_ERROR = 3004
    """Something broke on our side while serving a protocol client."""
    EXPIRED = 3005
    """The identity of a protocol connection has expired."""
    SUBSCRIPTION_EXPIRED = 3006
    """A server-side subscription has expired."""
    SLOW = 3008
    """The peer reads slower than its channels publish, past ``send_queue_bytes_max``."""
    WRITE_ERROR = 3009
    """The peer could not be written to."""
    INSUFFICIENT_STATE = 3010
    """A server-side subscription has a gap, or its list has changed: the client recovers."""
    FORCE_RECONNECT = 3011
    """The client is to connect anew: by order, or because its handshake is wanted and is gone."""
    NO_PONG = 3012
    """A protocol client did not answer a ping."""
    TOO_MANY_REQUESTS = 3013
    """A protocol client sends more commands than allowed."""
    STATE_INVALIDATED = 3014
    """A protocol client drops its tokens and its positions."""
    INVALID_TOKEN = 3500
    """A protocol client showed credentials that are not good."""
    BAD_REQUEST = 3501
    """A message of the client protocol that cannot be understood."""
    STALE = 3502
    """A protocol client that did not connect in time."""
    FORCE_DISCONNECT = 3503
    """The server API ended the connection for good."""
    CONNECTION_LIMIT = 3504
    """A limit of connections is reached; a protocol client is told not to come back."""
    CHANNEL_LIMIT = 3505
    """Server-side subscriptions are more than ``channels_per_connection_max``."""
    INAPPROPRIATE_PROTOCOL = 3506
    """A protocol client speaks an encoding that this connection cannot carry."""
    PERMISSION_DENIED = 3507
    """A protocol client asked for a channel that it may not have."""
    NOT_AVAILABLE = 3508
    """A protocol client sent what nothing here takes."""
    TOO_MANY_ERRORS = 3509
    """A protocol client makes one mistake after the other."""
    BAD_CHANNEL = 4400
    """A channel's name is malformed or too long."""
    UNAUTHORIZED = 4401
    """No valid credentials, or they have expired."""
    FORBIDDEN = 4403
    """The identity is known and may not do this."""
    IDLE = 4408
    """The peer sent no message for ``idle_timeout_seconds``."""


DISCONNECT_REASONS: Mapping[int, str] = {
    DisconnectCode.CONNECTION_CLOSED: "connection closed",
    DisconnectCode.SHUTDOWN: "shutdown",
    DisconnectCode.INTERNAL_SERVER_ERROR: "internal server error",
    DisconnectCode.EXPIRED: "connection expired",
    DisconnectCode.SUBSCRIPTION_EXPIRED: "subscription expired",
    DisconnectCode.SLOW: "slow",
    DisconnectCode.WRITE_ERROR: "write error",
    DisconnectCode.INSUFFICIENT_STATE: "insufficient state",
    DisconnectCode.FORCE_RECONNECT: "force reconnect",
    DisconnectCode.NO_PONG: "no pong",
    DisconnectCode.TOO_MANY_REQUESTS: "too many requests",
    DisconnectCode.STATE_INVALIDATED: "state invalidated",
    DisconnectCode.INVALID_TOKEN: "invalid token",
    DisconnectCode.BAD_REQUEST: "bad request",
    DisconnectCode.STALE: "stale",
    DisconnectCode.FORCE_DISCONNECT: "force disconnect",
    DisconnectCode.CONNECTION_LIMIT: "connection limit",
    DisconnectCode.CHANNEL_LIMIT: "channel limit",
    DisconnectCode.INAPPROPRIATE_PROTOCOL: "inappropriate protocol",
    DisconnectCode.PERMISSION_DENIED: "permission denied",
    DisconnectCode.NOT_AVAILABLE: "not available",
    DisconnectCode.TOO_MANY_ERRORS: "too many errors",
}
"""Code of the client protocol → the words that the wire carries for it (section 1.14)."""


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Our decision to end a connection.

    Attributes:
        code: Goes into the close frame.
        reason: For a person; at most 123 bytes of UTF-8, so that a close frame can carry it
            (RFC 6455, section 5.5).
    """

    code: int
    reason: str

    def __post_init__(self) -> None:
        size = len(self.reason.encode())
        if size > 123:
            raise ValueError(f"reason has {size} bytes, limit 123: {self.reason!r}")


def create_disconnect(code: DisconnectCode) -> Disconnect:
    """Create a disconnect of the client protocol, with the protocol's own words.

    Raises:
        KeyError: The code is none of the client protocol's.
    """
    return Disconnect(code, DISCONNECT_REASONS[code])


class WirebellError(Exception):
    """Root of all errors that Wirebell raises on purpose."""


class CommandError(WirebellError):
    """A command or an API call was refused.

    Attributes:
        code: A member of `ErrorCode`, or an application's own number from 400 to 1999.
        message: For a person: lower case, names the value and the bound.
        temporary: True when the same call may succeed later.
    """

    code: int = ErrorCode.INTERNAL
    temporary: bool = False

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class ProtocolError(CommandError):
    """A command is answered with an error of section 1.14, in the protocol's own words.

    Args:
        code: One of `ErrorCode`.
    """

    def __init__(self, code: ErrorCode) -> None:
        super().__init__(ERROR_MESSAGES[code])
        self.code = code
        self.temporary = code in TEMPORARY_CODES


class ClientDisconnected(WirebellError):
    """What a peer did, or who it is, ends its connection.

    Attributes:
        disconnect: How.
    """

    def __init__(self, disconnect: Disconnect) -> None:
        super().__init__(f"disconnected: {disconnect.code} {disconnect.reason}")
        self.disconnect = disconnect


class TokenError(WirebellError):
    """A token cannot be accepted; the message says why, for the operator and not for the peer."""


class TokenInvalid(TokenError):
    """It is malformed, not signed by a known key, or made for something else."""


class TokenExpired(TokenError):
    """It was good, and has ended or not begun."""


class BadRequest(CommandError):
    """A value is malformed or out of bounds."""

    code: int = ErrorCode.BAD_REQUEST


class LimitExceeded(CommandError):
    """A limit of counts was reached; the message names it."""

    code: int = ErrorCode.LIMIT_EXCEEDED


class PermissionDenied(CommandError):
    """The channel's declaration, or its ``authorize`` function, does not let this peer in."""

    code: int = ErrorCode.PERMISSION_DENIED


class NodesSilent(CommandError):
    """Some nodes did not answer in time; the message names them.

    What was asked is known, and what was ordered is done, on all the others. Every order may be
    given again.
    """

    temporary: bool = True


class Denied(CommandError):
    """Raised by an application's own code to refuse a peer; the message reaches the peer."""

    code: int = ErrorCode.PERMISSION_DENIED


class BrokerError(WirebellError):
    """A broker could not do what it was asked."""


class BrokerUnavailable(BrokerError):
    """The broker does not answer; temporary."""


class BrokerClosed(BrokerError):
    """The broker was used before ``start()`` or after ``aclose()``."""


class UnknownRecord(BrokerError):
    """A record or a message is damaged, or was written by a newer release; it says which."""


class ConnectionClosed(WirebellError):
    """The connection ended before the operation could.

    Attributes:
        disconnect: Why it ended.
    """

    def __init__(self, disconnect: Disconnect) -> None:
        super().__init__(f"connection closed: {disconnect.code} {disconnect.reason}")
        self.disconnect = disconnect


class ConfigError(WirebellError):
    """A setting cannot be used; the message names the field, the value and the bound."""


class NotRunning(WirebellError):
    """`Realtime` was used outside its lifespan; the message says how to enter it."""

    def __init__(self) -> None:
        super().__init__(
            "Realtime is not running: pass lifespan=rt.lifespan to FastAPI, "
            "or enter 'async with rt.lifespan(app)' in your own lifespan"
        )


class HandshakeError(WirebellError):
    """A request cannot become a WebSocket connection.

    Attributes:
        status: HTTP status to answer, 400 to 505.
        message: What is wrong and what was expected, for people.
        headers: To answer with it.
    """

    def __init__(
        self, status: int, message: str, headers: Iterable[tuple[bytes, bytes]] = ()
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers: list[tuple[bytes, bytes]] = list(headers)


class TooLong(WirebellError):
    """A message inflates to more bytes than it may have."""


class Corrupt(WirebellError):
    """A message is no deflate data, or refers to bytes before its start."""
