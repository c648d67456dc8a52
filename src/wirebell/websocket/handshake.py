"""The opening handshake of RFC 6455, and the little of HTTP/1.1 it needs."""

from __future__ import annotations

import binascii
import hashlib
import re
import string
from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from http import HTTPStatus

from wirebell.errors import HandshakeError
from wirebell.websocket.deflate import parse_extensions

__all__ = (
    "HandshakeError",
    "Request",
    "RequestReader",
    "Upgrade",
    "check_upgrade",
    "encode_accept",
    "encode_response",
)

Headers = list[tuple[bytes, bytes]]

# nginx and Node take lines of 8 KiB too; a token or a large cookie fits.
LINE_BYTES_MAX = 8_192
HEADERS_MAX = 128
HEAD_BYTES_MAX = 65_536

# RFC 6455 1.3.
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
# Sets of bytes. Deleting those from a string is the fastest way to find others.
# RFC 9110 5.6.2.
TOKEN = b"!#$%&'*+-.^_`|~" + (string.digits + string.ascii_letters).encode()
# Bytes above ASCII are let through, as other servers do.
TARGET = bytes(byte for byte in range(256) if byte > 0x20 and byte != 0x7F)
# RFC 9110 5.5: the value of a field holds no control character but tabs.
VALUE = TARGET + b" \t"
# What ends a line, or a string in C.
BREAK = re.compile(rb"[\r\n\x00]")
# The headers that open a connection; the others are the application's.
HANDSHAKE = frozenset(
    (
        b"connection",
        b"content-length",
        b"host",
        b"sec-websocket-extensions",
        b"sec-websocket-key",
        b"sec-websocket-protocol",
        b"sec-websocket-version",
        b"transfer-encoding",
        b"upgrade",
    )
)


@dataclass(frozen=True, slots=True)
class Request:
    """The head of an HTTP request: names of headers in lower case, values without outer spaces."""

    method: bytes
    target: bytes
    headers: Headers


@dataclass(frozen=True, slots=True)
class Upgrade:
    """What a client asks for.

    Attributes:
        key: Value of ``Sec-WebSocket-Key``.
        subprotocols: In the order of the client's preference.
        extensions: Values of all ``Sec-WebSocket-Extensions`` headers, which follow the grammar.
    """

    key: bytes
    subprotocols: list[str]
    extensions: list[bytes]


class RequestReader:
    """Reads the head of one request, in whatever pieces it comes.

    Attributes:
        rest: Bytes that came after the head; set with the request.

    Source:
        RFC 9112 2 to 5, without what is obsolete: lines end with CR LF and are not folded.
    """

    __slots__ = ("_bytes_count", "_headers", "_line", "_request_line", "rest")

    def __init__(self) -> None:
        # The line whose end is missing, and how many bytes stood before it.
        self._line = b""
        self._bytes_count = 0
        self._request_line: tuple[bytes, bytes] | None = None
        self._headers: Headers = []
        self.rest = b""

    def receive_data(self, data: bytes) -> Request | None:
        """Read the next bytes; return the request when its head is whole, and None before.

        Not to be called again after a request or an error.

        Raises:
            HandshakeError: 400, it is no HTTP/1.1 request; 431, a line has more than 8,192 bytes,
                there are more than 128 headers, or the head has more than 65,536 bytes.
        """
        if self._request_line is None and not self._line:
            request = self._read_whole(data)
            if request is not None:
                return request
        lines = (self._line + data).split(b"\r\n")
        self._line = lines.pop()
        for index, line in enumerate(lines, 1):
            self._check_size(line)
            self._bytes_count += len(line) + 2
            if self._request_line is None:
                self._request_line = _read_request_line(line)
            elif line:
                if len(self._headers) == HEADERS_MAX:
                    raise HandshakeError(431, f"there are more than {HEADERS_MAX} headers")
                self._headers.append(_read_header(line))
            else:
                self.rest = b"\r\n".join([*lines[index:], self._line])
                self._line = b""
                return Request(*self._request_line, self._headers)
        self._check_size(self._line)
        return None

    def _read_whole(self, data: bytes) -> Request | None:
        """Read a good head that came in one piece, as nearly all do; ``None`` for any other.

        What the other way asks of each line is asked of all lines together: half of the time. It
        finds no fault itself, since the other way knows which to name.
        """
        end = data.find(b"\r\n\r\n")
        if not 0 < end <= LINE_BYTES_MAX:
            return None
        first, *lines = data[:end].split(b"\r\n")
        pairs = [line.partition(b":") for line in lines]
        names = [name for name, _, _ in pairs]
        if (
            len(lines) > HEADERS_MAX
            or b"".join(lines).translate(None, VALUE)
            or b"".join(names).translate(None, TOKEN)
            or not all(names)
            or not all(colon for _, colon, _ in pairs)
        ):
            return None
        method, target = _read_request_line(first)
        self.rest = data[end + 4 :]
        headers = [(name.lower(), value.strip(b" \t")) for name, _, value in pairs]
        return Request(method, target, headers)

    def _check_size(self, line: bytes) -> None:
        if len(line) > LINE_BYTES_MAX:
            raise HandshakeError(431, f"a line has more than {LINE_BYTES_MAX} bytes")
        if self._bytes_count + len(line) > HEAD_BYTES_MAX:
            raise HandshakeError(431, f"the head has more than {HEAD_BYTES_MAX} bytes")


