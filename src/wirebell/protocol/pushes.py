"""What the server says to one client on its own: the pushes of section 1.5.

Publications, joins and leaves go to all subscribers of a channel and are written by
`wirebell.protocol.encoding`. Field names are those of the protocol's schema; zero values mean
"not told".
"""

from __future__ import annotations

import msgspec

from wirebell.protocol.messages import ConnectResult

__all__ = (
    "ConnectPush",
    "DisconnectPush",
    "MessagePush",
    "Push",
    "RefreshPush",
    "SubscribePush",
    "UnsubscribePush",
)


class ConnectPush(msgspec.Struct, frozen=True):
    """The first message of a unidirectional connection."""

    result: ConnectResult


class SubscribePush(msgspec.Struct, frozen=True):
    """The server subscribed the client.

    Attributes:
        channel: To what.
        recoverable: The client may come back with a position.
        epoch: Of the position at which it starts.
        offset: Of the position at which it starts.
        positioned: The server watches for gaps.
        data: The application's greeting, one payload; empty for none.
    """

    channel: str
    recoverable: bool = False
    epoch: str = ""
    offset: int = 0
    positioned: bool = False
    data: bytes = b""


class UnsubscribePush(msgspec.Struct, frozen=True):
    """The server ended a subscription; ``code`` is one of `wirebell.errors.UnsubscribeCode`."""

    channel: str
    code: int = 0
    reason: str = ""


class MessagePush(msgspec.Struct, frozen=True):
    """A message to this connection alone; ``data`` is one payload."""

    data: bytes


class DisconnectPush(msgspec.Struct, frozen=True):
    """The last message where a transport has no close frame that could say it."""

    code: int
    reason: str = ""


class RefreshPush(msgspec.Struct, frozen=True):
    """The server changed when the connection expires; ``ttl`` in seconds."""

    expires: bool = False
    ttl: int = 0


Push = ConnectPush | SubscribePush | UnsubscribePush | MessagePush | DisconnectPush | RefreshPush
