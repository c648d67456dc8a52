"""Clients that judge the wire: `websockets` and `httpx2` with bounds, and raw frames.

Nothing here imports Wirebell: what these tests know is the wire format that was promised.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import re
import socket
import ssl
import struct
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx2
import websockets
from websockets.asyncio.client import ClientConnection, connect as websockets_connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.servers import Server

__all__ = (
    "OPCODES",
    "WAIT_SECONDS",
    "Ended",
    "Raw",
    "assert_echoes",
    "bearer",
    "complaints",
    "connect",
    "eventually",
    "gauges",
    "handshake",
    "http",
    "open_connections",
    "our_failures",
    "raw",
    "receive",
    "refused",
    "report",
    "samples",
    "sign_in",
    "told",
    "until_closed",
    "wait_quiet",
)

WAIT_SECONDS = 10.0
"""Bound of every single wait: far above what is expected, so that load cannot fail a test."""

PASSWORD = "wirebell-demo"

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Trusts nobody; given so that not every client loads the certificates of the world (30 ms)."""


def http(server: Server) -> httpx2.AsyncClient:
    """Return a client for `server`'s HTTP routes; use it in ``async with``."""
    verify = unverified() if server.is_tls else NO_TLS
    transport = httpx2.AsyncHTTPTransport(uds=server.uds, verify=verify)
    return httpx2.AsyncClient(
        base_url=server.url, timeout=WAIT_SECONDS, trust_env=False, transport=transport
    )


def unverified() -> ssl.SSLContext:
    """Return a context that takes the certificate which a test has just made."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def connect(server: Server, path: str, **options: Any) -> websockets_connect:
    """Prepare a `websockets` client; it sends no pings of its own and offers no compression."""
    defaults: dict[str, Any] = {
        "compression": None,
        "open_timeout": WAIT_SECONDS,
        "close_timeout": 2,
        "ping_interval": None,
        "proxy": None,
        "max_size": None,
    }
    if server.is_tls:
        defaults["ssl"] = unverified()
    if server.uds is not None:
        defaults |= {"unix": True, "path": server.uds}
    return websockets_connect(server.ws_url + path, **(defaults | options))


async def receive(ws: ClientConnection) -> str:
    """Return the next text; binary messages fail the test."""
    async with asyncio.timeout(WAIT_SECONDS):
        message = await ws.recv()
    assert isinstance(message, str)
    return message


@dataclass(frozen=True)
class Ended:
    """How a connection ended: the texts before, and what the close frame said."""

    texts: list[str]
    code: int | None
    reason: str


async def until_closed(ws: ClientConnection, seconds: float = WAIT_SECONDS) -> Ended:
    """Read until the server closes."""
    texts: list[str] = []
    async with asyncio.timeout(seconds):
        with contextlib.suppress(websockets.ConnectionClosed):
            while True:
                texts.append(str(await ws.recv()))
    return Ended(texts, ws.close_code, ws.close_reason or "")


async def told(ws: ClientConnection, code: int, seconds: float = WAIT_SECONDS) -> str:
    """Read until the server closes, check that it told why in the agreed shape, return the why."""
    ended = await until_closed(ws, seconds)
    assert ended.code == code, ended
    assert ended.texts, f"closed {ended.code} {ended.reason!r} without telling why"
    message = json.loads(ended.texts[-1])["error"]["message"]
    assert json.loads(ended.texts[-1]) == {"error": {"code": code, "message": message}}
    assert ended.reason == message
    return str(message)


async def refused(server: Server, path: str, **options: Any) -> tuple[int, str]:
    """Connect, expect an HTTP refusal of the handshake, and return status and body."""
    try:
        async with connect(server, path, **options) as ws:
            ended = await until_closed(ws)
    except websockets.InvalidStatus as error:
        return error.response.status_code, (error.response.body or b"").decode()
    raise AssertionError(f"{path} was accepted, then {ended}")


async def assert_echoes(server: Server, client_address: str = "127.0.0.1") -> None:
    """Check that a healthy newcomer is served on a socket and over HTTP."""
    async with connect(server, "/ws", local_addr=(client_address, 0)) as ws, http(server) as client:
        await ws.send("probe")
        assert await receive(ws) == "Message received: probe"
        assert (await client.get("/tasks?limit=1")).status_code == 200


async def sign_in(client: httpx2.AsyncClient, username: str = "ann") -> str:
    """Return a fresh token of a demo user; the client keeps no cookie."""
    answer = await client.post("/token", data={"username": username, "password": PASSWORD})
    assert answer.status_code == 200, answer.text
    client.cookies.clear()
    return str(answer.json()["access_token"])


def bearer(token: str) -> dict[str, str]:
    """Return the header that carries `token`."""
    return {"Authorization": f"Bearer {token}"}


async def eventually(
    condition: Callable[[], Awaitable[bool]], what: str, seconds: float = WAIT_SECONDS
) -> None:
    """Poll `condition` until it holds, or fail after `seconds` naming `what`."""
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.02)  # between two polls, not to make sure of anything


async def samples(client: httpx2.AsyncClient) -> dict[str, float]:
    """Return Wirebell's metrics, "name{labels}" → value."""
    answer = await client.get("/realtime/metrics")
    assert answer.status_code == 200
    lines = re.findall(r"^(wirebell_\S*(?:\{.*\})?) (\S+)$", answer.text, re.MULTILINE)
    return {name: float(value) for name, value in lines}


