"""Every exception of Wirebell, and the codes that reach a peer.

The tree (a test compares it with the classes)::

    WirebellError
    ├── CommandError
    │   ├── BadRequest
    │   ├── LimitExceeded
    │   ├── PermissionDenied
    │   └── Denied
    ├── BrokerError
    │   ├── BrokerUnavailable
    │   └── BrokerClosed
    ├── ConnectionClosed
    ├── ConfigError
    ├── NotRunning
    ├── HandshakeError
    ├── TooLong
    └── Corrupt

It knows nothing of transports: a code is a number, whoever carries it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

__all__ = (
    "BadRequest",
    "BrokerClosed",
    "BrokerError",
    "BrokerUnavailable",
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
    "NotRunning",
    "PermissionDenied",
    "TooLong",
    "WirebellError",
)


class ErrorCode(IntEnum):
    """Codes of errors that answer a command or an API call (protocol document, section 1.14)."""

    INTERNAL = 100
    """Something broke on our side; temporary."""
    PERMISSION_DENIED = 103
    """The identity may not do this."""
    LIMIT_EXCEEDED = 106
    """A limit of counts was reached."""
    BAD_REQUEST = 107
    """The request is malformed, or a value is out of bounds."""


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
    SHUTDOWN = 3001
    """The process stops: a protocol client comes back, to another one."""
    EXPIRED = 3005
    """The identity of a protocol connection has expired."""
    SLOW = 3008
    """The peer reads slower than its channels publish, past ``send_queue_bytes_max``."""
    INVALID_TOKEN = 3500
    """A protocol client showed credentials that are not good."""
    BAD_REQUEST = 3501
    """A message of the client protocol that cannot be understood."""
    STALE = 3502
    """A protocol client that did not connect in time."""
    CONNECTION_LIMIT = 3504
    """A limit of connections is reached; a protocol client is told not to come back."""
    PERMISSION_DENIED = 3507
    """A protocol client asked for a channel that it may not have."""
    BAD_CHANNEL = 4400
    """A channel's name is malformed or too long."""
    UNAUTHORIZED = 4401
    """No valid credentials, or they have expired."""
    FORBIDDEN = 4403
    """The identity is known and may not do this."""
    IDLE = 4408
    """The peer sent no message for ``idle_timeout_seconds``."""


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


class BadRequest(CommandError):
    """A value is malformed or out of bounds."""

    code: int = ErrorCode.BAD_REQUEST


class LimitExceeded(CommandError):
    """A limit of counts was reached; the message names it."""

    code: int = ErrorCode.LIMIT_EXCEEDED


class PermissionDenied(CommandError):
    """The channel's declaration, or its ``authorize`` function, does not let this peer in."""

    code: int = ErrorCode.PERMISSION_DENIED


class Denied(CommandError):
    """Raised by an application's own code to refuse a peer; the message reaches the peer."""

    code: int = ErrorCode.PERMISSION_DENIED


class BrokerError(WirebellError):
    """A broker could not do what it was asked."""


class BrokerUnavailable(BrokerError):
    """The broker does not answer; temporary."""


class BrokerClosed(BrokerError):
    """The broker was used before ``start()`` or after ``aclose()``."""


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