def _is_token(name: bytes) -> bool:
    return name != b"" and not name.translate(None, TOKEN)


def _is_target(target: bytes) -> bool:
    return target != b"" and not target.translate(None, TARGET)


def _read_request_line(line: bytes) -> tuple[bytes, bytes]:
    parts = line.split(b" ")
    if len(parts) != 3 or not _is_token(parts[0]) or not _is_target(parts[1]):
        raise HandshakeError(400, "the first line is no HTTP request")
    # RFC 6455 4.2.1: "an HTTP/1.1 or higher GET request".
    if parts[2] != b"HTTP/1.1":
        raise HandshakeError(400, "the request is not HTTP/1.1")
    return parts[0], parts[1]


def _read_header(line: bytes) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(b":")
    # RFC 9112 5.1: a space between name and colon is refused, since proxies disagree about it. A
    # line that starts with one continues the line before it, which RFC 9112 5.2 made obsolete.
    if not colon or not _is_token(name):
        raise HandshakeError(400, "a header is malformed")
    if value.translate(None, VALUE):
        raise HandshakeError(400, "a header holds a control character")
    return name.lower(), value.strip(b" \t")


def check_upgrade(request: Request) -> Upgrade:
    """Check that a request opens a WebSocket connection.

    An empty ``Sec-WebSocket-Protocol`` is taken for none, since some clients send it.

    Raises:
        HandshakeError: 405, the method is not GET; 426, no upgrade to WebSocket is asked for, or
            another version than 13; 400, anything else is missing or malformed.

    Source:
        RFC 6455 4.2.1 and 4.4.
    """
    if request.method != b"GET":
        message = "a WebSocket handshake has the method GET"
        raise HandshakeError(405, message, [(b"allow", b"GET")])
    found: dict[bytes, list[bytes]] = {}
    for name, value in request.headers:
        if name in HANDSHAKE:
            found.setdefault(name, []).append(value)
    _check_connection(found)
    _check_version(found)
    # A body would be read as frames here and as a request by others.
    if b"transfer-encoding" in found or found.get(b"content-length", [b"0"]) != [b"0"]:
        raise HandshakeError(400, "a WebSocket handshake has no body")
    # RFC 9112 3.2: exactly one, in every request.
    _read_single(found, b"host")
    key = _read_single(found, b"sec-websocket-key")
    if not _is_key(key):
        raise HandshakeError(400, "Sec-WebSocket-Key is not 16 bytes in base64")
    subprotocols = _split(found.get(b"sec-websocket-protocol", ()))
    if not all(map(_is_token, subprotocols)):
        raise HandshakeError(400, "Sec-WebSocket-Protocol is no list of tokens")
    extensions = found.get(b"sec-websocket-extensions", [])
    try:
        parse_extensions(extensions)
    except ValueError as error:
        raise HandshakeError(400, "Sec-WebSocket-Extensions is malformed") from error
    return Upgrade(key, [name.decode("ascii") for name in subprotocols], extensions)


