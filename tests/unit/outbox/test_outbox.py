"""`Outbox`: what is refused at the call, and how it is used by an application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from tests.unit.outbox.outboxes import Database, database
from wirebell import (
    BadRequest,
    ChannelOptions,
    ConfigError,
    History,
    Publication,
    Realtime,
    Settings,
    StreamPosition,
)
from wirebell.metrics import render_metrics
from wirebell.outbox import Outbox
from wirebell.outbox.tables import claim, decode_row

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Run on an ordinary loop, which threads can wake."""
    return "asyncio"


@pytest.fixture
def found(tmp_path: Path) -> Iterator[Database]:
    """Make a database with an outbox."""
    with database(tmp_path) as made:
        yield made


@pytest.fixture
async def engine(found: Database) -> AsyncIterator[AsyncEngine]:
    """Open it a second time."""
    made = create_async_engine(found.engine.url.set(drivername="sqlite+aiosqlite"))
    yield made
    await made.dispose()


async def wait_log(rt: Realtime, channel: str, count: int) -> list[str]:
    """Wait until a channel's log has so many."""
    async with asyncio.timeout(10):
        while True:
            part = await rt.history(channel)
            if len(part.publications) >= count:
                return [each.data.decode() for each in part.publications]
            await asyncio.sleep(0.005)


async def test_publish(engine: AsyncEngine) -> None:
    """Every way to publish takes a session, and gives no position."""
    rt = Realtime(Settings(), outbox=Outbox(engine))
    room = rt.channel("room:{name}", sends=int, history=History())
    positions: list[StreamPosition] = []
    async with rt.lifespan(FastAPI()):
        async with AsyncSession(engine) as session, session.begin():
            positions.append(await rt.publish("room:a", "text", outbox=session))
            positions.append(await room("a").publish(7, outbox=session))
            positions.append(await room("a").publish(8, outbox=session, tags={"k": "v"}))
            with pytest.raises(BadRequest):
                await room("a").publish("no number", outbox=session)  # type: ignore[arg-type]
        found = await wait_log(rt, "room:a", 3)
        metrics = render_metrics(rt.node()).decode()

    assert [StreamPosition()] * 3 == positions
    assert ["text", "7", "8"] == found
    assert "wirebell_outbox_waiting_count " in metrics
    assert "wirebell_outbox_failures_total 0.0" in metrics


async def test_scoped_sessions(found: Database, engine: AsyncEngine) -> None:
    """Sessions that belong to a task or a thread are sessions too."""
    outbox = Outbox(found.engine)
    ordinary = scoped_session(sessionmaker(found.engine))
    scoped = async_scoped_session(async_sessionmaker(engine), scopefunc=asyncio.current_task)
    await outbox.add(ordinary, "a", Publication(b"1"))
    outbox.add_now(ordinary, "b", Publication(b"2"))
    ordinary.commit()
    await outbox.add(scoped, "c", Publication(b"3"))
    await scoped.commit()
    await scoped.remove()
    ordinary.remove()

    assert ["a", "b", "c"] == found.waiting()


@pytest.mark.parametrize(
    ("channel", "data"),
    [("", b"x"), ("a\n", b"x"), ("long", b"x"), ("a", b"1234")],
)
async def test_bounds_hold_at_the_call(found: Database, channel: str, data: bytes) -> None:
    """What could never be published is refused before it is written."""
    outbox = Outbox(found.engine)
    settings = Settings(channel_bytes_max=3, publication_bytes_max=3)
    outbox.configure(settings, lambda channel: ChannelOptions())
    with Session(found.engine) as session, session.begin():
        with pytest.raises(BadRequest):
            await outbox.add(session, channel, Publication(data))
        await outbox.add(session, "abc", Publication(b"123"))

    assert ["abc"] == found.waiting()


async def test_patches(found: Database) -> None:
    """Where a channel sends patches by itself, so does what comes through the outbox."""
    outbox = Outbox(found.engine)
    outbox.configure(Settings(), lambda channel: ChannelOptions(delta_publish=channel == "p"))
    with Session(found.engine) as session, session.begin():
        outbox.add_now(session, "p", Publication(b"{}"))
        outbox.add_now(session, "q", Publication(b"{}"))
    rows = found.now(lambda link: claim(link, "x", lease_seconds=9, rows_max=9))

    assert [True, False] == [decode_row(row)[0].has_delta for row in rows or ()]


