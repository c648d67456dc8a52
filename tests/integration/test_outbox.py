"""Publishing inside transactions of real databases, with processes that are killed."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeVar

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from fastapi import FastAPI
from sqlalchemy import Connection, Engine, MetaData, create_engine, func, insert, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from tests.integration.outbox_process import (
    CHANNELS,
    COMMITTED,
    COUNTERS,
    HISTORY,
    METADATA,
    STOPS_AT,
    create_app,
    transact,
)
from tests.services.postgresql import HOST, USER, PostgreSQLServer, server
from wirebell import ConfigError, Realtime, Settings
from wirebell.brokers.memory import MemoryBroker, MemoryPresenceStore
from wirebell.model import ChannelOptions
from wirebell.node import Node
from wirebell.outbox import METADATA as OUTBOX_METADATA, Outbox
from wirebell.outbox.database import Database
from wirebell.outbox.tables import OUTBOX, measure
from wirebell.statistics import OutboxStatistics

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

ResultT = TypeVar("ResultT")

WAIT_SECONDS = 20.0


@pytest.fixture(scope="module")
def shared_server() -> Iterator[PostgreSQLServer]:
    """Run PostgreSQL for the tests of this file."""
    with server() as started:
        yield started


@pytest.fixture
def postgresql_url(shared_server: PostgreSQLServer) -> str:
    """Return the URL of a database of the test's own."""
    name = f"test_{os.urandom(4).hex()}"
    shared_server.sql(f"CREATE DATABASE {name}")
    return f"postgresql+asyncpg://{USER}@{HOST}:{shared_server.port}/{name}"


@pytest.fixture(params=["postgresql", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of an empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path / 'app.db'}"
    found: str = request.getfixturevalue("postgresql_url")
    return found


@asynccontextmanager
async def prepared(url: str) -> AsyncIterator[AsyncEngine]:
    """Open a database with an application's tables and the outbox's."""
    engine = create_async_engine(url, hide_parameters=True)
    async with engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            await connection.execute(text("PRAGMA journal_mode=WAL"))
        await connection.run_sync(METADATA.create_all)
        rows = [{"channel": channel, "number": 0} for channel in CHANNELS]
        await connection.execute(insert(COUNTERS), rows)
    await Outbox(engine).create_tables()
    try:
        yield engine
    finally:
        await engine.dispose()


@asynccontextmanager
async def running(engine: AsyncEngine, **how: bool) -> AsyncIterator[Realtime]:
    """Run an application on a prepared database."""
    rt = create_app(Outbox(engine, **how))
    async with rt.lifespan(FastAPI()):
        yield rt


async def read(rt: Realtime, channel: str) -> list[str]:
    """Return what a channel's log has, and check its offsets."""
    part = await rt.history(channel, limit=-1)
    offsets = [each.offset for each in part.publications]
    assert offsets == list(range(1, len(offsets) + 1))
    return [each.data.decode() for each in part.publications]


async def wait_log(rt: Realtime, channel: str, count: int) -> list[str]:
    """Wait until a channel's log has so many."""
    deadline = time.monotonic() + WAIT_SECONDS
    while len(found := await read(rt, channel)) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count} came"
        await asyncio.sleep(0.01)
    return found


