"""The brokers under test: each real, on its own settings, in a folder that goes with it.

Strategy: they are started as the tests start them (`tests/services`), on the load's core. Redis
saves nothing, since a broker's history outlives nodes there, not Redis; NATS and PostgreSQL write
to their disk as they do unless told otherwise.
"""

import contextlib
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import rig
from servers import process_cpu_seconds

sys.path.append(str(rig.HERE.parent))  # for `tests`

import pytest

from tests.services import find_program, nats, postgresql, redis

__all__ = (
    "BROKERS",
    "BrokerMissing",
    "BrokerServer",
    "family_cpu_seconds",
    "find_versions",
    "run_broker",
)


class BrokerMissing(RuntimeError):
    """Its program is not installed; the message says what to install."""


@dataclass(frozen=True, slots=True)
class BrokerServer:
    """A broker that answers.

    Attributes:
        url: As `WIREBELL_BROKER_URL` takes it.
        pid: Its process, which may have children; 0 where the nodes do all of it.
    """

    url: str
    pid: int = 0


@contextmanager
def run_memory() -> Iterator[BrokerServer]:
    """Run nothing."""
    yield BrokerServer("memory://")


@contextmanager
def run_sqlite() -> Iterator[BrokerServer]:
    """Give a file that is not there yet."""
    with tempfile.TemporaryDirectory(prefix="wirebell-bench-") as folder:
        yield BrokerServer(f"sqlite:///{folder}/broker.db")


@contextmanager
def run_redis() -> Iterator[BrokerServer]:
    """Run Redis."""
    with redis.single() as server, watched(server.process) as pid:
        yield BrokerServer(server.url, pid)


@contextmanager
def run_nats() -> Iterator[BrokerServer]:
    """Run NATS with JetStream."""
    with nats.single() as server, watched(server.process) as pid:
        yield BrokerServer(server.url, pid)


@contextmanager
def run_postgresql() -> Iterator[BrokerServer]:
    """Run PostgreSQL with a usual cache, which waits for its disk."""
    with (
        postgresql.server("shared_buffers=128MB", keeps_data=True) as server,
        watched(server.process) as pid,
    ):
        yield BrokerServer(server.url, pid)


BROKERS: Mapping[str, Callable[[], AbstractContextManager[BrokerServer]]] = {
    "memory": run_memory,
    "sqlite": run_sqlite,
    "redis": run_redis,
    "nats": run_nats,
    "postgresql": run_postgresql,
}


PROGRAMS: Mapping[str, tuple[str, Callable[[], str]]] = {
    "redis": ("redis-server", lambda: find_program("redis-server", "redis-server")),
    "nats": ("nats-server", lambda: find_program("nats-server", "nats-server", "/usr/sbin")),
    "postgresql": ("PostgreSQL", lambda: postgresql.program("postgres")),
}
"""Broker → what is told of it, and where its program is."""


@contextmanager
def run_broker(name: str) -> Iterator[BrokerServer]:
    """Run a broker on the load's core until the block ends.

    Raises:
        BrokerMissing: Its program is not there.
    """
    # A child inherits where it may run.
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {rig.cores()[1]})
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(BROKERS[name]())
        except pytest.fail.Exception as error:
            raise BrokerMissing(str(error)) from error
        finally:
            os.sched_setaffinity(0, before)
        yield server


@contextmanager
def watched(process: subprocess.Popen[bytes] | None) -> Iterator[int]:
    """Have a process end with this one, however that ends; gives its id."""
    assert process is not None
    # The shell's input ends with us.
    words = ["sh", "-c", 'read -r _; kill -9 "$0"', str(process.pid)]
    watcher = subprocess.Popen(words, stdin=subprocess.PIPE)
    try:
        yield process.pid
    finally:
        watcher.kill()
        watcher.communicate()


def family_cpu_seconds(pid: int) -> float:
    """Read the CPU time of a process and its children; 0 for no process."""
    if not pid:
        return 0.0
    seconds = process_cpu_seconds(pid)
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(OSError):
            seconds += process_cpu_seconds(int(child))
    return seconds


def find_versions(names: Iterable[str]) -> dict[str, str]:
    """Map the programs of brokers that are installed to their versions."""
    found = {}
    for name in sorted(names):
        if name == "sqlite":
            found["SQLite"] = sqlite3.sqlite_version
        elif name in PROGRAMS:
            title, program = PROGRAMS[name]
            output = subprocess.run(
                [program(), "--version"], check=True, capture_output=True, text=True
            ).stdout
            match = re.search(r"\d+(\.\d+)+", output)
            found[title] = match[0] if match else ""
    return found
