"""The ASGI WebSocket specification (2.4) for any app, on our class and on uvicorn's own.

One suite for all of them, so that what is judged is the specification and not our habit. Where
the servers answer differently the answers stand in `DIFFERENT`, each of them proven by a test.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from websockets.datastructures import Headers

from tests import servers
from tests.integration.clients import (
    OPCODES,
    WAIT_SECONDS,
    complaints,
    connect,
    handshake,
    http,
    raw,
    receive,
    refused,
    report,
    until_closed,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.servers import Server

pytestmark = pytest.mark.anyio

APP = "tests.integration.asgi_app:app"
SANSIO, WSPROTO = "uvicorn-websockets-sansio", "uvicorn-wsproto"
KINDS = (*servers.OUR_KINDS, SANSIO, WSPROTO)

NO_ANSWER = 0
DIFFERENT: dict[str, dict[str, object]] = {
    # RFC 6455, 7.1.5: a link that ended without a close frame is 1006, 1005 is an empty frame.
    "code when the peer vanished": {SANSIO: 1005, WSPROTO: 1005},
    # They drop the link, so that the peer can only guess (1006).
    "code when the app raised": {SANSIO: 1006, WSPROTO: 1006},
    "code when the app returned": {SANSIO: 1006, WSPROTO: 1006},
    # A name is written as the app gave it.
    "injected: accept, crlf in a name": {SANSIO: True},
    "injected: deny, crlf in a name": {SANSIO: True},
    "an empty subprotocol header": {SANSIO: 400, WSPROTO: [""]},
    "handshake: POST": {WSPROTO: 400},
    "handshake: short key": {WSPROTO: 101},
    "handshake: key that is not base64": {WSPROTO: 101},
    "handshake: version 12": {SANSIO: 400},
    "handshake: a line of 10,000 bytes": {SANSIO: NO_ANSWER, WSPROTO: 101},
    "handshake: 200 headers": {SANSIO: NO_ANSWER, WSPROTO: 101},
    "handshake: 70,000 bytes": {SANSIO: 101, WSPROTO: 101},
}
"""What is asked → server → its answer, where that is not the answer of our class."""


def expected(kind: str, asked: str, ours: object) -> object:
    """Return what `kind` answers: as our class, unless `DIFFERENT` says otherwise."""
    return DIFFERENT.get(asked, {}).get(kind, ours)


def fresh() -> str:
    """Return an id that no other test uses."""
    return uuid.uuid4().hex[:8]


@pytest.fixture(scope="module", params=KINDS)
def running(request: pytest.FixtureRequest) -> Iterator[tuple[str, Server]]:
    """Serve the app under one kind of server, with its kind."""
    kind = str(request.param)
    with servers.serve(APP, kind) as server:
        yield kind, server


@pytest.fixture
def kind(running: tuple[str, Server]) -> str:
    """Name the server under test."""
    return running[0]


@pytest.fixture
def server(running: tuple[str, Server]) -> Iterator[Server]:
    """Hand out the server; afterwards it lives and has not complained."""
    kind, server = running
    yield server
    assert server.process.poll() is None, server.log()
    if kind in servers.OUR_KINDS:
        assert [] == complaints(server)


async def scope_of(server: Server, target: str, **options: Any) -> dict[str, Any]:
    """Return the scope that the app got."""
    async with connect(server, target, **options) as ws:
        scope: dict[str, Any] = json.loads(await receive(ws))
        return scope


async def test_the_scope_says_what_the_specification_asks_for(server: Server) -> None:
    """Type, versions, scheme, addresses, state and extensions are there, and nothing odd."""
    async with raw(server, "/room?do=scope&x=%20%C3%A9") as ws:
        scope = json.loads(await ws.read_text())
        ours = ws.writer.get_extra_info("sockname")

    assert scope["type"] == "websocket"
    assert scope["asgi"]["version"] == "3.0"
    assert float(scope["asgi"]["spec_version"]) >= 2.4
    assert scope["http_version"] == "1.1"
    assert scope["scheme"] == "ws"
    assert scope["path"] == "/room"
    assert scope["raw_path"] == "/room"
    assert scope["root_path"] == ""
    assert scope["query_string"] == "do=scope&x=%20%C3%A9"
    assert scope["client"] == list(ours)
    assert scope["server"] == ["127.0.0.1", server.port]
    assert scope["subprotocols"] == []
    assert scope["state"] == {"word": "from lifespan"}
    assert scope["extensions"]["websocket.http.response"] == {}


async def test_only_our_class_offers_the_take_over(server: Server, kind: str) -> None:
    """The extension stands in the scope where the server can do it."""
    scope = await scope_of(server, "/?do=scope")

    assert ("wirebell.takeover" in scope["extensions"]) is (kind in servers.OUR_KINDS)


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/a%20b/%C3%BC", "/a b/ü"),
        ("/a%2Fb", "/a/b"),
        ("/%25", "/%"),
        ("//x", "//x"),
        ("/a;b=c,d", "/a;b=c,d"),
        ("/%FF", "/\ufffd"),
    ],
)
async def test_the_path_is_decoded_and_the_raw_path_is_not(
    server: Server, target: str, path: str
) -> None:
    """``path`` has its escapes decoded as UTF-8, ``raw_path`` is what the peer wrote."""
    async with raw(server, f"{target}?do=scope") as ws:
        scope = json.loads(await ws.read_text())

    assert (scope["path"], scope["raw_path"]) == (path, target)


async def test_state_of_one_connection_is_not_seen_by_the_next(server: Server) -> None:
    """Each scope has its own copy of the lifespan's state."""
    scopes = [await scope_of(server, "/?do=scope") for _ in range(2)]

    assert scopes[0]["state"] == scopes[1]["state"] == {"word": "from lifespan"}


