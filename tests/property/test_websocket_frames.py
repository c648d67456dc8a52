"""Frames: an independent client writes what our reader reads, and reads what we write."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from hypothesis import given, settings, strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Close as TheirClose, Frame, Opcode as TheirOpcode
from websockets.protocol import CLIENT, OPEN, Protocol

from tests.fuzz.targets import describe_events, state_bytes
from tests.unit.websocket.wire import BINARY, encode_client_frame
from wirebell.websocket.deflate import compress
from wirebell.websocket.frames import (
    Close,
    Event,
    Failure,
    FrameReader,
    Opcode,
    Ping,
    Pong,
    encode_close,
    encode_frame,
    encode_texts,
    is_close_code,
)

LIMIT = 70_000
# Lengths around each way to write one are as likely as all others.
SIZES = st.one_of(st.integers(0, 130), st.sampled_from([125, 126, 65_535, 65_536]))
TEXTS = st.one_of(
    st.text(max_size=60),
    SIZES.map(lambda size: "x" * size),
    SIZES.map(lambda size: "€" * (size // 3)),
)
PAYLOADS = st.one_of(st.binary(max_size=150), SIZES.map(lambda size: b"\xfe" * size))
CONTROLS = st.one_of(
    st.builds(Ping, st.binary(max_size=125)), st.builds(Pong, st.binary(max_size=125))
)
CODES = st.integers(0, 5_000).filter(is_close_code)


@dataclass(frozen=True)
class Sent:
    """A message, where it is cut into fragments, and what stands between them."""

    message: str | bytes
    cuts: list[int]
    controls: list[Ping | Pong]


MESSAGES = st.builds(
    Sent,
    message=st.one_of(TEXTS, PAYLOADS),
    cuts=st.lists(st.integers(0, 200), max_size=3),
    controls=st.lists(CONTROLS, max_size=3),
)


def create_extension(window_bits: int = 15) -> PerMessageDeflate:
    """Create the judge's compression, with what we always agree on."""
    return PerMessageDeflate(
        remote_no_context_takeover=True,
        local_no_context_takeover=True,
        remote_max_window_bits=window_bits,
        local_max_window_bits=window_bits,
    )


