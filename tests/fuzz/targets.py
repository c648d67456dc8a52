"""What is fuzzed: functions that take any bytes and assert what must hold for all of them.

They run under atheris (`scripts/fuzz`) and, with a bounded number of inputs, under pytest.
The first bytes of an input choose limits and where it is cut, so that a fuzzer can change them.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence

from wirebell.errors import ClientDisconnected
from wirebell.protocol.codec import Codec
from wirebell.protocol.json import JSON
from wirebell.protocol.protobuf import PROTOBUF
from wirebell.session import RULES, Session, State
from wirebell.websocket.deflate import (
    Corrupt,
    Inflater,
    TooLong,
    compress,
    negotiate,
    parse_extensions,
)
from wirebell.websocket.frames import (
    Close,
    Event,
    Failure,
    FrameReader,
    Ping,
    Pong,
    encode_close,
    is_close_code,
)
from wirebell.websocket.handshake import (
    HandshakeError,
    Request,
    RequestReader,
    check_upgrade,
    encode_accept,
    encode_response,
)

# RFC 3629 4: whole characters, and then perhaps the start of one.
UTF8_START = re.compile(
    rb"(?:[\x00-\x7f]|[\xc2-\xdf][\x80-\xbf]|\xe0[\xa0-\xbf][\x80-\xbf]"
    rb"|[\xe1-\xec\xee\xef][\x80-\xbf]{2}|\xed[\x80-\x9f][\x80-\xbf]"
    rb"|\xf0[\x90-\xbf][\x80-\xbf]{2}|[\xf1-\xf3][\x80-\xbf]{3}|\xf4[\x80-\x8f][\x80-\xbf]{2})*"
    rb"(?:[\xc2-\xdf]|\xe0[\xa0-\xbf]?|[\xe1-\xec\xee\xef][\x80-\xbf]?|\xed[\x80-\x9f]?"
    rb"|\xf0(?:[\x90-\xbf][\x80-\xbf]?)?|[\xf1-\xf3][\x80-\xbf]{0,2}"
    rb"|\xf4(?:[\x80-\x8f][\x80-\xbf]?)?)?"
)
LIMITS = (0, 1, 5, 125, 126, 1_000, 65_536, 1_048_576)
TAIL = b"\x00\x00\xff\xff"


def chop(data: bytes, size: int) -> list[bytes]:
    """Cut into pieces of ``size`` bytes."""
    return [data[at : at + size] for at in range(0, len(data), size)]


def describe_events(events: Sequence[Event], inflates: bool) -> list[object]:
    """Make events comparable.

    A compressed message may be wrong in several ways at once. Which of them is found first depends
    on where it was cut, so the code of the failure does not count there.
    """
    return [
        ("failure", None if inflates else event.code) if isinstance(event, Failure) else event
        for event in events
    ]


def state_bytes(reader: FrameReader) -> int:
    """Count the bytes that a reader keeps of what it received."""
    unfinished = reader._unfinished
    if unfinished is None:
        return 0
    count = len(unfinished.head) + len(unfinished.mask) + len(unfinished.control)
    message = unfinished.message
    return count if message is None else count + len(message.payload) + len(message.tail)


def check_event(event: Event, limit: int) -> None:
    """Check that an event is possible."""
    match event:
        case str():
            assert len(event.encode()) <= limit
        case bytes():
            assert len(event) <= limit
        case Ping(payload) | Pong(payload):
            assert len(payload) <= 125
        case Close(code, reason):
            assert code == 1005 or is_close_code(code)
            assert encode_close(code, reason)[2:4] in (b"", code.to_bytes(2, "big"))
        case Failure(code, reason):
            assert code in (1002, 1007, 1009)
            assert len(encode_close(code, reason)) == 4 + len(reason)


def check_frames(data: bytes, *, inflates: bool) -> None:
    """Read frames whole and cut: same events, within the limit, nothing after the end."""
    if len(data) < 2:
        return
    limit, size = LIMITS[data[0] & 7], data[1] % 32 + 1
    window_bits = 9 + data[0] // 8 % 7
    data = data[2:]
    whole = FrameReader(limit, inflates=inflates, window_bits=window_bits)
    chopped = FrameReader(limit, inflates=inflates, window_bits=window_bits)

    events = whole.receive_data(data)
    found: list[Event] = []
    for piece in chop(data, size):
        found += chopped.receive_data(piece)
        assert state_bytes(chopped) <= limit + 145

    assert describe_events(events, inflates) == describe_events(found, inflates)
    for event in events:
        check_event(event, limit)
    assert not any(isinstance(event, Close | Failure) for event in events[:-1])
    if events and isinstance(events[-1], Close | Failure):
        assert whole.receive_data(data) == []
        assert state_bytes(whole) == 0


def fuzz_frames(data: bytes) -> None:
    """Frames without compression."""
    check_frames(data, inflates=False)


def fuzz_frames_inflated(data: bytes) -> None:
    """Frames that may be compressed."""
    check_frames(data, inflates=True)


def fuzz_text(data: bytes) -> None:
    """Text that comes byte by byte fails at its first wrong byte, and not before."""
    data = data[:65_535]
    wrong = next((n for n in range(1, len(data) + 1) if not UTF8_START.fullmatch(data, 0, n)), 0)
    reader = FrameReader(65_536)
    reader.receive_data(b"\x01\xfe\xff\xff" + bytes(4))

    found = 0
    for count, byte in enumerate(data, 1):
        if reader.receive_data(bytes([byte])):
            found = count
            break

    assert wrong == found


def inflate_all(pieces: Sequence[bytes], window_bits: int, limit: int) -> bytes | None:
    """Inflate a message in pieces; None when it cannot be."""
    inflater = Inflater(window_bits)
    message = b""
    try:
        for piece in pieces:
            message += inflater.inflate(piece, limit - len(message), is_last=False)
            assert len(message) <= limit
        message += inflater.inflate(b"", limit - len(message), is_last=True)
    except (Corrupt, TooLong):
        return None
    assert inflater._decompressor is None
    return message


def fuzz_inflater(data: bytes) -> None:
    """Inflate whole and cut: the same message within the limit, and what zlib makes of it."""
    if len(data) < 2:
        return
    limit, size = LIMITS[data[0] & 7], data[1] % 32 + 1
    window_bits = 9 + data[0] // 8 % 7
    data = data[2:]

    whole = inflate_all([data], window_bits, limit)

    assert whole == inflate_all(chop(data, size), window_bits, limit)
    judge = zlib.decompressobj(-window_bits)
    try:
        expected = judge.decompress(data + TAIL, limit + 1)
    except zlib.error:
        assert whole is None
    else:
        if not judge.eof:
            assert whole == (expected if len(expected) <= limit else None)
    # And the way back: any bytes can be compressed.
    assert data == Inflater(window_bits).inflate(
        compress(data, window_bits), len(data), is_last=True
    )


def fuzz_negotiation(data: bytes) -> None:
    """Offers are accepted or declined; what is answered follows the grammar and was possible."""
    values = data.split(b"\n")
    try:
        extensions = parse_extensions(values)
    except ValueError:
        assert negotiate(values) is None
        return
    agreed = negotiate(values)
    names = {name.lower() for name, _ in extensions}
    if agreed is None:
        return
    assert b"permessage-deflate" in names
    deflate, answer = agreed
    ((name, parameters),) = parse_extensions([answer])
    answered = dict(parameters)
    assert name == b"permessage-deflate"
    assert len(answered) == len(parameters)
    assert answered.pop(b"server_no_context_takeover") == b""
    assert answered.pop(b"client_no_context_takeover") == b""
    bits = answered.pop(b"server_max_window_bits", b"15")
    assert 9 <= deflate.server_window_bits == int(bits) <= 15
    assert 9 <= deflate.client_window_bits <= 15
    bits = answered.pop(b"client_max_window_bits", b"%d" % deflate.client_window_bits)
    assert deflate.client_window_bits == int(bits)
    assert answered == {}


def read_request(pieces: Sequence[bytes]) -> tuple[Request | int | None, bytes]:
    """Read a request in pieces; give it, a status or None, and what stands behind it."""
    reader = RequestReader()
    for index, piece in enumerate(pieces, 1):
        try:
            request = reader.receive_data(piece)
        except HandshakeError as error:
            return error.status, b""
        assert len(reader._line) <= 8_192
        assert len(reader._headers) <= 128
        if request is not None:
            return request, reader.rest + b"".join(pieces[index:])
    return None, b""


def answer_request(request: Request) -> bytes:
    """Accept a request, or refuse it with a reason."""
    try:
        upgrade = check_upgrade(request)
    except HandshakeError as error:
        return encode_response(error.status, error.headers, error.message.encode())
    agreed = negotiate(upgrade.extensions)
    return encode_accept(
        upgrade,
        subprotocol=upgrade.subprotocols[0] if upgrade.subprotocols else None,
        extension=agreed[1] if agreed else None,
    )


def fuzz_handshake(data: bytes) -> None:
    """A request is the same whole and cut, and is answered in whole lines, whatever it is."""
    if len(data) < 1:
        return
    size = data[0] % 64 + 1
    data = data[1:]

    request, rest = read_request([data])

    assert (request, rest) == read_request(chop(data, size))
    if not isinstance(request, Request):
        assert request in (None, 400, 431)
        return
    assert data.endswith(rest)
    head, end, body = answer_request(request).partition(b"\r\n\r\n")
    status = int(head[9:12])
    assert head.startswith(b"HTTP/1.1 ")
    assert end
    assert status in (101, 400, 405, 426)
    assert (status == 101) == (body == b"")


def fuzz_headers(data: bytes) -> None:
    """A header of any bytes is refused, or is one line of the answer."""
    name, _, value = data.partition(b"\xff")
    try:
        answer = encode_response(403, [(name, value)], b"")
    except ValueError:
        return
    lines = answer.split(b"\r\n")
    assert name + b": " + value in lines
    assert 4 <= len(lines) - 1 <= 5
    assert answer.count(b"\r") == answer.count(b"\n") == len(lines) - 1


def take_commands(session: Session) -> list[int] | None:
    """Take what waits, as a receiver does; ids in order, ``None`` when the session was ended."""
    ids: list[int] = []
    code = 0
    try:
        while (found := session.next_command()) is not None:
            name, command = found
            assert all(getattr(getattr(command, name), field) for field in RULES[name])
            assert (name == "connect") == (session.state is State.OPEN)
            assert 0 <= command.id < 2**32
            assert command.id or name == "send"
            if name == "connect":
                session.connecting()
                session.connected()
            ids.append(command.id)
    except ClientDisconnected as error:
        code = error.disconnect.code
    assert code in (0, 3501)
    return None if code else ids


def fuzz_session(data: bytes) -> None:
    """Frames of a client are commands in order or the end; nothing else escapes, nothing stays."""
    codec: Codec = (JSON, PROTOBUF)[data[:1] == b"b"]
    session, quick = Session(codec), Session(codec)
    for frame in data[1:].split(b"\xfe\xfe"):
        message = frame if codec.is_binary else frame.decode(errors="surrogateescape")
        if session.state is State.CONNECTED and frame[:1] in {b"{", b"\x00"}:
            session.expect_pong()
            quick.expect_pong()
        session.receive_data(message)
        found = take_commands(session)

        publish = quick.receive_publish(message)
        rest = take_commands(quick) if publish is None else [publish.id]
        assert found == rest
        assert session.waiting is None
        assert quick.waiting is None
        assert (found is None) <= (session.state is State.CLOSED)
        assert session.state is quick.state
        if session.state is State.CLOSED:
            session.receive_data(message)
            assert take_commands(session) == []


TARGETS: dict[str, Callable[[bytes], None]] = {
    "frames": fuzz_frames,
    "frames_inflated": fuzz_frames_inflated,
    "handshake": fuzz_handshake,
    "headers": fuzz_headers,
    "inflater": fuzz_inflater,
    "negotiation": fuzz_negotiation,
    "session": fuzz_session,
    "text": fuzz_text,
}
