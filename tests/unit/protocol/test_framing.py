"""How messages are told apart in the body of a response."""

from __future__ import annotations

import pytest

from wirebell.model import Frames
from wirebell.protocol.framing import NDJSON, SSE, VARINT, EventStream, Framing
from wirebell.protocol.sse import EventIds


@pytest.mark.parametrize(
    ("framing", "messages", "body"),
    [
        (NDJSON, ("1", b"2"), b"1\n2\n"),
        (SSE, ("1", b"2"), b"data: 1\n\ndata: 2\n\n"),
        (VARINT, (b"\x011", "\x012"), b"\x011\x012"),
        (EventStream(EventIds()), ("{}",), b"data: {}\n\n"),
    ],
)
def test_encode(framing: Framing, messages: tuple[str | bytes, ...], body: bytes) -> None:
    """Lines end, events are separated, and protobuf brings its length along."""
    assert body == framing.encode(Frames(messages, 2))


def test_frames_are_encoded_once() -> None:
    """The same frames give the same bytes, other frames do not."""
    frames = Frames(("1",), 1)
    body = SSE.encode(frames)

    assert body is SSE.encode(frames)
    assert b"data: 2\n\n" == SSE.encode(Frames(("2",), 1))


def test_retry() -> None:
    """Only an EventSource can be told when to come back."""
    assert [b"retry: 2500\n\n"] * 2 == [
        framing.encode_retry(2.5) for framing in (SSE, EventStream(EventIds()))
    ]
    assert [b"", b""] == [framing.encode_retry(2.5) for framing in (NDJSON, VARINT)]