def write(sent: Sent, extension: PerMessageDeflate | None) -> tuple[bytes, list[Event]]:
    """Let the judge write a message; return its bytes and the events they are."""
    message = sent.message
    payload = message.encode() if isinstance(message, str) else message
    opcode = TheirOpcode.TEXT if isinstance(message, str) else TheirOpcode.BINARY
    places = sorted({min(cut, len(payload)) for cut in sent.cuts} | {len(payload)})
    extensions = [] if extension is None else [extension]
    data = b""
    events: list[Event] = []
    start = 0
    controls = list(sent.controls)
    for place in places:
        is_last = place == len(payload)
        piece = Frame(opcode, payload[start:place], fin=is_last)
        data += piece.serialize(mask=True, extensions=extensions)
        start, opcode = place, TheirOpcode.CONT
        if not is_last and controls:
            control = controls.pop()
            kind = TheirOpcode.PING if isinstance(control, Ping) else TheirOpcode.PONG
            data += Frame(kind, control.data).serialize(mask=True, extensions=extensions)
            events.append(control)
    return data, [*events, message]


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Cut bytes at places, each a share of 1,000 of the length."""
    ends = [*sorted({len(data) * place // 1_000 for place in places}), len(data)]
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


@settings(max_examples=150)
@given(
    sents=st.lists(MESSAGES, max_size=5),
    close=st.none() | st.tuples(CODES, st.text(max_size=30)),
    places=st.lists(st.integers(0, 1_000), max_size=8),
    is_compressed=st.booleans(),
    window_bits=st.integers(9, 15),
)
def test_reads_what_a_client_writes(
    sents: list[Sent],
    close: tuple[int, str] | None,
    places: list[int],
    is_compressed: bool,
    window_bits: int,
) -> None:
    """Messages of an independent client are read back, wherever the network cuts them."""
    extension = create_extension(window_bits) if is_compressed else None
    data = b""
    expected: list[Event] = []
    for sent in sents:
        written, events = write(sent, extension)
        data += written
        expected += events
    if close is not None:
        payload = TheirClose(*close).serialize()
        data += Frame(TheirOpcode.CLOSE, payload).serialize(mask=True)
        data += Frame(TheirOpcode.TEXT, b"late").serialize(mask=True)
        expected.append(Close(*close))
    reader = FrameReader(LIMIT, inflates=is_compressed, window_bits=window_bits)

    found = [event for piece in cut(data, places) for event in reader.receive_data(piece)]

    assert expected == found
    if close is None:
        assert reader._unfinished is None


@settings(max_examples=300)
@given(
    data=st.binary(max_size=300),
    places=st.lists(st.integers(0, 1_000), max_size=8),
    limit=st.integers(0, 200),
    inflates=st.booleans(),
)
def test_reads_any_bytes(data: bytes, places: list[int], limit: int, inflates: bool) -> None:
    """No bytes raise, what is kept stays below the limit, and cuts change nothing."""
    whole = FrameReader(limit, inflates=inflates).receive_data(data)
    reader = FrameReader(limit, inflates=inflates)
    found: list[Event] = []
    for piece in cut(data, places):
        found += reader.receive_data(piece)
        assert state_bytes(reader) <= limit + 200

    assert describe_events(whole, inflates) == describe_events(found, inflates)


@st.composite
def sloppy_frames(draw: st.DrawFn) -> bytes:
    """Write frames that are nearly right."""
    data = b""
    for _ in range(draw(st.integers(1, 6))):
        first = draw(st.sampled_from([0x81, 0x82, 0x01, 0x02, 0x00, 0x80, 0x89, 0x8A, 0x88, 0xC1]))
        payload = draw(st.one_of(st.binary(max_size=10), st.text(max_size=5).map(str.encode)))
        if first == 0xC1 and draw(st.booleans()):
            payload = compress(payload, 15)
        masked = 0x80 if draw(st.integers(0, 20)) else 0
        size = len(payload) + (draw(st.integers(-1, 1)) if not draw(st.integers(0, 20)) else 0)
        data += bytes([first, masked | max(size, 0)]) + bytes(4) + payload
    return data


@settings(max_examples=300)
@given(
    data=sloppy_frames(),
    places=st.lists(st.integers(0, 1_000), max_size=8),
    limit=st.integers(0, 20),
    inflates=st.booleans(),
)
def test_chopping_changes_nothing(
    data: bytes, places: list[int], limit: int, inflates: bool
) -> None:
    """Frames that are nearly right give the same events whole, cut, and byte by byte."""
    whole = FrameReader(limit, inflates=inflates).receive_data(data)
    for pieces in (cut(data, places), [data[at : at + 1] for at in range(len(data))]):
        reader = FrameReader(limit, inflates=inflates)
        found = [event for piece in pieces for event in reader.receive_data(piece)]

        assert describe_events(whole, inflates) == describe_events(found, inflates)
    assert all(not isinstance(event, Close | Failure) for event in whole[:-1])


@settings(max_examples=150)
@given(
    frames=st.lists(st.tuples(st.one_of(TEXTS, PAYLOADS, CONTROLS), st.booleans()), max_size=6),
    texts=st.lists(TEXTS, max_size=4),
    close=st.tuples(CODES | st.just(1005), st.text(max_size=200)),
    window_bits=st.integers(9, 15),
)
def test_writes_what_a_client_reads(
    frames: list[tuple[str | bytes | Ping | Pong, bool]],
    texts: list[str],
    close: tuple[int, str],
    window_bits: int,
) -> None:
    """An independent client reads what we write."""
    data = b""
    expected: list[object] = []
    for value, is_compressed in frames:
        if isinstance(value, Ping | Pong):
            opcode, payload = Opcode.PING if isinstance(value, Ping) else Opcode.PONG, value.data
        else:
            opcode = Opcode.TEXT if isinstance(value, str) else Opcode.BINARY
            payload = value.encode() if isinstance(value, str) else value
        expected.append((opcode, payload))
        if is_compressed and opcode in (Opcode.TEXT, Opcode.BINARY):
            payload = compress(payload, window_bits)
            data += encode_frame(opcode, payload, is_compressed=True)
        else:
            data += encode_frame(opcode, payload)
    data += encode_texts([text.encode() for text in texts])
    expected += [(Opcode.TEXT, text.encode()) for text in texts]
    client = Protocol(CLIENT, state=OPEN, max_size=None)
    client.extensions = [create_extension(window_bits)]

    client.receive_data(data + encode_close(*close))

    received = [frame for frame in client.events_received() if isinstance(frame, Frame)]
    assert client.parser_exc is None
    assert expected == [(frame.opcode, bytes(frame.data)) for frame in received[:-1]]
    assert client.close_rcvd is not None
    assert close[0] == client.close_rcvd.code
    if close[0] != 1005:
        reason = close[1].encode()[:123].decode(errors="ignore")
        assert reason == client.close_rcvd.reason


@settings(max_examples=100)
@given(
    pieces=st.lists(st.binary(max_size=100), min_size=1, max_size=6),
    level=st.integers(0, 9),
    final=st.sampled_from([zlib.Z_SYNC_FLUSH, zlib.Z_FINISH]),
    cuts=st.lists(st.integers(0, 1_000), max_size=4),
)
def test_reads_any_compressor(pieces: list[bytes], level: int, final: int, cuts: list[int]) -> None:
    """Each piece may be flushed in its own way, or end with a block that is marked as the last."""
    data = b""
    for piece in pieces:
        compressor = zlib.compressobj(level, wbits=-15)
        data += compressor.compress(piece) + compressor.flush(final)
    data = data[:-4] if final == zlib.Z_SYNC_FLUSH else data + b"\x00"
    frame = encode_client_frame(BINARY, data, reserved=4)
    reader = FrameReader(LIMIT, inflates=True)

    found = [event for piece in cut(frame, cuts) for event in reader.receive_data(piece)]

    assert [b"".join(pieces)] == found
