"""One connection to Redis, bare: what it says is handed on as it is parsed.

Strategy: an asyncio protocol around hiredis' parser, without streams, tasks or locks, because a
node reads every publication of its channels through one of these. It speaks RESP2, in which
whatever is published arrives as an array.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import hiredis

from wirebell.brokers.redis.addresses import Access, Address

__all__ = ("ServerInfo", "Wire", "open_wire")


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a server says of itself.

    Attributes:
        version: Major, minor, patch; zeros before Redis 6, which cannot say it.
        mode: ``standalone``, ``cluster`` or ``sentinel``.
        role: ``master`` or ``replica``.
    """

    version: tuple[int, ...]
    mode: str
    role: str


class Wire(asyncio.Protocol):
    """A connection.

    Mutable state: the parser, and the answers that are waited for, in the order of the questions.
    To be used on its loop.

    Attributes:
        handle: Is given all that arrives, parsed; errors as exceptions. Set anew by who takes the
            connection over; at first it answers what `request` asked.
        handle_lost: Is called once, when the connection has ended.
        chunk_count: How often something arrived.
    """

    def __init__(self) -> None:
        self.parser = hiredis.Reader(notEnoughData=Wire)
        self.transport: asyncio.Transport | None = None
        self.waiting: deque[asyncio.Future[Any]] = deque()
        self.handle: Callable[[Any], None] = self._answer
        self.handle_lost: Callable[[], None] = _ignore
        self.chunk_count = 0
        self.is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Learn that it stands."""
        # uvloop's are none by their class.
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Parse, and hand on."""
        self.chunk_count += 1
        handle, gets = self.handle, self.parser.gets
        try:
            self.parser.feed(data)
            reply = gets()
            while reply is not Wire:
                handle(reply)
                reply = gets()
        except hiredis.ProtocolError:
            # Nothing after it can be understood.
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell everybody who waits."""
        self.is_lost = True
        while self.waiting:
            future = self.waiting.popleft()
            if not future.done():
                future.set_exception(exc or EOFError("closed by the server"))
        self.handle_lost()

    def write(self, *command: str | bytes | int) -> None:
        """Send a command; what it is answered goes to `handle`."""
        assert self.transport is not None
        self.transport.write(hiredis.pack_command(command))  # type: ignore[arg-type]  # any number of them

    async def request(self, *command: str | bytes | int) -> Any:
        """Send a command and wait for its answer.

        Raises:
            hiredis.ReplyError: The answer is an error.
            EOFError: The connection ended first.
        """
        if self.is_lost:
            raise EOFError("closed by the server")
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.waiting.append(future)
        self.write(*command)
        reply = await future
        if isinstance(reply, hiredis.ReplyError):
            raise reply
        return reply

    def abort(self) -> None:
        """End it at once; idempotent."""
        if self.transport is not None:
            self.transport.abort()

    def _answer(self, reply: Any) -> None:
        """Give an answer to who asked."""
        if self.waiting:
            future = self.waiting.popleft()
            if not future.done():
                future.set_result(reply)


async def open_wire(address: Address, access: Access) -> tuple[Wire, ServerInfo]:
    """Connect and enter.

    Raises:
        OSError: It cannot be reached; `ssl.SSLError` where TLS fails, ``TimeoutError`` where it
            takes too long.
        hiredis.ReplyError: It refuses.
        EOFError: It closed the link.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(access.connect_seconds):
        if address.is_unix:
            _, wire = await loop.create_unix_connection(Wire, address.host)
        else:
            _, wire = await loop.create_connection(
                Wire,
                address.host,
                address.port,
                ssl=access.tls,
                server_hostname=(access.server_name or address.host) if access.tls else None,
            )
    try:
        async with asyncio.timeout(access.io_seconds):
            return wire, await _enter(wire, access)
    except BaseException:
        wire.abort()
        raise


async def _enter(wire: Wire, access: Access) -> ServerInfo:
    """Say who we are, and learn who it is."""
    words: list[str] = ["HELLO", "2"]
    if access.password:
        words += ["AUTH", access.user or "default", access.password]
    if access.client_name:
        words += ["SETNAME", access.client_name]
    try:
        reply = await wire.request(*words)
    except hiredis.ReplyError as error:
        if "unknown command" not in str(error).lower():
            raise
        return ServerInfo((0, 0, 0), "standalone", "master")
    known = dict(zip(reply[::2], reply[1::2], strict=False))
    if access.db:
        await wire.request("SELECT", access.db)
    version = known.get(b"version", b"0").decode().split("-")[0]
    return ServerInfo(
        tuple(int(part) for part in version.split(".") if part.isdecimal()),
        known.get(b"mode", b"standalone").decode(),
        known.get(b"role", b"master").decode(),
    )


def _ignore() -> None:
    """Do nothing."""
