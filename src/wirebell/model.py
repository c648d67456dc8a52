"""The values that travel: publications, positions, members of a channel, frames.

All are frozen, but for what `Frames` remembers of its own encodings. Nothing here knows where a
value comes from or where it goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

import msgspec

__all__ = (
    "ChannelItem",
    "ChannelOptions",
    "ClientInfo",
    "Frames",
    "History",
    "Identity",
    "Membership",
    "Overflow",
    "PayloadFormat",
    "Publication",
    "StreamPosition",
)


class PayloadFormat(Enum):
    """What the bytes of a publication are."""

    TEXT = "text"
    """UTF-8 text of any content."""
    JSON = "json"
    """One JSON value without a line feed outside of strings."""


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


class ClientInfo(msgspec.Struct, frozen=True, gc=False):
    """Who is behind a connection, as other members of a channel see it.

    Attributes:
        client_id: One connection. Unique for ever.
        user_id: A person with any number of connections; empty for somebody anonymous.
    """

    client_id: str
    user_id: str = ""


class Identity(msgspec.Struct, frozen=True):
    """Who is behind a connection, and for how long that is known.

    Attributes:
        user_id: A person with any number of connections; empty for somebody anonymous.
        expires_at: When the credentials end; ``None`` never. The connection is closed then.

    Raises:
        ValueError: ``expires_at`` has no time zone.
    """

    user_id: str = ""
    expires_at: datetime | None = None

    def __post_init__(self) -> None:
        if self.expires_at is not None and self.expires_at.tzinfo is None:
            raise ValueError(f"expires_at must have a time zone, got {self.expires_at}")


class Publication(msgspec.Struct, frozen=True, gc=False):
    """Data that was put into a channel.

    Attributes:
        data: The payload, serialised once by whoever published it.
        format: What ``data`` is.
        offset: Place in the channel's stream, 1 for the first; 0 without history.
        epoch: The stream's incarnation; empty without history.
        key: What the publication is the newest state of, for `Overflow.KEEP_LATEST`.
    """

    data: bytes
    format: PayloadFormat = PayloadFormat.TEXT
    offset: int = 0
    epoch: str = ""
    key: str = ""


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


@dataclass(slots=True)
class Frames:
    """Encoded messages, ready for a transport; the same object serves every subscriber.

    Attributes:
        messages: One text message each, in order.
        byte_count: Their UTF-8 size together, without the transport's own framing.
        parts: What it was joined from, if it was; each may have been encoded already.
        wire: The messages as a transport of bytes sends them; set by the first that does.
        deflated: The same compressed: window bits → bytes; set likewise.
    """

    messages: tuple[str, ...]
    byte_count: int
    parts: tuple[Frames, ...] = field(default=(), compare=False, repr=False)
    wire: bytes | None = field(default=None, compare=False, repr=False)
    deflated: dict[int, bytes] | None = field(default=None, compare=False, repr=False)

    @classmethod
    def from_text(cls, text: str) -> Frames:
        """Create one message."""
        return cls((text,), len(text.encode()))

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


class ChannelOptions(msgspec.Struct, frozen=True):
    """What a channel keeps and announces. The default keeps nothing and announces nothing.

    Attributes:
        history: Kept publications; ``None`` delivers at most once and keeps nothing.
        presence: Keep who is subscribed, and tell subscribers of joins and leaves.
        overflow: What happens while a subscriber does not read.
    """

    history: History | None = None
    presence: bool = False
    overflow: Overflow = Overflow.DISCONNECT