def _check_connection(found: dict[bytes, list[bytes]]) -> None:
    for header, token in ((b"upgrade", b"websocket"), (b"connection", b"upgrade")):
        values = found.get(header, ())
        if len(values) == 1 and values[0].lower() == token:
            continue
        if token not in (value.lower() for value in _split(values)):
            raise HandshakeError(
                426,
                f"a WebSocket handshake has a header {header.decode()} with {token.decode()}",
                [(b"upgrade", b"websocket"), (b"connection", b"upgrade, close")],
            )


def _check_version(found: dict[bytes, list[bytes]]) -> None:
    versions = found.get(b"sec-websocket-version", [])
    if versions != [b"13"]:
        status = 426 if versions else 400
        # RFC 6455 4.4: the answer says which version is spoken here.
        version = [(b"sec-websocket-version", b"13")]
        raise HandshakeError(status, "expected the header Sec-WebSocket-Version: 13", version)


def _read_single(found: dict[bytes, list[bytes]], name: bytes) -> bytes:
    values = found.get(name, [])
    if len(values) != 1:
        message = f"expected one header {name.decode()}, there are {len(values)}"
        raise HandshakeError(400, message)
    return values[0]


def _is_key(key: bytes) -> bool:
    try:
        return len(b64decode(key, validate=True)) == 16
    except binascii.Error:
        return False


def _split(values: Sequence[bytes]) -> list[bytes]:
    """Split lists at their commas; empty elements are skipped (RFC 9110 5.6.1.2)."""
    parts = (part.strip(b" \t") for value in values for part in value.split(b","))
    return [part for part in parts if part]


def encode_accept(
    upgrade: Upgrade,
    *,
    headers: Iterable[tuple[bytes, bytes]] = (),
    subprotocol: str | None = None,
    extension: bytes | None = None,
) -> bytes:
    """Write the answer that opens the connection.

    Args:
        upgrade: What the client asked for.
        headers: Further headers, each a name and a value.
        subprotocol: One that the client asked for.
        extension: What `wirebell.websocket.deflate.negotiate` answers.

    Raises:
        ValueError: A name is no token, or a value holds CR, LF or NUL.

    Source:
        RFC 6455 4.2.2.
    """
    # RFC 6455 4.2.2 asks for SHA-1, which protects nothing here.
    digest = hashlib.sha1(upgrade.key + GUID, usedforsecurity=False).digest()
    lines = [
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + b64encode(digest)
    ]
    if subprotocol is not None:
        lines.append(_write_header(b"Sec-WebSocket-Protocol", subprotocol.encode()))
    if extension is not None:
        lines.append(_write_header(b"Sec-WebSocket-Extensions", extension))
    lines += [_write_header(name, value) for name, value in headers]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def encode_response(status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> bytes:
    """Write an HTTP answer after which the link is closed.

    ``content-length`` and ``connection: close`` are added where they are absent.

    Args:
        status: 200 to 599.
        headers: Each a name and a value.
        body: All of it; must be empty with 204 and 304, which have none.

    Raises:
        ValueError: A name is no token, or a value holds CR, LF or NUL.
    """
    try:
        reason = HTTPStatus(status).phrase
    except ValueError:
        reason = ""
    lines = [f"HTTP/1.1 {status} {reason}".encode()]
    absent = {b"content-length", b"connection"}
    for name, value in headers:
        lines.append(_write_header(name, value))
        absent.discard(name.lower())
    if b"content-length" in absent and status not in (204, 304):
        lines.append(b"content-length: %d" % len(body))
    if b"connection" in absent:
        lines.append(b"connection: close")
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def _write_header(name: bytes, value: bytes) -> bytes:
    if not _is_token(name):
        raise ValueError(f"header name {name!r} is no token")
    if BREAK.search(value):
        raise ValueError(f"value of header {name.decode()} holds a line break or NUL")
    return name + b": " + value
