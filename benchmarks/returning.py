"""Clients that come back: subscribers of the protocol for `rolling_restart`, and who publishes.

Strategy: a client is an `asyncio.Protocol` that speaks what an SDK speaks (connect with a token,
subscribe, recover from its position, answer pings) and waits as SDKs do before it tries again. It
checks every publication by its offset and by the number in it. Nothing here knows a server's
process; all of it runs on one event loop.
"""

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec

from crowd import CLOSE, HOST, PING, PONG, TEXT, make_frame, make_request

__all__ = ("API_KEY", "Client", "Publisher", "Tally", "ask")

API_KEY = "benchmarks-only"
PATH = "/connection/websocket"
# Of the SDKs: full jitter over the least delay, which doubles up to the longest.
DELAY_SECONDS, DELAY_SECONDS_MAX = 0.5, 20.0
ANSWER_SECONDS = 5.0
"""Of the SDKs: after so long without an answer a link is given up."""
RETRY_SECONDS = 0.05
WITHOUT_A_WORD = 1006

decode = msgspec.json.Decoder().decode


@dataclass(slots=True)
class Tally:
    """What all clients found.

    Attributes:
        returns: When each was back, and how many seconds it had been away.
        codes: How links ended; 1006 without a close frame.
        duplicates: Publications that came twice.
        hidden: Publications that were missing, without a word.
        unrecovered: Times that somebody was told that something is missing.
        refused: Commands that were answered with an error.
        delivered: Publications that came.
    """

    returns: list[tuple[float, float]] = field(default_factory=list)
    codes: Counter[int] = field(default_factory=Counter)
    duplicates: int = 0
    hidden: int = 0
    unrecovered: int = 0
    refused: int = 0
    delivered: int = 0


class Client(asyncio.Protocol):
    """A subscriber of one channel, that comes back until it is told to stop.

    Args:
        port: Where to.
        token: Who it is.
        channel: Its publications hold numbers that rise by one.
        tally: Where it counts.

    Attributes:
        is_there: It is connected and subscribed.
        received: Numbers that came; the next one has this number.
    """

    def __init__(self, port: int, token: str, channel: str, tally: Tally) -> None:
        self.port, self.token, self.channel, self.tally = port, token, channel, tally
        self.transport: asyncio.Transport | None = None
        self.is_there = asyncio.Event()
        self.is_stopped = False
        self.received = 0
        self.epoch, self.offset = "", 0
        self.buffer = b""
        self.is_upgraded = False
        self.code = WITHOUT_A_WORD
        self.attempts = 0
        self.away_since = time.perf_counter()
        self.timer: asyncio.TimerHandle | None = None
        self.opening: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Connect."""
        self.opening = asyncio.create_task(self._open())

    def stop(self) -> None:
        """Leave, and stay away."""
        self.is_stopped = True
        if self.timer is not None:
            self.timer.cancel()
        if self.transport is not None:
            self.transport.abort()

    async def _open(self) -> None:
        """Try once; a failure is tried again by itself."""
        loop = asyncio.get_running_loop()
        self.timer = loop.call_later(ANSWER_SECONDS, self._give_up)
        self.buffer, self.is_upgraded, self.code = b"", False, WITHOUT_A_WORD
        try:
            await loop.create_connection(lambda: self, HOST, self.port)
        except OSError:
            self._plan()

    def _give_up(self) -> None:
        """End a link that is of no use; the next one recovers."""
        if self.transport is not None:
            self.transport.abort()

    def _plan(self) -> None:
        """Try again after a while."""
        if self.timer is not None:
            self.timer.cancel()
        if self.is_stopped:
            return
        jitter = random.random() * DELAY_SECONDS * 2**self.attempts
        delay = min(DELAY_SECONDS + jitter, DELAY_SECONDS_MAX)
        self.attempts += 1
        self.timer = asyncio.get_running_loop().call_later(delay, self.start)

    # The link

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for a WebSocket."""
        # Uvloop's has no such base.
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(make_request(PATH))

    def connection_lost(self, exc: Exception | None) -> None:
        """Come back."""
        self.transport = None
        if self.is_there.is_set():
            self.is_there.clear()
            self.away_since = time.perf_counter()
        if not self.is_stopped:
            self.tally.codes[self.code] += 1
        self._plan()

    def data_received(self, data: bytes) -> None:
        """Take what has come."""
        data = self.buffer + data
        if not self.is_upgraded:
            head, end, data = data.partition(b"\r\n\r\n")
            if not end:
                self.buffer = head
                return
            if not head.startswith(b"HTTP/1.1 101 "):
                self._give_up()
                return
            self.is_upgraded = True
            self._sign_in()
        at = 0
        while (found := read_frame(data, at)) is not None:
            opcode, payload, at = found
            self._take(opcode, payload)
        self.buffer = data[at:]

    def _sign_in(self) -> None:
        """Connect and subscribe, from where it was."""
        request: dict[str, Any] = {"channel": self.channel}
        if self.epoch:
            request |= {"recover": True, "epoch": self.epoch, "offset": self.offset}
        self._send({"id": 1, "connect": {"token": self.token}})
        self._send({"id": 2, "subscribe": request})

    def _send(self, command: dict[str, Any]) -> None:
        """Send a command."""
        if self.transport is not None:
            text = json.dumps(command, separators=(",", ":")).encode()
            self.transport.write(make_frame(TEXT, text))

    # What the server says

    def _take(self, opcode: int, payload: bytes) -> None:
        """Take a frame."""
        if opcode == TEXT:
            for line in payload.split(b"\n"):
                self._handle(decode(line))
        elif self.transport is not None and opcode == PING:
            self.transport.write(make_frame(PONG, payload))
        elif self.transport is not None and opcode == CLOSE:
            self.code = int.from_bytes(payload[:2])
            self.transport.write(make_frame(CLOSE, payload[:2]))

    def _handle(self, message: dict[str, Any]) -> None:
        """Take a reply, a push or a ping."""
        if "push" in message:
            push = message["push"]
            if "pub" in push:
                self._receive(push["pub"])
            elif "unsubscribe" in push:
                self.tally.unrecovered += 1
                self._give_up()
        elif "error" in message:
            self.tally.refused += 1
            self._give_up()
        elif "subscribe" in message:
            self._subscribed(message["subscribe"])
        elif not message:
            self._send({})

    def _subscribed(self, result: dict[str, Any]) -> None:
        """Take what was missed."""
        now = time.perf_counter()
        for publication in result.get("publications", ()):
            self._receive(publication)
        if self.epoch:
            self.tally.returns.append((now, now - self.away_since))
        if not result.get("recovered"):
            # Of a recovery the answer repeats what was asked for, and publications follow it.
            self.tally.unrecovered += bool(self.epoch)
            self.epoch, self.offset = result["epoch"], result.get("offset", 0)
        self.attempts = 0
        if self.timer is not None:
            self.timer.cancel()
        self.is_there.set()

    def _receive(self, publication: dict[str, Any]) -> None:
        """Check a publication."""
        offset, number = publication["offset"], publication["data"]["n"]
        self.tally.delivered += 1
        if offset <= self.offset or number < self.received:
            self.tally.duplicates += 1
            return
        self.tally.hidden += max(offset - self.offset, number - self.received + 1) - 1
        self.offset, self.received = offset, number + 1


