"""Users, tasks, messages and tickets: the tables, and how a database gets them."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from alembic import command
from alembic.config import Config
from argon2 import PasswordHasher
from fastapi import Depends
from sqlalchemy import (
    DateTime,
    Dialect,
    ForeignKey,
    String,
    Text,
    TypeDecorator,
    event,
    func,
    select,
)
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeEngine
from starlette.requests import HTTPConnection

from wirebell.demo.settings import DemoSettings

__all__ = (
    "DEMO_PASSWORD",
    "DEMO_USERS",
    "Base",
    "Db",
    "Message",
    "Task",
    "Ticket",
    "User",
    "create_engine_for",
    "prepare",
)

DEMO_USERS = ("ann", "bob")
DEMO_PASSWORD = "wirebell-demo"  # noqa: S105 - known to everybody, and said so on the page


class UTCDateTime(TypeDecorator[datetime]):
    """Aware UTC in Python and in PostgreSQL; SQLite keeps no zone, so it is put back."""

    impl: TypeEngine[Any] | type[TypeEngine[Any]] = DateTime(timezone=True)
    cache_ok: bool | None = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Store UTC; a time without a zone is our mistake."""
        assert value is None or value.tzinfo is not None
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give an aware time back."""
        if value is None or value.tzinfo is not None:
            return value
        return value.replace(tzinfo=UTC)


class Base(DeclarativeBase):
    """All tables of the reference app."""


class User(Base):
    """Somebody who can sign in."""

    __tablename__ = "users"
    username: Mapped[str] = mapped_column(String(32), primary_key=True)
    password_hash: Mapped[str] = mapped_column(String(255))
    created_at: Mapped[datetime] = mapped_column(UTCDateTime)


class Task(Base):
    """Something to do. Whoever did not sign in is nobody: ``None``."""

    __tablename__ = "tasks"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(String(200))
    description: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UTCDateTime)
    created_by: Mapped[str | None] = mapped_column(ForeignKey("users.username"))
    completed_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    completed_by: Mapped[str | None] = mapped_column(ForeignKey("users.username"))


class Message(Base):
    """Something said in the page's chat."""

    __tablename__ = "messages"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(Text)
    sent_at: Mapped[datetime] = mapped_column(UTCDateTime)
    sent_by: Mapped[str | None] = mapped_column(ForeignKey("users.username"))


class Ticket(Base):
    """A one-time ticket, by its hash: the table is no list of keys."""

    __tablename__ = "tickets"
    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    username: Mapped[str] = mapped_column(ForeignKey("users.username"))
    expires_at: Mapped[datetime] = mapped_column(UTCDateTime)
    token_expires_at: Mapped[datetime] = mapped_column(UTCDateTime)


def create_engine_for(settings: DemoSettings) -> AsyncEngine:
    """Create the engine of an application; SQLite gets what a server needs of it."""
    engine = create_async_engine(settings.url, hide_parameters=True)
    if engine.dialect.name == "sqlite":
        event.listen(engine.sync_engine, "connect", _tune_sqlite)
    return engine


async def get_session(connection: HTTPConnection) -> AsyncIterator[AsyncSession]:
    """Open a session for one request."""
    sessions: async_sessionmaker[AsyncSession] = connection.app.state.sessions
    async with sessions() as session:
        yield session


Db = Annotated[AsyncSession, Depends(get_session)]
"""A database session of an endpoint or a dependency."""


def prepare(settings: DemoSettings) -> None:
    """Make the data folder, bring the database to the newest migration, create demo accounts.

    Idempotent, and safe when several workers call it at once: the first does it. Not to be
    called on an event loop's thread.
    """
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _exclusive(settings.data_dir / "prepare.lock"):
        config = Config()
        config.set_main_option("script_location", str(files("wirebell.demo") / "migrations"))
        config.attributes["url"] = settings.url
        command.upgrade(config, "head")
        if settings.file is not None:
            # Password hashes are nobody else's business; what SQLite puts beside it follows.
            settings.file.chmod(0o600)
        if settings.users:
            asyncio.run(_create_demo_users(settings))


async def _create_demo_users(settings: DemoSettings) -> None:
    """Create ann and bob in a database without users."""
    engine = create_engine_for(settings)
    try:
        async with AsyncSession(engine) as session, session.begin():
            if await session.scalar(select(func.count()).select_from(User)):
                return
            hasher = PasswordHasher()
            session.add_all(
                User(
                    username=name,
                    password_hash=hasher.hash(DEMO_PASSWORD),
                    created_at=datetime.now(UTC),
                )
                for name in DEMO_USERS
            )
    finally:
        await engine.dispose()


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Let one process in at a time; the operating system lets go of it when the process dies.

    SQLite's lock is the one that works alike on every system.
    """
    lock = sqlite3.connect(path, timeout=60, isolation_level=None)
    try:
        lock.execute("BEGIN EXCLUSIVE")
        yield
    finally:
        lock.close()


def _tune_sqlite(connection: Any, record: object) -> None:
    """Readers and a writer at the same time; a commit is on disk before it is answered."""
    cursor = connection.cursor()
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "busy_timeout=10000",
        "foreign_keys=ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
