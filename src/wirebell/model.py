"""The values that travel: publications, positions, members of a channel, frames.

All are frozen, but for what `Frames` remembers of its own encodings. Nothing here knows where a
value comes from or where it goes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import Any

import msgspec

__all__ = (
    "ChannelItem",
    "ChannelOptions",
    "ChannelPermissions",
    "ClientInfo",
    "Frames",
    "History",
    "Identity",
    "Membership",
    "Overflow",
    "PayloadFormat",
    "Publication",
    "PublicationFormat",
    "PublishOptions",
    "Published",
    "RecoveryMode",
    "ServerSubscribe",
    "StreamPosition",
)


class PayloadFormat(Enum):
    """What the bytes of a publication are."""

    TEXT = "text"
    """UTF-8 text of any content."""
    JSON = "json"
    """One JSON value; where line feeds separate messages it travels without its own."""
    BINARY = "binary"
    """Any bytes; where the wire is JSON they travel as a base64 string."""


class RecoveryMode(Enum):
    """What a client that comes back gets (protocol document, section 1.8)."""

    STREAM = "stream"
    """Every publication that it missed, or word that it cannot have them."""
    CACHE = "cache"
    """The newest publication, unless it has that."""


class PublicationFormat(Enum):
    """What a channel takes as payload from clients and from the server API."""

    JSON = "json"
    """Any JSON value."""
    JSON_OBJECT = "json_object"
    """A JSON object."""
    BINARY = "binary"
    """Any bytes."""


class Overflow(Enum):
    """What happens to a channel's publications while a subscriber does not read."""

    DISCONNECT = "disconnect"
    """They wait; past ``send_queue_bytes_max`` the subscriber is cut, and recovers from the log."""
    DROP_OLDEST = "drop_oldest"
    """They wait; past ``send_queue_bytes_max`` the oldest is dropped, and counted."""
    KEEP_LATEST = "keep_latest"
    """Of those with the same key only the newest waits; the others are dropped, and counted."""


class StreamPosition(msgspec.Struct, frozen=True, gc=False):
    """A place in a channel's stream.

    Attributes:
        offset: Number of the newest publication seen; the first publication has 1, and 0 means
            "before the first". Always 0 for a channel without history.
        epoch: The stream's incarnation. Offsets of different epochs cannot be compared. Empty
            for a channel without history.
    """

    offset: int = 0
    epoch: str = ""

    def precedes(self, other: StreamPosition) -> bool:
        """Tell whether it is an earlier place in the same stream."""
        return self.epoch == other.epoch and self.offset < other.offset


class ClientInfo(msgspec.Struct, frozen=True, gc=False):
    """Who is behind a connection, as other members of a channel see it.

    Attributes:
        client_id: One connection. Unique for ever.
        user_id: A person with any number of connections; empty for somebody anonymous.
        conn_info: What the application says of the connection, one JSON value; empty for nothing.
        chan_info: What it says of the connection in this channel, likewise.
    """

    client_id: str
    user_id: str = ""
    conn_info: bytes = b""
    chan_info: bytes = b""


class Identity(msgspec.Struct, frozen=True):
    """Who is behind a connection, and for how long that is known.

    Attributes:
        user_id: A person with any number of connections; empty for somebody anonymous.
        expires_at: When the credentials end; ``None`` never. The connection is closed then.
        info: What others see of the connection, where they see who is there: anything that JSON
            can hold; ``None`` for nothing.

    Raises:
        ValueError: ``expires_at`` has no time zone.
    """

    user_id: str = ""
    expires_at: datetime | None = None
    info: Any = None

    def __post_init__(self) -> None:
        if self.expires_at is not None and self.expires_at.tzinfo is None:
            raise ValueError(f"expires_at must have a time zone, got {self.expires_at}")

    def encode_info(self) -> bytes:
        """Return ``info`` as JSON; empty for nothing."""
        return b"" if self.info is None else msgspec.json.encode(self.info)


