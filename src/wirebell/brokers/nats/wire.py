"""One connection to NATS, bare: what it says is handed on as it is parsed.

Strategy: an asyncio protocol, without streams, and without a task or a queue for each
subscription, because a node has a subscription for each of its channels. What is written in one
turn of the loop leaves with it, in one write.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, cast

import msgspec

from wirebell.brokers.nats.faults import NOBODY, Declined, TooLarge, WireLost

__all__ = (
    "LOST",
    "NOT_NATS",
    "NO_RESPONDERS",
    "TOO_LARGE",
    "Receive",
    "Request",
    "ServerInfo",
    "Wire",
)

logger = logging.getLogger(__name__)

Receive = Callable[[bytes, bytes, bytes, bytes], None]
"""Takes subject, the subject to reply to, headers (both empty for none) and payload."""

LOST = b"lost"
"""In place of an answer's headers: the connection ended first, or the time."""

TOO_LARGE = b"too large"
"""Likewise: the question never left; the payload says why."""

NO_RESPONDERS = b"NATS/1.0 503"
"""An answer's headers begin with it where nobody answers."""

# The server's own bound for a line is 4 KB; one that does not end is no NATS.
LINE_BYTES_MAX = 1024 * 1024
# Bytes that the system did not take yet; beyond it, publishing waits.
WRITE_BYTES_HIGH = 1024 * 1024
NOT_NATS = "what it says is not NATS"


class Request(NamedTuple):
    """What is asked, or published to be acknowledged; headers are whole, or empty."""

    subject: bytes
    payload: bytes
    headers: bytes = b""


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
        nonce: To be signed by who has credentials; empty where none are wanted.
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
    nonce: str = ""


class Wire(asyncio.Protocol):
    """A connection.

    Mutable state: what arrived in part, what leaves with this turn, who receives, and who waits
    for an answer. To be used on its loop.

    Attributes:
        info: What the server said of itself last.
        handle_lost: Is called once, when the connection has ended.
        handle_error: Is given what the server complains about, in its words.
        trouble: What the server complained about last.
        trouble_count: How often it did.
    """

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self.info = ServerInfo()
        self.handle_lost: Callable[[], None] = _ignore
        self.handle_error: Callable[[str], None] = _ignore_text
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
        size = len(payload) + len(headers)
        self.check_size(size)
        if headers:
            line = b"HPUB %b %b %d %d\r\n" % (subject, reply, len(headers), size)
            self.write(line + headers + payload + b"\r\n")
        else:
            self.write(b"PUB %b %b %d\r\n" % (subject, reply, size) + payload + b"\r\n")

    def check_size(self, size: int) -> None:
        """Raise `TooLarge` for more bytes than the server takes."""
        limit = self.info.max_payload
        if size > limit:
            raise TooLarge(
                0, f"a message has {size} bytes, limit {limit}: raise max_payload of nats-server"
            )

    async def ask(
        self, subject: bytes, payload: bytes, headers: bytes = b""
    ) -> tuple[bytes, bytes]:
        """Ask, and wait for the answer's headers and payload; who calls bounds the time.

        Raises:
            WireLost: The connection ended first.
            Declined: Nobody answers, or the question is too long.
        """
        if self.is_lost:
            raise WireLost(self.trouble)
        future: asyncio.Future[tuple[bytes, bytes]] = self.loop.create_future()

        def receive(_: bytes, __: bytes, head: bytes, body: bytes) -> None:
            if future.done():
                return
            if head == LOST:
                future.set_exception(WireLost(body.decode()))
            elif head.startswith(NO_RESPONDERS):
                future.set_exception(Declined(NOBODY, "no responders"))
            else:
                future.set_result((head, body))

        token = self._expect(receive)
        try:
            self.publish(subject, payload, self.inbox + token, headers)
            return await future
        finally:
            self.answers.pop(token, None)

    async def ask_all(self, requests: Sequence[Request], until: float) -> list[tuple[bytes, bytes]]:
        """Ask many at once, as soon as the server takes what was written before.

        Args:
            requests: At least one.
            until: An instant of the loop's clock.

        Returns:
            For each the headers and the payload of its answer; in place of the headers
            `TOO_LARGE` where it never left, `LOST` where nothing came in time.
        """
        answers = [(LOST, b"")] * len(requests)
        tokens: list[bytes] = []
        missing = len(requests)
        is_done = asyncio.Event()

        def take(place: int, _: bytes, __: bytes, head: bytes, body: bytes) -> None:
            nonlocal missing
            answers[place] = head, body
            missing -= 1
            if not missing:
                is_done.set()

        try:
            async with asyncio.timeout_at(until):
                await self.writable.wait()
                if self.is_lost:
                    return answers
                for place, request in enumerate(requests):
                    token = self._expect(partial(take, place))
                    tokens.append(token)
                    try:
                        self.publish(
                            request.subject,
                            request.payload,
                            self.inbox + token,
                            request.headers,
                        )
                    except TooLarge as error:
                        take(place, b"", b"", TOO_LARGE, str(error).encode())
                await is_done.wait()
        except TimeoutError:
            pass
        finally:
            for token in tokens:
                self.answers.pop(token, None)
        return answers

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

    def close(self) -> None:
        """End it when what was written has left; nobody is told. Idempotent."""
        self.handle_lost = _ignore
        if self.transport is not None and not self.is_lost:
            self._flush()
            self.transport.close()

    def abort(self) -> None:
        """End it at once; idempotent."""
        if self.transport is not None:
            self.transport.abort()

    # Inside

    def _expect(self, receive: Receive) -> bytes:
        """Have one answer handed on; returns the last word of the subject it has to go to."""
        self.token += 1
        token = b"%d" % self.token
        self.answers[token] = receive
        return token

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
                try:
                    receive(words[1], reply, data[start:body], data[body:stop])
                except Exception:
                    # A mistake of ours: the link goes on, for everybody else.
                    logger.exception("a message of NATS was not taken")
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


def _ignore() -> None:
    """Do nothing."""


def _ignore_text(_: str) -> None:
    """Do nothing."""
