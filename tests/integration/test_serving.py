"""How our own commands serve: descriptors that run out, signals, workers, clients that dawdle."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.serving_app import BROKEN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.slow

WAIT_SECONDS = 30.0
"""Bound of every wait that ends as soon as it can; two busy cores start slowly."""
AT_ONCE_SECONDS = 8.0
"""A second is promised; the others are for a machine with other things to do. What is given up at
once would take forty."""
LOOPS = ("uvloop", "asyncio")
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
LONG_DRAIN = {"WIREBELL_DRAIN_WINDOW_SECONDS": "40", "WIREBELL_CLOSE_TIMEOUT_SECONDS": "40"}
SHORT_DRAIN = {"WIREBELL_DRAIN_WINDOW_SECONDS": "0.2", "WIREBELL_CLOSE_TIMEOUT_SECONDS": "0.3"}


@dataclass
class Process:
    """A running server, leader of its own process group."""

    popen: subprocess.Popen[bytes]
    log_path: Path
    address: tuple[str, int] = ("", 0)
    kept_log: str = ""
    sockets: list[socket.socket] = field(default_factory=list)

    def log(self) -> str:
        """Return all it has printed."""
        return self.kept_log or self.log_path.read_text()

    def children(self) -> list[int]:
        """Return the ids of its workers."""
        path = Path(f"/proc/{self.popen.pid}/task/{self.popen.pid}/children")
        found = [int(child) for child in path.read_text().split()]
        # The helper that looks after semaphores is a child as well.
        return [pid for pid in found if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def serving(self) -> list[int]:
        """Return the ids of the processes that take connections."""
        return self.children() or [self.popen.pid]

    def status(self) -> dict[str, Any]:
        """Ask one of them for its counters."""
        host, port = self.address
        url = f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
        with urllib.request.urlopen(url, timeout=WAIT_SECONDS) as answer:  # noqa: S310 - our own
            found: dict[str, Any] = json.load(answer)
        return found

    def connect(self, data: bytes = UPGRADE) -> socket.socket:
        """Connect and send."""
        sock = socket.create_connection(self.address, timeout=WAIT_SECONDS)
        self.sockets.append(sock)
        sock.sendall(data)
        return sock

    def open_socket(self) -> socket.socket:
        """Open a WebSocket that will never say anything."""
        sock = self.connect()
        assert sock.recv(4_096).startswith(b"HTTP/1.1 101 ")
        return sock

    def wait_end(self, seconds: float = WAIT_SECONDS) -> tuple[int, float]:
        """Return the exit status, and how long it took; its workers have ended, too."""
        started = time.monotonic()
        status = self.popen.wait(seconds)
        return status, time.monotonic() - started


@contextlib.contextmanager
def serving(
    loop: str = "uvloop",
    workers: int = 1,
    *,
    host: str = "127.0.0.1",
    descriptors: int = 2_000,
    env: dict[str, str] | None = None,
) -> Iterator[Process]:
    """Run the app until the block ends; all of its workers serve when it begins."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with tempfile.NamedTemporaryFile(prefix="wirebell-serving-") as log:
        popen = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.serving_app", loop, str(workers), host],
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
            start_new_session=True,
            preexec_fn=lambda: resource.setrlimit(
                resource.RLIMIT_NOFILE, (descriptors, min(descriptors, hard))
            ),
        )
        process = Process(popen, Path(log.name))
        try:
            if not (env or {}).get(BROKEN):
                wait_until(lambda: "It answers on" in process.log(), process)
                wait_until(lambda: process.log().count("startup complete") == workers, process)
                found = re.search(r"http://\[?([^\]\n]+)\]?:(\d+)\n", process.log())
                assert found
                process.address = (found[1], int(found[2]))
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(popen.pid, signal.SIGKILL)
            popen.wait()
            process.kept_log = process.log()
            for sock in process.sockets:
                sock.close()


def wait_until(is_so: Callable[[], bool], process: Process | None = None) -> None:
    """Wait for a condition, within a bound."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not is_so():
        said = process.log()[-4_000:] if process else ""
        assert time.monotonic() < deadline, said
        assert process is None or process.popen.poll() is None, said
        time.sleep(0.02)  # between two looks


@pytest.fixture(autouse=True, scope="module")
def many_files() -> Iterator[None]:
    """Let this process have as many sockets as the tests open."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


