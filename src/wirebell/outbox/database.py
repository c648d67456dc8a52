"""Runs statements on an application's database, whichever kind of engine it has."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from wirebell.errors import ConfigError
from wirebell.outbox.tables import DIALECTS

__all__ = ("Database",)

ResultT = TypeVar("ResultT")

# A statement of the relay takes milliseconds; SQLite's lock may be held by others for a while.
CALL_SECONDS_MAX = 10.0
# Drivers for URLs that name none.
DRIVERS = {"postgresql": "postgresql+asyncpg", "sqlite": "sqlite+aiosqlite"}


class Database:
    """An engine, of SQLAlchemy's two kinds. Used on the event loop.

    Mutable state: the thread in which an ordinary engine is waited for.

    Args:
        engine: The application's, or a URL; an engine that was made here is disposed of here.

    Raises:
        ConfigError: It is of a database that cannot hold an outbox.
    """

    def __init__(self, engine: AsyncEngine | Engine | str | URL) -> None:
        self.is_ours = isinstance(engine, str | URL)
        if isinstance(engine, str | URL):
            engine = _create_engine(engine)
        self.dialect_name = engine.dialect.name
        if self.dialect_name not in DIALECTS:
            raise ConfigError(
                f"the outbox works on {' and '.join(DIALECTS)}, got {self.dialect_name!r}"
            )
        if self.dialect_name == "sqlite":
            _check_file(engine.url)
        else:
            # Others would fail where two relays meet, which is nothing to worry about.
            engine = engine.execution_options(isolation_level="READ COMMITTED")
        self.engine: AsyncEngine | Engine = engine
        self.threads: ThreadPoolExecutor | None = None

    async def run(self, work: Callable[[Connection], ResultT]) -> ResultT:
        """Do something in a transaction of its own, which is committed.

        Raises:
            TimeoutError: It took more than 10 seconds; whether it was done is not known.
            Exception: Whatever the driver raises; nothing was done, unless the link was cut.
        """
        async with asyncio.timeout(CALL_SECONDS_MAX):
            if isinstance(self.engine, AsyncEngine):
                async with self.engine.begin() as connection:
                    return await connection.run_sync(work)
            if self.threads is None:
                self.threads = ThreadPoolExecutor(1, thread_name_prefix="wirebell-outbox")
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self.threads, _run, self.engine, work)

    async def aclose(self) -> None:
        """Let go of what was made here; idempotent."""
        if self.threads is not None:
            self.threads.shutdown(wait=False, cancel_futures=True)
            self.threads = None
        if self.is_ours and isinstance(self.engine, AsyncEngine):
            await self.engine.dispose()


def _run(engine: Engine, work: Callable[[Connection], ResultT]) -> ResultT:
    """Do something in a transaction, in a thread."""
    with engine.begin() as connection:
        return work(connection)


def _create_engine(url: str | URL) -> AsyncEngine:
    """Create an engine for a URL, with an asynchronous driver where it names none.

    Raises:
        ConfigError: It is none; a password is not shown.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigError("the outbox takes a URL as postgresql:// or sqlite:///path") from error
    if parsed.get_backend_name() == "sqlite":
        _check_file(parsed)
    try:
        if parsed.drivername in DRIVERS:
            parsed = parsed.set(drivername=DRIVERS[parsed.drivername])
        engine = create_async_engine(parsed, hide_parameters=True, pool_size=2, pool_pre_ping=True)
    except ModuleNotFoundError as error:
        raise ConfigError(f"the outbox needs the driver {error.name!r}: install it") from error
    except Exception as error:  # SQLAlchemy's own, of a driver that is not asynchronous
        raise ConfigError(f"the outbox cannot use {parsed!r}: {error}") from error
    if engine.dialect.name == "sqlite":
        event.listen(engine.sync_engine, "connect", _tune_sqlite)
    return engine


def _tune_sqlite(connection: Any, record: object) -> None:
    """Wait for the lock as long as other writers may hold it."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA busy_timeout=5000")
    cursor.close()


def _check_file(url: URL) -> None:
    """Refuse a database in memory: its one connection would mix the relay with everybody else."""
    database = url.database or ""
    if database in {"", ":memory:"} or "mode=memory" in database or "mode" in url.query:
        raise ConfigError(
            "the outbox needs an SQLite file: a database in memory has one connection"
        )