class Publication(msgspec.Struct, frozen=True, gc=False):
    """Data that was put into a channel.

    Attributes:
        data: The payload, serialised once by whoever published it.
        format: What ``data`` is.
        offset: Place in the channel's stream, 1 for the first; 0 without history.
        epoch: The stream's incarnation; empty without history.
        key: What the publication is the newest state of, for `Overflow.KEEP_LATEST`.
        info: Who published it; ``None`` when it was not a client.
        tags: Words about it that subscribers can filter by; ``None`` for none.
        has_delta: Subscribers that take patches may get it as one.
        version: The publisher's own number; 0 for none.
        exclude: A client id that does not get it live; empty for nobody.
        origin: Which row of an outbox it was, so that history tells whether that is published;
            empty for others. No client sees it.
        channel: Where it was published, for those who subscribed to a pattern; empty for others.
    """

    data: bytes
    format: PayloadFormat = PayloadFormat.TEXT
    offset: int = 0
    epoch: str = ""
    key: str = ""
    info: ClientInfo | None = None
    tags: Mapping[str, str] | None = None
    has_delta: bool = False
    version: int = 0
    exclude: str = ""
    origin: str = ""
    channel: str = ""


class PublishOptions(msgspec.Struct, frozen=True):
    """How one publication enters a channel.

    Attributes:
        idempotency_key: Within five minutes the same key in the same channel publishes once, and
            each call returns the first one's position; empty does not look.
        version: With history, a publication whose version is not above the newest one's of the
            same ``version_epoch`` is left out; 0 has no version.
        version_epoch: Versions of different epochs cannot be compared: a new one starts again.
        skip_history: Deliver it, and keep it nowhere: it has no offset.
    """

    idempotency_key: str = ""
    version: int = 0
    version_epoch: str = ""
    skip_history: bool = False


class Membership(msgspec.Struct, frozen=True, gc=False):
    """Somebody entered or left a channel that announces it.

    Attributes:
        info: Who.
        joined: True for a join, false for a leave.
    """

    info: ClientInfo
    joined: bool


ChannelItem = Publication | Membership
"""What a channel hands its subscribers, in the order in which it happened."""


