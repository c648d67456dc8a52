"""The brokers that faults befall, each with what can be done to it."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.services import nats, postgresql, redis

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ("BROKERS", "Subject")

HOST = "127.0.0.1"
# What was acknowledged is on the disk. With `everysec`, the default, a write may wait up to two
# seconds for the disk, and goes with the process or the machine; nodes notice that.
DURABLE_REDIS = ("--appendfsync", "always")
# It has no password, and no stranger is on its network.
OPEN_REDIS = ("--protected-mode", "no")


@dataclass(frozen=True)
class Subject:
    """A broker that runs, and what can be done to it; ``None`` where there is no such thing.

    Attributes:
        url: Where nodes find it.
        stop: Ends it as an administrator does.
        kill: Kills it.
        start: Starts it again with its data, and waits until it answers.
        wipe: The same without its data; where it has no process, only takes them.
        pause: Stops it in the middle of what it does.
        resume: Lets it go on.
    """

    url: str
    wipe: Callable[[], None]
    pause: Callable[[], None]
    resume: Callable[[], None]
    stop: Callable[[], None] | None = None
    kill: Callable[[], None] | None = None
    start: Callable[[], None] | None = None


@contextmanager
def run_redis(host: str = HOST) -> Iterator[Subject]:
    """Run Redis."""
    with redis.single(*DURABLE_REDIS, *OPEN_REDIS, keeps_data=True, host=host) as server:
        yield Subject(
            server.url,
            lambda: server.restart(keeps_data=False),
            server.pause,
            server.resume,
            lambda: end(server),
            server.kill,
            server.start,
        )


@contextmanager
def run_nats(host: str = HOST) -> Iterator[Subject]:
    """Run NATS."""
    with nats.single(host=host) as server:
        yield Subject(
            server.url,
            lambda: server.restart(keeps_data=False),
            server.pause,
            server.resume,
            lambda: end(server),
            server.kill,
            server.start,
        )


def end(server: redis.RedisServer | nats.NATSServer) -> None:
    """End a server by SIGTERM."""
    assert server.process is not None
    server.process.send_signal(signal.SIGTERM)
    server.process.wait(timeout=10)
    server.process = None


@contextmanager
def run_postgresql(host: str = HOST) -> Iterator[Subject]:
    """Run PostgreSQL; it is stopped in its *fast* mode, as its services do, by SIGINT."""
    with postgresql.server(keeps_data=True, host=host) as server:

        def wipe() -> None:
            server.kill()
            shutil.rmtree(server.data)
            server.create()
            server.start()

        yield Subject(
            server.url,
            wipe,
            server.pause,
            server.resume,
            server.stop,
            server.kill,
            server.start,
        )


@contextmanager
def run_sqlite(host: str = HOST) -> Iterator[Subject]:
    """Have a file. It has no process: somebody else holds its lock, or removes it."""
    del host
    with tempfile.TemporaryDirectory(prefix="wirebell-sqlite-") as folder:
        path = Path(folder, "broker.db")
        # Used by one thread at a time.
        holder: list[sqlite3.Connection] = []

        def wipe() -> None:
            for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
                path.with_name(name).unlink(missing_ok=True)

        def pause() -> None:
            link = sqlite3.connect(path, isolation_level=None, timeout=10, check_same_thread=False)
            link.execute("BEGIN IMMEDIATE")
            holder.append(link)

        def resume() -> None:
            link = holder.pop()
            link.execute("ROLLBACK")
            link.close()

        yield Subject(f"sqlite:///{path}", wipe, pause, resume)


BROKERS = {
    "sqlite": run_sqlite,
    "redis": run_redis,
    "nats": run_nats,
    "postgresql": run_postgresql,
}
"""Name → how to run it at a host, until the block ends."""
