"""The opening handshake: requests in pieces, what is refused, and what is answered."""

from __future__ import annotations

import pytest

from wirebell.websocket.handshake import (
    HandshakeError,
    Request,
    RequestReader,
    Upgrade,
    check_upgrade,
    encode_accept,
    encode_response,
)

# RFC 6455 1.2.
EXAMPLE = (
    b"GET /chat HTTP/1.1\r\n"
    b"Host: server.example.com\r\n"
    b"Upgrade: websocket\r\n"
    b"Connection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Origin: http://example.com\r\n"
    b"Sec-WebSocket-Protocol: chat, superchat\r\n"
    b"Sec-WebSocket-Version: 13\r\n\r\n"
)
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
HEADERS = {
    b"host": b"server.example.com",
    b"upgrade": b"websocket",
    b"connection": b"Upgrade",
    b"sec-websocket-key": KEY,
    b"sec-websocket-version": b"13",
}


def build(*more: tuple[bytes, bytes], **changes: bytes | None) -> Request:
    """Build a good request, with some headers changed (`_` for `-`), left out (None) or added."""
    headers = dict(HEADERS)
    for name, value in changes.items():
        key = name.replace("_", "-").encode()
        if value is None:
            del headers[key]
        else:
            headers[key] = value
    return Request(b"GET", b"/", [*headers.items(), *more])


def refuse(request: Request) -> HandshakeError:
    """Check a request that must be refused."""
    with pytest.raises(HandshakeError) as caught:
        check_upgrade(request)
    assert str(caught.value) == caught.value.message
    return caught.value


def read_error(data: bytes) -> int:
    """Read what must be refused, whole and in pieces; return the status."""
    statuses = set()
    for size in (len(data), 1 if len(data) < 1_000 else 997):
        with pytest.raises(HandshakeError) as caught:
            read_pieces(RequestReader(), data, size)
        statuses.add(caught.value.status)
    assert 1 == len(statuses)
    return statuses.pop()


def read_pieces(reader: RequestReader, data: bytes, size: int) -> Request | None:
    """Give a reader pieces of ``size`` bytes, until there is a request."""
    for at in range(0, len(data), size):
        request = reader.receive_data(data[at : at + size])
        if request is not None:
            reader.rest += data[at + size :]
            return request
    return None


def test_example_of_rfc_6455() -> None:
    """The request of RFC 6455 1.2 is read, understood, and answered as in 1.3."""
    request = RequestReader().receive_data(EXAMPLE)
    assert request is not None
    upgrade = check_upgrade(request)

    assert (b"GET", b"/chat") == (request.method, request.target)
    assert (b"origin", b"http://example.com") in request.headers
    assert Upgrade(KEY, ["chat", "superchat"], []) == upgrade
    assert (
        b"HTTP/1.1 101 Switching Protocols\r\n"
        b"Upgrade: websocket\r\n"
        b"Connection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
        b"Sec-WebSocket-Protocol: chat\r\n\r\n"
    ) == encode_accept(upgrade, subprotocol="chat")


@pytest.mark.parametrize("rest", [b"", b"\r\n", b"\r\n\r\nGET / HTTP/1.1\r\n\r\n\x81\x80", b"\x81"])
def test_pieces(rest: bytes) -> None:
    """However a request comes, it is the same, and so is what stands behind it."""
    whole = RequestReader().receive_data(EXAMPLE)
    for size in range(1, len(EXAMPLE) + len(rest) + 1):
        reader = RequestReader()

        assert whole == read_pieces(reader, EXAMPLE + rest, size)
        assert rest == reader.rest


def test_headers_as_they_come() -> None:
    """Names are lowered, spaces around values are dropped, and nothing else is changed."""
    data = b"OPTIONS * HTTP/1.1\r\nA:\r\nB-c:  x\ty \t\r\na: \xc3\xa4:b\r\n\r\n"

    request = RequestReader().receive_data(data)

    headers = [(b"a", b""), (b"b-c", b"x\ty"), (b"a", b"\xc3\xa4:b")]
    assert Request(b"OPTIONS", b"*", headers) == request


