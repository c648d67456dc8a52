"""Requests and results of the server API: field names of the wire, zero values "not given".

A payload is `msgspec.Raw`: bytes as they came, which are checked where they are used. In requests
null is the same as a member that is not there, for every member that holds no payload.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec import Meta

__all__ = (
    "PAYLOADS",
    "APIError",
    "BatchRequest",
    "BatchResult",
    "BroadcastRequest",
    "BroadcastResult",
    "ChannelInfo",
    "ChannelRequest",
    "ChannelsRequest",
    "ChannelsResult",
    "ConnectionInfo",
    "ConnectionsRequest",
    "ConnectionsResult",
    "DisconnectRequest",
    "Empty",
    "HistoryRequest",
    "HistoryResult",
    "InfoRequest",
    "InfoResult",
    "Metrics",
    "NodeResult",
    "Override",
    "Overrides",
    "PatternRequest",
    "PatternResult",
    "PresenceResult",
    "PresenceStatsResult",
    "ProcessInfo",
    "PublishRequest",
    "PublishResult",
    "RPCRequest",
    "RefreshRequest",
    "Response",
    "SubscribeRequest",
    "UnsubscribeRequest",
    "UserStatus",
    "UserStatusRequest",
    "UserStatusResult",
)

PAYLOADS = frozenset(("data", "info", "params"))
"""Members in which null is a value."""

_NOTHING = msgspec.Raw(b"")

Channel = Annotated[str, Meta(description="Name of the channel.")]
User = Annotated[str, Meta(description="Id of the user.")]
OneClient = Annotated[str, Meta(description="Only this connection of the user.")]
OneSession = Annotated[str, Meta(description="Only the connection with this session.")]
Natural = Annotated[int, Meta(ge=0)]
Payload = Annotated[msgspec.Raw, Meta(description="Any JSON value.")]
Base64 = Annotated[str, Meta(description="The same as base64; it counts where both are given.")]


def nothing() -> msgspec.Raw:
    """Return a payload that was not given."""
    return _NOTHING


class APIError(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a call was refused: codes of the client protocol, and words for a person."""

    code: int
    message: str
    temporary: Annotated[bool, Meta(description="The same call may succeed later.")] = False


class Empty(msgspec.Struct, frozen=True):
    """Done."""


# Requests


class _Publish(msgspec.Struct, frozen=True, kw_only=True):
    """What is published, and how."""

    data: Payload = msgspec.field(default_factory=nothing)
    b64data: Base64 = ""
    tags: Annotated[
        dict[str, str] | None, Meta(description="Words that subscribers can filter by.")
    ] = None
    skip_history: Annotated[bool, Meta(description="Deliver it, and keep it nowhere.")] = False
    idempotency_key: Annotated[
        str, Meta(description="Within five minutes the same key in a channel publishes once.")
    ] = ""
    delta: Annotated[bool, Meta(description="It may travel as a patch.")] = False
    version: Annotated[
        Natural, Meta(description="With history: left out unless above the newest one's.")
    ] = 0
    version_epoch: Annotated[str, Meta(description="Another one starts versions again.")] = ""
    exclude: Annotated[str, Meta(description="Id of a client that does not get it live.")] = ""


class PublishRequest(_Publish, frozen=True, kw_only=True):
    """Publish to a channel."""

    channel: Channel = ""


class BroadcastRequest(_Publish, frozen=True, kw_only=True):
    """Publish the same to many channels."""

    channels: Annotated[list[str], Meta(description="Their names.")] = []


class PatternRequest(_Publish, frozen=True, kw_only=True):
    """Publish the same to each channel of a pattern that has subscribers."""

    pattern: Annotated[str, Meta(description="Of names, as in news:*.")] = ""


class Override(msgspec.Struct, frozen=True):
    """A value that counts instead of the channel's."""

    value: bool = False


class Overrides(msgspec.Struct, frozen=True):
    """Channel options that do not hold for one subscription."""

    presence: Override | None = None
    join_leave: Override | None = None
    force_push_join_leave: Override | None = None
    force_positioning: Override | None = None
    force_recovery: Override | None = None