def read_frame(data: bytes, at: int) -> tuple[int, bytes, int] | None:
    """Read a server's frame: opcode, payload, and where the next begins; ``None``: not whole."""
    if len(data) < at + 2:
        return None
    size, start = data[at + 1], at + 2
    if size >= 126:
        width = 2 if size == 126 else 8
        size, start = int.from_bytes(data[start : start + width]), start + width
    if len(data) < start + size:
        return None
    return data[at] & 15, data[start : start + size], start + size


async def ask(port: int, method: str, body: dict[str, Any]) -> dict[str, Any]:
    """Ask the server API by a link of its own; returns the result.

    Raises:
        OSError: There was no good answer.
    """
    text = json.dumps(body).encode()
    head = (
        f"POST /api/{method} HTTP/1.1\r\nHost: x\r\nX-API-Key: {API_KEY}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
    )
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            reader, writer = await asyncio.open_connection(HOST, port)
            try:
                writer.write(head.encode() + text)
                answer = await reader.read()
            finally:
                writer.transport.abort()
    except TimeoutError as error:
        raise OSError("no answer in time") from error
    status, _, found = answer.partition(b"\r\n\r\n")
    if not status.startswith(b"HTTP/1.1 200 "):
        raise OSError(f"{method} was answered {status[:60]!r}")
    message: dict[str, Any] = json.loads(found)
    if "error" in message:
        raise OSError(f"{method} was answered {message['error']}")
    result: dict[str, Any] = message["result"]
    return result


class Publisher:
    """Publishes numbers into channels by turns, and each again until it is acknowledged.

    A retry carries the idempotency key of the first try.

    Args:
        port: Where to.
        channels: At least one.
        interval_seconds: Between two publications.

    Attributes:
        acknowledged: Channel → how many.
        repeated: Tries that were not answered.
    """

    def __init__(self, port: int, channels: Sequence[str], interval_seconds: float) -> None:
        self.port, self.channels, self.interval_seconds = port, channels, interval_seconds
        self.acknowledged = dict.fromkeys(channels, 0)
        self.repeated = 0
        self.is_stopped = False

    async def run(self) -> None:
        """Publish until stopped."""
        due = time.perf_counter()
        while not self.is_stopped:
            for channel in self.channels:
                due += self.interval_seconds
                await asyncio.sleep(max(due - time.perf_counter(), 0))
                await self._publish(channel)

    async def _publish(self, channel: str) -> None:
        """Publish the next number."""
        number = self.acknowledged[channel]
        body = {"channel": channel, "data": {"n": number, "text": "x" * 90}}
        body["idempotency_key"] = str(number)
        while True:
            with contextlib.suppress(OSError):
                await ask(self.port, "publish", body)
                break
            self.repeated += 1
            await asyncio.sleep(RETRY_SECONDS)
        self.acknowledged[channel] = number + 1
