"""Frames of publications as bytes: once for all, text and binary, plain and compressed."""

from __future__ import annotations

import zlib

from wirebell.model import Frames
from wirebell.websocket.wire import deflate_wire, encode_wire

LONG = "a" * 200


def inflate(data: bytes) -> bytes:
    """Read a compressed message (RFC 7692, section 7.2.2)."""
    return zlib.decompressobj(-15).decompress(data + b"\x00\x00\xff\xff")


def test_text() -> None:
    """Each text is one text frame."""
    assert b"\x81\x01a\x81\x02\xc3\xa4" == encode_wire(Frames(("a", "ä"), 3))


def test_binary() -> None:
    """Bytes are binary frames, also beside text."""
    assert b"\x82\x01\x00" == encode_wire(Frames((b"\x00",), 1))
    assert b"\x81\x01a\x82\x02\xff\x00" == encode_wire(Frames(("a", b"\xff\x00"), 3))


def test_nothing() -> None:
    """No message is no byte."""
    assert b"" == encode_wire(Frames((), 0))
    assert b"" == deflate_wire(Frames((), 0), 15, 0)


def test_encoded_once() -> None:
    """What was encoded is remembered, in each part too."""
    parts = [Frames((b"\x00",), 1), Frames(("a",), 1)]
    joined = Frames.join(parts)

    wire = encode_wire(joined)

    assert b"\x82\x01\x00\x81\x01a" == wire
    assert wire is encode_wire(joined)
    assert [b"\x82\x01\x00", b"\x81\x01a"] == [part.wire for part in parts]


def test_compressed() -> None:
    """What is long enough is compressed, and says that it is text or binary."""
    text = deflate_wire(Frames((LONG,), 200), 15, 100)
    binary = deflate_wire(Frames((LONG.encode(),), 200), 15, 100)

    assert (b"\xc1", b"\xc2") == (text[:1], binary[:1])
    assert text[1:] == binary[1:]
    assert LONG.encode() == inflate(binary[2:])


def test_not_compressed() -> None:
    """What is short, or does not shrink, goes as it is."""
    assert b"\x82\x01\x00" == deflate_wire(Frames((b"\x00",), 1), 15, 2)
    assert b"\x82\x01\x00" == deflate_wire(Frames((b"\x00",), 1), 15, 0)
    assert b"\x81\x01a" == deflate_wire(Frames(("a",), 1), 15, 0)


def test_compressed_once() -> None:
    """What was compressed is remembered for each window, in each part too."""
    parts = [Frames((LONG.encode(),), 200), Frames(("a",), 1)]
    joined = Frames.join(parts)

    wire = deflate_wire(joined, 15, 100)

    assert wire is deflate_wire(joined, 15, 100)
    assert wire == b"".join(deflate_wire(part, 15, 100) for part in parts)
    assert {9, 15} == set(joined.deflated or {}) | ({9} if deflate_wire(joined, 9, 100) else set())
