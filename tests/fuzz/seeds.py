"""Where fuzzing starts: inputs that reach deep, so that a fuzzer need not find them by itself."""

from __future__ import annotations

from wirebell.websocket.deflate import compress

HANDSHAKE = (
    b"GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: a, b\r\nSec-WebSocket-Extensions: permessage-deflate; "
    b'client_max_window_bits; server_max_window_bits="10", foo; a=1\r\n\r\n\x81\x80'
)
OFFERS = (
    b"permessage-deflate",
    b"permessage-deflate; client_max_window_bits; server_max_window_bits=10",
    b"permessage-deflate; client_max_window_bits=8; server_no_context_takeover, permessage-deflate",
    b'foo; a="b\\c" ,, permessage-deflate;client_no_context_takeover\nbar',
)
TEXTS = ("", "Hello", "κόσμε", "😀 \U0010ffff\ud7ff\ue000", "x" * 126)
MASK = b"\x01\x02\x03\x04"


def encode(first: int, payload: bytes) -> bytes:
    """Write a masked frame; the mask changes nothing half of the time."""
    mask = MASK if len(payload) % 2 else bytes(4)
    masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
    if len(payload) < 126:
        return bytes([first, 0x80 | len(payload)]) + mask + masked
    return bytes([first, 0xFE]) + len(payload).to_bytes(2, "big") + mask + masked


def list_frames() -> list[bytes]:
    """List streams of frames."""
    plain = [encode(0x81, text.encode()) for text in TEXTS] + [
        encode(0x82, b"\x00\xff" * 40),
        encode(0x01, b"ab") + encode(0x89, b"ping") + encode(0x00, b"") + encode(0x80, b"c"),
        encode(0x8A, b"") + encode(0x88, b"\x03\xe8bye"),
        encode(0x88, b""),
        b"\x82\xff" + (65_536).to_bytes(8, "big") + bytes(4),
        b"\x81\xff\x80" + bytes(11),
    ]
    packed = [encode(0xC1, compress(text.encode(), 9)) for text in TEXTS] + [
        encode(0xC2, compress(b"a" * 5_000, 15)),
        encode(0xC1, b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00"),
        encode(0x41, b"\xf2\x48\xcd") + encode(0x89, b"") + encode(0x80, b"\xc9\xc9\x07\x00"),
    ]
    return [*plain, *packed, b"".join(plain[:8]), b"".join(packed), b"".join(packed[:3] + plain)]


def list_inflated() -> list[bytes]:
    """List compressed messages."""
    texts = [compress(text.encode(), 15) for text in TEXTS]
    last = b"\xf3\x48\xcd\xc9\xc9\x07\x00"
    return [*texts, last * 3 + b"\x00", b"\x00\x05\x00\xfa\xffHello\x00", compress(bytes(9_999), 9)]


COMMANDS = (
    b'{"id":1,"connect":{"token":"a.b.c","subs":{"a":{"recover":true,"offset":3}},"flag":1}}',
    b'{"id":2,"subscribe":{"channel":"a","tf":{"op":"and","nodes":[{"key":"k"}]},"delta":"fossil"}}',
    b'{"id":3,"publish":{"channel":"a","data":{"x":[1,-2.5e3,"\\ud83d\\ude00",null]}}}',
    b'{"id":4,"unsubscribe":{"channel":"a"}}',
    b'{"id":5,"history":{"channel":"a","limit":-1,"since":{"offset":1,"epoch":"e"}}}',
    b'{"id":6,"presence":{"channel":"a"}}',
    b'{"id":7,"presence_stats":{"channel":"a"}}',
    b'{"id":8,"rpc":{"method":"m","data":1}}',
    b'{"id":9,"refresh":{"token":"t"}}',
    b'{"id":10,"sub_refresh":{"channel":"a","token":"t"}}',
    b'{"send":{"data":"x"}}',
    b"{}",
)


def list_sessions() -> list[bytes]:
    """List frames of a client, with what separates them, in both encodings."""
    connect = b"\x04\x08\x01\x22\x00"
    binary = (
        connect,
        b"\x07\x08\x02\x2a\x03\x0a\x01a",
        b"\x0a\x08\x03\x3a\x06\x0a\x01a\x12\x011",
        b"\x08\x08\x04\x62\x04\x0a\x02{}" + b"\x00",
        b"\x00",
    )
    return [
        *(b"j" + COMMANDS[0] + b"\xfe\xfe" + command for command in COMMANDS),
        b"j" + b"\n".join(COMMANDS),
        b"j" + b"\xfe\xfe".join(COMMANDS),
        *(b"b" + connect + b"\xfe\xfe" + command for command in binary),
        b"b" + b"".join(binary),
    ]


def list_seeds(target: str) -> list[bytes]:
    """List the seeds of a target of `tests.fuzz.targets`."""
    # Limits of 1 MiB, 125 and 5 bytes, windows of 15 and 9 bits, pieces of 1 and 7 bytes.
    starts = [
        bytes([limit | bits << 3, size]) for limit, bits, size in ((7, 6, 0), (3, 0, 6), (2, 6, 1))
    ]
    match target:
        case "frames" | "frames_inflated":
            return [start + data for start in starts for data in list_frames()]
        case "inflater":
            return [start + data for start in starts for data in list_inflated()]
        case "handshake":
            return [size + HANDSHAKE for size in (b"\x00", b"\x10")]
        case "headers":
            return [
                b"x-a\xffb",
                b"content-length\xff0",
                b"connection\xffkeep-alive",
                b"a\xff\r\nb: c",
            ]
        case "session":
            return list_sessions()
        case "negotiation":
            return list(OFFERS)
        case _:
            return [text.encode(errors="surrogatepass") for text in (*TEXTS, "\ud800", "ab\udfff")]