class Position(msgspec.Struct, frozen=True):
    """A place in a channel's stream."""

    offset: Natural = 0
    epoch: str = ""


class SubscribeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Subscribe a user's clients to a channel."""

    user: User = ""
    channel: Channel = ""
    client: OneClient = ""
    session: OneSession = ""
    info: Annotated[
        msgspec.Raw, Meta(description="What others see of the client in this channel.")
    ] = msgspec.field(default_factory=nothing)
    b64info: Base64 = ""
    data: Annotated[msgspec.Raw, Meta(description="Handed to the client.")] = msgspec.field(
        default_factory=nothing
    )
    b64data: Base64 = ""
    recover_since: Annotated[
        Position | None, Meta(description="Position that the client is told.")
    ] = None
    override: Overrides | None = None
    expire_at: Annotated[
        Natural, Meta(description="End of the subscription, seconds since 1970; 0 never.")
    ] = 0


class UnsubscribeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """End a user's subscriptions to a channel."""

    user: User = ""
    channel: Channel = ""
    client: OneClient = ""
    session: OneSession = ""


class CloseReason(msgspec.Struct, frozen=True):
    """How a connection ends."""

    code: Annotated[
        Natural, Meta(description="Clients do not come back after 3500-3999 and 4500-4999.")
    ] = 0
    reason: Annotated[str, Meta(description="Cut at 123 bytes.")] = ""


class DisconnectRequest(msgspec.Struct, frozen=True, kw_only=True):
    """End a user's connections."""

    user: User = ""
    client: OneClient = ""
    session: OneSession = ""
    whitelist: Annotated[list[str], Meta(description="Ids of connections that stay.")] = []
    disconnect: CloseReason | None = None


class RefreshRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Change when a user's clients expire."""

    user: User = ""
    client: OneClient = ""
    session: OneSession = ""
    expired: Annotated[bool, Meta(description="They expire now.")] = False
    expire_at: Annotated[Natural, Meta(description="Seconds since 1970; 0 never.")] = 0
    info: Annotated[msgspec.Raw, Meta(description="What others see from now on.")] = msgspec.field(
        default_factory=nothing
    )


ExpireAt = Annotated[
    Natural,
    Meta(description="When the last such token has ended, seconds since 1970; 0 by a setting."),
]


class RevokeTokenRequest(msgspec.Struct, frozen=True):
    """Refuse one token."""

    uid: Annotated[str, Meta(description="The token's jti.")] = ""
    expire_at: ExpireAt = 0


class RevokeSessionRequest(msgspec.Struct, frozen=True):
    """End a connection and refuse its token; one of the first two is needed."""

    client: OneClient = ""
    session: OneSession = ""
    expire_at: ExpireAt = 0


class InvalidateUserTokensRequest(msgspec.Struct, frozen=True):
    """Refuse a user's tokens."""

    user: User = ""
    issued_before: Annotated[
        Natural, Meta(description="Tokens of this second or before, since 1970; 0 is now.")
    ] = 0
    expire_at: ExpireAt = 0


class ChannelRequest(msgspec.Struct, frozen=True):
    """Name a channel."""

    channel: Channel = ""


class HistoryRequest(msgspec.Struct, frozen=True):
    """Read what a channel keeps."""

    channel: Channel = ""
    limit: Annotated[
        int, Meta(description="Most publications; 0 is the position alone, -1 is all.")
    ] = 0
    since: Annotated[Position | None, Meta(description="Only what came after it.")] = None
    reverse: Annotated[bool, Meta(description="Newest first, before since.")] = False


class ChannelsRequest(msgspec.Struct, frozen=True):
    """List channels that have subscribers."""

    pattern: Annotated[str, Meta(description="Of names, as in news:*; empty is all.")] = ""


class InfoRequest(msgspec.Struct, frozen=True):
    """Ask for the nodes."""


class RPCRequest(msgspec.Struct, frozen=True):
    """Call a remote procedure."""

    method: str = ""
    params: Payload = msgspec.field(default_factory=nothing)


