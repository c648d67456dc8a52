"""permessage-deflate: what is negotiated, and messages in and out."""

from __future__ import annotations

import time
import zlib

import pytest

from wirebell.websocket.deflate import (
    Corrupt,
    Deflate,
    Inflater,
    TooLong,
    compress,
    negotiate,
    parse_extensions,
)

ANSWER = b"permessage-deflate; server_no_context_takeover; client_no_context_takeover"


def test_parse_extensions() -> None:
    """All values are one list: names in order, parameters with and without values."""
    values = [
        b' ,foo ; a ; b=1;c = "2" , bar,',
        b"",
        b'x-y;q="a\\b"',
    ]

    assert [
        (b"foo", [(b"a", b""), (b"b", b"1"), (b"c", b"2")]),
        (b"bar", []),
        (b"x-y", [(b"q", b"ab")]),
    ] == parse_extensions(values)
    assert [] == parse_extensions([])


@pytest.mark.parametrize(
    "value",
    [
        b"foo bar", b"foo;", b"foo; ", b"foo;,bar", b";", b"foo;;a", b"foo=1", b"foo; a=",
        b'foo; a="', b'foo; a=""', b'foo; a="b c"', b'foo; a="b\\', b'foo; a="b"c', b"foo/bar",
        b"f\xc3\xb6\xc3\xb6", b"foo\x00", b"foo; a='b;", b"foo;a b", b"foo; =1",
    ],
)  # fmt: skip
def test_malformed_extensions(value: bytes) -> None:
    """A value that does not follow RFC 6455 9.1 is an error, and negotiates nothing."""
    with pytest.raises(ValueError, match="xtension"):
        parse_extensions([value])

    assert negotiate([b"permessage-deflate", value]) is None


@pytest.mark.parametrize(
    ("offer", "agreed", "answer"),
    [
        (b"permessage-deflate", Deflate(), b""),
        (b"Permessage-Deflate", Deflate(), b""),
        (b"permessage-deflate; client_max_window_bits", Deflate(), b""),
        (b"permessage-deflate; server_no_context_takeover", Deflate(), b""),
        (b"permessage-deflate; client_no_context_takeover", Deflate(), b""),
        (
            b"permessage-deflate; client_no_context_takeover; server_no_context_takeover",
            Deflate(),
            b"",
        ),
        (
            b"permessage-deflate; server_max_window_bits=10",
            Deflate(server_window_bits=10),
            b"; server_max_window_bits=10",
        ),
        (
            b"permessage-deflate; server_max_window_bits=15",
            Deflate(),
            b"; server_max_window_bits=15",
        ),
        (
            b'permessage-deflate; server_max_window_bits="9"',
            Deflate(server_window_bits=9),
            b"; server_max_window_bits=9",
        ),
        (
            b"permessage-deflate; client_max_window_bits=12",
            Deflate(client_window_bits=12),
            b"; client_max_window_bits=12",
        ),
        # A window of 256 bytes can be read, though not with zlib's 8 bits.
        (b"permessage-deflate; client_max_window_bits=8", Deflate(client_window_bits=9), b""),
        (
            b"permessage-deflate; client_max_window_bits=10; server_max_window_bits=11",
            Deflate(server_window_bits=11, client_window_bits=10),
            b"; client_max_window_bits=10; server_max_window_bits=11",
        ),
    ],
)
def test_accepted_offers(offer: bytes, agreed: Deflate, answer: bytes) -> None:
    """An offer that we can keep is answered with what is used."""
    assert (agreed, ANSWER + answer) == negotiate([offer])


DECLINED = [
    b"permessage-deflate; unknown",
    b"permessage-deflate; server_no_context_takeover=1",
    b"permessage-deflate; client_no_context_takeover=true",
    b"permessage-deflate; client_no_context_takeover; client_no_context_takeover",
    b"permessage-deflate; server_max_window_bits=10; server_max_window_bits=10",
    b"permessage-deflate; server_max_window_bits",
    *(
        b"permessage-deflate; %s_max_window_bits=%s" % (side, bits)
        for side in (b"server", b"client")
        for bits in (b"0", b"7", b"16", b"08", b"010", b"1", b"99", b"x", b"+9", b"9x", b"10.0")
    ),
    # zlib cannot write it.
    b"permessage-deflate; server_max_window_bits=8",
]


@pytest.mark.parametrize("offer", [*DECLINED, b"x-webkit-deflate-frame", b""])
def test_declined_offers(offer: bytes) -> None:
    """An offer that we cannot keep, or that is no offer, is declined as RFC 7692 5.1 says."""
    assert negotiate([offer]) is None


@pytest.mark.parametrize("offer", DECLINED)
def test_next_offer(offer: bytes) -> None:
    """After a declined offer the next is tried, and the first that can be kept wins."""
    good = b"permessage-deflate; server_max_window_bits=9"
    expected = Deflate(server_window_bits=9), ANSWER + b"; server_max_window_bits=9"

    assert expected == negotiate([offer + b", x-other; a=1, " + good + b", permessage-deflate"])
    assert expected == negotiate([offer, good])


def test_nothing_offered() -> None:
    """Without an offer nothing is compressed."""
    assert negotiate([]) is None


