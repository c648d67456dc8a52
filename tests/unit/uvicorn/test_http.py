"""The HTTP class: who is dropped, what is too long, and what is handed to the WebSocket class."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from uvicorn import Config
from uvicorn.server import ServerState

from tests.unit.clocks import JumpingLoop, turns
from wirebell.uvicorn.http import HTTPProtocol, SilentClients, find_silent_clients

UPGRADE = (
    b"GET /ws?x=1 HTTP/1.1\r\nHost: x\r\n"
    b"Upgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n\r\n"
)


class Link:
    """A transport that keeps what it is given."""

    def __init__(self) -> None:
        self.written = b""
        self.is_aborted = False
        self.has_ended = False
        self.protocol: Any = None

    def write(self, data: bytes) -> None:
        """Keep it, until the end."""
        if not self.is_closing():
            self.written += data

    def write_eof(self) -> None:
        """Keep it."""
        self.has_ended = True

    def can_write_eof(self) -> bool:
        """Be a socket without TLS."""
        return True

    def abort(self) -> None:
        """Keep it."""
        self.is_aborted = True

    def close(self) -> None:
        """Keep it."""
        self.has_ended = True

    def is_closing(self) -> bool:
        """Tell."""
        return self.has_ended or self.is_aborted

    def pause_reading(self) -> None:
        """Read on."""

    def resume_reading(self) -> None:
        """Read on."""

    def get_extra_info(self, name: str) -> None:
        """Know nothing about the peer."""

    def set_protocol(self, protocol: Any) -> None:
        """Keep it."""
        self.protocol = protocol


class Successor:
    """A WebSocket class that keeps what it is given."""

    def __init__(self, **given: Any) -> None:
        self.given = given
        self.received = b""
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        """Keep it."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Keep it."""
        self.received += data


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Answer a request."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def loop() -> Any:
    """Return a loop whose clock jumps, and close it afterwards."""
    made = JumpingLoop()
    yield made
    made.close()


@pytest.fixture
def config() -> Config:
    """Return what a server would have."""
    made = Config(application, http=HTTPProtocol, log_config=None, lifespan="off")
    made.load()
    made.ws_protocol_class = cast(Any, Successor)
    return made


def connect(config: Config, loop: JumpingLoop) -> tuple[HTTPProtocol, Link]:
    """Connect a client."""
    link = Link()
    protocol = HTTPProtocol(config=config, server_state=ServerState(), app_state={}, _loop=loop)
    protocol.connection_made(cast(asyncio.Transport, link))
    return protocol, link


@pytest.mark.parametrize("data", [b"", b"GET / HTTP/1.1\r\nX: ", b"\r\n"])
def test_a_silent_client_is_dropped(config: Config, loop: JumpingLoop, data: bytes) -> None:
    """Who has not asked within the time is cut, however much of a head has come."""
    protocol, link = connect(config, loop)
    if data:
        protocol.data_received(data)
    loop.run_until_complete(asyncio.sleep(9.9))
    early = link.is_aborted
    loop.run_until_complete(asyncio.sleep(1.2))

    assert (False, True) == (early, link.is_aborted)


def test_a_client_that_left_before_it_asked_is_forgotten(config: Config, loop: JumpingLoop) -> None:
    """Who leaves without a word is neither waited for nor kept."""
    protocol, link = connect(config, loop)
    before = set(protocol.connections)
    protocol.connection_lost(None)
    loop.run_until_complete(asyncio.sleep(12.0))

    assert {protocol} == before
    assert set() == protocol.connections
    assert not link.is_aborted


def test_a_client_that_has_not_asked_is_closed_at_the_stop(
    config: Config, loop: JumpingLoop
) -> None:
    """The server's stop waits for no request."""
    protocol, link = connect(config, loop)
    protocol.shutdown()

    assert link.has_ended


def test_a_configuration_is_loaded_once_it_is_needed(loop: JumpingLoop) -> None:
    """As with uvicorn's own class."""
    config = Config(application, http=HTTPProtocol, log_config=None, lifespan="off")
    connect(config, loop)

    assert config.loaded


def test_a_served_client_is_not_dropped(config: Config, loop: JumpingLoop) -> None:
    """A request in time ends the wait; half of a second one starts it again."""
    protocol, link = connect(config, loop)

    async def ask() -> None:
        protocol.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await turns()
        protocol.data_received(b"GET / HTTP/1.1\r\nHo")
        await asyncio.sleep(9.0)

    loop.run_until_complete(ask())
    early = link.is_aborted
    loop.run_until_complete(asyncio.sleep(2.2))

    assert link.written.startswith(b"HTTP/1.1 200 OK\r\n")
    assert (False, True) == (early, link.is_aborted)


def test_one_timer_drops_all(loop: JumpingLoop) -> None:
    """Clients are dropped in the order they came, and the timer ends with the last."""
    silent = SilentClients(loop, 10.0)
    links = [Link() for _ in range(3)]
    clients = [cast(Any, type("Client", (), {"transport": link})()) for link in links]
    silent.add(clients[0])
    silent.add(clients[1])
    loop.run_until_complete(asyncio.sleep(5.0))
    silent.add(clients[0])
    silent.add(clients[2])
    silent.discard(clients[1])
    silent.discard(clients[1])
    loop.run_until_complete(asyncio.sleep(6.0))
    after_eleven = [link.is_aborted for link in links]
    loop.run_until_complete(asyncio.sleep(6.0))

    assert [True, False, False] == after_eleven
    assert [True, False, True] == [link.is_aborted for link in links]
    assert {} == silent.deadlines
    assert silent._timer is None


