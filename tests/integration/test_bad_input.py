"""Bad routes, topics, numbers and bodies: each gets a clear answer, and others notice nothing."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import httpx2
import pytest
import websockets

from tests.integration.clients import (
    OPCODES,
    connect,
    http,
    raw,
    refused,
    until_closed,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.servers import Server

pytestmark = pytest.mark.anyio

DIGITS = "9" * 5_000


@pytest.mark.parametrize(
    "path", ["/wsx", "/ws/", "/ws/secure", "/ws/secure/", "/ws/redis/", "/ws/1/2", "/nothing", "//"]
)
async def test_an_unknown_socket_route_is_404(healthy: Server, path: str) -> None:
    """The handshake of a route that does not exist is answered 404."""
    assert (await refused(healthy, path))[0] == 404


@pytest.mark.parametrize(
    "path", ["/nothing", "/tasks/abc", "/web/../../etc/passwd", "/web/nothing"]
)
async def test_an_unknown_page_is_4xx(healthy: Server, path: str) -> None:
    """Unknown addresses, and ways out of the page's folder, are refused."""
    async with http(healthy) as client:
        answer = await client.get(path)

    assert 400 <= answer.status_code < 500
    assert "root:" not in answer.text


@pytest.mark.parametrize(
    "path",
    [
        b"/web/../../../../../../etc/passwd",
        b"/web/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        b"/web/..%2f..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
        b"/web//etc/passwd",
        b"/web/%00",
        b"/web/..%5c..%5c",
        b"/web/" + b"a" * 5_000,
    ],
)
async def test_the_pages_files_stay_in_their_folder(healthy: Server, path: bytes) -> None:
    """Paths that climb, absolute ones, NUL bytes and very long ones are 4xx."""
    reader, writer = await asyncio.open_connection("127.0.0.1", healthy.port)
    writer.write(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()

    assert answer.startswith(b"HTTP/1.1 4"), answer[:200]
    assert b"root:" not in answer


@pytest.mark.parametrize(
    "client_id",
    [
        "abc",
        "1.5",
        "1e3",
        "",
        "%20",
        "0x10",
        "%00",
        "%D9%A3",
        "NaN",
        "-5",
        DIGITS,
        f"-{DIGITS}",
        "1_0",
    ],
)
async def test_a_client_id_that_is_no_reasonable_integer_is_refused(
    healthy: Server, client_id: str
) -> None:
    """The handshake is answered 4xx, or the socket is told why: never an error of ours."""
    try:
        async with connect(healthy, f"/ws/{client_id}") as ws:
            await ws.send("x")
            first = await asyncio.wait_for(ws.recv(), 10)
    except websockets.InvalidStatus as error:
        status = error.response.status_code
    else:
        status = 404
        # Python's int() takes other scripts' digits and underscores, FastAPI may too: then it is
        # an integer, and must be shown as one.
        head, _, data = str(first).partition(": ")
        number = head.removeprefix("Client ")
        assert data == "x"
        assert number.lstrip("-").isascii()
        assert number.lstrip("-").isdigit()
    assert 400 <= status < 500


TOPICS = [
    "%00", "%0a", "%0d%0aX-Injected:%201", "%7f", "%ff", "%ed%a0%80", "%e2%80%ae", "%f0%9f%90%9b",
    "..", "%2e%2e", "a%2fb", "a%20b", "*", ">", "$SYS", "a" * 255, "a" * 256, "%e2%98%83" * 100,
    "a" * 10_000, "'%20OR%201=1", "%25s%25n", "{0.__class__}",
]  # fmt: skip


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: str(topic)[:20])
@pytest.mark.parametrize("route", ["/ws/notifications/", "/ws/redis/"])
async def test_an_odd_topic_works_or_is_refused_with_a_reason(
    healthy: Server, route: str, topic: str
) -> None:
    """Any topic is served or refused by 4xx or a told code; the name cannot break out."""
    try:
        async with raw(healthy, route + topic) as ws:
            status = int(ws.response.split(b" ")[1])
            assert b"X-Injected" not in ws.response
            if status != 101:
                assert 400 <= status < 500
                return
            ws.send(ws.frame(OPCODES["ping"], b"marker"))
            opcode, payload = await ws.read_frame()
            if opcode == OPCODES["text"]:
                error = json.loads(payload)["error"]
                assert await ws.read_until_end() == error["code"]
                assert 4400 <= error["code"] < 4500 or error["code"] == 1008
            else:
                assert (opcode, payload) == (OPCODES["pong"], b"marker")
                assert len(topic) < 1_000, "a name without a bound"
    except asyncio.IncompleteReadError as error:
        raise AssertionError(f"dropped without an answer: {error.partial!r}") from error


@pytest.mark.parametrize("channel", TOPICS, ids=lambda channel: str(channel)[:20])
async def test_an_odd_channel_is_published_to_or_refused(healthy: Server, channel: str) -> None:
    """What ``POST /publish`` answers 200 reaches the subscriber of the same odd name."""
    async with raw(healthy, f"/ws/redis/{channel}") as ws, http(healthy) as client:
        address = httpx2.URL(healthy.url + "/").copy_with(
            raw_path=f"/publish/{channel}?message=odd".encode()
        )
        answer = await client.post(address)

        assert answer.status_code == 200 or 400 <= answer.status_code < 500, answer.text
        if answer.status_code == 200:
            assert await ws.read_text() == "odd"


