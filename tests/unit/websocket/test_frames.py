"""Frames: what a client may send, what it may not, and what we write."""

from __future__ import annotations

import importlib.util
import sys
import tracemalloc
import zlib

import pytest

from tests.unit.websocket.wire import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    chop,
    encode_client_frame,
    read_all,
)
from wirebell.websocket import frames
from wirebell.websocket.deflate import compress
from wirebell.websocket.frames import (
    Close,
    Event,
    Failure,
    FrameReader,
    Opcode,
    Ping,
    Pong,
    apply_mask,
    encode_close,
    encode_frame,
    encode_texts,
    is_close_code,
    mask_by_integer,
)

frame = encode_client_frame
# Messages around each change of how a length is written.
SIZES = [0, 1, 2, 3, 4, 5, 124, 125, 126, 127, 128, 255, 256, 65_535, 65_536, 65_537]
LIMIT = 100_000


def describe(event: Event) -> object:
    """Leave out the words of a failure."""
    return event.code if isinstance(event, Failure) else event


def read(data: bytes, **options: bool) -> list[object]:
    """Read ``data`` whole, byte by byte, and cut once at each place; all must give the same."""
    whole = [describe(event) for event in FrameReader(LIMIT, **options).receive_data(data)]
    for size in (1, 2, 3, 7, 64) if len(data) < 1_000 else (1_021,):
        chopped = read_all(FrameReader(LIMIT, **options), chop(data, size))
        assert whole == [describe(event) for event in chopped], size
    for at in range(min(len(data), 300 if len(data) < 1_000 else 20)):
        reader = FrameReader(LIMIT, **options)
        chopped = reader.receive_data(data[:at]) + reader.receive_data(data[at:])
        assert whole == [describe(event) for event in chopped], at
    return whole


RFC_EXAMPLES = [
    ("818537fa213d7f9f4d5158", ["Hello"]),
    ("8a8537fa213d7f9f4d5158", [Pong(b"Hello")]),
    ("898537fa213d7f9f4d5158", [Ping(b"Hello")]),
    ("018337fa213d7f9f4d" + "808237fa213d5b95", ["Hello"]),
]


@pytest.mark.parametrize(("data", "events"), RFC_EXAMPLES)
def test_examples_of_rfc_6455(data: str, events: list[Event]) -> None:
    """The frames of RFC 6455 5.7, as a client writes them, are read."""
    assert events == read(bytes.fromhex(data))