def test_no_time_limit(loop: JumpingLoop) -> None:
    """Zero seconds wait for nobody."""
    silent = SilentClients(loop, 0.0)
    silent.add(cast(Any, object()))

    assert {} == silent.deadlines


def test_silent_clients_belong_to_their_server(loop: JumpingLoop) -> None:
    """Each server has its own, made once, with the time of the settings."""
    first, second = ServerState(), ServerState()

    found = find_silent_clients(first, loop)
    assert found is find_silent_clients(first, loop)
    assert found is not find_silent_clients(second, loop)
    assert 10.0 == found.seconds


@pytest.mark.parametrize(
    ("pieces", "reason"),
    [
        ([b"GET / HTTP/1.1\r\nX: " + b"x" * 8_190 + b"\r\n\r\n"], b"a line has more than 8192"),
        ([b"GET /" + b"x" * 65_536 + b" HTTP/1.1\r\n"], b"the head has more"),
        ([b"GET / HTTP/1.1\r\nX: ", *[b"x" * 5_000] * 2], b"a line has more than 8192"),
        ([b"GET / HTTP/1.1\r\n" + b"X: x\r\n" * 129], b"there are more than 128"),
        ([b"GET / HTTP/1.1\r\n" + (b"X: " + b"x" * 8_000 + b"\r\n") * 9], b"the head has more"),
        ([UPGRADE[:-2] + b"X: " + b"x" * 8_190 + b"\r\n\r\n"], b"a line has more than 8192"),
    ],
)  # fmt: skip
def test_too_long_a_head(
    config: Config, loop: JumpingLoop, pieces: list[bytes], reason: bytes
) -> None:
    """431 says what it is; the rest is thrown away for a second, and then the link is cut."""
    protocol, link = connect(config, loop)
    # One more field, which ends the one before.
    for piece in (*pieces, b"Y: y\r\n", b"more" * 5_000):
        protocol.data_received(piece)
    early = link.is_aborted
    loop.run_until_complete(asyncio.sleep(1.1))

    assert link.written.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
    assert 1 == link.written.count(b"HTTP/1.1")
    assert reason in link.written
    assert link.has_ended
    assert (False, True) == (early, link.is_aborted)


def test_endless_trailers_are_cut(config: Config, loop: JumpingLoop) -> None:
    """An answer that is on its way is not mixed with another one."""
    protocol, link = connect(config, loop)

    async def ask() -> None:
        protocol.data_received(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n")
        protocol.data_received(b"X: x\r\n" * 200)

    loop.run_until_complete(ask())

    assert b"" == link.written
    assert link.has_ended
    protocol.connection_lost(None)
    loop.run_until_complete(turns())


def test_what_is_no_http(config: Config, loop: JumpingLoop) -> None:
    """Garbage is answered as uvicorn does."""
    protocol, link = connect(config, loop)
    protocol.data_received(b"\x16\x03\x01 no\r\n\r\n")

    assert link.written.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert link.has_ended


def test_a_long_body_is_no_long_line(config: Config, loop: JumpingLoop) -> None:
    """Neither in one piece nor in chunks."""
    protocol, link = connect(config, loop)

    async def send() -> None:
        protocol.data_received(b"POST / HTTP/1.1\r\nContent-Length: 300000\r\n\r\n")
        for _ in range(3):
            protocol.data_received(b"x" * 100_000)
        await turns()

    loop.run_until_complete(send())

    assert link.written.startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("cut", [0, 1, 30, len(UPGRADE) - 1, len(UPGRADE), len(UPGRADE) + 2])
def test_an_upgrade_is_handed_over(config: Config, loop: JumpingLoop, cut: int) -> None:
    """However its bytes come, the WebSocket class gets all of them, and the parser is let go."""
    protocol, link = connect(config, loop)
    data = UPGRADE + b"\x81\x80frame"
    for piece in filter(None, (data[:cut], data[cut:])):
        (link.protocol or protocol).data_received(piece)

    successor = link.protocol
    assert isinstance(successor, Successor)
    assert link is successor.transport
    assert successor.received.endswith(b"\r\n\r\n\x81\x80frame")
    assert successor.received.startswith(b"GET /ws?x=1 HTTP/1.1\r\n")
    assert b"upgrade: websocket\r\n" in successor.received.lower()
    assert set() == protocol.connections
    assert {} == protocol.silent_clients.deadlines
    assert protocol.parser is None


@pytest.mark.parametrize(
    "data",
    [
        UPGRADE.replace(b"WebSocket", b"h2c"),
        UPGRADE.replace(b"Connection", b"X-Connection"),
        UPGRADE.replace(b"Upgrade: W", b"X: y\r\n Upgrade: W"),
    ],
)  # fmt: skip
def test_what_is_no_upgrade(config: Config, loop: JumpingLoop, data: bytes) -> None:
    """Another protocol, or a header that only looks like it, is no WebSocket."""
    protocol, link = connect(config, loop)

    async def ask() -> None:
        protocol.data_received(data)
        await turns()

    loop.run_until_complete(ask())

    assert link.protocol is None
