"""The messages of the client protocol: one model for both encodings.

Field names are those of the protocol's schema (protocol document, sections 1.3 to 1.5). A payload
(``data``, ``conn_info``, ``chan_info``) is `msgspec.Raw`: bytes as they travelled, which nothing
here reads. Zero values mean "not given".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from wirebell.model import ClientInfo, Publication, StreamPosition

__all__ = (
    "NO_PAYLOAD",
    "Command",
    "ConnectRequest",
    "ConnectResult",
    "EmulationRequest",
    "Error",
    "FilterNode",
    "HistoryRequest",
    "HistoryResult",
    "PingRequest",
    "PresenceRequest",
    "PresenceResult",
    "PresenceStatsRequest",
    "PresenceStatsResult",
    "PublishRequest",
    "PublishResult",
    "RPCRequest",
    "RPCResult",
    "RefreshRequest",
    "RefreshResult",
    "Reply",
    "SendRequest",
    "SubRefreshRequest",
    "SubRefreshResult",
    "SubscribeRequest",
    "SubscribeResult",
    "UnsubscribeRequest",
    "UnsubscribeResult",
)

NO_PAYLOAD = msgspec.Raw(b"")
"""A payload that was not given."""


class FilterNode(msgspec.Struct, frozen=True):
    """A filter of publications by their tags; section 1.4 has the operators."""

    op: str = ""
    key: str = ""
    cmp: str = ""
    val: str = ""
    vals: tuple[str, ...] = ()
    nodes: tuple[FilterNode, ...] = ()


class SubscribeRequest(msgspec.Struct, frozen=True):
    """What a client wants of a channel."""

    channel: str = ""
    token: str = ""
    recover: bool = False
    epoch: str = ""
    offset: int = 0
    data: msgspec.Raw = NO_PAYLOAD
    positioned: bool = False
    recoverable: bool = False
    join_leave: bool = False
    delta: str = ""
    tf: FilterNode | None = None
    flag: int = 0
    type: int = 0
    phase: int = 0
    cursor: str = ""
    limit: int = 0
    asc: bool = False


class ConnectRequest(msgspec.Struct, frozen=True):
    """The first command of a client."""

    token: str = ""
    data: msgspec.Raw = NO_PAYLOAD
    subs: dict[str, SubscribeRequest] = {}
    name: str = ""
    version: str = ""
    headers: dict[str, str] = {}
    flag: int = 0


class UnsubscribeRequest(msgspec.Struct, frozen=True):
    """A client leaves a channel."""

    channel: str = ""


class PublishRequest(msgspec.Struct, frozen=True):
    """A client publishes."""

    channel: str = ""
    data: msgspec.Raw = NO_PAYLOAD
    type: int = 0
    key: str = ""
    removed: bool = False


class PresenceRequest(msgspec.Struct, frozen=True):
    """Who is in a channel?"""

    channel: str = ""


class PresenceStatsRequest(msgspec.Struct, frozen=True):
    """How many are in a channel?"""

    channel: str = ""


class HistoryRequest(msgspec.Struct, frozen=True):
    """What does a channel keep? ``limit`` 0 asks for the position alone, below 0 for all."""

    channel: str = ""
    limit: int = 0
    since: StreamPosition | None = None
    reverse: bool = False


class PingRequest(msgspec.Struct, frozen=True):
    """In the schema, and answered by no server."""


class SendRequest(msgspec.Struct, frozen=True):
    """A message to the server that has no answer."""

    data: msgspec.Raw = NO_PAYLOAD


class RPCRequest(msgspec.Struct, frozen=True):
    """A remote procedure call."""

    data: msgspec.Raw = NO_PAYLOAD
    method: str = ""


class RefreshRequest(msgspec.Struct, frozen=True):
    """A new token for the connection."""

    token: str = ""


class SubRefreshRequest(msgspec.Struct, frozen=True):
    """A new token for a subscription."""

    channel: str = ""
    token: str = ""
    type: int = 0


class Command(msgspec.Struct, frozen=True):
    """What a client sends: an id and one of the requests. None of them and no id is a pong."""

    id: int = 0
    connect: ConnectRequest | None = None
    subscribe: SubscribeRequest | None = None
    unsubscribe: UnsubscribeRequest | None = None
    publish: PublishRequest | None = None
    presence: PresenceRequest | None = None
    presence_stats: PresenceStatsRequest | None = None
    history: HistoryRequest | None = None
    ping: PingRequest | None = None
    send: SendRequest | None = None
    rpc: RPCRequest | None = None
    refresh: RefreshRequest | None = None
    sub_refresh: SubRefreshRequest | None = None


class EmulationRequest(msgspec.Struct, frozen=True):
    """Commands of a client that listens to another request (section 1.10).

    Attributes:
        node: Who has the session.
        session: Which.
        data: The commands, framed as on the wire.
    """

    node: str = ""
    session: str = ""
    data: bytes = b""


class Error(msgspec.Struct, frozen=True):
    """Why a command failed."""

    code: int = 0
    message: str = ""
    temporary: bool = False


class SubscribeResult(msgspec.Struct, frozen=True):
    """What a client learns of a channel.

    Attributes:
        publications: What it missed, oldest first.
        patches: With ``delta``, for each of ``publications`` the patch that leads to it from the
            one before, or ``None`` where it goes in full.
    """

    expires: bool = False
    ttl: int = 0
    recoverable: bool = False
    epoch: str = ""
    publications: Sequence[Publication] = ()
    patches: Sequence[bytes | None] = ()
    recovered: bool = False
    offset: int = 0
    positioned: bool = False
    data: bytes = b""
    was_recovering: bool = False
    delta: bool = False


class ConnectResult(msgspec.Struct, frozen=True):
    """What a client learns when it has connected; also the ``connect`` push (section 1.5).

    Attributes:
        client: The connection's id.
        version: The server's.
        expires: ``ttl`` holds.
        ttl: Seconds until the connection expires.
        data: The application's greeting; empty for none.
        subs: Channel → server-side subscription.
        ping: Seconds between two pings.
        pong: The client must answer them.
        session: For emulation.
        node: For emulation.
        time: Of the server, milliseconds since 1970; 0 where it is not told.
    """

    client: str = ""
    version: str = ""
    expires: bool = False
    ttl: int = 0
    data: bytes = b""
    subs: Mapping[str, SubscribeResult] = {}
    ping: int = 0
    pong: bool = False
    session: str = ""
    node: str = ""
    time: int = 0


class UnsubscribeResult(msgspec.Struct, frozen=True):
    """Done."""


class PublishResult(msgspec.Struct, frozen=True):
    """Done."""


class PresenceResult(msgspec.Struct, frozen=True):
    """Who is in a channel: client id → info."""

    presence: Mapping[str, ClientInfo] = {}


class PresenceStatsResult(msgspec.Struct, frozen=True):
    """How many are in a channel."""

    num_clients: int = 0
    num_users: int = 0


class HistoryResult(msgspec.Struct, frozen=True):
    """What a channel keeps, in the order that was asked for, and its top."""

    publications: Sequence[Publication] = ()
    epoch: str = ""
    offset: int = 0


class RPCResult(msgspec.Struct, frozen=True):
    """What a remote procedure answered."""

    data: bytes = b""


class RefreshResult(msgspec.Struct, frozen=True):
    """The connection's new expiry."""

    expires: bool = False
    ttl: int = 0


class SubRefreshResult(msgspec.Struct, frozen=True):
    """The subscription's new expiry."""

    expires: bool = False
    ttl: int = 0


class Reply(msgspec.Struct, frozen=True):
    """The answer to a command: the same id, and an error or one result."""

    id: int
    error: Error | None = None
    connect: ConnectResult | None = None
    subscribe: SubscribeResult | None = None
    unsubscribe: UnsubscribeResult | None = None
    publish: PublishResult | None = None
    presence: PresenceResult | None = None
    presence_stats: PresenceStatsResult | None = None
    history: HistoryResult | None = None
    rpc: RPCResult | None = None
    refresh: RefreshResult | None = None
    sub_refresh: SubRefreshResult | None = None