async def wait_empty(engine: AsyncEngine) -> None:
    """Wait until nothing is to be published."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        async with engine.begin() as connection:
            if not (await connection.run_sync(measure)).waiting_count:
                return
        assert time.monotonic() < deadline, "something still waits"
        await asyncio.sleep(0.02)


async def read_committed(engine: AsyncEngine, channel: str) -> list[str]:
    """Return the tokens of a channel in the order of their commits."""
    async with engine.connect() as connection:
        query = select(COMMITTED.c.token).where(COMMITTED.c.channel == channel)
        found = await connection.scalars(query.order_by(COMMITTED.c.number))
        return list(found)


async def test_migrations_find_nothing_to_do(url: str) -> None:
    """What `create_tables` makes is what Alembic would make of the metadata."""
    async with prepared(url) as engine, engine.connect() as connection:
        mine = MetaData()
        for table in (*METADATA.tables.values(), *OUTBOX_METADATA.tables.values()):
            table.to_metadata(mine)
        found = await connection.run_sync(
            lambda link: compare_metadata(MigrationContext.configure(link), mine)
        )

    assert [] == found


async def test_publishing_without_tables(url: str) -> None:
    """A process that relays nothing learns at the call that migrations are missing."""
    engine = create_async_engine(url)
    rt = create_app(Outbox(engine))
    async with AsyncSession(engine) as session:
        with pytest.raises(ConfigError, match=r"no table wirebell_outbox: .*migrations"):
            await rt.publish("log:1", "x", outbox=session)
    await engine.dispose()


async def test_sent_if_and_only_if_the_transaction_commits(url: str) -> None:
    """What was committed is published in order; a rolled back transaction or savepoint is not."""
    async with prepared(url) as engine, running(engine) as rt:
        async with AsyncSession(engine) as session, session.begin():
            await rt.publish("log:1", "first", outbox=session)
            savepoint = await session.begin_nested()
            await rt.publish("log:1", "undone", outbox=session)
            await savepoint.rollback()
            async with session.begin_nested():
                position = await rt.publish("log:1", {"n": 2}, outbox=session)
        async with AsyncSession(engine) as session:
            await rt.publish("log:1", "never", outbox=session)
            await session.rollback()
            await rt.publish("log:1", "third", outbox=session)
            before = await read(rt, "log:1")
            await session.commit()
        found = await wait_log(rt, "log:1", 3)
        await wait_empty(engine)

    assert (0, "") == (position.offset, position.epoch)
    assert "third" not in before
    assert ["first", '{"n":2}', "third"] == found


async def test_a_commit_wakes_the_relay(url: str) -> None:
    """Where the transaction commits nobody waits for the next look."""
    async with prepared(url) as engine:
        rt = create_app(Outbox(engine))
        assert rt.outbox is not None
        rt.outbox.settings = Settings(outbox_poll_seconds=3600)
        async with rt.lifespan(FastAPI()):
            for number in range(1, 4):
                async with AsyncSession(engine) as session, session.begin():
                    await rt.publish("log:1", "x", outbox=session)
                await wait_log(rt, "log:1", number)


async def test_bound_channels_and_keywords(url: str) -> None:
    """A declared channel checks at the call; keywords are kept until the relay publishes."""
    async with prepared(url) as engine:
        rt = create_app(Outbox(engine))
        room = rt.channel("room:{name}", sends=int, history=HISTORY)
        async with rt.lifespan(FastAPI()):
            async with AsyncSession(engine) as session, session.begin():
                await room("a").publish(1, outbox=session, tags={"k": "v"}, version=7)
                await room("a").publish(2, outbox=session, version=6)
                await room("a").publish(3, outbox=session, idempotency_key="mine")
            await wait_empty(engine)
            again = await rt.publish("room:a", "x", idempotency_key="mine")
            (one, three) = (await rt.history("room:a")).publications

    assert (b"1", {"k": "v"}, 7, b"3") == (one.data, one.tags, one.version, three.data)
    assert 2 == again.offset


def publish_in_thread(rt: Realtime, engine: Engine, word: str) -> None:
    """Publish as a sync endpoint does."""
    with Session(engine) as session, session.begin():
        rt.publish_from_thread("log:1", word, outbox=session)


async def test_ordinary_sessions_and_engines(tmp_path: Path) -> None:
    """A thread publishes by its session; the relay works on an ordinary engine as well."""
    ordinary = create_engine(f"sqlite:///{tmp_path / 'app.db'}")
    async with prepared(f"sqlite+aiosqlite:///{tmp_path / 'app.db'}"):
        rt = Realtime(Settings(), outbox=Outbox(ordinary))
        rt.channel("log:{name}", history=HISTORY)
        # Outside the lifespan too, as in a worker of a task queue.
        await asyncio.to_thread(publish_in_thread, rt, ordinary, "before")
        async with rt.lifespan(FastAPI()):
            await wait_log(rt, "log:1", 1)
            await asyncio.to_thread(publish_in_thread, rt, ordinary, "after")
            with Session(ordinary) as session, session.begin():
                await rt.publish("log:1", "inline", outbox=session)
            found = await wait_log(rt, "log:1", 3)
    ordinary.dispose()

    assert ["before", "after", "inline"] == found


async def test_commits_that_overlap(url: str) -> None:
    """Many transactions at once: the log has what they committed, in the order of commits."""

    async def writer(rt: Realtime, engine: AsyncEngine, seed: int) -> None:
        draw = random.Random(seed)  # noqa: S311 - no secret
        async with AsyncSession(engine) as session:
            for _ in range(15):
                channel = draw.choice(CHANNELS)
                await transact(rt, session, channel, commit=draw.random() < 0.8)

    async with prepared(url) as engine, running(engine) as rt:
        async with asyncio.TaskGroup() as tasks:
            for seed in range(4):
                tasks.create_task(writer(rt, engine, seed))
        await wait_empty(engine)
        logs = [await read(rt, channel) for channel in CHANNELS]
        committed = [await read_committed(engine, channel) for channel in CHANNELS]

    assert committed == logs
    assert 60 > sum(map(len, logs)) > 20


async def wait_blocked(engine: AsyncEngine) -> None:
    """Wait until a transaction of PostgreSQL waits for a lock of the outbox."""
    query = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
    deadline = time.monotonic() + WAIT_SECONDS
    async with engine.connect() as connection:
        while not await connection.scalar(query):
            assert time.monotonic() < deadline, "nobody waits"
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("first_commits", [True, False])
async def test_a_transaction_waits_for_the_one_before(
    postgresql_url: str, *, first_commits: bool
) -> None:
    """On PostgreSQL whoever publishes second commits second; other channels do not wait."""
    async with (
        prepared(postgresql_url) as engine,
        running(engine) as rt,
        AsyncSession(engine) as one,
        AsyncSession(engine) as two,
    ):
        await rt.publish("log:1", "one", outbox=one)
        waiting = asyncio.create_task(rt.publish("log:1", "two", outbox=two))
        await wait_blocked(engine)
        async with AsyncSession(engine) as other, other.begin():
            await rt.publish("log:2", "other", outbox=other)
        await wait_log(rt, "log:2", 1)
        await (one.commit() if first_commits else one.rollback())
        await waiting
        await two.commit()
        expected = ["one", "two"] if first_commits else ["two"]
        found = await wait_log(rt, "log:1", len(expected))

    assert expected == found


async def test_a_smaller_id_that_commits_later(postgresql_url: str) -> None:
    """Without the lock nobody waits, and a row whose id was passed by is published all the same."""
    async with (
        prepared(postgresql_url) as engine,
        running(engine, locks_channels=False) as rt,
        AsyncSession(engine) as one,
        AsyncSession(engine) as two,
    ):
        await rt.publish("log:1", "one", outbox=one)
        await rt.publish("log:1", "two", outbox=two)
        await two.commit()
        await wait_log(rt, "log:1", 1)
        await one.commit()
        found = await wait_log(rt, "log:1", 2)

    assert ["two", "one"] == found


# Processes that are killed


@contextmanager
def process(role: str, url: str, broker_url: str) -> Iterator[subprocess.Popen[str]]:
    """Run a process until the block ends; it is killed then, if it was not before."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.outbox_process", role, url],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"WIREBELL_BROKER_URL": broker_url},
    )
    try:
        yield child
    finally:
        child.kill()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()