class Crowd:
    """Many sockets that connect at once, ask for a WebSocket, and wait for the answer."""

    def __init__(self, address: tuple[str, int], count: int) -> None:
        self.poll = select.poll()
        self.waiting: dict[int, socket.socket] = {}
        self.open: list[socket.socket] = []
        self.failures: list[bytes | str] = []
        self.sockets = [socket.socket() for _ in range(count)]
        for sock in self.sockets:
            sock.setblocking(False)
            sock.connect_ex(address)
            self.waiting[sock.fileno()] = sock
            self.poll.register(sock, select.POLLOUT)

    def turn(self, seconds: float) -> bool:
        """Handle what has happened; false if nothing did for so long."""
        events = self.poll.poll(seconds * 1000)
        for descriptor, event in events:
            sock = self.waiting[descriptor]
            try:
                if event & select.POLLOUT:
                    sock.send(UPGRADE)
                    self.poll.modify(sock, select.POLLIN)
                    continue
                answer: bytes | str = sock.recv(4_096)
            except OSError as error:
                answer = str(error)
            self.poll.unregister(sock)
            del self.waiting[descriptor]
            if isinstance(answer, bytes) and answer.startswith(b"HTTP/1.1 101 "):
                self.open.append(sock)
            else:
                self.failures.append(answer)
        return bool(events)

    def settle(self, seconds: float = 1.5) -> None:
        """Go on until nothing happens any more."""
        while self.turn(seconds):
            pass

    def wait_open(self, count: int) -> None:
        """Go on until so many are open."""
        deadline = time.monotonic() + WAIT_SECONDS
        while len(self.open) < count:
            self.turn(0.05)
            assert time.monotonic() < deadline, len(self.open)

    def wait_refilled(self, count: int) -> None:
        """Go on until so many are open again, or nobody waits any more."""
        deadline = time.monotonic() + WAIT_SECONDS
        while self.waiting and len(self.open) + len(self.failures) < count:
            self.turn(0.05)
            assert time.monotonic() < deadline, len(self.open)

    def leave(self, count: int) -> None:
        """Close some that are open."""
        for sock in self.open[:count]:
            sock.close()
        del self.open[:count]

    def close(self) -> None:
        """Close all."""
        for sock in self.sockets:
            sock.close()


def count_descriptors(pid: int) -> int:
    """Count what a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def cpu_seconds(pids: list[int]) -> float:
    """Sum up the time that processes have computed."""
    ticks = [Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split() for pid in pids]
    return sum(int(fields[11]) + int(fields[12]) for fields in ticks) / os.sysconf("SC_CLK_TCK")


def events(process: Process, word: str) -> list[str]:
    """Return what the log says with a word in it."""
    lines = (json.loads(line) for line in process.log().splitlines() if line.startswith("{"))
    return [line["event"] for line in lines if word in line["event"]]


@pytest.mark.parametrize(
    ("loop", "workers", "limit", "count"),
    [("uvloop", 1, 1_024, 2_000), ("asyncio", 1, 256, 700), ("uvloop", 2, 256, 900),
     ("asyncio", 2, 256, 900)],
)  # fmt: skip
def test_descriptors_run_out(loop: str, workers: int, limit: int, count: int) -> None:
    """Near the limit nobody is refused: who comes waits, and is served when others have gone."""
    with serving(loop, workers, descriptors=limit) as process:
        crowd = Crowd(process.address, count)
        try:
            crowd.settle()
            pids = process.serving()
            used = [count_descriptors(pid) for pid in pids]
            served_count, before = len(crowd.open), cpu_seconds(pids)
            assert not crowd.turn(1.0)
            computed = cpu_seconds(pids) - before
            warnings = events(process, "file descriptors that the system")
            for _ in range(200):
                if not crowd.waiting:
                    break
                crowd.leave(100)
                # A process goes on once it has a few descriptors, and then takes all it may.
                crowd.wait_refilled(served_count - 20 * workers)
            crowd.leave(len(crowd.open))
            wait_until(lambda: len(events(process, "free again")) >= workers, process)
            status = process.status()
        finally:
            crowd.close()

    assert [] == crowd.failures
    assert {} == crowd.waiting
    reserve = min(64, limit // 4)
    assert all(limit - reserve - 40 <= each <= limit - reserve for each in used), used
    assert served_count >= workers * (limit - reserve - 60)
    # Ten looks a second.
    assert computed < 0.2
    assert len(warnings) == workers
    assert f"of the {limit} file descriptors" in warnings[0]
    assert re.search(r"with \d+ connections", warnings[0])
    assert "ulimit -n" in warnings[0]
    assert status["is_accepting"]
    assert status["accept_pause_count"] >= 1
    assert "socket.accept() out of" not in process.log()


def test_one_free_descriptor_serves_one_more() -> None:
    """Connections that come and go at the limit are served, and the log does not tell of each."""
    with serving(descriptors=256) as process:
        crowd = Crowd(process.address, 300)
        try:
            crowd.settle()
            for _ in range(8):
                before = len(crowd.open)
                crowd.leave(1)
                crowd.wait_open(before)
        finally:
            crowd.close()

        assert [] == crowd.failures
        assert 1 == len(events(process, "file descriptors that the system"))


@pytest.mark.parametrize("workers", [1, 2])
def test_who_never_answers_is_cut_at_the_deadline(workers: int) -> None:
    """SIGTERM ends the process in time, whatever clients do, and the status is uvicorn's."""
    with serving(workers=workers, env=SHORT_DRAIN) as process:
        for _ in range(20):
            process.open_socket()
        process.connect(b"GET / HTTP/1.1\r\nHost: x\r\n")
        process.popen.send_signal(signal.SIGTERM)
        status, seconds = process.wait_end()
        with socket.socket() as late:
            refused = late.connect_ex(process.address)

    # 0.2 s + 0.3 s + 2 s, rounded up.
    assert seconds < 3 + AT_ONCE_SECONDS
    assert (-signal.SIGTERM if workers == 1 else 0) == status
    assert refused