def test_negotiation_is_linear() -> None:
    """Headers made to be slow are as fast as others of their length."""
    values = [
        b"a;" * 4_096,
        b"," * 8_192,
        b" " * 8_192 + b"\x00",
        b"a" + b" " * 8_192 + b"x",
        b'a; b="' + b"\\" * 8_193,
        b'a; b="' + b"\\x" * 4_096,
        b"a" * 8_192 + b"\x00",
        b"permessage-deflate; server_max_window_bits=8," * 182,
    ]

    started = time.process_time()
    found = [negotiate([value]) for value in values]

    assert [None] * len(values) == found
    # About 2 ms; where the time grows with the square of the length it is many seconds.
    assert time.process_time() - started < 1.0


COMPRESSED = [
    ("f248cdc9c90700", b"Hello"),
    ("000500faff48656c6c6f00", b"Hello"),
    ("f348cdc9c9070000", b"Hello"),
    ("f248050000 00ffffcac9c90700", b"Hello"),
    ("f348cdc9c90700" + "f348cdc9c90700" + "00", b"HelloHello"),
    ("00", b""),
    ("", b""),
]


@pytest.mark.parametrize(("data", "message"), COMPRESSED)
def test_inflate(data: str, message: bytes) -> None:
    """The examples of RFC 7692 7.2.3 become what they say, whole and in pieces, one by one."""
    compressed = bytes.fromhex(data)
    inflater = Inflater(15)
    for _ in range(2):
        assert message == inflater.inflate(compressed, 100, is_last=True)
    for _ in range(2):
        pieces = [inflater.inflate(bytes([byte]), 100, is_last=False) for byte in compressed]
        assert message == b"".join([*pieces, inflater.inflate(b"", 100, is_last=True)])


@pytest.mark.parametrize("window_bits", range(9, 16))
@pytest.mark.parametrize("size", [0, 1, 10, 300, 5_000, 70_000])
def test_compress(size: int, window_bits: int) -> None:
    """What is compressed is read by an inflater of that window, whatever was compressed before."""
    payload = bytes((at * at // 7) % 251 for at in range(size))

    data = compress(payload, window_bits)

    assert data
    assert data == compress(payload, window_bits)
    assert payload == zlib.decompressobj(-window_bits).decompress(data + b"\x00\x00\xff\xff")
    assert payload == Inflater(window_bits).inflate(data, size, is_last=True)


def test_compress_examples() -> None:
    """We write what RFC 7692 7.2.3.1 and 7.2.3.6 show."""
    assert bytes.fromhex("f248cdc9c90700") == compress(b"Hello", 15)
    assert b"\x00" == compress(b"", 15)


@pytest.mark.parametrize("data", ["ffffffff", "07", "000500faee48656c6c6f", "f200110000"])
def test_corrupt(data: str) -> None:
    """What is no deflate data, or refers to a message before, is told as corrupt."""
    inflater = Inflater(15)
    with pytest.raises(Corrupt):
        inflater.inflate(bytes.fromhex(data), 1_000, is_last=True)


@pytest.mark.parametrize("bytes_max", [0, 1, 999, 1_000, 16_384, 100_000])
def test_limit(bytes_max: int) -> None:
    """A message of the limit passes, and one byte more does not; nor does anything below zero."""
    exact, longer = compress(b"a" * bytes_max, 15), compress(b"a" * (bytes_max + 1), 15)

    assert bytes_max == len(Inflater(15).inflate(exact, bytes_max, is_last=True))
    with pytest.raises(TooLong, match=f"more than {bytes_max} bytes"):
        Inflater(15).inflate(longer, bytes_max, is_last=True)
    with pytest.raises(TooLong):
        Inflater(15).inflate(exact, -1, is_last=True)


def test_limit_with_much_input() -> None:
    """The limit counts over all slices of a long input."""
    payload = zlib.compress(bytes(range(256)) * 40, 0)[2:-4] * 10
    message = bytes(range(256)) * 400

    assert message == Inflater(15).inflate(payload, len(message), is_last=True)
    with pytest.raises(TooLong):
        Inflater(15).inflate(payload, len(message) - 1, is_last=True)


def test_blocks_marked_as_the_last_are_bounded() -> None:
    """A message of such blocks costs at most a thousand inflaters."""
    block = b"\x03\x00"
    inflater = Inflater(15)
    assert b"" == inflater.inflate(block * 1_024, 10, is_last=True)
    assert b"" == inflater.inflate(block * 1_024, 10, is_last=False)

    with pytest.raises(Corrupt, match="more than 1024 blocks are marked as the last"):
        inflater.inflate(block, 10, is_last=False)
    with pytest.raises(Corrupt):
        Inflater(15).inflate(block * 1_025, 10, is_last=False)


def test_blocks_marked_as_the_last_do_not_copy() -> None:
    """A thousand such blocks behind a long text do not copy it a thousand times."""
    long = zlib.compressobj(9, wbits=-15)
    data = long.compress(bytes(8_000_000)) + long.flush(zlib.Z_SYNC_FLUSH)
    inflater = Inflater(15)

    started = time.process_time()
    message = inflater.inflate(data + b"\x03\x00" * 1_000, 8_000_000, is_last=True)

    assert 8_000_000 == len(message)
    # About 20 ms; copied each time it is more than a second.
    assert time.process_time() - started < 0.8