async def test_an_odd_secure_topic_is_no_error(healthy: Server) -> None:
    """A topic over the bound is refused with a reason on the secure route too."""
    async with connect(healthy, "/ws/secure/" + "a" * 300) as ws:
        await ws.send("not a token")
        ended = await until_closed(ws)

        assert ended.texts
        assert ended.code in {4400, 4401}


@pytest.mark.parametrize("header", ["Cookie: access_token=", "X-Long: ", "Origin: http://"])
async def test_a_handshake_with_a_long_header_is_answered(healthy: Server, header: str) -> None:
    """A header of 10,000 bytes gets some answer: a handshake is never left hanging."""
    async with raw(healthy, "/ws", headers=f"{header}{'a' * 10_000}\r\n") as ws:
        status = int(ws.response.split(b" ")[1])

    assert status == 101 or 400 <= status < 500


BODIES = {
    "empty": b"",
    "cut": b'{"title": "x"',
    "not json": b"title=x",
    "array": b"[]",
    "null": b"null",
    "number": b"5",
    "text": b'"x"',
    "lone surrogate": b'{"title": "\\ud800", "description": ""}',
    "lone low surrogate": b'{"title": "t", "description": "\\udc00"}',
    "raw surrogate": b'{"title": "\xed\xa0\x80", "description": ""}',
    "not utf-8": b'{"title": "\xff", "description": ""}',
    "NaN": b'{"title": NaN, "description": ""}',
    "infinity": b'{"title": "t", "description": -Infinity}',
    "huge number": b'{"title": ' + b"9" * 5_000 + b"}",
    "huge exponent": b'{"title": 1e999999, "description": ""}',
    "deep arrays": b"[" * 30_000,
    "deep objects": b'{"a":' * 10_000,
    "deep title": b'{"title": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("path", ["/tasks", "/messages", "/register"])
async def test_a_body_that_cannot_be_read_is_422(healthy: Server, path: str, name: str) -> None:
    """Broken JSON of every kind is the sender's error: 422 with details (400 for no text)."""
    async with http(healthy) as client:
        answer = await client.post(
            path, content=BODIES[name], headers={"content-type": "application/json"}
        )

    assert answer.status_code in {400, 422}, answer.text
    assert answer.json()["detail"]
    assert len(answer.content) < 5_000


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "application/xml", "nonsense", ""]
)
async def test_a_body_of_another_type_is_refused(healthy: Server, kind: str) -> None:
    """Only JSON is read as JSON, so that a foreign page's form cannot create a task."""
    async with http(healthy) as client:
        answer = await client.post(
            "/tasks", content=b'{"title": "x", "description": ""}', headers={"content-type": kind}
        )

    assert answer.status_code in {415, 422}, answer.text


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("path", ["/tasks", "/token", "/register", "/messages"])
async def test_a_body_over_64_kib_is_413(healthy: Server, path: str, chunked: bool) -> None:
    """Too long a body is 413, whether its length was announced or not."""
    whole = b'{"title": "' + b"x" * 2_000_000 + b'"}'

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(whole), 50_000):
            yield whole[start : start + 50_000]

    kind = "application/x-www-form-urlencoded" if path == "/token" else "application/json"
    async with http(healthy) as client:
        answer = await client.post(
            path, content=chunks() if chunked else whole, headers={"content-type": kind}
        )

    assert answer.status_code == 413, answer.text
    assert len(answer.content) < 1_000


@pytest.mark.parametrize(
    "request_line",
    [
        "GET /tasks?before=" + "9" * 30,
        "GET /tasks?before=-" + "9" * 30,
        "GET /tasks?before=" + DIGITS,
        "GET /tasks?limit=" + DIGITS,
        "GET /messages?before=" + "9" * 30,
        "GET /tasks?before=%00",
        "PATCH /tasks/" + "9" * 30,
        "PATCH /tasks/" + DIGITS,
        "PATCH /tasks/-1",
        "PATCH /tasks/%00",
        "POST /publish/x?message=%ff",
        "POST /publish/x?message=%ed%a0%80",
        "POST /publish/x?message=" + "x" * 63_000,
        "DELETE /tasks",
        "PUT /tasks/1",
    ],
    ids=lambda line: line[:36],
)
async def test_numbers_and_texts_beyond_any_bound_are_no_error_of_ours(
    healthy: Server, request_line: str
) -> None:
    """Whatever stands in path or query is answered below 500."""
    method, _, path = request_line.partition(" ")
    async with http(healthy) as client:
        address = httpx2.URL(healthy.url + "/").copy_with(raw_path=path.encode())
        body = {"completed": True} if method == "PATCH" else None
        answer = await client.request(method, address, json=body)

    assert answer.status_code < 500, answer.text
    assert len(answer.content) < 100_000


@pytest.mark.parametrize("title", ["\u0000", "a\u0000b", "\u202e", "<script>alert(1)</script>"])
async def test_an_odd_title_is_stored_as_it_is_or_refused(healthy: Server, title: str) -> None:
    """What is answered 201 comes back unchanged, and as JSON."""
    async with http(healthy) as client:
        answer = await client.post("/tasks", json={"title": title, "description": title})
        listed = await client.get("/tasks?limit=1")

    assert answer.status_code in {201, 422}
    if answer.status_code == 201:
        assert listed.json()[0]["title"] == title
        assert listed.headers["content-type"].startswith("application/json")
