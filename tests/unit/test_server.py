"""How our commands serve: the decisions; `tests/integration/test_serving.py` runs them."""

from __future__ import annotations

import gc
import os
import resource
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from uvicorn import Config

from wirebell.process import (
    ACCEPT_BURST,
    PROCESS,
    Descriptors,
    count_descriptors,
    find_free_descriptor,
    read_descriptors_max,
)
from wirebell.server import (
    Server,
    Worker,
    compute_drain_seconds,
    create_listener,
    is_answering,
    raise_file_limit,
    settle_memory,
)
from wirebell.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def limits() -> Iterator[tuple[int, int]]:
    """Return the limit of open files, and restore it."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize(
    ("limit", "spare", "reserve", "threshold"),
    [(1_024, 64, 64, 944), (20_000, 64, 64, 19_920), (128, 64, 32, 80), (64, 8, 8, 40),
     (0, 64, 0, 0)],
)  # fmt: skip
def test_reserve(limit: int, spare: int, reserve: int, threshold: int) -> None:
    """Connections leave the reserve alone, and a burst stops before it."""
    descriptors = Descriptors(limit, spare)

    assert (reserve, threshold) == (descriptors.reserve, descriptors.threshold)
    assert (bool(limit), False) == (
        descriptors.is_reserved(limit - reserve),
        descriptors.is_reserved(limit - reserve - 1),
    )


def test_count_free() -> None:
    """What is free is what is below the threshold, or nothing."""
    used = count_descriptors()
    room = Descriptors(2 * used + 1_000, 8)

    assert room.threshold - used == room.count_free()
    assert 0 == Descriptors(ACCEPT_BURST + 1, 1).count_free()
    assert Descriptors(0, 8).count_free() > 100_000


def test_count_descriptors() -> None:
    """The count is that of the system."""
    before = count_descriptors()
    with socket.socket(), socket.socket():
        during = count_descriptors()

    assert before + 2 == during
    assert abs(len(list(Path("/proc/self/fd").iterdir())) - before) <= 1


def test_find_free_descriptor(limits: tuple[int, int]) -> None:
    """The lowest free number is found and left free; at the limit there is none."""
    free = find_free_descriptor()
    assert free is not None
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(free)
    with socket.socket() as sock:
        assert free == sock.fileno()

    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    assert find_free_descriptor() is None
    assert free == read_descriptors_max()
    assert 0 == Descriptors(read_descriptors_max(), 8).count_free()


def test_raise_file_limit(limits: tuple[int, int], caplog: pytest.LogCaptureFixture) -> None:
    """All that the system gives is taken; what it does not is said, if it is wanted."""
    hard = limits[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 500), hard))
    raise_file_limit(0, 64)
    assert min(hard, 1_048_576) == read_descriptors_max()
    assert "" == caplog.text

    raise_file_limit(2_000_000, 64)
    assert f"{read_descriptors_max()} open files" in caplog.text
    assert "WIREBELL_CONNECTIONS_MAX" in caplog.text


@pytest.mark.parametrize(
    ("window", "answer", "seconds"), [(5.0, 5.0, 12), (0.2, 0.3, 3), (0.0, 0.5, 3)]
)
def test_drain_seconds(window: float, answer: float, seconds: int) -> None:
    """The deadline is later than the last answer to the last close."""
    settings = Settings(drain_window_seconds=window, close_timeout_seconds=answer)

    assert seconds == compute_drain_seconds(settings)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_listener(host: str) -> None:
    """It can be inherited, and gives accepted sockets the kernel's deadline."""
    with create_listener(host, 0, backlog=7, tcp_user_timeout_seconds=1.5) as listener:
        timeout = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
        assert os.get_inheritable(listener.fileno())
        with socket.create_connection(listener.getsockname()[:2]):
            accepted, _ = listener.accept()
            with accepted:
                inherited = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)

    assert (1_500, 1_500) == (timeout, inherited)


def test_nobody_answers() -> None:
    """A port on which nobody listens is no answer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    assert not is_answering("127.0.0.1", port, "/")


def test_settle_memory() -> None:
    """Full collections become rare, and what lives is not looked at."""
    before = gc.get_threshold()
    try:
        settle_memory()
        assert (*before[:2], 150) == gc.get_threshold()
        assert gc.get_freeze_count() > 1_000
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)


class Link:
    """Keeps whether it was cut."""

    def __init__(self) -> None:
        self.is_aborted = False

    def abort(self) -> None:
        """Keep it."""
        self.is_aborted = True


def test_abort_connections() -> None:
    """Each that has a transport is cut and counted."""
    server = Server(Config("app:app", log_config=None))
    links = [Link(), Link(), None]
    connections: Any = {type("Connection", (), {"transport": link})() for link in links}
    server.server_state.connections |= connections
    before = PROCESS.aborted_count
    server.abort_connections()

    assert [True, True] == [link.is_aborted for link in links if link]
    assert 2 == PROCESS.aborted_count - before


def test_signals() -> None:
    """The first asks for a drain, a second one for the end; a worker ignores the terminal's."""
    server = Server(Config("app:app", log_config=None))
    worker = Server(Config("app:app", log_config=None), parent_id=os.getppid())
    before = signal.getsignal(signal.SIGALRM)
    try:
        server.handle_exit(signal.SIGTERM, None)
        first = (server.should_exit, server.force_exit)
        server.handle_exit(signal.SIGTERM, None)
        second = (server.should_exit, server.force_exit)
        left, _ = signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    worker.handle_exit(signal.SIGINT, None)

    assert ((True, False), (True, True)) == (first, second)
    assert 0 < left < 1
    assert not worker.should_exit


def test_a_worker_is_asked_without_waiting() -> None:
    """A question is open until it is answered; too long a silence counts."""
    worker = Worker(Config("app:app", log_config=None), [], descriptors_spare=64)
    asked = [worker.is_answering(now, 60.0) for now in (0.0, 59.0, 61.0)]
    worker.child_conn.recv()
    worker.child_conn.send(True)
    answered = worker.is_answering(62.0, 60.0)
    worker.parent_conn.close()
    closed = worker.is_answering(63.0, 60.0)
    worker.child_conn.close()

    assert [True, True, False] == asked
    assert answered
    assert not closed
    assert os.getpid() == worker.parent_id
    assert os.getpid() == worker.server.parent_id
