"""Uvicorn's protocol class: the handshake, its refusals, and how it is logged."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.utils import ClientDisconnected

from tests.unit.clocks import turns
from tests.unit.sockets import FakeLink, FakeSocket, close_of, masked, said
from tests.unit.uvicorn.endpoints import ACCEPT, Served, configure, request
from wirebell.process import PROCESS
from wirebell.uvicorn import WebSocketProtocol

pytestmark = pytest.mark.anyio

INTERNAL_SERVER_ERROR = (500, b"Internal Server Error")
LIMIT = 1_000


@pytest.fixture(autouse=True)
def _limits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the process have so many descriptors, and put its counters back."""
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (LIMIT, LIMIT))
    before = (PROCESS.drained_count, PROCESS.descriptors_refused_count)
    yield
    PROCESS.drained_count, PROCESS.descriptors_refused_count = before


async def test_accept() -> None:
    """A handshake is answered with 101 when the application accepts, not before."""
    served = Served()
    await served.ask()
    before = served.socket.written[:]

    await served.endpoint.send({"type": "websocket.accept"})

    assert ([], 101, ACCEPT) == (before, served.status, served.headers[b"sec-websocket-accept"])
    assert b"sec-websocket-protocol" not in served.headers
    assert b"sec-websocket-extensions" not in served.headers
    assert [served.protocol] == list(served.protocol.host.connections)


async def test_accept_with_everything() -> None:
    """Subprotocol, headers of the application and of the server stand in the answer."""
    served = Served()
    served.state.default_headers = [(b"server", b"ours")]

    await served.open(
        (b"Sec-WebSocket-Protocol", b"a, b"), subprotocol="b", headers=[(b"x-of-app", b"1")]
    )

    assert (b"ours", b"b", b"1") == (
        served.headers[b"server"],
        served.headers[b"sec-websocket-protocol"],
        served.headers[b"x-of-app"],
    )


async def test_scope() -> None:
    """The application sees the connection as ASGI describes it."""
    served = Served(root_path="/base")
    await served.ask(
        (b"X-Name", b"value"),
        (b"Sec-WebSocket-Protocol", b"one,two"),
        target=b"/r%C3%A4um/a%2Fb?x=%201&y",
    )

    scope = served.endpoint.scope
    assert {
        "type": "websocket",
        "http_version": "1.1",
        "scheme": "ws",
        "server": ("10.0.0.2", 80),
        "client": ("10.0.0.1", 4_711),
        "root_path": "/base",
        "path": "/base/räum/a/b",
        "raw_path": b"/base/r%C3%A4um/a%2Fb",
        "query_string": b"x=%201&y",
        "subprotocols": ["one", "two"],
        "state": served.app_state,
    }.items() <= scope.items()
    assert "2.4" == scope["asgi"]["spec_version"]
    assert (b"x-name", b"value") in scope["headers"]
    assert {"websocket.http.response", "wirebell.takeover"} == set(scope["extensions"])


async def test_state_is_a_copy() -> None:
    """What an endpoint puts into its state is not seen by the next."""
    served = Served()
    await served.ask()

    served.endpoint.scope["state"]["mine"] = 1

    assert {"pool"} == set(served.app_state)


async def test_scheme_with_tls() -> None:
    """A socket with TLS says so."""
    served = Served(socket=FakeSocket(sslcontext=object(), socket=FakeLink()))

    await served.ask()

    assert "wss" == served.endpoint.scope["scheme"]


async def test_request_in_pieces() -> None:
    """A handshake may come byte by byte."""
    served = Served()

    for byte in request():
        served.socket.receive(bytes((byte,)))
    await turns()

    assert "websocket" == served.endpoint.scope["type"]


async def test_config_that_was_not_loaded() -> None:
    """The first connection loads what uvicorn has not; the loop may be given."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        """Do nothing."""

    loop = asyncio.get_running_loop()
    one = configure(application)
    one.load()
    state = Served().state

    loaded = [
        WebSocketProtocol(config=config, server_state=state, app_state={}, _loop=loop).config.loaded
        for config in (one, configure(application))
    ]

    assert [True, True] == loaded


async def test_context_variables() -> None:
    """With ``--reset-contextvars`` an application does not see the server's context."""
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name")
    name.set("server")
    seen: list[str | None] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen.append(name.get(None))

    for is_reset in (False, True):
        served = Served(reset_contextvars=is_reset)
        served.config.loaded_app = application
        await served.ask()

    assert ["server", None] == seen


# Refusals