@pytest.mark.parametrize(
    "head",
    [
        b"", b"GET", b"GET /", b"GET / HTTP/1.0", b"GET / HTTP/2.0", b"GET / HTTP/1.1 ",
        b"GET  / HTTP/1.1", b" GET / HTTP/1.1", b"G(T / HTTP/1.1", b"GET /\x00 HTTP/1.1",
        b"GET /\x7f HTTP/1.1", b"GET /a\tb HTTP/1.1", b"GET / http/1.1", b"GET / HTTP/1.1\n",
        b" / HTTP/1.1", b"\x16\x03\x01", b"GET / HTTP/1.1\r",
        b"GET / HTTP/1.1\r\nno colon", b"GET / HTTP/1.1\r\n: x", b"GET / HTTP/1.1\r\na : x",
        b"GET / HTTP/1.1\r\na: x\r\n folded", b"GET / HTTP/1.1\r\n\ta: x",
        b"GET / HTTP/1.1\r\na: x\ny", b"GET / HTTP/1.1\r\na: x\ry", b"GET / HTTP/1.1\r\na: \x00",
        b"GET / HTTP/1.1\r\na: \x7f", b"GET / HTTP/1.1\r\n\xc3\xa4: x",
        b"GET / HTTP/1.1\r\na\x00: x",
    ],
)  # fmt: skip
def test_malformed_requests(head: bytes) -> None:
    """What is no HTTP/1.1 request, or could mean different things to different programs, is 400."""
    assert 400 == read_error(head + b"\r\n\r\n")


def test_long_lines() -> None:
    """A line of 8,192 bytes passes; one more is 431, with and without its end."""
    prefix = b"GET / HTTP/1.1\r\na:"
    exact = b"x" * 8_190

    assert RequestReader().receive_data(prefix + exact + b"\r\n\r\n") is not None
    assert RequestReader().receive_data(prefix + exact) is None
    assert 431 == read_error(prefix + exact + b"x")
    assert 431 == read_error(prefix + exact + b"x\r\n\r\n")
    assert 431 == read_error(b"GET /" + b"x" * 10_000)


def test_many_headers() -> None:
    """128 headers pass, and one more is 431."""
    start = b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 128

    assert RequestReader().receive_data(start + b"\r\n") is not None
    assert 431 == read_error(start + b"a: b\r\n")


def test_long_heads() -> None:
    """A head of 65,536 bytes passes, and one more is 431."""
    start = b"GET / HTTP/1.1\r\n" + (b"a:" + b"x" * 8_000 + b"\r\n") * 8

    exact = start + b"a:" + b"x" * (65_536 - len(start) - 4) + b"\r\n"
    assert 65_536 == len(exact)
    reader = RequestReader()
    assert reader.receive_data(exact[:-2]) is None
    assert reader.receive_data(exact[-2:]) is None
    assert reader.receive_data(b"\r\n") is not None
    assert 431 == read_error(start + b"a:" + b"x" * (65_536 - len(start)))


def test_lists_and_cases() -> None:
    """Tokens may stand in lists and in any case, as Firefox and proxies write them."""
    request = build(
        (b"sec-websocket-protocol", b"a,b ,"),
        (b"sec-websocket-protocol", b" c"),
        (b"sec-websocket-extensions", b"permessage-deflate; client_max_window_bits"),
        (b"sec-websocket-extensions", b"foo"),
        connection=b"keep-alive, UPGRADE",
        upgrade=b"foo, WebSocket",
    )

    extensions = [b"permessage-deflate; client_max_window_bits", b"foo"]
    assert Upgrade(KEY, ["a", "b", "c"], extensions) == check_upgrade(request)


@pytest.mark.parametrize("value", [b"", b","])
def test_empty_subprotocol_header(value: bytes) -> None:
    """A header without a subprotocol is none, as some clients send it."""
    upgrade = check_upgrade(build((b"sec-websocket-protocol", value)))

    assert Upgrade(KEY, [], []) == upgrade


def test_method() -> None:
    """Another method than GET is 405, and the answer says which is allowed."""
    error = refuse(Request(b"POST", b"/", build().headers))

    assert (405, [(b"allow", b"GET")]) == (error.status, error.headers)


@pytest.mark.parametrize(
    "changes",
    [
        {"upgrade": None}, {"upgrade": b"h2c"}, {"upgrade": b"websockets"},
        {"connection": None}, {"connection": b"keep-alive"}, {"connection": b"upgraded"},
    ],
)  # fmt: skip
def test_no_upgrade(changes: dict[str, bytes | None]) -> None:
    """A request that does not ask for an upgrade to WebSocket is 426 with what to ask for."""
    error = refuse(build(**changes))

    assert 426 == error.status
    assert (b"upgrade", b"websocket") in error.headers
    assert "websocket" in error.message.lower()


@pytest.mark.parametrize(
    ("version", "status"), [(b"8", 426), (b"14", 426), (b"", 426), (None, 400)]
)
def test_version(version: bytes | None, status: int) -> None:
    """Another version than 13 is answered with ours (RFC 6455 4.4)."""
    error = refuse(build(sec_websocket_version=version))

    assert status == error.status
    assert [(b"sec-websocket-version", b"13")] == error.headers
    assert 426 == refuse(build((b"sec-websocket-version", b"13"))).status


