"""A process of an application with an outbox, to be killed by tests.

``python -m tests.integration.outbox_process ROLE DATABASE_URL``; the broker is that of the
environment. Roles: ``write`` commits transactions, and relays as any application does, until it is
killed; ``relay`` only relays; ``die`` kills itself after it published a batch, before it could
remove one row of it; ``stop`` stops itself in the middle of a batch, and says when it went on.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import uuid
from collections.abc import Awaitable, Callable
from typing import TypeVar

from fastapi import FastAPI
from sqlalchemy import Column, Connection, Integer, MetaData, String, Table, insert, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from wirebell import History, Publication, Realtime, Settings
from wirebell.model import Published, PublishOptions
from wirebell.outbox import Outbox
from wirebell.outbox.database import Database
from wirebell.outbox.relay import Publisher
from wirebell.outbox.tables import WaitingRow
from wirebell.statistics import NodeStatistics, OutboxStatistics

ResultT = TypeVar("ResultT")

HISTORY = History(size=100_000, ttl_seconds=600)
LEASE_SECONDS = 1.0

METADATA = MetaData()
COUNTERS = Table(
    "counters",
    METADATA,
    Column("channel", String(32), primary_key=True),
    Column("number", Integer, nullable=False),
)
COMMITTED = Table(
    "committed",
    METADATA,
    Column("channel", String(32), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("token", String(32), nullable=False),
)
"""What transactions committed: numbers rise by one in the order of a channel's commits."""

STOPS_AT = 7
"""Publication before which ``stop`` stops."""

CHANNELS = ("log:1", "log:2", "log:3")


class DyingDatabase(Database):
    """Kills its process when it should remove what is published."""

    is_due = False

    async def run(self, work: Callable[[Connection], ResultT]) -> ResultT:
        """Run statements, as long as that is due."""
        if self.is_due:
            os.kill(os.getpid(), signal.SIGKILL)
        result = await super().run(work)
        if isinstance(result, list) and result and isinstance(result[0], WaitingRow):
            self.is_due = True
        return result


class StoppingNode:
    """A node whose process stands still once, between two publications."""

    def __init__(self, node: Publisher) -> None:
        self.node = node
        self.options_for = node.options_for
        self.history = node.history
        self.count = 0

    def begin_publish(
        self, channel: str, publication: Publication, how: PublishOptions | None = None
    ) -> Published | Awaitable[Published]:
        """Publish, at last."""
        self.count += 1
        if self.count == STOPS_AT:
            os.kill(os.getpid(), signal.SIGSTOP)
        return self.node.begin_publish(channel, publication, how)


class StoppingOutbox(Outbox):
    """Relays to a node that stands still once."""

    async def start(self, publisher: Publisher, statistics: NodeStatistics) -> None:
        """Begin to relay."""
        await super().start(StoppingNode(publisher), statistics)
        assert statistics.outbox is not None
        self.statistics = statistics.outbox


def create_app(outbox: Outbox) -> Realtime:
    """Create an application whose channels keep everything."""
    settings = Settings(outbox_lease_seconds=LEASE_SECONDS, outbox_poll_seconds=0.2)
    rt = Realtime(settings, outbox=outbox)
    rt.channel("log:{name}", history=HISTORY)
    return rt


async def transact(rt: Realtime, session: AsyncSession, channel: str, *, commit: bool) -> None:
    """Publish a token inside a transaction, and write its place among the commits.

    The publication comes first: what orders commits must be the outbox's own doing.
    """
    token = uuid.uuid4().hex
    async with session.begin() as transaction:
        await rt.publish(channel, token, outbox=session)
        counted = update(COUNTERS).where(COUNTERS.c.channel == channel)
        number = await session.scalar(
            counted.values(number=COUNTERS.c.number + 1).returning(COUNTERS.c.number)
        )
        row = {"channel": channel, "number": number, "token": token}
        await session.execute(insert(COMMITTED).values(row))
        if not commit:
            await transaction.rollback()


async def write(rt: Realtime, engine: AsyncEngine) -> None:
    """Commit transactions, a few at once, and give some up."""
    draw = random.Random()  # noqa: S311 - no secret

    async def writer() -> None:
        async with AsyncSession(engine) as session:
            while True:
                commit = draw.random() < 0.8
                await transact(rt, session, draw.choice(CHANNELS), commit=commit)
                await asyncio.sleep(0)

    async with asyncio.TaskGroup() as writers:
        for _ in range(3):
            writers.create_task(writer())


async def wait_relayed(statistics: OutboxStatistics) -> None:
    """Wait until the batch in which it stopped is settled."""
    while statistics.relayed_count < STOPS_AT:  # noqa: ASYNC110 - plain numbers tell nobody
        await asyncio.sleep(0.01)


def say(line: str) -> None:
    """Tell the test."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def main(role: str, url: str) -> None:
    """Run until killed."""
    engine = create_async_engine(url, hide_parameters=True)
    outbox = StoppingOutbox(engine) if role == "stop" else Outbox(engine)
    if role == "die":
        outbox.database = DyingDatabase(engine)
    rt = create_app(outbox)
    async with rt.lifespan(FastAPI()):
        say("ready")
        if role == "write":
            await write(rt, engine)
        if role == "stop":
            assert isinstance(outbox, StoppingOutbox)
            await wait_relayed(outbox.statistics)
            say(f"relayed {outbox.statistics.relayed_count}")
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