@pytest.mark.parametrize(
    ("data", "status", "detail"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", 400, "the request is not HTTP/1.1"),
        (b"rubbish\r\n", 400, "the first line is no HTTP request"),
        (request(b"/", (b"Content-Length", b"3")), 400, "a WebSocket handshake has no body"),
        (b"GET /" + b"x" * 9_000, 431, "a line has more than 8192 bytes"),
        (request().replace(b"GET", b"POST"), 405, "a WebSocket handshake has the method GET"),
        (
            request().replace(b"Version: 13", b"Version: 8"),
            426,
            "expected the header Sec-WebSocket-Version: 13",
        ),
    ],
)
async def test_bad_requests(data: bytes, status: int, detail: str) -> None:
    """What is no handshake is answered with its status and what was expected, in JSON."""
    served = Served()

    served.socket.receive(data)
    await turns()

    assert (status, detail) == (served.status, served.detail)
    assert (b"application/json", b"close") == (
        served.headers[b"content-type"],
        served.headers[b"connection"],
    )
    assert (True, {}, set()) == (
        served.socket.is_closing(),
        served.endpoint.scope,
        served.state.connections,
    )


async def test_refusal_says_which_version() -> None:
    """A peer with another version learns which is spoken here (RFC 6455, section 4.4)."""
    served = Served()

    served.socket.receive(request().replace(b"Version: 13", b"Version: 8"))

    assert b"13" == served.headers[b"sec-websocket-version"]


async def test_no_descriptors_left() -> None:
    """A connection that takes from the reserve of descriptors is told to come back."""
    served = Served(socket=FakeSocket(socket=FakeLink(number=LIMIT - 1)))
    before = PROCESS.descriptors_refused_count

    await served.ask()

    assert (503, b"5") == (served.status, served.headers[b"retry-after"])
    assert "the server is out of file descriptors, try again later" == served.detail
    assert (1, {}) == (PROCESS.descriptors_refused_count - before, served.endpoint.scope)


async def test_close_before_accept() -> None:
    """An application that closes instead of accepting is answered 403, and may not go on."""
    served = Served()
    await served.ask()

    await served.endpoint.send({"type": "websocket.close", "code": 1000})

    assert (403, b"", True) == (served.status, served.body, served.socket.is_closing())
    with pytest.raises(RuntimeError, match=r"'websocket\.accept', after the socket was closed"):
        await served.endpoint.send({"type": "websocket.accept"})
    assert {"type": "websocket.connect"} == await served.endpoint.receive()
    ending = {"type": "websocket.disconnect", "code": 1006, "reason": ""}
    assert ending == await served.endpoint.receive()