@pytest.mark.parametrize("size", SIZES)
def test_every_length(size: int) -> None:
    """A text and a binary of each length are read, alone and one behind the other."""
    text, binary = "x" * size, bytes(range(256)) * (size // 256) + bytes(size % 256)
    first, second = frame(TEXT, text.encode()), frame(BINARY, binary)

    assert [text] == read(first)
    assert [binary] == read(second)
    assert [text, text, binary, text] == read(first + first + second + first)


def test_fragments() -> None:
    """A message may come in fragments, also empty ones."""
    data = (
        frame(TEXT, b"", is_final=False)
        + frame(CONTINUATION, "ä€".encode()[:3], is_final=False)
        + frame(CONTINUATION, b"", is_final=False)
        + frame(CONTINUATION, "ä€".encode()[3:])
        + frame(BINARY, b"\x00\xff", is_final=False)
        + frame(CONTINUATION)
    )

    assert ["ä€", b"\x00\xff"] == read(data)


def test_control_frames_between_fragments() -> None:
    """Control frames are told at once, and do not disturb the message around them."""
    data = (
        frame(TEXT, b"a", is_final=False)
        + frame(PING, b"1")
        + frame(PONG, b"x" * 125)
        + frame(CONTINUATION, b"b", is_final=False)
        + frame(PING)
        + frame(CONTINUATION, b"c")
        + frame(TEXT, b"d")
    )

    assert [Ping(b"1"), Pong(b"x" * 125), Ping(b""), "abc", "d"] == read(data)


PROTOCOL_ERRORS = {
    "not masked": frame(TEXT, b"a", mask=None),
    "not masked, long": frame(TEXT, b"a" * 200, mask=None),
    "control not masked": frame(PING, mask=None),
    "RSV1": frame(TEXT, b"a", reserved=4),
    "RSV2": frame(TEXT, b"a", reserved=2),
    "RSV3": frame(TEXT, b"a", reserved=1),
    "RSV1 of a ping": frame(PING, b"a", reserved=4),
    "RSV1 of a continuation": frame(TEXT, b"a", is_final=False)
    + frame(CONTINUATION, b"a", reserved=4),
    **{f"opcode {n}": frame(n, b"a") for n in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "fragmented ping": frame(PING, b"a", is_final=False),
    "fragmented close": frame(CLOSE, b"\x03\xe8", is_final=False),
    "long ping": frame(PING, bytes(126)),
    "long close": frame(CLOSE, b"\x03\xe8" + bytes(124)),
    "very long pong": frame(PONG, bytes(65_536)),
    "continuation of nothing": frame(CONTINUATION, b"a"),
    "continuation after the end": frame(TEXT, b"a", is_final=False)
    + frame(CONTINUATION)
    + frame(CONTINUATION),
    "text within a text": frame(TEXT, b"a", is_final=False) + frame(TEXT, b"a"),
    "binary within a text": frame(TEXT, b"a", is_final=False) + frame(BINARY, is_final=False),
    "16 bits for 0": frame(TEXT, length_bits=16),
    "16 bits for 125": frame(TEXT, b"a" * 125, length_bits=16),
    "64 bits for 1": frame(BINARY, b"a", length_bits=64),
    "64 bits for 65,535": frame(TEXT, b"a" * 65_535, length_bits=64),
    "length of 64 bits": b"\x82\xff\x80" + bytes(7) + bytes(4),
    "close with one byte": frame(CLOSE, b"\x03"),
}


@pytest.mark.parametrize("data", PROTOCOL_ERRORS.values(), ids=PROTOCOL_ERRORS)
def test_protocol_errors(data: bytes) -> None:
    """Whatever breaks RFC 6455 5 is answered with 1002, and nothing is read behind it."""
    events = read(data + frame(TEXT, b"late"))

    assert 1002 == events[-1]
    assert "late" not in events


def test_whole_messages_before_an_error_are_told() -> None:
    """What was whole before the peer broke the protocol is not lost."""
    data = frame(TEXT, b"a") + frame(PING) + frame(BINARY, b"b") + frame(7) + frame(TEXT, b"c")

    assert ["a", Ping(b""), b"b", 1002] == read(data)


@pytest.mark.parametrize(
    "code", [1000, 1001, 1002, 1003, *range(1007, 1015), 3000, 3999, 4000, 4999]
)
def test_valid_close_codes(code: int) -> None:
    """A close frame may carry registered codes and those of applications."""
    data = code.to_bytes(2, "big")

    assert is_close_code(code)
    assert [Close(code, "")] == read(frame(CLOSE, data) + frame(TEXT, b"late"))
    assert [Close(code, "bye ä")] == read(frame(CLOSE, data + "bye ä".encode()))
    assert b"\x88\x02" + data == encode_close(code)


@pytest.mark.parametrize(
    "code", [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535]
)
def test_invalid_close_codes(code: int) -> None:
    """Other close codes are a protocol error, and are not sent either."""
    assert not is_close_code(code)
    assert [1002] == read(frame(CLOSE, code.to_bytes(2, "big")))
    if code != 1005:
        with pytest.raises(ValueError, match=f"close code {code} must not be sent"):
            encode_close(code)


def test_close_without_code() -> None:
    """A close frame may be empty; its code is 1005 then, and writes such a frame."""
    assert [Close(1005, "")] == read(frame(CLOSE))
    assert b"\x88\x00" == encode_close(1005, "not sent")


def test_close_within_a_message() -> None:
    """A peer may close in the middle of a message, which is dropped."""
    assert [Close(1000, "")] == read(frame(TEXT, b"a", is_final=False) + frame(CLOSE, b"\x03\xe8"))


def test_nothing_is_read_after_the_end() -> None:
    """After a close and after a failure a reader answers nothing for ever."""
    closed, failed = FrameReader(LIMIT), FrameReader(LIMIT)
    closed.receive_data(frame(CLOSE))
    failed.receive_data(frame(3))

    for reader in (closed, failed):
        for data in (b"", frame(TEXT, b"a"), frame(CLOSE), frame(3), b"\x81"):
            assert [] == reader.receive_data(data)


WRONG_TEXT = [
    "80", "bf", "c0", "c080", "c1bf", "c2", "c27f", "c2c0", "e0", "e080", "e09fbf", "e282",
    "e2827f", "eda0", "eda080", "edbfbf", "f0808080", "f08fbfbf", "f0908d", "f4908080", "f48fbf",
    "f5", "ff", "fe", "cebae1bdb9cf83cebcceb5eda080656469746564", "61c3",
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG_TEXT)
def test_text_that_is_not_utf8(wrong: str) -> None:
    """Text and close reasons that are not UTF-8 are answered with 1007, however they come."""
    text = bytes.fromhex(wrong)

    for data in (b"abc" + text, text + b"\x00" * 126, text):
        assert [1007] == read(frame(TEXT, data))
        for at in range(len(data) if len(data) < 50 else 0):
            fragments = frame(TEXT, data[:at], is_final=False) + frame(CONTINUATION, data[at:])
            assert [1007] == read(fragments)
    assert [1007] == read(frame(CLOSE, b"\x03\xe8" + text))
    assert [text] == read(frame(BINARY, text))
    assert [1007] == read(frame(TEXT, compress(text, 15), reserved=4), inflates=True)


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("", "80"), ("", "c0"), ("", "c1"), ("", "f5"), ("c2", "7f"), ("e0", "9f"), ("e0", "80"),
        ("ed", "a0"), ("ed", "bf"), ("ed9f", "c0"), ("f0", "8f"), ("f4", "90"), ("f09f", "7f"),
        ("f09f98", "c0"), ("e282ac", "ff"), ("cebae1bdb9cf83cebcceb5f4", "90"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("is_compressed", [False, True])
def test_wrong_text_is_found_at_once(good: str, bad: str, is_compressed: bool) -> None:
    """The first wrong byte is enough, in the middle of a frame and of compressed data too."""
    for prefix in (b"", "plain ä".encode()):
        right = prefix + bytes.fromhex(good)
        data = right + bytes.fromhex(bad) + b"abc" * 100
        if is_compressed:
            # Without Huffman codes the bytes stand in the frame one by one.
            writer = zlib.compressobj(0, wbits=-15)
            data = writer.compress(data) + writer.flush(zlib.Z_SYNC_FLUSH)
        reserved = 4 if is_compressed else 0
        whole = frame(TEXT, data, is_final=False, reserved=reserved)
        at = len(whole) - len(data) + (5 if is_compressed else 0) + len(right)
        reader = FrameReader(LIMIT, inflates=is_compressed)

        assert [] == reader.receive_data(whole[:at])
        assert [1007] == [describe(event) for event in reader.receive_data(whole[at : at + 1])]


def test_every_start_of_a_character() -> None:
    """A piece may end anywhere in any character, and nowhere else."""
    starts = {
        chr(code).encode()[:size]
        for code in (
            *range(0x80, 0xD800, 251),
            0x7FF,
            0x800,
            0xD7FF,
            *range(0xE000, 0x110000, 4_093),
        )
        for size in (1, 2, 3)
    }
    for start in starts:
        reader = FrameReader(LIMIT)
        reader.receive_data(frame(TEXT, bytes(9), is_final=False))

        assert [] == reader.receive_data(frame(CONTINUATION, start, is_final=False))


@pytest.mark.parametrize("limit", [0, 1, 125, 126, 65_535, 65_536])
def test_limit(limit: int) -> None:
    """A message of the limit passes; one byte more fails with 1009 before its payload came."""
    for opcode in (TEXT, BINARY):
        exact = frame(opcode, b"a" * limit)
        longer = frame(opcode, b"a" * (limit + 1))
        head = len(longer) - limit - 1 - 4

        assert 1 == len(FrameReader(limit).receive_data(exact))
        reason = f"message is longer than {limit} bytes"
        assert [Failure(1009, reason)] == FrameReader(limit).receive_data(longer[:head])
        assert [Failure(1009, reason)] == FrameReader(limit).receive_data(longer)


def test_limit_counts_all_fragments() -> None:
    """Fragments are counted together, and control frames are not counted."""
    start = frame(TEXT, b"aaa", is_final=False) + frame(PING, bytes(100))
    reader, longer = FrameReader(5), FrameReader(5)

    assert [Ping(bytes(100)), "aaabb"] == reader.receive_data(start + frame(CONTINUATION, b"bb"))
    events = longer.receive_data(start + frame(CONTINUATION, b"bbb", is_final=False))
    assert [Ping(bytes(100)), 1009] == [describe(event) for event in events]


def test_limit_may_change() -> None:
    """A limit that is changed counts from the next frame."""
    reader = FrameReader(3)
    reader.message_bytes_max = 10
    assert ["aaaaaaaaaa"] == reader.receive_data(frame(TEXT, b"a" * 10))

    assert [] == reader.receive_data(frame(TEXT, b"a" * 8, is_final=False))
    reader.message_bytes_max = 3
    events = reader.receive_data(frame(CONTINUATION))
    assert [Failure(1009, "message is longer than 3 bytes")] == events


def test_limit_may_fall_below_what_was_inflated() -> None:
    """A limit below what a compressed message already has ends it with 1009."""
    data = frame(TEXT, compress(b"a" * 100, 15), reserved=4)
    reader = FrameReader(1_000, inflates=True)
    assert [] == reader.receive_data(data[:-1])

    reader.message_bytes_max = 3
    assert [1009] == [describe(event) for event in reader.receive_data(data[-1:])]


DEFLATE_EXAMPLES = {
    "one block": [(0xC1, "f248cdc9c90700")],
    "two fragments": [(0x41, "f248cd"), (0x80, "c9c90700")],
    "a block without compression": [(0xC1, "000500faff48656c6c6f00")],
    "a block that is marked as the last": [(0xC1, "f348cdc9c9070000")],
    "two blocks": [(0xC1, "f248050000 00ffffcac9c90700")],
    "the first alone, with BFINAL": [(0xC1, "f348cdc9c90700")],
}


@pytest.mark.parametrize("parts", DEFLATE_EXAMPLES.values(), ids=DEFLATE_EXAMPLES)
def test_examples_of_rfc_7692(parts: list[tuple[int, str]]) -> None:
    """The messages of RFC 7692 7.2.3 are read, if compression was agreed on."""
    pieces = [
        encode_client_frame(
            first & 0x0F,
            bytes.fromhex(payload),
            is_final=first & 0x80 != 0,
            reserved=first >> 4 & 7,
        )
        for first, payload in parts
    ]
    data = b"".join(pieces)
    with_pings = frame(PING).join(pieces)

    assert ["Hello", "plain"] == read(data + frame(TEXT, b"plain"), inflates=True)
    expected = [Ping(b"")] * (len(pieces) - 1) + ["Hello"]
    assert expected == read(with_pings, inflates=True)
    assert [1002] == read(data)


def test_compressed_messages_are_strangers() -> None:
    """A message that refers to one before it is corrupt: no window is kept (RFC 7692 7.2.3.2)."""
    first = frame(TEXT, bytes.fromhex("f248cdc9c90700"), reserved=4)
    second = frame(TEXT, bytes.fromhex("f200110000"), reserved=4)

    assert ["Hello", "Hello", 1002] == read(first + first + second, inflates=True)


@pytest.mark.parametrize(
    "data",
    [
        frame(TEXT, b"a", is_final=False) + frame(CONTINUATION, b"a", reserved=4),
        frame(TEXT, compress(b"aaa", 15), reserved=4, is_final=False)
        + frame(CONTINUATION, b"a", reserved=4),
        frame(PING, compress(b"aaa", 15), reserved=4),
        frame(CLOSE, b"\x03\xe8", reserved=4),
        frame(TEXT, b"a", reserved=6),
        frame(TEXT, b"\xff\xff\xff\xff", reserved=4),
    ],
)
def test_wrong_use_of_compression(data: bytes) -> None:
    """Only the first frame of a data message may say that it is compressed, and it must be."""
    assert [1002] == read(data, inflates=True)


def test_window_bits() -> None:
    """A reader needs no larger window than the client said it uses."""
    payload = bytes(range(256)) * 20
    data = frame(BINARY, compress(payload, 9), reserved=4)

    assert [payload] == FrameReader(LIMIT, inflates=True, window_bits=9).receive_data(data)


def test_data_that_deflate_cannot_shrink() -> None:
    """The limit is one of inflated bytes: a message that fits may be longer in its frame."""
    payload = bytes(range(256)) * 4
    writer = zlib.compressobj(0, wbits=-15)
    data = writer.compress(payload) + writer.flush(zlib.Z_SYNC_FLUSH)
    data = data[:-4]
    assert len(data) > len(payload)

    reader = FrameReader(len(payload), inflates=True)
    assert [payload] == reader.receive_data(frame(BINARY, data, reserved=4))
    # Nor does a fragment of it count by itself.
    half = len(data) // 2
    fragments = frame(BINARY, data[:half], is_final=False, reserved=4)
    assert [] == reader.receive_data(fragments)
    assert [payload] == reader.receive_data(frame(CONTINUATION, data[half:]))


def test_compressed_frame_beyond_every_message() -> None:
    """A compressed frame that cannot hold a message within the limit fails with its header."""
    data = frame(BINARY, bytes(1_300), reserved=4)

    events = FrameReader(1_024, inflates=True).receive_data(data[:4])

    assert [Failure(1009, "message is longer than 1024 bytes")] == events


@pytest.mark.parametrize("size", [64, 1_000_000])
def test_bomb(size: int) -> None:
    """A megabyte that becomes a gigabyte stops at the limit, and so does the memory it takes."""
    limit = 1_048_576
    writer = zlib.compressobj(9, wbits=-15)
    # A mebibyte of zeros that refers to nothing before it, a thousand times.
    zeros = writer.compress(bytes(1 << 20)) + writer.flush(zlib.Z_FULL_FLUSH)
    data = frame(BINARY, zeros * 1_000, reserved=4)
    assert len(data) > 1_000_000
    pieces = chop(data, size)
    reader = FrameReader(limit, inflates=True)

    tracemalloc.start()
    try:
        events = read_all(reader, pieces)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert [Failure(1009, "message is longer than 1048576 bytes")] == events
    assert peak < 6 * limit


def test_an_idle_reader_holds_nothing() -> None:
    """Only while something is unfinished does a reader hold more than its slots."""
    reader = FrameReader(LIMIT, inflates=True)
    compressed = frame(TEXT, compress(b"abc" * 50, 15), reserved=4)
    unfinished = [
        frame(TEXT, b"abc"),
        frame(PING, b"abc"),
        frame(TEXT, b"abc" * 100),
        frame(TEXT, b"abc", is_final=False) + frame(PING, b"abc") + frame(CONTINUATION, b"abc"),
        compressed,
    ]
    for data in unfinished:
        for at in range(1, len(data)):
            reader.receive_data(data[:at])
            assert reader._unfinished is not None
            reader.receive_data(data[at:])
            assert reader._unfinished is None

    assert 3 == len(FrameReader.__slots__)
    assert not hasattr(reader, "__dict__")


def test_empty_data() -> None:
    """No bytes are no event, in every state."""
    reader = FrameReader(LIMIT)
    for piece in chop(frame(TEXT, b"abc"), 1)[:-1]:
        assert [] == reader.receive_data(b"")
        assert [] == reader.receive_data(piece)

    assert [] == reader.receive_data(b"")


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 120, 65_537])
def test_masks(size: int) -> None:
    """Both ways to mask do what RFC 6455 5.3 says, and undo themselves."""
    data, mask = bytes(range(256)) * 256 + b"x", b"\x00\x80\xff\x01"
    data = data[:size]
    expected = bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))

    for function in (apply_mask, mask_by_integer):
        assert expected == function(data, mask)
        assert data == function(expected, mask)


