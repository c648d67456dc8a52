"""One connection to NATS, bare: what it says is handed on as it is parsed.

Strategy: an asyncio protocol, without streams, and without a task or a queue for each
subscription, because a node has a subscription for each of its channels. What is written in one
turn of the loop leaves with it, in one write.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import ssl
from collections import deque
from collections.abc import Callable
from typing import cast

import msgspec

from wirebell.brokers.nats.addresses import Address
from wirebell.brokers.nats.faults import Declined, Refused, TooLarge, WireLost
from wirebell.version import __version__

__all__ = ("LOST", "Receive", "ServerInfo", "Wire", "open_wire")

Receive = Callable[[bytes, bytes, bytes, bytes], None]
"""Takes subject, the subject to reply to, headers (both empty for none) and payload."""

LOST = b"lost"
"""In place of an answer's headers: the connection ended first."""

# The server's own bound for a line is 4 KB; one that does not end is no NATS.
LINE_BYTES_MAX = 1024 * 1024
# Bytes that the system did not take yet; beyond it, publishing waits.
WRITE_BYTES_HIGH = 1024 * 1024
# What the broker needs came with it: headers, JetStream, publishing anew what was stored.
VERSION_MIN = (2, 9)
NOT_NATS = "what it says is not NATS"
NO_RESPONDERS = b"NATS/1.0 503"


class ServerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a server says of itself.

    Attributes:
        server_id: That no other server has.
        version: Major, minor and patch with dots.
        max_payload: Bytes of a message, headers included.
        headers: It knows headers.
        jetstream: JetStream is on, here.
        tls_required: It speaks TLS only.
        tls_available: It speaks TLS to who wants.
        cluster: The name of its cluster; empty for none.
        connect_urls: ``host:port`` of the cluster's servers.
        ldm: It is about to stop, and asks to leave.
    """

    server_id: str = ""
    version: str = "0.0.0"
    max_payload: int = 1024 * 1024
    headers: bool = False
    jetstream: bool = False
    tls_required: bool = False
    tls_available: bool = False
    cluster: str = ""
    connect_urls: tuple[str, ...] = ()
    ldm: bool = False


class Wire(asyncio.Protocol):
    """A connection.

    Mutable state: what arrived in part, what leaves with this turn, who receives, and who waits
    for an answer. To be used on its loop.

    Attributes:
        info: What the server said of itself last.
        handle_lost: Is called once, when the connection has ended.
        handle_error: Is given what the server complains about, in its words.
        chunk_count: How often something arrived.
        trouble: What the server complained about last.
        trouble_count: How often it did.
    """

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self.info = ServerInfo()
        self.handle_lost: Callable[[], None] = _ignore
        self.handle_error: Callable[[str], None] = _ignore_text
        self.chunk_count = 0
        self.trouble = ""
        self.trouble_count = 0
        self.is_lost = False
        self.parts: list[bytes] = []
        self.part_count = self.needed = 0
        self.written: list[bytes] = []
        self.pongs: deque[asyncio.Future[None]] = deque()
        self.ping: asyncio.Future[None] | None = None
        self.greeting: asyncio.Future[None] = self.loop.create_future()
        self.writable = asyncio.Event()
        self.writable.set()
        self.receivers: dict[bytes, Receive] = {}
        self.sid = 1
        self.inbox = b"_INBOX." + secrets.token_hex(10).encode() + b"."
        self.token = 0
        self.answers: dict[bytes, Receive] = {}

    # The loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Learn that it stands."""
        # uvloop's are none by their class.
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=WRITE_BYTES_HIGH)

    def data_received(self, data: bytes) -> None:
        """Parse, and hand on."""
        self.chunk_count += 1
        if self.parts:
            self.parts.append(data)
            self.part_count += len(data)
            if self.part_count < self.needed:
                return
            data = b"".join(self.parts)
            self.parts = []
        try:
            at = self._parse(data)
        except (ValueError, IndexError):
            self.trouble = NOT_NATS
            self.abort()
            return
        if at < len(data) and not self.is_lost:
            self.parts = [data[at:]]
            self.part_count = len(data) - at
            if self.part_count > self.needed and self.part_count > LINE_BYTES_MAX:
                self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell everybody who waits."""
        self.is_lost = True
        self.writable.set()
        error = WireLost(self.trouble or (str(exc) if exc else "it closed the link"))
        waiting = [self.greeting, *self.pongs, *([self.ping] if self.ping else [])]
        self.pongs.clear()
        for future in waiting:
            if not future.done():
                future.set_exception(error)
                # Whoever waited may be gone.
                future.exception()
        answers, self.answers = self.answers, {}
        for receive in answers.values():
            receive(b"", b"", LOST, str(error).encode())
        self.handle_lost()

    def pause_writing(self) -> None:
        """Learn that the server takes no more for the moment."""
        self.writable.clear()

    def resume_writing(self) -> None:
        """Learn that it does again."""
        self.writable.set()

    # Who has it calls

    def subscribe(self, subject: bytes, receive: Receive) -> bytes:
        """Receive a subject from now on; returns the subscription's id."""
        self.sid += 1
        sid = b"%d" % self.sid
        self.receivers[sid] = receive
        self.write(b"SUB %b %b\r\n" % (subject, sid))
        return sid

    def unsubscribe(self, sid: bytes) -> None:
        """Receive nothing of a subscription any more."""
        if self.receivers.pop(sid, None) is not None:
            self.write(b"UNSUB %b\r\n" % sid)

    def publish(
        self, subject: bytes, payload: bytes, reply: bytes = b"", headers: bytes = b""
    ) -> None:
        """Publish with this turn; ``headers`` are whole, with their first line and the empty one.

        Raises:
            Declined: It is larger than the server takes.
        """
        size, limit = len(payload) + len(headers), self.info.max_payload
        if size > limit:
            raise TooLarge(
                0, f"a message has {size} bytes, limit {limit}: raise max_payload of nats-server"
            )
        if headers:
            line = b"HPUB %b %b %d %d\r\n" % (subject, reply, len(headers), size)
            self.write(line + headers + payload + b"\r\n")
        else:
            self.write(b"PUB %b %b %d\r\n" % (subject, reply, size) + payload + b"\r\n")

    def expect(self, receive: Receive) -> tuple[bytes, bytes]:
        """Have one answer handed on: returns its token, and the subject it has to go to."""
        self.token += 1
        token = b"%d" % self.token
        self.answers[token] = receive
        return token, self.inbox + token

    async def request(self, subject: bytes, payload: bytes, headers: bytes = b"") -> bytes:
        """Ask, and wait for the answer; who calls bounds the time.

        Raises:
            WireLost: The connection ended first.
            Declined: Nobody answers, or the question is too long.
        """
        return (await self.ask(subject, payload, headers))[1]

    async def ask(
        self, subject: bytes, payload: bytes, headers: bytes = b""
    ) -> tuple[bytes, bytes]:
        """Ask as `request` does; returns the answer's headers, too."""
        if self.is_lost:
            raise WireLost(self.trouble)
        future: asyncio.Future[tuple[bytes, bytes]] = self.loop.create_future()

        def receive(_: bytes, __: bytes, head: bytes, body: bytes) -> None:
            if future.done():
                return
            if head == LOST:
                future.set_exception(WireLost(body.decode()))
            elif head.startswith(NO_RESPONDERS):
                future.set_exception(Declined(503, "no responders"))
            else:
                future.set_result((head, body))

        token, reply = self.expect(receive)
        try:
            self.publish(subject, payload, reply, headers)
            return await future
        finally:
            self.answers.pop(token, None)

    def sync(self) -> asyncio.Future[None]:
        """Ask whether all that was written until the end of this turn was taken; for many at once.

        Whoever cancels it cancels it for all: shield it.
        """
        if self.is_lost:
            future: asyncio.Future[None] = self.loop.create_future()
            future.set_exception(WireLost("it closed the link"))
            future.exception()
            return future
        if self.ping is None:
            self.ping = self.loop.create_future()
            self.write(b"")
        return self.ping

    def write(self, data: bytes) -> None:
        """Send bytes with this turn."""
        if not self.written:
            self.loop.call_soon(self._flush)
        self.written.append(data)

    def abort(self) -> None:
        """End it at once; idempotent."""
        if self.transport is not None:
            self.transport.abort()

    # Inside

    def _flush(self) -> None:
        """Send what was written in this turn."""
        written, self.written = self.written, []
        if self.ping is not None:
            self.pongs.append(self.ping)
            self.ping = None
            written.append(b"PING\r\n")
        if self.transport is not None and not self.is_lost:
            self.transport.write(b"".join(written))

    def _parse(self, data: bytes) -> int:
        """Hand on all that is whole, and return where the rest begins."""
        at, end, find, receivers = 0, len(data), data.find, self.receivers
        self.needed = 0
        while (line_end := find(b"\r\n", at)) >= 0:
            has_headers = data.startswith(b"HMSG ", at)
            if not has_headers and not data.startswith(b"MSG ", at):
                self._take_line(data[at:line_end])
                at = line_end + 2
                continue
            words = data[at:line_end].split()
            start = line_end + 2
            stop = start + int(words[-1])
            if stop + 2 > end:
                self.needed = stop + 2 - at
                break
            body = start + int(words[-2]) if has_headers else start
            at = stop + 2
            receive = receivers.get(words[2])
            if receive is not None:
                # Both kinds have one word more when there is somebody to reply to.
                reply = words[3] if len(words) == (6 if has_headers else 5) else b""
                receive(words[1], reply, data[start:body], data[body:stop])
        return at

    def _take_line(self, line: bytes) -> None:
        """Take what carries no payload."""
        if line == b"PING":
            self.write(b"PONG\r\n")
        elif line == b"PONG":
            if self.pongs:
                future = self.pongs.popleft()
                if not future.done():
                    future.set_result(None)
        elif line.startswith(b"-ERR"):
            self.trouble = line[4:].strip(b" '").decode(errors="replace")
            self.trouble_count += 1
            self.handle_error(self.trouble)
        elif line.startswith(b"INFO "):
            try:
                self.info = msgspec.json.decode(line[5:], type=ServerInfo)
            except msgspec.MsgspecError:
                self.abort()
                return
            if not self.greeting.done():
                self.greeting.set_result(None)
        elif not line.startswith(b"+"):
            # Nothing after it can be understood.
            self.trouble = NOT_NATS
            self.abort()

    def listen(self) -> None:
        """Receive answers."""
        self.receivers[b"1"] = self._answer
        self.write(b"SUB %b* 1\r\n" % self.inbox)

    def _answer(self, subject: bytes, reply: bytes, head: bytes, body: bytes) -> None:
        """Give an answer to who asked."""
        receive = self.answers.pop(subject[len(self.inbox) :], None)
        if receive is not None:
            receive(subject, reply, head, body)