async def test_no_session(found: Database, engine: AsyncEngine) -> None:
    """Something else is refused, and so is an asynchronous session in a thread."""
    rt = Realtime(Settings(), outbox=Outbox(found.engine))
    nothing: Any = object()
    with pytest.raises(TypeError, match="outbox is a session of SQLAlchemy, got object"):
        await rt.publish("a", "x", outbox=nothing)
    async with AsyncSession(engine) as session:
        with pytest.raises(TypeError, match="got an asynchronous one"):
            rt.publish_from_thread("a", "x", outbox=session)


async def test_no_outbox(found: Database) -> None:
    """Without an outbox nobody would relay, which is said at the call."""
    rt = Realtime(Settings())
    with Session(found.engine) as session:
        with pytest.raises(ConfigError, match=r"Realtime\(outbox=Outbox\(engine\)\)"):
            await rt.publish("a", "x", outbox=session)
        with pytest.raises(ConfigError, match=r"Realtime\(outbox=Outbox\(engine\)\)"):
            await rt.channel("a")().publish("x", outbox=session)


async def test_session_of_another_database(found: Database) -> None:
    """A session whose database cannot hold an outbox is refused by its name."""
    other = create_engine("sqlite://")
    other.dialect.name = "other"
    with Session(other) as session, pytest.raises(ConfigError, match="got 'other'"):
        await Outbox(found.engine).add(session, "a", Publication(b"x"))
    other.dispose()


async def test_missing_tables(tmp_path: Path) -> None:
    """An application whose migrations are missing does not start, and says what to do."""
    outbox = Outbox(f"sqlite:///{tmp_path / 'empty.db'}")
    rt = Realtime(Settings(), outbox=outbox)
    with pytest.raises(ConfigError, match=r"no table wirebell_outbox: .*create_tables"):
        async with rt.lifespan(FastAPI()):
            pass
    await outbox.create_tables()
    async with rt.lifespan(FastAPI()):
        pass


async def test_publishing_without_tables(tmp_path: Path) -> None:
    """A process that relays nothing learns at the call what to do."""
    engine = create_engine(f"sqlite:///{tmp_path / 'empty.db'}")
    with (
        Session(engine) as session,
        pytest.raises(ConfigError, match=r"no table wirebell_outbox: "),
    ):
        Outbox(engine).add_now(session, "a", Publication(b"x"))
    engine.dispose()


async def test_publishing_into_other_tables(found: Database) -> None:
    """Whatever else the database refuses is raised as the driver says it."""
    found.now(lambda link: link.execute(text("ALTER TABLE wirebell_outbox DROP COLUMN options")))
    with Session(found.engine) as session, pytest.raises(OperationalError, match="options"):
        Outbox(found.engine).add_now(session, "a", Publication(b"x"))


async def test_started_without_a_database(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A database that is not there does not keep an application from starting."""
    engine = create_engine(f"sqlite:///{tmp_path / 'missing' / 'app.db'}")
    rt = Realtime(Settings(), outbox=Outbox(engine))
    async with rt.lifespan(FastAPI()):
        pass
    engine.dispose()

    assert "the outbox's database does not answer" in caplog.text


async def test_a_process_that_does_not_relay(found: Database, engine: AsyncEngine) -> None:
    """It publishes, and leaves the rest to others."""
    rt = Realtime(Settings(), outbox=Outbox(engine, relays=False))
    async with rt.lifespan(FastAPI()):
        async with AsyncSession(engine) as session, session.begin():
            await rt.publish("a", "x", outbox=session)

        assert (None, None) == (rt.node().statistics.outbox, getattr(rt.outbox, "task", 0))
    assert ["a"] == found.waiting()


async def test_nobody_to_wake(found: Database, engine: AsyncEngine) -> None:
    """A commit outside the lifespan, or while the loop ends, harms nobody."""
    outbox = Outbox(engine)
    found.write(("a", "1"))
    outbox.wake()
    rt = Realtime(Settings(), outbox=outbox)
    async with rt.lifespan(FastAPI()):
        closed = asyncio.new_event_loop()
        closed.close()
        outbox.loop = closed
        outbox.wake()
