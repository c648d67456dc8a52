"""Every broker of the contract suite: how it is made, and what has to run meanwhile."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.services import nats, postgresql, redis
from wirebell.broker_options import SQLiteOptions
from wirebell.brokers import create_broker
from wirebell.brokers.memory import MemoryBroker, MemoryPresenceStore
from wirebell.interfaces import Broker, PresenceStore
from wirebell.settings import Settings

__all__ = ("CASES", "SHARED", "Create", "list_params")

Create = Callable[[], tuple[Broker, PresenceStore]]
"""Makes a broker and a presence store that are not started."""


@contextmanager
def memory() -> Iterator[Create]:
    """The broker of one process: nothing has to run."""
    yield lambda: (MemoryBroker(Settings()), MemoryPresenceStore())


@contextmanager
def sqlite() -> Iterator[Create]:
    """The broker of one machine: all that it needs is a folder."""
    with tempfile.TemporaryDirectory(prefix="wirebell-sqlite-") as folder:
        options = SQLiteOptions(path=str(Path(folder) / "broker.db"))
        yield lambda: create_broker(Settings(), options)


@contextmanager
def redis_single() -> Iterator[Create]:
    """One server of Redis."""
    with redis.single() as server:
        yield lambda: create_broker(Settings(broker_url=server.url))


@contextmanager
def redis_shards() -> Iterator[Create]:
    """Two servers that share the channels."""
    with redis.single() as one, redis.single() as other:
        url = f"{one.url},{other.url}"
        yield lambda: create_broker(Settings(broker_url=url))


@contextmanager
def redis_cluster() -> Iterator[Create]:
    """A cluster of three masters."""
    with redis.cluster() as whole:
        yield lambda: create_broker(Settings(broker_url=whole.url))


@contextmanager
def postgresql_server() -> Iterator[Create]:
    """One server of PostgreSQL."""
    with postgresql.server() as server:
        yield lambda: create_broker(Settings(broker_url=server.url))


@contextmanager
def nats_single() -> Iterator[Create]:
    """One server of NATS, with patterns: no guarantee of channels depends on them."""
    with nats.single() as server:
        url = f"{server.url}?allow_wildcards=true"
        yield lambda: create_broker(Settings(broker_url=url))


@contextmanager
def nats_cluster() -> Iterator[Create]:
    """A cluster of three servers of NATS."""
    with nats.cluster() as whole:
        yield lambda: create_broker(Settings(broker_url=whole.url))


CASES: dict[str, Callable[[], AbstractContextManager[Create]]] = {
    "memory": memory,
    "sqlite": sqlite,
    "redis": redis_single,
    "redis-shards": redis_shards,
    "redis-cluster": redis_cluster,
    "nats": nats_single,
    "nats-cluster": nats_cluster,
    "postgresql": postgresql_server,
}
"""Name → a block within which brokers and stores can be made; none of them is started."""

SHARED = tuple(name for name in CASES if name != "memory")
"""Those that several nodes can share: two that are made in one block see each other."""


def list_params(names: Iterable[str]) -> list[object]:
    """List cases for a fixture; those that start a server are slow."""
    return [
        pytest.param(name, marks=() if name in {"memory", "sqlite"} else pytest.mark.slow)
        for name in names
    ]
