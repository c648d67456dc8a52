"""How messages are told apart in the body of an HTTP response; protocol document, section 1.2."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from wirebell.model import Frames
from wirebell.protocol.sse import EventIds, encode_events, encode_retry

__all__ = ("NDJSON", "SSE", "VARINT", "EventStream", "Framing", "SharedFraming")


class Framing(Protocol):
    """How messages are told apart in the body."""

    content_type: bytes
    prelude: bytes
    """The first bytes of the body."""

    def encode(self, frames: Frames) -> bytes:
        """Write messages."""

    def encode_retry(self, seconds: float) -> bytes:
        """Tell the peer when to come back; empty where there are no words for it."""


class SharedFraming:
    """A `Framing` of all peers alike.

    Mutable state: the frames that were written last. In a tick all subscribers have the same ones,
    one after the other.
    """

    def __init__(
        self,
        content_type: bytes,
        prelude: bytes,
        join: Callable[[Iterable[str | bytes]], bytes],
        retry: Callable[[float], bytes],
    ) -> None:
        self.content_type = content_type
        self.prelude = prelude
        self.join = join
        self.retry = retry
        self.last: tuple[Frames, bytes] | None = None

    def encode(self, frames: Frames) -> bytes:
        """Write messages, once for all peers that get them in turn."""
        last = self.last
        if last is not None and last[0] is frames:
            return last[1]
        body = self.join(frames.messages)
        self.last = (frames, body)
        return body

    def encode_retry(self, seconds: float) -> bytes:
        """Tell the peer when to come back."""
        return self.retry(seconds)


class EventStream:
    """A `Framing` for one EventSource that comes back by itself, with the id of the last event.

    Args:
        ids: Writes the events.
    """

    content_type = b"text/event-stream; charset=utf-8"
    prelude = b"\r\n"

    def __init__(self, ids: EventIds) -> None:
        self.ids = ids

    def encode(self, frames: Frames) -> bytes:
        """Write messages as events with ids."""
        return self.ids.encode_events(frames.messages)

    def encode_retry(self, seconds: float) -> bytes:
        """Tell the peer when to come back."""
        return encode_retry(seconds)


def _join_lines(messages: Iterable[str | bytes]) -> bytes:
    """Write each message and a line feed."""
    lines = (text if isinstance(text, str) else text.decode() for text in messages)
    return ("\n".join(lines) + "\n").encode()


def _join_bytes(messages: Iterable[str | bytes]) -> bytes:
    """Write messages that bring their length along."""
    return b"".join(data if isinstance(data, bytes) else data.encode() for data in messages)


SSE = SharedFraming(EventStream.content_type, EventStream.prelude, encode_events, encode_retry)
"""Server-sent events without ids."""

NDJSON = SharedFraming(b"text/plain; charset=utf-8", b"", _join_lines, lambda _: b"")
"""JSON, each message with a line feed behind it."""

VARINT = SharedFraming(b"application/octet-stream", b"", _join_bytes, lambda _: b"")
"""Protobuf, each message with its length in front."""