class Frames(msgspec.Struct, eq=False, gc=False):
    """Encoded messages, ready for a transport; the same object serves every subscriber.

    Equal when their messages are: what they remember of their encodings does not count.

    Attributes:
        messages: One message each, in order: text, or bytes for a binary wire.
        byte_count: Their size together, text in UTF-8, without the transport's own framing.
        parts: What it was joined from, if it was; each may have been encoded already.
        wire: The messages as a transport of bytes sends them; set by the first that does.
        deflated: The same compressed: window bits → bytes; set likewise.
    """

    messages: tuple[str | bytes, ...]
    byte_count: int
    parts: tuple[Frames, ...] = ()
    wire: bytes | None = None
    deflated: dict[int, bytes] | None = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Frames):
            return NotImplemented
        return self.messages == other.messages and self.byte_count == other.byte_count

    def __ne__(self, other: object) -> bool:
        # A struct's own would look at everything.
        return not self == other

    __hash__ = None  # type: ignore[assignment]

    @classmethod
    def from_text(cls, text: str) -> Frames:
        """Create one text message."""
        return cls((text,), len(text.encode()))

    @classmethod
    def from_message(cls, message: str | bytes) -> Frames:
        """Create one message, text or binary."""
        if isinstance(message, str):
            return cls.from_text(message)
        return cls((message,), len(message))

    @classmethod
    def join(cls, parts: Sequence[Frames]) -> Frames:
        """Put frames one behind the other, to be written at once."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            tuple(message for part in parts for message in part.messages),
            sum(part.byte_count for part in parts),
            tuple(parts),
        )


class History(msgspec.Struct, frozen=True):
    """How much of a channel's log is kept for those who come back.

    Attributes:
        size: Publications kept, 1 or more; the oldest goes first.
        ttl_seconds: How long after the newest publication they are kept, above 0. Afterwards
            positions still count on from where they were.
        meta_ttl_seconds: How long after the newest publication the offset and the epoch are
            remembered, at least ``ttl_seconds``. Afterwards the channel starts a new epoch and a
            client that comes back is told that it could not be recovered.

    Raises:
        ValueError: A value is out of its bounds.
    """

    size: int = 100
    ttl_seconds: float = 300.0
    meta_ttl_seconds: float = 30 * 24 * 3600.0

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"history size must be 1 or more, got {self.size}")
        if self.ttl_seconds <= 0:
            raise ValueError(f"history ttl_seconds must be above 0, got {self.ttl_seconds}")
        if self.meta_ttl_seconds < self.ttl_seconds:
            raise ValueError(
                f"history meta_ttl_seconds must be at least ttl_seconds "
                f"({self.ttl_seconds}), got {self.meta_ttl_seconds}"
            )


class Published(msgspec.Struct, frozen=True, gc=False):
    """What became of a publication.

    Attributes:
        position: Its own; ``StreamPosition(0, "")`` where it was not kept. Of one that was left
            out the first one's, or the stream's top.
        is_suppressed: It was left out, because of its idempotency key or its version.
    """

    position: StreamPosition
    is_suppressed: bool = False


class ServerSubscribe(msgspec.Struct, frozen=True):
    """How the server subscribes a client; ``None`` leaves it to the channel's options.

    Attributes:
        info: Becomes the client's ``chan_info``; one JSON value, empty for nothing.
        data: Handed to the client with the push; likewise.
        expires_at: When the subscription ends, seconds since 1970; ``None`` never.
        since: Where the client was: the push names that position.
        presence: Keep the client in the channel's presence.
        join_leave: Tell of its joining and leaving.
        force_push_join_leave: Tell the client of joins and leaves.
        force_positioning: Watch for gaps.
        force_recovery: Let it come back.
    """

    info: bytes = b""
    data: bytes = b""
    expires_at: float | None = None
    since: StreamPosition | None = None
    presence: bool | None = None
    join_leave: bool | None = None
    force_push_join_leave: bool | None = None
    force_positioning: bool | None = None
    force_recovery: bool | None = None


class ChannelPermissions(msgspec.Struct, frozen=True):
    """What peers may do in a channel without a token for it. The default is nothing.

    ``client`` is any peer with a user id, ``subscriber`` one that is subscribed, ``anonymous`` one
    without a user id. Names are those of the configuration's tree.
    """

    allow_subscribe_for_client: bool = False
    allow_subscribe_for_anonymous: bool = False
    allow_publish_for_client: bool = False
    allow_publish_for_subscriber: bool = False
    allow_publish_for_anonymous: bool = False
    allow_presence_for_client: bool = False
    allow_presence_for_subscriber: bool = False
    allow_presence_for_anonymous: bool = False
    allow_history_for_client: bool = False
    allow_history_for_subscriber: bool = False
    allow_history_for_anonymous: bool = False
    allow_user_limited_channels: bool = False


class ChannelOptions(msgspec.Struct, frozen=True):
    """What a channel keeps, announces and allows. The default is nothing of it.

    Attributes:
        history: Kept publications; ``None`` delivers at most once and keeps nothing.
        presence: Keep who is subscribed.
        join_leave: Tell of joins and leaves.
        force_push_join_leave: Tell them to every subscriber, asked for or not.
        overflow: What happens while a subscriber does not read.
        allow_positioning: A client may ask to be told of a gap.
        force_positioning: Every subscriber is.
        allow_recovery: A client may ask to get what it missed.
        force_recovery: Every subscriber may come back.
        recovery_mode: What it gets then.
        auto_cache_recover: With `RecoveryMode.CACHE`, also who does not ask gets the newest one.
        allowed_delta_types: Of patches that a client may ask for: ``fossil``.
        delta_publish: Every publication may travel as a patch.
        allow_tags_filter: A client may filter by tags.
        publication_format: What may be published.
        channel_regex: What a name must match, without its namespace, in RE2's syntax; empty for
            anything.
        permissions: What peers may do without a token.
    """

    history: History | None = None
    presence: bool = False
    join_leave: bool = False
    force_push_join_leave: bool = False
    overflow: Overflow = Overflow.DISCONNECT
    allow_positioning: bool = False
    force_positioning: bool = False
    allow_recovery: bool = False
    force_recovery: bool = False
    recovery_mode: RecoveryMode = RecoveryMode.STREAM
    auto_cache_recover: bool = False
    allowed_delta_types: tuple[str, ...] = ()
    delta_publish: bool = False
    allow_tags_filter: bool = False
    publication_format: PublicationFormat = PublicationFormat.JSON
    channel_regex: str = ""
    permissions: ChannelPermissions = ChannelPermissions()