async def test_headers_are_lower_case_in_order_and_doubles_are_kept(server: Server) -> None:
    """The app gets the headers as the peer sent them, names in lower case."""
    lines = "X-One: 1\r\nCookie: a=b\r\nx-two:   spaced  \r\nX-ONE: 2\r\nX-Latin: \xfc\r\n"
    async with raw(server, "/?do=scope", headers=lines) as ws:
        scope = json.loads(await ws.read_text())

    headers = [tuple(pair) for pair in scope["headers"]]
    assert [pair for pair in headers if pair[0].startswith(("x-", "cookie"))] == [
        ("x-one", "1"),
        ("cookie", "a=b"),
        ("x-two", "spaced"),
        ("x-one", "2"),
        ("x-latin", "\xc3\xbc"),  # the client writes UTF-8, the server hands bytes on
    ]
    assert ("host", f"127.0.0.1:{server.port}") in headers
    assert ("sec-websocket-version", "13") in headers


async def test_subprotocols_are_listed_in_order(server: Server) -> None:
    """Several headers and comma-separated lists make one list."""
    lines = "Sec-WebSocket-Protocol: a, b\r\nSec-WebSocket-Protocol: c\r\n"
    async with raw(server, "/?do=scope", headers=lines) as ws:
        scope = json.loads(await ws.read_text())

    assert scope["subprotocols"] == ["a", "b", "c"]


async def test_accept_carries_subprotocol_and_headers(server: Server) -> None:
    """What the app gave is in the answer, doubles too, and no subprotocol where it gave none."""
    target = "/?do=accept&header=X-A:1&header=x-a:2&header=Set-Cookie:a%3Db&subprotocol=two"
    async with connect(server, target, subprotocols=["one", "two"]) as ws:
        assert ws.response is not None
        headers: Headers = ws.response.headers

        assert ws.subprotocol == "two"
        assert headers.get_all("x-a") == ["1", "2"]
        assert headers["set-cookie"] == "a=b"
    async with connect(server, "/?do=accept", subprotocols=["one"]) as ws:
        assert ws.subprotocol is None


INJECTIONS = {
    "lf in a value": "header=x-a:1%0AX-Evil:1",
    "crlf in a value": "header=x-a:1%0D%0AX-Evil:1",
    "cr in a value": "header=x-a:1%0DX-Evil:1",
    "nul in a value": "header=x-a:1%00X-Evil:1",
    "crlf in a name": "header=x-a%0D%0AX-Evil:1",
    "crlf in the subprotocol": "subprotocol=a%0D%0AX-Evil:1",
}


@pytest.mark.parametrize(
    ("act", "name"),
    # A refusal has no subprotocol.
    [("accept", name) for name in INJECTIONS] + [("deny", name) for name in list(INJECTIONS)[:5]],
)
async def test_an_app_cannot_inject_headers(server: Server, kind: str, act: str, name: str) -> None:
    """A line break from the app's input never reaches the wire; the app gets an error."""
    key = fresh()
    request = upgrade(f"/?do={act}&id={key}&{INJECTIONS[name]}", {"Sec-WebSocket-Protocol": "a"})
    status, answer = await handshake_head(server, request)

    evil = "x-evil" in answer.lower()
    if kind in servers.OUR_KINDS:
        assert not evil
        assert status == 500
        if act == "accept":
            assert await report(server, key, "raised")
    else:
        assert evil is expected(kind, f"injected: {act}, {name}", ours=False), answer