@pytest.mark.parametrize(
    ("workers", "first", "second"),
    [
        (1, "SIGTERM", "SIGTERM"),
        (1, "SIGINT", "SIGINT"),
        (1, "SIGINT", "SIGTERM"),
        (1, "SIGTERM", "SIGINT"),
        (2, "SIGTERM", "SIGTERM"),
        (2, "SIGINT", "SIGTERM"),
    ],
)
def test_a_second_signal_ends_now(workers: int, first: str, second: str) -> None:
    """The drain is given up: all are cut, and nothing is left within a second."""
    with serving(workers=workers, env=LONG_DRAIN) as process:
        silent = [process.open_socket() for _ in range(20)]
        pids = process.serving()
        process.popen.send_signal(signal.Signals[first])
        # All sockets may be with one of the workers.
        wait_until(lambda: process.log().count("Shutting down") == len(pids), process)
        wait_until(lambda: "Waiting for connections" in process.log(), process)
        process.popen.send_signal(signal.Signals[second])
        status, seconds = process.wait_end()
        left = [pid for pid in pids if Path(f"/proc/{pid}/fd").exists()]
        ends = [end_of(sock) for sock in silent]

    assert seconds < AT_ONCE_SECONDS
    assert [] == left
    assert status in ({0, 1, -signal.SIGINT, -signal.SIGTERM} if workers == 1 else {0})
    assert ["cut"] * 20 == ends


def end_of(sock: socket.socket) -> str:
    """Read to the end."""
    try:
        while sock.recv(4_096):
            pass
    except ConnectionError:
        pass
    return "cut"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stuck_application_cannot_hold_up_a_second_signal(workers: int) -> None:
    """A thread that never returns would keep Python from ending."""
    with serving("asyncio", workers, env=LONG_DRAIN) as process:
        for _ in range(8):
            process.connect(b"GET /stuck HTTP/1.1\r\nHost: x\r\n\r\n")
            process.open_socket()
        process.popen.send_signal(signal.SIGTERM)
        wait_until(lambda: "Waiting for connections" in process.log(), process)
        process.popen.send_signal(signal.SIGTERM)
        _, seconds = process.wait_end()

    assert seconds < AT_ONCE_SECONDS


def test_control_c_of_a_terminal_drains_workers() -> None:
    """It reaches parent and workers at once, and still counts as the first."""
    with serving(workers=2, env=SHORT_DRAIN) as process:
        sock = process.open_socket()
        os.killpg(process.popen.pid, signal.SIGINT)
        # Close frame, 1012.
        frame = sock.recv(4)
        # A masked answer with the same code: mask 0.
        sock.sendall(b"\x88\x82\0\0\0\0\x03\xf4")
        status, _ = process.wait_end()

    assert b"\x88\x02\x03\xf4" == frame
    assert 0 == status


def test_workers_end_with_their_parent() -> None:
    """A parent that was killed leaves no worker behind on its port."""
    with serving(workers=2, env=SHORT_DRAIN) as process:
        pids = process.children()
        process.popen.kill()
        process.popen.wait()
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))

    assert 2 == len(pids)
    assert events(process, "has gone")


def test_a_worker_that_dies_is_replaced() -> None:
    """Others serve meanwhile, and the log says how it ended."""
    with serving(workers=2) as process:
        dead, other = process.children()
        os.kill(dead, signal.SIGKILL)
        wait_until(lambda: process.log().count("startup complete") == 3, process)
        pids = process.children()

    assert other in pids
    assert dead not in pids
    assert 2 == len(pids)
    assert [f"worker process [{dead}] ended with status -9: starts another"] == events(
        process, "starts another"
    )