async def open_wire(address: Address, connect_seconds: float, io_seconds: float) -> Wire:
    """Connect and enter.

    Raises:
        OSError: It cannot be reached; `ssl.SSLError` where TLS fails, ``TimeoutError`` where it
            takes too long.
        Refused: It does not let us in, or is not what it has to be.
        WireLost: It closed the link.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(connect_seconds):
        _, wire = await loop.create_connection(Wire, address.host, address.port)
    try:
        async with asyncio.timeout(io_seconds):
            await _enter(wire, address)
    except BaseException:
        wire.abort()
        raise
    return wire


async def _enter(wire: Wire, address: Address) -> None:
    """Learn who it is, and say who we are."""
    try:
        await wire.greeting
    except WireLost as error:
        if wire.trouble == NOT_NATS:
            raise Refused(f"{NOT_NATS}: is the port right?") from error
        raise WireLost(f"it closed the link before it said anything ({error})") from error
    info = wire.info
    check_version(info)
    context = address.tls
    if context is None and info.tls_required:
        context = ssl.create_default_context()
    if context is not None:
        if not (info.tls_required or info.tls_available):
            raise Refused("it does not speak TLS: write nats:// instead of tls://")
        await _encrypt(wire, context, address)
    words: dict[str, object] = {
        "verbose": False,
        "pedantic": False,
        "tls_required": context is not None,
        "name": "wirebell",
        "lang": "python",
        "version": __version__,
        "protocol": 1,
        "headers": True,
        "no_responders": True,
        "echo": True,
    }
    if address.password:
        words |= {"user": address.user, "pass": address.password}
    elif address.user:
        words["auth_token"] = address.user
    wire.write(b"CONNECT %b\r\n" % msgspec.json.encode(words))
    wire.listen()
    try:
        await wire.sync()
    except WireLost as error:
        raise _refusal_of(wire, error, is_encrypted=context is not None) from error


async def _encrypt(wire: Wire, context: ssl.SSLContext, address: Address) -> None:
    """Speak TLS from now on."""
    assert wire.transport is not None
    transport = await wire.loop.start_tls(
        wire.transport,
        wire,
        context,
        server_hostname=address.server_name or address.host,
    )
    if transport is None:
        raise WireLost("it closed the link in the middle of TLS")
    wire.connection_made(transport)


def check_version(info: ServerInfo) -> None:
    """Refuse a server that cannot do what is needed.

    Raises:
        Refused: It is too old.
    """
    version = tuple(int(part) for part in re.findall(r"\d+", info.version)[:2])
    if version < VERSION_MIN:
        raise Refused(
            f"it is nats-server {info.version}, needed is {VERSION_MIN[0]}.{VERSION_MIN[1]} or "
            "newer: upgrade it"
        )


def _refusal_of(wire: Wire, error: WireLost, *, is_encrypted: bool) -> Exception:
    """Say why a server closed the link while we entered."""
    trouble = wire.trouble.lower()
    if "authorization" in trouble or "authentication" in trouble:
        return Refused(
            "it refuses user and password, or wants some: give them in the URL "
            f"(nats://user:password@host) ({wire.trouble})"
        )
    if is_encrypted and not trouble:
        return Refused(
            "it closed the link behind TLS: does it want a certificate of ours (tls_cert, tls_key)?"
        )
    return error


def _ignore() -> None:
    """Do nothing."""


def _ignore_text(_: str) -> None:
    """Do nothing."""
