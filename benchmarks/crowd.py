"""Clients for `faults`: healthy ones that check every delivery, and broken ones.

Strategy: `Crowd` is an epoll loop that turns only while `run` runs, so that a benchmark decides
what happens when. Broken clients run in processes of their own (`in_process`). Every wait is
bounded.
"""

import contextlib
import multiprocessing
import os
import random
import select
import socket
import struct
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Self

import rig

__all__ = (
    "HOST",
    "PATH",
    "WAIT_SECONDS",
    "Crowd",
    "Reader",
    "Waiting",
    "fill",
    "flood",
    "in_process",
    "open_sockets",
    "receive",
    "reset",
)

HOST = "127.0.0.1"
PATH = "/bench"
WAIT_SECONDS = 20.0
"""Bound of every answer of a server that is well."""
BATCH = 64
"""Handshakes at once: fewer than any backlog."""
TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


def make_request(path: str) -> bytes:
    """Build a handshake."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


def make_frame(opcode: int, payload: bytes) -> bytes:
    """Build a client's frame, masked with zeros, of up to 65,535 bytes."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + struct.pack("!H", size)
    return bytes([0x80 | opcode]) + length + bytes(4) + payload


def open_sockets(
    address: tuple[str, int], count: int, path: str = PATH, receive_buffer_bytes: int = 0
) -> list[socket.socket]:
    """Open WebSockets, `BATCH` at a time.

    Raises:
        RuntimeError: One was refused.
        OSError: One was not answered in time.
    """
    request = make_request(path)
    opened: list[socket.socket] = []
    while len(opened) < count:
        batch = [socket.socket() for _ in range(min(BATCH, count - len(opened)))]
        for sock in batch:
            if receive_buffer_bytes:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
            sock.settimeout(WAIT_SECONDS)
            sock.connect(address)
            sock.sendall(request)
        for sock in batch:
            answer = sock.recv(4096)
            if not answer.startswith(b"HTTP/1.1 101 "):
                raise RuntimeError(f"a handshake was answered {answer!r}")
        opened += batch
    return opened


def reset(sockets: Sequence[socket.socket]) -> None:
    """Close without leaving ports in TIME_WAIT."""
    for sock in sockets:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()


@dataclass(slots=True)
class Reader:
    """A healthy subscriber.

    Attributes:
        sock: Its end of the link.
        rest: Bytes of an incomplete frame.
        expected: Number of its next delivery.
        missed: Numbers that others had before it: pairs of the first, and the first after.
        code: Of the close frame it got; 0 before.
        closed_at: When it got it, on `time.perf_counter`.
        is_open: Whether the link is.
    """

    sock: socket.socket
    rest: bytes = b""
    expected: int = 0
    missed: list[tuple[int, int]] = field(default_factory=list)
    code: int = 0
    closed_at: float = 0.0
    is_open: bool = True