def upgrade(
    target: str, headers: Mapping[str, str | None] | None = None, *, method: str = "GET"
) -> bytes:
    """Build the head of a handshake; a header of `None` is left out, and others are replaced."""
    lines: dict[str, str | None] = {
        "Host": "127.0.0.1",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
    }
    lines |= headers or {}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value is not None)
    return f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode("latin-1")


async def handshake_head(
    server: Server, request: bytes, seconds: float = WAIT_SECONDS
) -> tuple[int, str]:
    """Return status and head of the answer to `request`; `NO_ANSWER` when none came in time."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write(request)
        async with asyncio.timeout(seconds):
            answer = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, TimeoutError):
        return NO_ANSWER, ""
    finally:
        writer.transport.abort()
    return int(answer.split(b" ", 2)[1]), answer.decode("latin-1")


async def test_text_and_bytes_travel_both_ways(server: Server) -> None:
    """Texts stay texts and bytes stay bytes, empty and long ones too, in order."""
    messages: list[str | bytes] = ["", b"", "ünï ☃ \x00", bytes(range(256)), "🐛" * 65_536]
    messages += [b"\xff" * 2**20, "x" * 125, "x" * 126, "x" * 65_535, "x" * 65_536]
    async with connect(server, "/?do=echo") as ws:
        async with asyncio.timeout(20):
            for message in messages:
                await ws.send(message)
                assert await ws.recv() == message


async def test_fragments_make_one_message(server: Server) -> None:
    """Pieces are joined, with a ping between them answered, and UTF-8 split inside a character."""
    snowman = "☃".encode()
    async with raw(server, "/?do=echo") as ws:
        ws.send(ws.frame(OPCODES["text"], b"a" + snowman[:1], fin=False))
        ws.send(ws.frame(OPCODES["ping"], b"between"))
        ws.send(ws.frame(OPCODES["continuation"], b"", fin=False))
        ws.send(ws.frame(OPCODES["continuation"], snowman[1:]))
        ws.send(ws.frame(OPCODES["binary"], b"\xff", fin=False))
        ws.send(ws.frame(OPCODES["continuation"], b"\xfe"))
        frames = [await ws.read_frame() for _ in range(3)]

    assert frames == [
        (OPCODES["pong"], b"between"),
        (OPCODES["text"], "a☃".encode()),
        (OPCODES["binary"], b"\xff\xfe"),
    ]


async def test_bytes_that_come_one_by_one_make_a_frame(server: Server) -> None:
    """A frame may be cut anywhere by the network."""
    async with raw(server, "/?do=echo") as ws:
        for byte in ws.frame(OPCODES["text"], b"slowly" * 30):
            ws.send(bytes([byte]))
            await asyncio.sleep(0)

        assert await ws.read_text() == "slowly" * 30


async def test_many_messages_keep_their_order(server: Server) -> None:
    """10,000 from the app, and 5,000 there and back, come whole and in order."""
    async with connect(server, "/?do=count_up") as ws:
        ended = await until_closed(ws, 30)

        assert ended.texts == [str(number) for number in range(10_000)]
        assert ended.code == 1000
    async with raw(server, "/?do=echo") as other:
        other.send(b"".join(other.frame(1, str(number).encode()) for number in range(5_000)))

        assert [int(await other.read_text()) for _ in range(5_000)] == list(range(5_000))


@pytest.mark.parametrize(
    ("query", "code", "reason"),
    [
        ("", 1000, ""),
        ("&code=1000", 1000, ""),
        ("&code=1008&reason=no%20more", 1008, "no more"),
        ("&code=4999&reason=%E2%98%83", 4999, "☃"),
        ("&code=3000", 3000, ""),
    ],
)
async def test_the_app_closes_with_code_and_reason(
    server: Server, query: str, code: int, reason: str
) -> None:
    """The peer gets what the app said; without a code it is 1000."""
    async with connect(server, "/?do=close" + query) as ws:
        ended = await until_closed(ws)

    assert (ended.code, ended.reason) == (code, reason)


@pytest.mark.parametrize(
    ("payload", "code", "reason"),
    [
        (b"\x03\xe8", 1000, ""),
        (b"\x03\xe9going away", 1001, "going away"),
        (b"\x0f\xa0" + "☃".encode(), 4000, "☃"),
        (b"", 1005, ""),
    ],
)
async def test_the_app_hears_how_the_peer_closed(
    server: Server, payload: bytes, code: int, reason: str
) -> None:
    """Code and reason reach the app, and the close frame is answered in kind (RFC 6455, 5.5.1)."""
    key = fresh()
    async with raw(server, f"/?do=disconnect&id={key}") as ws:
        ws.send(ws.frame(OPCODES["close"], payload))
        opcode, answer = await ws.read_frame()
        with pytest.raises(asyncio.IncompleteReadError):
            await ws.read_frame()
        event = await report(server, key, "disconnect")

    assert opcode == OPCODES["close"]
    assert answer[:2] == payload[:2]
    assert (event["code"], event.get("reason") or "") == (code, reason)


@pytest.mark.parametrize("manner", ["reset", "end"])
async def test_the_app_hears_that_the_peer_vanished(server: Server, kind: str, manner: str) -> None:
    """Without a close frame the code is 1006 (RFC 6455, section 7.1.5)."""
    key = fresh()
    async with raw(server, f"/?do=disconnect&id={key}") as ws:
        if manner == "reset":
            ws.abort()
        else:
            ws.writer.write_eof()
        event = await report(server, key, "disconnect")

    assert event["code"] == expected(kind, "code when the peer vanished", 1006)


@pytest.mark.parametrize("manner", ["close", "reset"])
async def test_a_send_after_the_disconnect_raises_an_oserror(server: Server, manner: str) -> None:
    """Spec 2.4: the server should raise a subclass of `OSError`."""
    key = fresh()
    async with raw(server, f"/?do=disconnect&id={key}") as ws:
        if manner == "reset":
            ws.abort()
        else:
            ws.send(ws.frame(OPCODES["close"], b"\x03\xe8"))
        assert await report(server, key, "raised") == "OSError"


async def test_a_send_after_our_own_close_is_an_error(server: Server, kind: str) -> None:
    """The app made a mistake, and is told so; the peer gets the close frame alone."""
    key = fresh()
    async with connect(server, f"/?do=send_after_close&id={key}") as ws:
        ended = await until_closed(ws)

    assert (ended.texts, ended.code) == ([], 3333)
    raised = await report(server, key, "raised")
    assert raised == expected(kind, "send after our close", "RuntimeError")


async def test_a_receive_after_the_disconnect_does_not_hang(server: Server) -> None:
    """An app that asks again is told again."""
    key = fresh()
    async with connect(server, f"/?do=receive_again&id={key}"):
        pass

    assert await report(server, key, "again") == "websocket.disconnect"


async def test_a_close_before_accept_is_403(server: Server) -> None:
    """The handshake is refused; the code is for nobody."""
    status, body = await refused(server, "/?do=refuse")

    assert status == 403
    assert "never shown" not in body


async def test_a_denial_has_status_headers_and_body(server: Server) -> None:
    """The extension ``websocket.http.response``: the pieces of the body arrive as one."""
    target = "/?do=deny&status=429&header=Retry-After:7&header=content-type:text/x"
    status, answer = await handshake(server, upgrade(target))
    head, _, body = answer.partition("\r\n\r\n")

    assert status == 429
    assert "\r\nretry-after: 7\r\n" in head.lower() + "\r\n"
    assert head.lower().count("\r\ncontent-type: ") == 1
    assert "not today." in body.replace("\r\n", "") or "chunked" in head.lower()


@pytest.mark.parametrize("act", ["raise_before", "return_before", "send_first"])
async def test_an_app_that_breaks_before_accepting_is_500(server: Server, act: str) -> None:
    """The peer gets an answer without details, and the log says why."""
    key = fresh()
    status, body = await refused(server, f"/?do={act}&id={key}")

    assert status == 500
    assert "broke" not in body


async def test_an_app_that_breaks_later_closes_with_1011(server: Server, kind: str) -> None:
    """RFC 6455, 7.4.1: an unexpected condition is 1011; the traceback is in the log only."""
    async with connect(server, "/?do=raise_after") as ws:
        ended = await until_closed(ws)

    assert ended.code == expected(kind, "code when the app raised", 1011)
    assert "broke" not in ended.reason
    assert "broke after" in server.log()


async def test_an_app_that_returns_without_closing_closes_with_1000(
    server: Server, kind: str
) -> None:
    """What it sent arrives, then a normal close."""
    async with connect(server, "/?do=return_after") as ws:
        ended = await until_closed(ws)

    assert ended.texts == ["bye"]
    assert ended.code == expected(kind, "code when the app returned", 1000)


HANDSHAKES: dict[str, tuple[bytes, int]] = {
    "POST": (upgrade("/?do=echo", method="POST"), 405),
    "no key": (upgrade("/?do=echo", {"Sec-WebSocket-Key": None}), 400),
    "short key": (upgrade("/?do=echo", {"Sec-WebSocket-Key": "AAAA"}), 400),
    "key that is not base64": (upgrade("/?do=echo", {"Sec-WebSocket-Key": "!" * 24}), 400),
    "version 12": (upgrade("/?do=echo", {"Sec-WebSocket-Version": "12"}), 426),
    "a line of 10,000 bytes": (upgrade("/?do=echo", {"X-Long": "x" * 10_000}), 431),
    "200 headers": (upgrade("/?do=echo", {f"X-{n}": "x" for n in range(200)}), 431),
    "70,000 bytes": (upgrade("/?do=echo", {f"X-{n}": "x" * 7_000 for n in range(10)}), 431),
}


@pytest.mark.parametrize("name", HANDSHAKES)
async def test_a_wrong_handshake_is_refused_with_the_right_status(
    server: Server, kind: str, name: str
) -> None:
    """RFC 6455, 4.2.1 and 4.4; RFC 6585, 5."""
    request, status = HANDSHAKES[name]
    if name == "70,000 bytes" and "h11" in kind:
        # h11 itself gives up at 64 KiB, if it sees the head in parts: by a 400 or by a reset.
        try:
            seen, answer = await handshake(server, request)
        except (ConnectionResetError, asyncio.IncompleteReadError):
            return
        assert seen in {400, 431}, answer
        return
    if kind in servers.OUR_KINDS:
        seen, answer = await handshake(server, request)

        assert seen == status, answer
        assert answer.partition("\r\n\r\n")[2], "says what is wrong"
    else:
        seen, answer = await handshake_head(server, request, seconds=0.5)

        assert seen == expected(kind, f"handshake: {name}", status), answer
    if seen == 426:
        assert "sec-websocket-version: 13" in answer.lower()


async def test_a_handshake_may_come_in_pieces(server: Server) -> None:
    """The network may cut a request anywhere."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    for byte in upgrade("/?do=echo"):
        writer.write(bytes([byte]))
        await writer.drain()
    async with asyncio.timeout(WAIT_SECONDS):
        response = await reader.readuntil(b"\r\n\r\n")
    writer.transport.abort()

    assert response.startswith(b"HTTP/1.1 101 ")