OF_THE_PROCESS = {"wirebell_accepting_count", "wirebell_broker_up", "wirebell_nodes_count"}
"""Gauges that no peer changes: 1 when all is well."""


async def gauges(client: httpx2.AsyncClient) -> dict[str, float]:
    """Return those metrics that must fall back when a peer has gone."""
    answer = await client.get("/realtime/metrics")
    names = set(re.findall(r"^# TYPE (wirebell_\S+) gauge$", answer.text, re.MULTILINE))
    names -= OF_THE_PROCESS
    everything = await samples(client)
    return {key: value for key, value in everything.items() if key.split("{")[0] in names}


async def open_connections(client: httpx2.AsyncClient) -> float:
    """Return how many connections the server counts as open now."""
    found = [value for key, value in (await gauges(client)).items() if "connections" in key]
    assert found, "no gauge of connections at /realtime/metrics"
    return sum(found)


async def wait_quiet(server: Server) -> None:
    """Wait until no connection of an earlier test is left."""
    async with http(server) as client:

        async def nobody() -> bool:
            return await open_connections(client) == 0

        await eventually(nobody, "connections of earlier tests are forgotten")


def our_failures(server: Server) -> int:
    """Count the tracebacks in the log that passed through Wirebell; servers write their own too."""
    return len(re.findall(r'File ".*[/]wirebell[/]', server.log()))


def complaints(server: Server) -> list[str]:
    """List what the log says about callbacks and tasks that broke with nobody to tell."""
    pattern = r"^.*(?:never retrieved|in callback|Exception ignored|Fatal|never awaited|Leaked).*$"
    return re.findall(pattern, server.log(), re.MULTILINE)


async def report(server: Server, name: str, key: str) -> Any:
    """Wait until the app of `asgi_app` has noted `key` about the connection `name`."""
    async with http(server) as client:
        seen: dict[str, Any] = {}

        async def noted() -> bool:
            seen.update((await client.get(f"/report/{name}")).json())
            return key in seen

        await eventually(noted, f"the app notes {key!r}")
        return seen[key]


OPCODES = {"continuation": 0, "text": 1, "binary": 2, "close": 8, "ping": 9, "pong": 10}