async def test_denial() -> None:
    """A denial has the application's status, headers and body, sent when it is whole."""
    served = Served()
    served.state.default_headers = [(b"server", b"ours")]
    await served.ask()
    send = served.endpoint.send
    headers = [(b"content-type", b"text/html"), (b"x-why", b"because")]

    await send({"type": "websocket.http.response.start", "status": 418, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": b"<p>", "more_body": True})
    before = served.socket.written[:]
    await send({"type": "websocket.http.response.body"})

    assert ([], 418, b"<p>") == (before, served.status, served.body)
    assert (b"ours", b"because", b"3", b"close") == tuple(
        served.headers[name] for name in (b"server", b"x-why", b"content-length", b"connection")
    )
    assert served.socket.is_closing()
    with pytest.raises(RuntimeError, match="after the socket was closed"):
        await send({"type": "websocket.http.response.body"})


async def test_denial_without_headers() -> None:
    """A denial needs no headers."""
    served = Served()
    await served.ask()

    await served.endpoint.send({"type": "websocket.http.response.start", "status": 401})
    await served.endpoint.send({"type": "websocket.http.response.body", "body": b"no"})

    assert (401, b"no") == (served.status, served.body)


@pytest.mark.parametrize("status", [101, 199, 600])
async def test_denial_with_a_status_of_no_denial(status: int) -> None:
    """A status that is no final answer is refused, and the application may answer another."""
    served = Served()
    await served.ask()

    with pytest.raises(RuntimeError, match=f"has a status of 200 to 599, got {status}"):
        await served.endpoint.send({"type": "websocket.http.response.start", "status": status})
    await served.endpoint.send({"type": "websocket.accept"})

    assert 101 == served.status


@pytest.mark.parametrize(
    ("before", "kind", "expected"),
    [
        ([], "websocket.send", "'websocket.accept', 'websocket.close' or"),
        ([], "websocket.http.response.body", "'websocket.accept', 'websocket.close' or"),
        (["websocket.http.response.start"], "websocket.accept", "websocket.http.response.body"),
        (["websocket.http.response.start"], "websocket.close", "websocket.http.response.body"),
        (["websocket.accept"], "websocket.accept", "'websocket.send' or 'websocket.close'"),
        (["websocket.accept"], "websocket.http.response.start", "'websocket.send' or"),
    ],
)
async def test_messages_out_of_place(before: list[str], kind: str, expected: str) -> None:
    """A message that may not come now is an error that says which may."""
    served = Served()
    await served.ask()
    for earlier in before:
        await served.endpoint.send({"type": earlier, "status": 403})

    with pytest.raises(RuntimeError, match=expected) as raised:
        await served.endpoint.send({"type": kind, "status": 403, "text": "x"})
    assert repr(kind) in str(raised.value)


@pytest.mark.parametrize(
    "message",
    [
        {"type": "websocket.accept", "headers": [(b"x", b"a\r\nset-cookie: b")]},
        {"type": "websocket.accept", "headers": [(b"x\r\nset-cookie", b"b")]},
        {"type": "websocket.accept", "subprotocol": "a\r\nset-cookie: b"},
    ],
)
async def test_header_injection(message: dict[str, Any]) -> None:
    """A line break in what the application answers is an error, and never written."""
    served = Served()
    await served.ask()

    with pytest.raises(ValueError, match="header"):
        await served.endpoint.send(message)
    await served.endpoint.end(ValueError("as it came"))

    assert INTERNAL_SERVER_ERROR == (served.status, served.body)
    assert b"set-cookie" not in served.head


async def test_header_injection_in_a_denial() -> None:
    """A denial with a line break in a header is answered with 500."""
    served = Served()
    await served.ask()
    headers = [(b"location", b"/\r\nset-cookie: a")]
    start = {"type": "websocket.http.response.start", "status": 302, "headers": headers}
    await served.endpoint.send(start)

    with pytest.raises(ValueError, match="location"):
        await served.endpoint.send({"type": "websocket.http.response.body"})
    await served.endpoint.end(ValueError("as it came"))

    assert INTERNAL_SERVER_ERROR == (served.status, served.body)
    assert b"set-cookie" not in served.head


async def test_application_that_answers_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """An application that returns without an answer is a mistake: 500, and the log says it."""
    served = Served()
    await served.ask()

    await served.endpoint.end()

    assert INTERNAL_SERVER_ERROR == (served.status, served.body)
    assert "ASGI callable returned without completing handshake." in caplog.text
    assert served.is_done


async def test_application_that_denies_half(caplog: pytest.LogCaptureFixture) -> None:
    """A denial that was begun and not ended is answered with 500."""
    served = Served()
    await served.ask()
    await served.endpoint.send({"type": "websocket.http.response.start", "status": 403})

    await served.endpoint.end()

    assert INTERNAL_SERVER_ERROR == (served.status, served.body)
    assert "without completing handshake" in caplog.text


async def test_application_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    """An application that raises before its answer: 500, and the traceback is in the log."""
    served = Served()
    await served.ask()

    await served.endpoint.end(ValueError("broken"))

    assert INTERNAL_SERVER_ERROR == (served.status, served.body)
    assert "ValueError: broken" in caplog.text


async def test_peer_leaves_during_the_handshake() -> None:
    """A peer that left before the answer: the application is told, and cannot accept."""
    served = Served()
    await served.ask()
    assert "websocket.connect" == (await served.endpoint.receive())["type"]
    waiting = asyncio.create_task(served.endpoint.receive())
    await turns()

    served.socket.lose()

    assert {"type": "websocket.disconnect", "code": 1006, "reason": ""} == await waiting
    with pytest.raises(ClientDisconnected):
        await served.endpoint.send({"type": "websocket.accept"})
    await served.endpoint.end()
    assert ([], True) == (served.socket.written, served.is_done)


@pytest.mark.parametrize("state", ["handshake", "connecting", "denying"])
async def test_shutdown_during_the_handshake(state: str) -> None:
    """A server that stops answers 503 to who is not in yet, and wakes the application."""
    served = Served()
    if state == "handshake":
        served.socket.receive(request()[:20])
    else:
        await served.ask()
    if state == "denying":
        await served.endpoint.send({"type": "websocket.http.response.start", "status": 403})

    served.protocol.shutdown()
    await turns()

    assert (503, b"1") == (served.status, served.headers[b"retry-after"])
    assert ("the server is shutting down", True) == (served.detail, served.socket.is_closing())
    if state != "handshake":
        with pytest.raises(ClientDisconnected):
            await served.endpoint.send({"type": "websocket.accept"})


async def test_cancelled_during_the_handshake() -> None:
    """An application that the server cancels leaves its socket without an answer."""
    served = Served()
    await served.ask()

    for task in served.state.tasks:
        task.cancel()
    await turns()

    assert ([], True) == (served.socket.written, served.socket.is_aborted)


# Early frames


async def test_early_frames() -> None:
    """Frames that came with the handshake, or before its answer, are kept for the application."""
    served = Served()
    await served.ask(early=said("1") + said("2")[:4])
    served.socket.receive(said("2")[4:])

    await served.endpoint.receive()
    await served.endpoint.send({"type": "websocket.accept"})

    texts = [(await served.endpoint.receive())["text"] for _ in range(2)]
    assert ["1", "2"] == texts


async def test_early_frames_are_bounded() -> None:
    """A peer that sends much before the answer is not read any more, until it was answered."""
    served = Served(ws_ping_interval=None)
    message = masked(2, b"x" * 100_000)
    await served.ask(early=message[:65_000])
    was_reading = served.socket.is_reading()
    served.socket.receive(message[65_000:65_600])
    is_reading = served.socket.is_reading()

    await served.endpoint.receive()
    await served.endpoint.send({"type": "websocket.accept"})
    served.socket.receive(message[65_600:])

    assert (True, False) == (was_reading, is_reading)
    assert 100_000 == len((await served.endpoint.receive())["bytes"])


async def test_early_frames_of_a_denied_peer() -> None:
    """What a peer sent early and is denied for is nobody's."""
    served = Served()
    await served.ask(early=said("1"))

    await served.endpoint.send({"type": "websocket.close"})

    assert (403, b"") == (served.status, served.body)


async def test_data_after_the_answer() -> None:
    """What a peer sends after it was refused is dropped, bad frames too."""
    served = Served()
    served.socket.receive(b"rubbish\r\n")
    written = len(served.socket.written)

    served.protocol.data_received(b"\xff\xff\xff\xff")

    assert written == len(served.socket.written)


# The log


@pytest.mark.parametrize(
    ("target", "answer", "line"),
    [
        (b"/a%20b?x=1", "websocket.accept", '10.0.0.1:4711 - "WebSocket /a%20b?x=1" [accepted]'),
        (b"/a", "websocket.close", '10.0.0.1:4711 - "WebSocket /a" 403'),
        (b"/%0d%0ainjected", "websocket.close", 'WebSocket /%0D%0Ainjected" 403'),
    ],
)
async def test_log(target: bytes, answer: str, line: str, caplog: pytest.LogCaptureFixture) -> None:
    """Each handshake is one line of uvicorn's log, however its path was written."""
    served = Served()
    with caplog.at_level(logging.INFO, logger="uvicorn.error"):
        await served.ask(target=target)
        await served.endpoint.send({"type": answer})

    (record,) = caplog.records
    assert line in record.getMessage()
    assert "\n" not in record.getMessage()


async def test_log_without_an_address(caplog: pytest.LogCaptureFixture) -> None:
    """A peer without an address, behind a Unix socket, is logged as well."""
    served = Served(socket=FakeSocket())
    with caplog.at_level(logging.INFO, logger="uvicorn.error"):
        await served.open()

    assert ' - "WebSocket /" [accepted]' == caplog.records[0].getMessage()


async def test_log_that_nobody_reads(caplog: pytest.LogCaptureFixture) -> None:
    """Above INFO nothing is logged."""
    served = Served()
    with caplog.at_level(logging.WARNING, logger="uvicorn.error"):
        await served.open()

    assert ([], []) == (caplog.records, served.frames)


async def test_return_after_accept() -> None:
    """An application that returns while its socket is open closes it with 1000."""
    served = Served()
    await served.open()

    await served.endpoint.end()

    assert [close_of(1000)] == served.frames


async def test_the_http_class_is_gone_with_its_upgrade() -> None:
    """Of uvicorn's HTTP class nothing stays behind a WebSocket, also without a collection."""
    served = Served()
    link = FakeLink()
    http = HttpToolsProtocol(served.protocol.config, served.state, {})
    socket = FakeSocket(http, socket=link)
    http.connection_made(socket)
    former = weakref.ref(http)
    gc.disable()
    try:
        http.data_received(request())
        del http
        successor = socket.get_protocol()
        await turns()

        assert isinstance(successor, WebSocketProtocol)
        assert None is former()
    finally:
        gc.enable()