def test_sighup_replaces_all_workers() -> None:
    """Each is told to end when its successor serves; SIGTTIN and SIGTTOU change their number."""
    with serving(workers=2, env=SHORT_DRAIN) as process:
        old = process.children()
        process.popen.send_signal(signal.SIGHUP)
        wait_until(lambda: not set(old) & set(process.children()), process)
        replaced = process.children()
        process.popen.send_signal(signal.SIGTTIN)
        wait_until(lambda: len(process.children()) == 3, process)
        process.popen.send_signal(signal.SIGTTOU)
        wait_until(lambda: len(process.children()) == 2, process)
        answered = process.status()["pid"]
        process.popen.send_signal(signal.SIGTERM)
        status, _ = process.wait_end()

    assert 2 == len(replaced)
    assert answered in replaced
    assert 0 == status


@pytest.mark.parametrize("workers", [1, 2])
def test_an_application_that_does_not_start(workers: int) -> None:
    """One process ends with status 3; a parent does not try again and again."""
    with serving(workers=workers, env={BROKEN: "1"}) as process:
        status, _ = process.wait_end()

    assert (3 if workers == 1 else 0) == status


def test_ipv6() -> None:
    """An address with colons is served, and shown in brackets."""
    if not socket.has_ipv6:  # pragma: no cover - every system of ours has it
        pytest.skip("no IPv6 here")
    with serving(host="::1") as process:
        assert "http://[::1]:" in process.log()
        assert process.status()["is_accepting"]


@pytest.fixture(scope="module", params=LOOPS)
def shared(request: pytest.FixtureRequest) -> Iterator[Process]:
    """Run the app on each loop, for tests that leave it as they found it."""
    with serving(request.param) as process:
        yield process


def test_memory_is_settled_after_the_start(shared: Process) -> None:
    """What lives for ever is out of all collections, and full ones are rare."""
    status = shared.status()

    assert status["frozen"] > 10_000
    assert 150 == status["threshold"][2]


def test_a_silent_client_is_dropped() -> None:
    """Nothing, half a head, or half of a second head: all are dropped; who is served stays."""
    whole = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    with serving(env={"WIREBELL_REQUEST_TIMEOUT_SECONDS": "0.5"}) as process:
        opened = process.open_socket()
        silent = [process.connect(data) for data in (b"", whole[:20], whole + whole[:20])]
        ends = [end_of(sock) for sock in silent]
        # Masked with 0: "x".
        opened.sendall(b"\x81\x81\0\0\0\0x")
        echoed = opened.recv(3)

    assert ["cut"] * 3 == ends
    assert b"\x81\x01x" == echoed


HEADS = {
    "a long line": b"GET / HTTP/1.1\r\nX: " + b"x" * 9_000 + b"\r\n\r\n",
    "a long target": b"GET /" + b"x" * 66_000 + b" HTTP/1.1\r\n\r\n",
    "a line without end": b"GET / HTTP/1.1\r\nX: " + b"x" * 2_000_000,
    "a long head": b"GET / HTTP/1.1\r\n" + b"X: %s\r\n" % (b"x" * 8_000) * 9 + b"\r\n",
    "many headers": b"GET / HTTP/1.1\r\n" + b"".join(b"X%d: x\r\n" % n for n in range(200)),
    "a socket's long line": UPGRADE[:-2] + b"X: " + b"x" * 9_000 + b"\r\n\r\n",
}  # fmt: skip


def test_a_head_has_limits(shared: Process) -> None:
    """431 says which, for pages and sockets alike, and reaches a client that is still sending."""
    answers = {name: ask(shared, head) for name, head in HEADS.items()}
    good = ask(shared, b"GET / HTTP/1.1\r\nConnection: close\r\nX: %s\r\n\r\n" % (b"x" * 8_000))

    assert {b"HTTP/1.1 431"} == {answer[:12] for answer in answers.values()}
    assert all(b'{"detail": "' in answer for answer in answers.values())
    assert b"HTTP/1.1 200" == good[:12]


def ask(process: Process, data: bytes) -> bytes:
    """Send, and read to the end."""
    with socket.create_connection(process.address, timeout=WAIT_SECONDS) as sock:
        with contextlib.suppress(ConnectionError):
            sock.sendall(data)
        answer = b""
        while piece := sock.recv(65_536):
            answer += piece
        return answer


@pytest.mark.parametrize("cut", [0, 10, len(UPGRADE) - 2, len(UPGRADE)])
def test_frames_behind_the_upgrade_are_not_lost(shared: Process, cut: int) -> None:
    """A client that does not wait for the answer is served, however its bytes come."""
    data = UPGRADE + b"\x81\x85\0\0\0\0hello"
    sock = shared.connect(data[:cut] or b"\r\n")
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(data[cut:])
    answer = b""
    while not answer.endswith(b"\x81\x05hello"):
        piece = sock.recv(4_096)
        assert piece, answer
        answer += piece

    assert answer.startswith(b"HTTP/1.1 101 ")