class Crowd:
    """Healthy subscribers of one room, one of which publishes; every delivery is checked.

    State: the sockets, and what they have received. Use it as a context manager, from one thread.

    Args:
        port: Whom to load.
        count: How many, 1 or more.
        rate: Publications per second while `run` runs.
        payload_bytes: Length of a publication, 10 to 65,535.
    """

    def __init__(self, port: int, count: int, rate: float, payload_bytes: int = 116) -> None:
        self.rate = rate
        self.filler = b"x" * (payload_bytes - 10)
        short = payload_bytes < 126
        self.head = b"\x81" + (
            bytes([payload_bytes]) if short else b"\x7e" + struct.pack("!H", payload_bytes)
        )
        self.frame_bytes = len(self.head) + payload_bytes
        self.published_at: list[float] = []
        self.seen: set[int] = set()
        self.doubled = 0
        self.latencies = array("d")
        self.readers: dict[int, Reader] = {}
        self.epoll = select.epoll()
        for sock in open_sockets((HOST, port), count):
            sock.settimeout(0)
            self.readers[sock.fileno()] = Reader(sock)
            self.epoll.register(sock, select.EPOLLIN)
        self.open_count = count
        self.publishers = iter(list(self.readers.values()))
        self.publisher = next(self.publishers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        reset([reader.sock for reader in self.readers.values()])
        self.epoll.close()

    def run(
        self, seconds: float, until: Callable[[], bool] | None = None, *, publishes: bool = True
    ) -> float:
        """Publish and receive for a time, or until something is so.

        That is asked ten times a second.

        Returns:
            p99 of all deliveries in milliseconds; 0 when there was none.
        """
        start = due = asked_at = time.perf_counter()
        self.latencies = array("d")
        while (now := time.perf_counter()) < start + seconds:
            if until is not None and now >= asked_at + 0.1:
                asked_at = now
                if until():
                    break
            if publishes and now >= due:
                self._publish(due)
                due += 1 / self.rate
            wait = min(due if publishes else now + 0.1, start + seconds, now + 0.1) - now
            for descriptor, _event in self.epoll.poll(max(wait, 0)):
                self._read(self.readers[descriptor])
        ordered = sorted(self.latencies)
        return round(ordered[len(ordered) * 99 // 100] * 1000, 2) if ordered else 0.0

    def settle(self) -> None:
        """Receive until everybody has everything, or the time is over; `count_lost` tells which."""

        def has_all() -> bool:
            count = len(self.published_at)
            return all(r.expected == count or not r.is_open for r in self.readers.values())

        self.run(WAIT_SECONDS, has_all, publishes=False)

    def count_lost(self, close_seconds: float = 1.0) -> int:
        """Count deliveries that somebody is owed.

        Nobody is owed what nobody got because its publisher was closed before; and who was closed
        is owed what was published `close_seconds` before that, and not what was on its way.
        """
        lost = 0
        for reader in self.readers.values():
            gaps = [*reader.missed, (reader.expected, len(self.published_at))]
            last = reader.closed_at - close_seconds if reader.closed_at else float("inf")
            for first, after in gaps:
                owed = [
                    number in self.seen
                    for number in range(first, after)
                    if self.published_at[number] < last
                ]
                # While all links are open, what nobody got is lost as well.
                lost += sum(owed) if self.open_count < len(self.readers) else len(owed)
        return lost

    def _publish(self, due: float) -> None:
        """Have somebody publish whose link is open."""
        while not self.publisher.is_open or self.publisher.code:
            following = next(self.publishers, None)
            if following is None:
                return
            self.publisher = following
        text = b"%010d" % len(self.published_at) + self.filler
        self.published_at.append(due)
        with contextlib.suppress(OSError):
            self.publisher.sock.send(make_frame(TEXT, text))

    def _read(self, reader: Reader) -> None:
        """Take what has come."""
        try:
            data = reader.rest + (piece := reader.sock.recv(262_144))
        except BlockingIOError:
            return
        except OSError:
            data = piece = b""
        if not piece:
            self.epoll.unregister(reader.sock)
            reader.is_open = False
            self.open_count -= 1
            return
        now, at, size, head = time.perf_counter(), 0, len(data), len(self.head)
        while size - at >= 2:
            if data.startswith(self.head, at):
                if size - at < self.frame_bytes:
                    break
                self._deliver(reader, int(data[at + head : at + head + 10]), now)
                at += self.frame_bytes
            else:
                end = at + 2 + data[at + 1]
                if end > size:
                    break
                self._obey(reader, data[at] & 15, data[at + 2 : end], now)
                at = end
        reader.rest = data[at:]

    def _deliver(self, reader: Reader, number: int, now: float) -> None:
        """Check one delivery."""
        if number < reader.expected:
            self.doubled += 1
            return
        if number > reader.expected:
            reader.missed.append((reader.expected, number))
        reader.expected = number + 1
        self.seen.add(number)
        self.latencies.append(now - self.published_at[number])

    def _obey(self, reader: Reader, opcode: int, payload: bytes, now: float) -> None:
        """Answer a frame that is no delivery."""
        answers = {PING: PONG, CLOSE: CLOSE}
        if opcode == CLOSE:
            reader.code, reader.closed_at = int.from_bytes(payload[:2]), now
        if opcode in answers:
            with contextlib.suppress(OSError):
                reader.sock.send(
                    make_frame(answers[opcode], payload[:2] if opcode == CLOSE else payload)
                )


def fill(port: int, count: int, orders: Connection) -> None:
    """Open connections that say nothing, say so, and close as many as told."""
    rig.fits_descriptors(count)
    opened = open_sockets((HOST, port), count, "/echo")
    orders.send(len(opened))
    while leaving := orders.recv():
        reset(opened[:leaving])
        del opened[:leaving]


class Waiting:
    """Clients that have asked for a WebSocket and wait for the answer."""

    def __init__(self, port: int, count: int) -> None:
        self.poll = select.poll()
        self.sockets = [socket.create_connection((HOST, port), WAIT_SECONDS) for _ in range(count)]
        self.waiting = {sock.fileno(): sock for sock in self.sockets}
        self.refused = 0
        for sock in self.sockets:
            sock.sendall(make_request("/echo"))
            self.poll.register(sock, select.POLLIN)

    def is_over(self) -> bool:
        """Look who was answered meanwhile; true when nobody waits any more."""
        for descriptor, _event in self.poll.poll(0):
            sock = self.waiting.pop(descriptor)
            self.poll.unregister(sock)
            try:
                self.refused += not sock.recv(4096).startswith(b"HTTP/1.1 101 ")
            except OSError:
                self.refused += 1
        return not self.waiting


class Garbage:
    """Connections that send random bytes, each followed by another of its kind when it ends.

    A third of them asks for nothing that is HTTP, a third sends random frames after a good
    handshake, a third stops in the middle of a handshake.

    Args:
        port: Whom to send it to.
        count: How many at a time.
    """

    KINDS = ("http", "frames", "half")

    def __init__(self, port: int, count: int) -> None:
        self.port = port
        self.dice = random.Random(4)
        self.tally = Counter[str]()
        self.epoll = select.epoll()
        # Descriptor → socket, kind, when it began, what was answered.
        self.alive: dict[int, tuple[socket.socket, str, float, bytes]] = {}
        for number in range(count):
            self._begin(self.KINDS[number % len(self.KINDS)])

    def turn(self) -> None:
        """Handle what was answered within a tenth of a second."""
        for descriptor, _event in self.epoll.poll(0.1):
            sock, kind, since, answer = self.alive[descriptor]
            try:
                piece = sock.recv(65_536)
            except OSError:
                piece = b""
            answer += piece
            self.alive[descriptor] = (sock, kind, since, answer)
            if not piece or b"\r\n\r\n\x88" in answer:
                self._end(descriptor, name_answer(answer))

    def leave(self) -> None:
        """Give up those that wait for long.

        Random bytes may be the beginning of a long frame: then nobody owes an answer. Who stopped
        in a handshake is owed an end.
        """
        now = time.monotonic()
        patience = {"http": 1.0, "frames": 1.0, "half": 5.0}
        for descriptor, (_sock, kind, since, answer) in list(self.alive.items()):
            if now > since + patience[kind]:
                self._end(descriptor, "left by us" + (" after an answer" if answer else ""))

    def close(self) -> None:
        """Close all."""
        reset([sock for sock, *_ in self.alive.values()])
        self.epoll.close()

    def _begin(self, kind: str) -> None:
        """Connect and send."""
        upgrade, dice = make_request("/echo"), self.dice
        data = {
            "http": lambda: dice.randbytes(dice.randrange(1, 2000)),
            "frames": lambda: upgrade + dice.randbytes(dice.randrange(2, 500)),
            "half": lambda: upgrade[: dice.randrange(1, len(upgrade) - 1)],
        }[kind]()
        sock = socket.create_connection((HOST, self.port), WAIT_SECONDS)
        sock.settimeout(0)
        with contextlib.suppress(OSError):  # then it ends at the next turn
            sock.send(data)
        self.epoll.register(sock, select.EPOLLIN)
        self.alive[sock.fileno()] = (sock, kind, time.monotonic(), b"")

    def _end(self, descriptor: int, outcome: str) -> None:
        """Count, close, and begin another."""
        sock, kind, _since, _answer = self.alive.pop(descriptor)
        self.tally[f"{kind}: {outcome}"] += 1
        self.epoll.unregister(sock)
        reset([sock])
        self._begin(kind)


def flood(port: int, count: int, orders: Connection) -> None:
    """Send garbage on `count` connections at a time until told to stop; answers with a tally."""
    os.nice(19)
    os.sched_setaffinity(0, {rig.cores()[1]})
    garbage = Garbage(port, count)
    left_at = time.monotonic()
    while not orders.poll():
        garbage.turn()
        if time.monotonic() > left_at + 0.2:
            left_at = time.monotonic()
            garbage.leave()
    garbage.close()
    orders.send(garbage.tally)


def name_answer(answer: bytes) -> str:
    """Say in a word or two how the server ended a link."""
    head, _, frames = answer.partition(b"\r\n\r\n")
    if not head:
        return "dropped"
    if head.startswith(b"HTTP/1.1 101") and frames[:1] == b"\x88":
        return f"closed {int.from_bytes(frames[2:4])}"
    return f"answered {head[9:12].decode()}" + (" and dropped" if head[9:12] == b"101" else "")


@contextlib.contextmanager
def in_process(target: Callable[..., None], *arguments: object) -> Iterator[Connection]:
    """Run a function in a process of its own, which is given one end of a pipe as last argument."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(*arguments, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        process.kill()
        process.join()


def receive(orders: Connection) -> Any:
    """Take what a process answers.

    Raises:
        RuntimeError: It does not answer in time.
    """
    if not orders.poll(WAIT_SECONDS):
        raise RuntimeError("a process of the load does not answer")
    return orders.recv()