WRONG_KEYS = [
    b"", b"x", b"====", KEY[:-1], KEY + b"A", b"A" * 22, b"\xff" * 24, KEY.replace(b"G", b" "),
    b"dGhlIHNhbXBsZSBub25jZSE=", b"dGhlIHNhbXBsZSBub24=",
]  # fmt: skip


@pytest.mark.parametrize(
    "request_",
    [
        build(host=None),
        build((b"host", b"other.example.com")),
        build(sec_websocket_key=None),
        build((b"sec-websocket-key", KEY)),
        *(build(sec_websocket_key=key) for key in WRONG_KEYS),
        build((b"sec-websocket-protocol", b"a b")),
        build((b"sec-websocket-protocol", b"a"), (b"sec-websocket-protocol", b"\xc3\xa4")),
        build((b"sec-websocket-extensions", b"a;")),
        build((b"sec-websocket-extensions", b"a"), (b"sec-websocket-extensions", b"a b")),
        build((b"content-length", b"1")),
        build((b"content-length", b"0"), (b"content-length", b"0")),
        build((b"transfer-encoding", b"chunked")),
    ],
)  # fmt: skip
def test_wrong_headers(request_: Request) -> None:
    """A handshake with anything missing, twice or malformed is 400."""
    assert 400 == refuse(request_).status


def test_without_body() -> None:
    """A length of zero is no body."""
    assert Upgrade(KEY, [], []) == check_upgrade(build((b"content-length", b"0")))


def test_accept_with_everything() -> None:
    """Subprotocol, extension and the application's headers are written behind our own."""
    data = encode_accept(
        Upgrade(KEY, ["chat"], []),
        headers=[(b"set-cookie", b"a=b"), (b"Server", b"\xc3\xa4")],
        subprotocol="chat",
        extension=b"permessage-deflate",
    )

    assert data.endswith(
        b"Sec-WebSocket-Protocol: chat\r\n"
        b"Sec-WebSocket-Extensions: permessage-deflate\r\n"
        b"set-cookie: a=b\r\n"
        b"Server: \xc3\xa4\r\n\r\n"
    )


def test_response() -> None:
    """An answer says how long it is and that the link is closed after it."""
    data = encode_response(403, [(b"content-type", b"text/plain")], b"no")

    assert (
        b"HTTP/1.1 403 Forbidden\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n"
        b"connection: close\r\n\r\nno"
    ) == data


@pytest.mark.parametrize(
    ("status", "headers", "head"),
    [
        (200, [(b"Content-Length", b"2")], b"200 OK\r\nContent-Length: 2\r\nconnection: close"),
        (200, [(b"connection", b"x")], b"200 OK\r\nconnection: x\r\ncontent-length: 2"),
        (299, [], b"299 \r\ncontent-length: 2\r\nconnection: close"),
        (431, [], b"431 Request Header Fields Too Large\r\ncontent-length: 2\r\nconnection: close"),
    ],
)
def test_response_heads(status: int, headers: list[tuple[bytes, bytes]], head: bytes) -> None:
    """What the application set is kept, and a status without a name has none."""
    assert b"HTTP/1.1 " + head + b"\r\n\r\nab" == encode_response(status, headers, b"ab")


@pytest.mark.parametrize("status", [204, 304])
def test_responses_without_body(status: int) -> None:
    """Answers that have no body get no length (RFC 9110 8.6)."""
    assert b"content-length" not in encode_response(status, [], b"")


@pytest.mark.parametrize(
    "header",
    [
        (b"a", b"b\r\nc: d"), (b"a", b"\r"), (b"a", b"\n"), (b"a", b"\x00"),
        (b"a\r\nb", b"c"), (b"a: b", b"c"), (b"", b"c"), (b"a ", b"c"), (b"\xc3\xa4", b"c"),
    ],
)  # fmt: skip
def test_header_injection(header: tuple[bytes, bytes]) -> None:
    """A header that would end a line, or is none, is never written."""
    upgrade = Upgrade(KEY, [], [])

    with pytest.raises(ValueError, match="header"):
        encode_accept(upgrade, headers=[header])
    with pytest.raises(ValueError, match="header"):
        encode_response(403, [header], b"")


@pytest.mark.parametrize("wrong", ["a\r\nb: c", "\n", "\x00"])
def test_injection_by_subprotocol_and_extension(wrong: str) -> None:
    """Nor is a subprotocol or an extension that does so."""
    with pytest.raises(ValueError, match="Sec-WebSocket-Protocol holds a line break or NUL"):
        encode_accept(Upgrade(KEY, [], []), subprotocol=wrong)
    with pytest.raises(ValueError, match="Sec-WebSocket-Extensions holds a line break or NUL"):
        encode_accept(Upgrade(KEY, [], []), extension=wrong.encode())
