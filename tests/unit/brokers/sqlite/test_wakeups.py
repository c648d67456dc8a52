"""How workers wake each other, and that nothing but time is lost where they cannot."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from wirebell.brokers.sqlite.wakeups import ADDRESS_BYTES_MAX, Wakeups, find_folder

SOON = 5.0


@contextmanager
def wakeups(folder: Path | None) -> Iterator[Wakeups]:
    """Make a worker's end until the block ends."""
    with closing(Wakeups(folder)) as created:
        created.open()
        yield created


def waits(worker: Wakeups, seconds: float = 0.0) -> bool:
    """Tell whether a wait for so long runs out."""
    started = time.monotonic()
    worker.wait(seconds or 0.001)
    return time.monotonic() - started >= (seconds or 0.001)


def test_one_wakes_the_others(tmp_path: Path) -> None:
    """All others are woken, the worker itself is not, and once is enough for many."""
    with ExitStack() as stack:
        one, two, three = [stack.enter_context(wakeups(tmp_path / "workers")) for _ in range(3)]
        for _ in range(30):
            one.wake_others()

        assert not waits(two, SOON)
        assert not waits(three, SOON)
        assert waits(one)
        assert waits(two)
        assert 0o700 == (tmp_path / "workers").stat().st_mode & 0o777


def test_who_comes_later_is_found(tmp_path: Path) -> None:
    """A worker that starts is woken by those who were there, and one that ends is left alone."""
    with wakeups(tmp_path) as one:
        one.wake_others()
        with wakeups(tmp_path) as two:
            deadline = time.monotonic() + SOON
            while waits(two):
                assert time.monotonic() < deadline
                one.wake_others()
        one.wake_others()
        names = one._list_names()

    assert [] == names
    assert [] == list(tmp_path.iterdir())


def test_a_killed_worker_is_taken_away(tmp_path: Path) -> None:
    """What a killed worker left is removed by the first who does not reach it."""
    left = tmp_path / "dead0000.socket"
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as dead:
        dead.bind(str(left))
    with wakeups(tmp_path) as one:
        one.wake_others()

        assert not left.exists()


def test_kicking_itself(tmp_path: Path) -> None:
    """A worker's own event loop wakes its reader, also while that waits."""
    del tmp_path
    with wakeups(None) as worker:
        worker.kick()
        worker.kick()
        assert not waits(worker, SOON)
        timer = threading.Timer(0.02, worker.kick)
        timer.start()
        assert not waits(worker, SOON)
        timer.join()
        worker.wake_others()


def test_a_folder_that_cannot_be_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where there can be no sockets a warning says so, and waiting ends with its time."""
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING), wakeups(tmp_path / "file") as worker:
        worker.wake_others()

        assert waits(worker)
    assert "a few times a second" in caplog.text


def test_long_paths(tmp_path: Path) -> None:
    """An address of a socket has 107 bytes at most: elsewhere, the folder has a short name."""
    short, long = Path("/var/lib/broker.db"), tmp_path / ("x" * 100) / "broker.db"

    assert Path("/var/lib/broker.db-workers") == find_folder(short)
    assert Path("/tmp") == find_folder(long).parent  # noqa: S108 - where it is on purpose
    assert find_folder(long) == find_folder(long) != find_folder(long.with_name("other.db"))
    assert len(str(find_folder(long))) + 30 < ADDRESS_BYTES_MAX


def test_others_may_not_enter(tmp_path: Path) -> None:
    """A folder that others could enter is closed to them."""
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    with wakeups(folder):
        assert 0o700 == folder.stat().st_mode & 0o777
