"""Server-sent events: how messages become events, and how an event's id says how far a peer is.

A message of the client protocol is JSON on one line, so every line is an event of its own. The id
of an event holds the position of every recoverable channel *after* that event: a browser sends it
back as ``Last-Event-ID`` when it reconnects by itself, and misses nothing then. Pure. Sources: HTML
standard, section 9.2; protocol document, sections 1.2 and 1.8.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from urllib.parse import quote, unquote

import msgspec

from wirebell.model import StreamPosition
from wirebell.protocol.json import mend_escapes

__all__ = (
    "EVENT_ID_BYTES_MAX",
    "EventIds",
    "encode_event_id",
    "encode_events",
    "encode_retry",
    "read_event_id",
    "resume",
)

EVENT_ID_BYTES_MAX = 1_024
"""Longest id of an event: it is repeated in each, and comes back as a header. Some 30 channels."""

OFFSET_MAX = 2**64 - 1

# Characters of a channel that need no escape in an id: neither those that part it, nor any that
# ends a line or is none in a header.
PLAIN = "!#$&'()*+/:;=?@[]"


def encode_events(messages: Iterable[str | bytes]) -> bytes:
    r"""Write messages, each line of each as one event.

    A carriage return would end the line for an EventSource. In JSON it can only be white space
    between two tokens, so it becomes a space.

    >>> encode_events(['{"id":1}', '{"id":2}\n{"id":3}'])
    b'data: {"id":1}\n\ndata: {"id":2}\n\ndata: {"id":3}\n\n'
    """
    text = "\n".join(map(_read_text, messages)).replace("\n", "\n\ndata: ")
    if "\r" in text:
        text = text.replace("\r", " ")
    return f"data: {text}\n\n".encode()


def encode_retry(seconds: float) -> bytes:
    r"""Tell an EventSource how long to wait before it connects again.

    >>> encode_retry(1.5)
    b'retry: 1500\n\n'
    """
    return b"retry: %d\n\n" % round(seconds * 1_000)


def encode_event_id(positions: Mapping[str, StreamPosition]) -> str:
    """Write positions, channel → position, as the id of an event; empty when there are none.

    >>> encode_event_id({"a:1": StreamPosition(7, "xyz"), "b,c": StreamPosition(1, "uvw")})
    '7.xyz.a:1,1.uvw.b%2Cc'
    """
    return ",".join(
        f"{position.offset}.{_escape(position.epoch)}.{_escape(channel)}"
        for channel, position in positions.items()
    )


def read_event_id(event_id: str) -> dict[str, StreamPosition]:
    """Read what `encode_event_id` wrote: channel → position; empty for anything else.

    >>> read_event_id("7.xyz.a:1")
    {'a:1': StreamPosition(offset=7, epoch='xyz')}
    >>> read_event_id("42")
    {}
    """
    positions: dict[str, StreamPosition] = {}
    if not event_id or len(event_id) > EVENT_ID_BYTES_MAX:
        return positions
    for entry in event_id.split(","):
        offset, _, rest = entry.partition(".")
        epoch, separator, channel = rest.partition(".")
        if not separator or not channel or not (offset.isascii() and offset.isdigit()):
            return {}
        # 20 digits at most, or converting them costs time without a bound.
        if len(offset) > len(str(OFFSET_MAX)) or int(offset) > OFFSET_MAX:
            return {}
        positions[unquote(channel)] = StreamPosition(int(offset), unquote(epoch))
    return positions


def resume(request: str, positions: Mapping[str, StreamPosition]) -> str:
    """Have a ConnectRequest recover from positions, which win over those that it has itself.

    Args:
        request: JSON that a codec has read as a ConnectRequest. What it says besides stays as it
            is, and is not read: no number is too large here, and nothing nested too deeply.
        positions: Channel → the last position that the peer saw.

    Raises:
        msgspec.DecodeError: ``request`` is none.
    """
    fields = msgspec.json.decode(mend_escapes(request), type=dict[str, msgspec.Raw])
    wishes = msgspec.json.decode(
        fields.get("subs", b"{}"), type=dict[str, dict[str, msgspec.Raw] | None] | None
    )
    subs: dict[str, dict[str, object]] = {
        channel: {**(wish or {})} for channel, wish in (wishes or {}).items()
    }
    for channel, position in positions.items():
        wish = subs.setdefault(channel, {})
        wish |= {"recover": True, "offset": position.offset, "epoch": position.epoch}
    return msgspec.json.encode(fields | {"subs": subs}).decode()


class _Publication(msgspec.Struct, frozen=True):
    """Where a publication stands."""

    offset: int = 0
    epoch: str = ""


class _Subscription(msgspec.Struct, frozen=True):
    """Where a subscription begins."""

    recoverable: bool = False
    epoch: str = ""
    offset: int = 0
    publications: tuple[_Publication, ...] = ()


class _Connection(msgspec.Struct, frozen=True):
    """The subscriptions that a connection begins with."""

    subs: dict[str, _Subscription] = {}


class _End(msgspec.Struct, frozen=True):
    """A subscription ends; why is nothing to us."""


class _Push(msgspec.Struct, frozen=True):
    """What of a push moves a position (section 1.5)."""

    channel: str = ""
    pub: _Publication | None = None
    subscribe: _Subscription | None = None
    unsubscribe: _End | None = None
    connect: _Connection | None = None


_decoder = msgspec.json.Decoder(_Push)
_NOTHING = _Push()


@lru_cache(maxsize=64)
def _read_push(message: str) -> _Push:
    """Read a push. Kept for a moment: a publication goes to many peers in the same words.

    What cannot be read, because an application's payload is no JSON, moves no position.
    """
    try:
        return _decoder.decode(message)
    except msgspec.DecodeError:
        return _NOTHING


class EventIds:
    """The ids of one peer's events.

    Mutable state: the position of each recoverable channel, and whether the peer has an id. More
    channels than an id can hold (`EVENT_ID_BYTES_MAX`) take the id from the peer: it comes back
    without one, as with a server that has none.

    Args:
        has_given: The peer has an id already, from a connection before.
    """

    __slots__ = ("has_given", "positions")

    def __init__(self, *, has_given: bool = False) -> None:
        self.has_given = has_given
        self.positions: dict[str, StreamPosition] = {}

    def encode_events(self, messages: Iterable[str | bytes]) -> bytes:
        """Write pushes as events, with an id where a push moves a position."""
        parts = []
        for message in messages:
            for line in _read_text(message).split("\n"):
                parts.append(f"data: {line.replace(chr(13), ' ')}\n")
                if self._advance(_read_push(line)):
                    parts.append(self._encode_id())
                parts.append("\n")
        return "".join(parts).encode()

    def _advance(self, push: _Push) -> bool:
        """Take note of a push; tell whether a position moved, or the first event needs an id."""
        if push.pub is not None:
            position = self.positions.get(push.channel)
            if position is None or not push.pub.offset:
                return False
            # The epoch comes with the first publication only (section 1.16, 10).
            epoch = push.pub.epoch or position.epoch
            self.positions[push.channel] = StreamPosition(push.pub.offset, epoch)
        elif push.connect is not None:
            for channel, subscription in push.connect.subs.items():
                self._begin(channel, subscription)
            return self.has_given or bool(self.positions)
        elif push.subscribe is not None:
            return self._begin(push.channel, push.subscribe)
        elif push.unsubscribe is not None:
            return self.positions.pop(push.channel, None) is not None
        else:
            return False
        return True

    def _begin(self, channel: str, subscription: _Subscription) -> bool:
        """Take note of a subscription; what was recovered with it has been seen as well."""
        if not subscription.recoverable:
            return False
        recovered = subscription.publications
        offset = recovered[-1].offset if recovered else subscription.offset
        self.positions[channel] = StreamPosition(offset, subscription.epoch)
        return True

    def _encode_id(self) -> str:
        """Write the line with the id; an empty one makes the peer forget the one it has."""
        event_id = encode_event_id(self.positions)
        if len(event_id) > EVENT_ID_BYTES_MAX:
            event_id = ""
        if not event_id and not self.has_given:
            return ""
        self.has_given = bool(event_id)
        return f"id: {event_id}\n"


def _escape(text: str) -> str:
    """Write text so that neither a separator of ids nor a line's end is left in it."""
    return quote(text, safe=PLAIN).replace(".", "%2E")


def _read_text(message: str | bytes) -> str:
    """Return a message as text."""
    return message if isinstance(message, str) else message.decode()