async def test_an_empty_subprotocol_header_means_none(server: Server, kind: str) -> None:
    """A known Python SDK sends one; it offers nothing, and not one subprotocol without a name."""
    seen: object
    async with raw(server, "/?do=scope", headers="Sec-WebSocket-Protocol: \r\n") as ws:
        seen = json.loads(await ws.read_text())["subprotocols"] if ws.status == 101 else ws.status

    assert seen == expected(kind, "an empty subprotocol header", [])


async def test_compression_is_negotiated_by_default(server: Server) -> None:
    """``--ws-per-message-deflate`` is on unless told otherwise, and messages survive it."""
    text = "compress me " * 1_000
    async with connect(server, "/?do=echo", compression="deflate") as ws:
        assert ws.response is not None
        assert "permessage-deflate" in ws.response.headers["Sec-WebSocket-Extensions"]
        for message in (text, "", "short", text, b"\xff" * 100_000):
            await ws.send(message)
            assert await ws.recv() == message
    async with connect(server, "/?do=echo", compression=None) as plain:
        assert plain.response is not None
        assert "Sec-WebSocket-Extensions" not in plain.response.headers


async def test_http_is_served_beside_sockets(server: Server) -> None:
    """The class has taken the handshakes only."""
    async with http(server) as client, connect(server, "/?do=echo") as ws:
        assert (await client.get("/report/nobody")).json() == {}
        await ws.send("x")
        assert await receive(ws) == "x"


async def test_a_hundred_connections_at_once_are_served(server: Server) -> None:
    """Each gets its own answers."""

    async def talk(number: int) -> str:
        async with connect(server, "/?do=echo") as ws:
            await ws.send(str(number))
            return await receive(ws)

    answers = await asyncio.gather(*(talk(number) for number in range(100)))

    assert answers == [str(number) for number in range(100)]