def test_masking_without_c(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the C routine is missing, integers mask."""
    monkeypatch.setitem(sys.modules, "websockets.speedups", None)
    spec = importlib.util.spec_from_file_location("frames_without_c", frames.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)

    assert module.apply_mask is module.mask_by_integer
    assert frames.apply_mask is not frames.mask_by_integer
    assert ["Hello"] == module.FrameReader(LIMIT).receive_data(frame(TEXT, b"Hello"))


@pytest.mark.parametrize(
    ("opcode", "payload", "head"),
    [
        (Opcode.TEXT, b"Hello", "8105"),
        (Opcode.PING, b"Hello", "8905"),
        (Opcode.PONG, b"", "8a00"),
        (Opcode.CLOSE, bytes(125), "887d"),
        (Opcode.BINARY, bytes(125), "827d"),
        (Opcode.BINARY, bytes(126), "827e007e"),
        (Opcode.BINARY, bytes(256), "827e0100"),
        (Opcode.TEXT, bytes(65_535), "817effff"),
        (Opcode.BINARY, bytes(65_536), "827f0000000000010000"),
    ],
)
def test_encode_frame(opcode: Opcode, payload: bytes, head: str) -> None:
    """Frames of a server are written as in RFC 6455 5.7: whole, not masked, with short lengths."""
    assert bytes.fromhex(head) + payload == encode_frame(opcode, payload)


def test_encode_compressed_frame() -> None:
    """RSV1 says that a message is compressed (RFC 7692 7.2.3.1)."""
    data = encode_frame(Opcode.TEXT, compress(b"Hello", 15), is_compressed=True)

    assert bytes.fromhex("c107f248cdc9c90700") == data


def test_encode_texts() -> None:
    """Texts are written as a frame each, joined; no texts are no bytes."""
    messages = [b"a" * size for size in SIZES]
    expected = b"".join(encode_frame(Opcode.TEXT, message) for message in messages)

    assert expected == encode_texts(messages)
    assert b"" == encode_texts([])


@pytest.mark.parametrize(
    ("reason", "sent"),
    [
        ("bye", "bye"),
        ("x" * 123, "x" * 123),
        ("x" * 124, "x" * 123),
        ("€" * 50, "€" * 41),
        ("x" + "€" * 50, "x" + "€" * 40),
        ("😀" * 31, "😀" * 30),
        ("\ud800", "?"),
    ],
)
def test_encode_close(reason: str, sent: str) -> None:
    """A reason is cut to 123 bytes between two characters, and is always UTF-8."""
    data = sent.encode()

    assert bytes([0x88, 2 + len(data), 0x03, 0xE8]) + data == encode_close(1000, reason)