class ConnectionsRequest(msgspec.Struct, frozen=True):
    """List connections."""

    user: Annotated[str, Meta(description="Only this user's; empty is everybody's.")] = ""
    expression: Annotated[str, Meta(description="Not there: only empty is taken.")] = ""
    after: Annotated[str, Meta(description="Last connection of the page before.")] = ""
    limit: Annotated[int, Meta(description="1 to 1000; 0 is 1000.")] = 0


class UserStatusRequest(msgspec.Struct, frozen=True):
    """Ask who is online."""

    users: Annotated[list[str], Meta(description="Ids of at most 1000 users.")] = []


class BatchRequest(msgspec.Struct, frozen=True):
    """Give several orders in one request."""

    commands: Annotated[
        list[dict[str, msgspec.Raw] | None],
        Meta(description="Each names one method and holds its request."),
    ] = []
    parallel: Annotated[bool, Meta(description="They do not wait for each other.")] = False


# Results


class PublishResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """The publication's position; nothing where none is kept."""

    offset: int = 0
    epoch: str = ""


class Response(msgspec.Struct, frozen=True, omit_defaults=True):
    """One of the two."""

    error: APIError | None = None
    result: PublishResult | None = None


class BroadcastResult(msgspec.Struct, frozen=True):
    """An answer for each channel, in the order of the request."""

    responses: list[Response]


class PatternResult(msgspec.Struct, frozen=True):
    """An answer for each channel that was found."""

    responses: dict[str, Response]


class PresenceResult(msgspec.Struct, frozen=True):
    """Id of each client: ``user``, ``client``, ``conn_info`` and ``chan_info``."""

    presence: dict[str, msgspec.Raw]


class PresenceStatsResult(msgspec.Struct, frozen=True):
    """How many are there."""

    num_clients: int
    num_users: int


class HistoryResult(msgspec.Struct, frozen=True):
    """Publications, and the position of the newest one ever."""

    publications: list[msgspec.Raw]
    epoch: str
    offset: int


class ChannelInfo(msgspec.Struct, frozen=True):
    """Subscribers of a channel."""

    num_clients: int


class ChannelsResult(msgspec.Struct, frozen=True):
    """Channels that have subscribers."""

    channels: dict[str, ChannelInfo]


class Metrics(msgspec.Struct, frozen=True):
    """What a node counted since it started."""

    interval: float
    items: Mapping[str, float]


class ProcessInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a node takes: percent of a processor, and bytes."""

    cpu: float = 0.0
    rss: int = 0


class NodeResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a node has to do."""

    uid: str
    name: str
    version: str = ""
    num_clients: int = 0
    num_users: int = 0
    num_channels: int = 0
    uptime: int = 0
    metrics: Metrics | None = None
    process: ProcessInfo | None = None
    num_subs: int = 0
    silent: Annotated[bool, Meta(description="It does not answer: this is what it told last.")] = (
        False
    )


class InfoResult(msgspec.Struct, frozen=True):
    """All nodes."""

    nodes: list[NodeResult]


class ChannelsOfConnection(msgspec.Struct, frozen=True):
    """What a connection is subscribed to."""

    channels: dict[str, Empty]


class ConnectionInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """A connection."""

    transport: str
    protocol: str
    app_name: str = ""
    app_version: str = ""
    user: str = ""
    state: ChannelsOfConnection | None = None
    connected_at: float = 0.0
    session: str = ""
    address: str = ""


class ConnectionsResult(msgspec.Struct, frozen=True):
    """Id of each client: its connection."""

    connections: dict[str, ConnectionInfo]


class UserStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whether a user is online: ``online`` is now (seconds since 1970), or not there."""

    user: str
    online: int = 0
    connections: int = 0


class UserStatusResult(msgspec.Struct, frozen=True):
    """One for each user, in the order of the request."""

    statuses: list[UserStatus]


class BatchResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """For each command its result behind its name, or an error, in the order of the request."""

    replies: list[msgspec.Raw] = []