@dataclass
class Raw:
    """A WebSocket by hand: says what no library would say, hears what a library would hide."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    response: bytes = b""
    frames: list[tuple[int, bytes]] = field(default_factory=list)

    @property
    def status(self) -> int:
        """Status of the answer to the handshake."""
        return int(self.response.split(b" ", 2)[1])

    def frame(
        self,
        opcode: int,
        payload: bytes = b"",
        *,
        fin: bool = True,
        rsv: int = 0,
        mask: bool = True,
    ) -> bytes:
        """Build one frame; a client's must be masked, which `mask` can break."""
        head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
        flag = 0x80 if mask else 0
        if len(payload) < 126:
            head += bytes([flag | len(payload)])
        elif len(payload) < 65_536:
            head += bytes([flag | 126]) + struct.pack("!H", len(payload))
        else:
            head += bytes([flag | 127]) + struct.pack("!Q", len(payload))
        # A mask of zeros is legal and leaves the payload readable in a failing test.
        return head + (bytes(4) if mask else b"") + payload

    def send(self, data: bytes) -> None:
        """Queue bytes as they are."""
        self.writer.write(data)

    async def read_frame(self) -> tuple[int, bytes]:
        """Return opcode and payload of the next frame.

        Raises:
            EOFError, ConnectionError: The server has ended the connection.
        """
        first, payload = await self.read_first_byte_and_payload()
        return first & 0x0F, payload

    async def read_first_byte_and_payload(self) -> tuple[int, bytes]:
        """Return the next frame as it came: FIN, reserved bits and opcode in one, and its payload.

        Raises:
            EOFError, ConnectionError: The server has ended the connection.
        """
        async with asyncio.timeout(WAIT_SECONDS):
            first, second = await self.reader.readexactly(2)
            assert second & 0x80 == 0, "a server must not mask (RFC 6455, section 5.1)"
            length = second & 0x7F
            if length == 126:
                length = int.from_bytes(await self.reader.readexactly(2))
            elif length == 127:
                length = int.from_bytes(await self.reader.readexactly(8))
            return first, await self.reader.readexactly(length)

    async def read_text(self) -> str:
        """Return the next text, answering pings on the way."""
        while True:
            opcode, payload = await self.read_frame()
            if opcode == OPCODES["ping"]:
                self.send(self.frame(OPCODES["pong"], payload))
            else:
                assert opcode == OPCODES["text"], (opcode, payload)
                return payload.decode()

    async def read_until_end(self) -> int | None:
        """Read until the connection ends; return the close frame's code, if there was one."""
        code: int | None = None
        with contextlib.suppress(EOFError, ConnectionError):
            while True:
                opcode, payload = await self.read_frame()
                self.frames.append((opcode, payload))
                if opcode == OPCODES["close"]:
                    code = int.from_bytes(payload[:2]) if payload else 1005
                    self.send(self.frame(OPCODES["close"], payload[:2]))
        return code

    def abort(self) -> None:
        """Disappear without a close frame, by a TCP reset."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


@contextlib.asynccontextmanager
async def raw(
    server: Server,
    path: str,
    *,
    headers: str = "",
    address: str = "127.0.0.1",
    receive_buffer_bytes: int = 0,
) -> AsyncIterator[Raw]:
    """Do the opening handshake by hand; the link is dropped at the end of the block.

    Args:
        server: Where to.
        path: Sent as it is.
        headers: Further lines, each ending in CRLF.
        address: Ours, from 127.0.0.0/8.
        receive_buffer_bytes: For a reader that wants to fill up soon; 0 is the kernel's choice.
    """
    sock = socket.socket()
    if receive_buffer_bytes:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
    sock.setblocking(False)
    sock.bind((address, 0))
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", server.port))
    limit = receive_buffer_bytes or 2**16
    reader, writer = await asyncio.open_connection(sock=sock, limit=limit)
    connection = Raw(reader, writer)
    key = base64.b64encode(os.urandom(16)).decode()
    connection.send(
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
        f"{headers}\r\n".encode()
    )
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            connection.response = await reader.readuntil(b"\r\n\r\n")
        yield connection
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def handshake(server: Server, request: bytes) -> tuple[int, str]:
    """Send a request as it is, and return the status and all that came until the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write(request)
        async with asyncio.timeout(WAIT_SECONDS):
            answer = await reader.read()
    finally:
        writer.transport.abort()
    status_line = answer.split(b"\r\n", 1)[0].split(b" ")
    return int(status_line[1]), answer.decode("latin-1")
