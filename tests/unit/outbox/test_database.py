"""On which databases an outbox can be, and how its statements run there."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from wirebell.errors import ConfigError
from wirebell.outbox.database import Database

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Run on an ordinary loop, which threads can wake."""
    return "asyncio"


def fail(connection: Connection) -> None:
    """Write something, and fail."""
    connection.execute(text("INSERT INTO a VALUES (2)"))
    raise ZeroDivisionError


@pytest.mark.parametrize("kind", ["url", "asynchronous", "ordinary"])
async def test_run(tmp_path: Path, kind: str) -> None:
    """Statements run in a transaction that is committed, or undone when they fail."""
    file = tmp_path / "app.db"
    own = f"sqlite:///{file}"
    engine = create_async_engine(f"sqlite+aiosqlite:///{file}")
    ordinary = create_engine(own)
    engines: dict[str, str | AsyncEngine | Engine] = {
        "url": own,
        "asynchronous": engine,
        "ordinary": ordinary,
    }
    database = Database(engines[kind])
    await database.run(lambda link: link.execute(text("CREATE TABLE a (b INTEGER)")))
    await database.run(lambda link: link.execute(text("INSERT INTO a VALUES (1)")))
    with pytest.raises(ZeroDivisionError):
        await database.run(fail)
    found = await database.run(lambda link: link.scalars(text("SELECT b FROM a")).all())
    await database.aclose()
    await database.aclose()
    await engine.dispose()
    ordinary.dispose()

    assert ([1], "sqlite") == (found, database.dialect_name)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nonsense", "takes a URL"),
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        ("sqlite+aiosqlite:///file:x?mode=memory&uri=true", "in memory"),
        ("sqlite+pysqlite:///x.db", "cannot use"),
        ("mysql+asyncmy://user:secret@host/db", "needs the driver"),
        ("unheard://user:secret@host/db", "cannot use"),
    ],
)
def test_refused(url: str, said: str) -> None:
    """What cannot hold an outbox is refused, without a password in the message."""
    with pytest.raises(ConfigError, match=said) as refused:
        Database(url)

    assert "secret" not in str(refused.value)


def test_another_database() -> None:
    """A database in which order cannot be had is refused by its name."""
    engine = create_async_engine("sqlite+aiosqlite:///x.db")
    engine.sync_engine.dialect.name = "other"

    with pytest.raises(ConfigError, match="works on postgresql and sqlite, got 'other'"):
        Database(engine)


def test_a_plain_url_gets_a_driver() -> None:
    """PostgreSQL's plain URL is served by the asynchronous driver, in read committed."""
    database = Database("postgresql://somebody@localhost/app")

    assert isinstance(database.engine, AsyncEngine)
    assert "asyncpg" == database.engine.dialect.driver