async def wait_ready(child: subprocess.Popen[str]) -> None:
    """Wait until a process runs its application."""
    assert child.stdout is not None
    assert "ready\n" == await asyncio.to_thread(child.stdout.readline)


@pytest.fixture
def broker_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Have all processes, this one too, use one broker whose log survives them."""
    url = f"sqlite:///{tmp_path / 'broker.db'}"
    monkeypatch.setenv("WIREBELL_BROKER_URL", url)
    return url


async def test_killed_between_publishing_and_removing(url: str, broker_url: str) -> None:
    """A relay that dies with its batch published and not removed leaves nothing twice."""
    async with prepared(url) as engine:
        rt = create_app(Outbox(engine))
        await publish_numbers(rt, engine, range(20))
        with process("die", url, broker_url) as child:
            code = await asyncio.to_thread(child.wait, WAIT_SECONDS)
        async with engine.connect() as connection:
            left = await connection.scalar(select(func.count()).select_from(OUTBOX))
        async with rt.lifespan(FastAPI()):
            at_once = await read(rt, "log:1")
            begun_at = time.monotonic()
            await wait_empty(engine)
            taken_seconds = time.monotonic() - begun_at
            found = await read(rt, "log:1")

    assert (-signal.SIGKILL, 20) == (code, left)
    assert [f"{number}" for number in range(20)] == at_once == found
    assert taken_seconds < 5


async def wait_committed(engine: AsyncEngine, more: int) -> None:
    """Wait until so many more transactions have committed."""
    count = select(func.count()).select_from(COMMITTED)
    async with engine.connect() as connection:
        _ = await connection.execution_options(isolation_level="AUTOCOMMIT")
        wanted = (await connection.scalar(count) or 0) + more
        deadline = time.monotonic() + WAIT_SECONDS
        while (await connection.scalar(count) or 0) < wanted:
            assert time.monotonic() < deadline, "nobody writes"
            await asyncio.sleep(0.01)


async def test_killed_again_and_again(url: str, broker_url: str) -> None:
    """Three processes write and relay, and are killed: nothing is lost, twice, or out of order."""
    draw = random.Random(7)  # noqa: S311 - no secret
    async with prepared(url) as engine:
        with (
            process("write", url, broker_url) as one,
            process("write", url, broker_url) as two,
            process("relay", url, broker_url) as three,
        ):
            for child in (one, two, three):
                await wait_ready(child)
            # The last one alive writes, so that there is something to wait for.
            for child in (*draw.sample([one, three], 2), two):
                await wait_committed(engine, draw.randint(20, 60))
                child.send_signal(signal.SIGKILL)
        async with running(engine) as rt:
            await wait_empty(engine)
            logs = [await read(rt, channel) for channel in CHANNELS]
        committed = [await read_committed(engine, channel) for channel in CHANNELS]

    twice = [token for token, count in Counter(itertools.chain(*logs)).items() if count > 1]
    assert [] == twice
    assert committed == logs
    assert 60 <= sum(map(len, logs))


async def test_a_relay_that_stood_still(postgresql_url: str, broker_url: str) -> None:
    """Another takes over when the lease ends; the first one, awake again, publishes nothing."""
    url = postgresql_url
    async with prepared(url) as engine:
        rt = create_app(Outbox(engine))
        await publish_numbers(rt, engine, range(20))
        with process("stop", url, broker_url) as child:
            await wait_ready(child)
            await wait_stopped(child)
            async with rt.lifespan(FastAPI()):
                await wait_log(rt, "log:1", 20)
                await wait_empty(engine)
                child.send_signal(signal.SIGCONT)
                assert child.stdout is not None
                said = await asyncio.to_thread(child.stdout.readline)
                await publish_numbers(rt, engine, range(20, 25))
                await wait_empty(engine)
                found = await read(rt, "log:1")

    # What it had begun when it stopped is one of them.
    assert f"relayed {STOPS_AT}\n" == said
    assert [f"{number}" for number in range(25)] == found


async def publish_numbers(rt: Realtime, engine: AsyncEngine, numbers: range) -> None:
    """Publish numbers in one transaction."""
    async with AsyncSession(engine) as session, session.begin():
        for number in numbers:
            await rt.publish("log:1", f"{number}", outbox=session)


async def wait_stopped(child: subprocess.Popen[str]) -> None:
    """Wait until a process stands still."""
    status = Path(f"/proc/{child.pid}/stat")
    deadline = time.monotonic() + WAIT_SECONDS
    while status.read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < deadline, "it did not stop"
        await asyncio.sleep(0.01)


async def test_a_database_that_is_away(
    shared_server: PostgreSQLServer, postgresql_url: str
) -> None:
    """An application starts without its database, and relays when it is there, each time."""
    async with prepared(postgresql_url) as engine:
        rt = create_app(Outbox(engine))
        await publish_numbers(rt, engine, range(3))
        shared_server.stop()
        async with rt.lifespan(FastAPI()):
            statistics = rt.node().statistics.outbox
            assert statistics is not None
            await wait_failures(statistics, 2)
            shared_server.start()
            await wait_log(rt, "log:1", 3)
            shared_server.stop()
            await wait_failures(statistics, statistics.failure_count + 2)
            shared_server.start()
            await engine.dispose()
            await publish_numbers(rt, engine, range(3, 5))
            found = await wait_log(rt, "log:1", 5)

    assert [f"{number}" for number in range(5)] == found


async def wait_failures(statistics: OutboxStatistics, count: int) -> None:
    """Wait until a relay has failed so often."""
    deadline = time.monotonic() + WAIT_SECONDS
    while statistics.failure_count < count:
        assert time.monotonic() < deadline, "nothing failed"
        await asyncio.sleep(0.01)


# Longer than brokers remember


class ForgetfulDatabase(Database):
    """Fails when what is published should be removed."""

    has_rows = False

    async def run(self, work: Callable[[Connection], ResultT]) -> ResultT:
        """Run statements until rows were read."""
        if self.has_rows:
            raise ConnectionResetError("cut")
        result = await super().run(work)
        self.has_rows = isinstance(result, list) and result != []
        return result


async def test_a_relay_that_comes_after_the_keys_ended(url: str) -> None:
    """Rows that were published before an hour of silence are found in the channel's history."""
    now = 0.0
    broker = MemoryBroker(Settings(), clock=lambda: now)
    options = ChannelOptions(history=HISTORY)
    node = Node(Settings(), broker, MemoryPresenceStore(), lambda channel: options)
    async with prepared(url) as engine:
        rt = create_app(Outbox(engine))
        await publish_numbers(rt, engine, range(3))
        await node.start()
        try:
            forgetful = Outbox(engine)
            forgetful.database = ForgetfulDatabase(engine)
            await forgetful.start(node, node.statistics)
            assert node.statistics.outbox is not None
            await wait_failures(node.statistics.outbox, 1)
            await forgetful.aclose()
            now = 500.0
            async with engine.begin() as connection:
                await connection.execute(text("UPDATE wirebell_outbox SET created_at = 1"))
                await connection.execute(text("UPDATE wirebell_outbox_lease SET expires_at = 0"))
            async with AsyncSession(engine) as session, session.begin():
                await rt.publish("log:1", "3", outbox=session)
            late = Outbox(engine)
            await late.start(node, node.statistics)
            await wait_empty(engine)
            await late.aclose()
            kept = await node.history("log:1", since=None, limit=10)
        finally:
            await node.aclose()

    assert [b"0", b"1", b"2", b"3"] == [each.data for each in kept.publications]
