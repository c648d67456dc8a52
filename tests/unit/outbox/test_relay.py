"""The relay: order, failures, leases and waits, on a clock that jumps."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import text, update

from tests.unit.clocks import pass_time, turns
from tests.unit.nodes import Rig, running
from tests.unit.outbox.outboxes import Database, database
from wirebell.brokers.memory import MemoryBroker, MemoryPresenceStore
from wirebell.errors import BrokerUnavailable, CommandError, ErrorCode, ProtocolError
from wirebell.model import ChannelOptions, History, Publication, PublishOptions
from wirebell.node import Node
from wirebell.outbox.relay import Relay
from wirebell.outbox.tables import LEASE, OUTBOX, claim
from wirebell.settings import Settings
from wirebell.statistics import OutboxStatistics

pytestmark = pytest.mark.anyio

POLL = Settings().outbox_poll_seconds * 1.25


class Bench:
    """A node, a database, and a relay between them."""

    def __init__(self, rig: Rig, found: Database, settings: Settings) -> None:
        self.rig = rig
        self.database = found
        self.statistics = OutboxStatistics()
        self.relay = Relay(found, rig.node, settings, self.statistics, random=lambda: 0.999)

    async def read(self, channel: str) -> list[str]:
        """Return what a channel's log has."""
        part = await self.rig.node.history(channel, since=None, limit=1000)
        return [each.data.decode() for each in part.publications]


@asynccontextmanager
async def bench(folder: Path, settings: Settings | None = None) -> AsyncIterator[Bench]:
    """Prepare a relay; nothing runs yet."""
    settings = settings or Settings()
    with database(folder) as found:
        async with running(settings) as rig:
            yield Bench(rig, found, settings)


@asynccontextmanager
async def relaying(made: Bench) -> AsyncIterator[None]:
    """Run a relay until the block ends; it then ends by itself."""
    task = asyncio.create_task(made.relay.run())
    try:
        yield
    finally:
        made.relay.close()
        for gate in made.rig.gates.held.values():
            gate.set()
        async with asyncio.timeout(60):
            await task


async def test_relays_in_order(tmp_path: Path) -> None:
    """What waits at the start is published, batch by batch, in the order of each channel."""
    settings = Settings(outbox_batch_rows_max=3)
    async with bench(tmp_path, settings) as made:
        made.database.write(*((f"h{number % 2}", f"{number}") for number in range(8)))
        async with relaying(made):
            await turns(30)
            logs = [await made.read("h0"), await made.read("h1")]

        assert [["0", "2", "4", "6"], ["1", "3", "5", "7"]] == logs
        assert ([], 8, 0) == (
            made.database.waiting(),
            made.statistics.relayed_count,
            made.statistics.failure_count,
        )
        assert [3, 3, 2] == [len(rows) for rows in made.database.rows]


async def test_looks_by_itself_and_when_woken(tmp_path: Path) -> None:
    """Rows are found at the next look, or at once when somebody says that there are some."""
    async with bench(tmp_path) as made, relaying(made):
        await turns()
        made.database.write(("h", "1"))
        await turns()
        before = await made.read("h")
        await pass_time(POLL)
        found = await made.read("h")
        made.database.write(("h", "2"))
        made.relay.wake()
        await turns()
        woken = await made.read("h")

    assert ([], ["1"], ["1", "2"]) == (before, found, woken)


async def test_what_can_never_be_published_goes_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It keeps its reason, holds nobody up, and is not tried again."""
    async with bench(tmp_path, Settings(publication_bytes_max=3)) as made:
        made.database.write(("h", "long"), ("h", "ok"), ("h1", "damaged"))
        damage = update(OUTBOX).where(OUTBOX.c.channel == "h1").values(publication=b"\x01\xff")
        made.database.now(lambda link: link.execute(damage))
        async with relaying(made):
            await pass_time(20)
            log = await made.read("h")

        assert ["ok"] == log
        assert (2, 0, 1) == (
            made.statistics.aside_count,
            made.statistics.waiting_count,
            made.statistics.relayed_count,
        )
        reasons = made.database.reasons()
        assert "a publication has at most 3 bytes, got 4" == reasons["h"]
        assert "cannot be read" in str(reasons["h1"])
        assert 2 == len([each for each in caplog.records if each.levelno == logging.ERROR])


async def test_a_broker_that_is_away(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is removed meanwhile; tries are far between, and commits do not hurry them."""
    async with bench(tmp_path) as made:
        made.rig.gates.failures["publish"] = BrokerUnavailable("gone")
        async with relaying(made):
            for number in range(100):
                made.database.write(("h", f"{number}"))
                made.relay.wake()
                await pass_time(0.5)
            tries = made.rig.gates.calls.count("publish")
            waiting = len(made.database.waiting())
            measured = made.statistics.waiting_count
            made.rig.gates.failures.clear()
            await pass_time(5)
            log = await made.read("h")

    assert 100 == waiting
    assert 10 < tries < 30
    assert measured > 80
    assert made.statistics.oldest_seconds >= 0
    # The channel keeps ten of them.
    assert ([f"{number}" for number in range(90, 100)], 100) == (
        log,
        made.statistics.relayed_count,
    )
    told = [each for each in caplog.records if "the outbox waits" in each.message]
    assert 3 <= len(told) <= 6


@pytest.mark.parametrize("kind", ["newer", "newer options", "strange", "temporary"])
async def test_a_channel_that_cannot_go_on(tmp_path: Path, kind: str) -> None:
    """It waits with all that follows in it; other channels are published at their commits."""
    async with bench(tmp_path) as made:
        made.database.write(("h", "1"), ("h", "2"), how=PublishOptions(skip_history=True))
        first = update(OUTBOX).where(OUTBOX.c.id == 1)
        if kind == "newer":
            changed = first.values(publication=b"\x63new")
            made.database.now(lambda link: link.execute(changed))
        elif kind == "newer options":
            options = first.values(options=b"\x63new")
            made.database.now(lambda link: link.execute(options))
        else:
            error = ZeroDivisionError() if kind == "strange" else ProtocolError(ErrorCode.INTERNAL)
            made.rig.gates.failures["publish"] = error
        async with relaying(made):
            await turns(20)
            made.rig.gates.failures.clear()
            made.database.write(("h2", "other"))
            made.relay.wake()
            await turns(20)
            other = await made.read("h2")
            waiting = made.database.waiting()

    assert ["other"] == other
    assert (["h", "h"] if kind.startswith("newer") else []) == waiting
    assert made.statistics.failure_count >= 1


async def test_much_that_cannot_go_on_hides_nothing(tmp_path: Path) -> None:
    """A channel with more rows than a batch that cannot be published holds nobody up."""
    async with bench(tmp_path, Settings(outbox_batch_rows_max=2)) as made:
        made.database.write(*[("h", "x")] * 5, ("h2", "other"))
        newer = update(OUTBOX).where(OUTBOX.c.id == 1).values(publication=b"\x63new")
        made.database.now(lambda link: link.execute(newer))
        async with relaying(made):
            await turns(30)
            other = await made.read("h2")

        assert ["other"] == other
        assert ["h"] * 5 == made.database.waiting()


async def test_another_has_the_lease(tmp_path: Path) -> None:
    """While another relays this one waits a little, and goes on when the lease has ended."""
    async with bench(tmp_path) as made:
        made.database.write(("h", "1"))
        made.database.now(lambda link: claim(link, "other", lease_seconds=1000, rows_max=1))
        async with relaying(made):
            await pass_time(10)
            meanwhile = await made.read("h")
            looks = made.database.count
            made.database.now(lambda link: link.execute(update(LEASE).values(expires_at=0)))
            await pass_time(POLL)
            found = await made.read("h")

    assert ([], ["1"]) == (meanwhile, found)
    assert looks < 60


async def test_the_lease_is_given_back(tmp_path: Path) -> None:
    """A relay with nothing to do has no lease, and neither has one that ended."""
    async with bench(tmp_path) as made:
        made.database.write(("h", "1"))
        async with relaying(made):
            await turns(20)
            holders = made.database.now(lambda link: list(link.execute(LEASE.select())))

    assert [("relay", "", 0.0)] == [tuple(each) for each in holders]


async def test_removing_fails(tmp_path: Path) -> None:
    """What is published and could not be removed is not published again, even without a key."""
    async with bench(tmp_path) as made:
        made.database.write(("h", "1"), ("h", "2"))
        # Looks, claims, fails to settle.
        made.database.failures = {3: ConnectionResetError("cut")}
        async with relaying(made):
            await pass_time(5)
            made.rig.broker.results.results.clear()
            await pass_time(20)
            log = await made.read("h")

        assert (["1", "2"], 2) == (log, made.rig.gates.calls.count("publish"))
        assert ([], 1) == (made.database.waiting(), made.statistics.failure_count)


async def test_the_same_row_is_published_once(tmp_path: Path) -> None:
    """Another relay that finds rows which are published already only removes them."""
    async with bench(tmp_path) as made:
        made.database.write(("h", "1"), ("h", "2"))
        made.database.failures = {3: ConnectionResetError("cut")}
        async with relaying(made):
            await turns(40)
        made.database.now(lambda link: link.execute(update(LEASE).values(expires_at=0)))
        second = Bench(made.rig, made.database, Settings())
        async with relaying(second):
            await pass_time(5)
            log = await second.read("h")

        assert (["1", "2"], 2) == (log, second.statistics.relayed_count)


async def test_a_slow_broker_and_the_lease(tmp_path: Path) -> None:
    """After two thirds of the lease a relay stops, and renews it before it goes on."""
    async with bench(tmp_path) as made:
        made.database.write(("h", "1"), ("h", "2"), ("h", "3"))
        gate = made.rig.gates.hold("publish")
        async with relaying(made):
            await pass_time(11)
            gate.set()
            await turns(30)
            log = await made.read("h")

    assert ["1", "2", "3"] == log
    assert [3, 2] == [len(rows) for rows in made.database.rows]


async def test_a_suspended_machine_and_the_lease(tmp_path: Path) -> None:
    """A lease also ends on a machine that sleeps, whose loop does not notice."""
    async with bench(tmp_path) as made:
        wall = 0.0
        made.relay.wall_clock = lambda: wall
        made.database.write(("h", "1"), ("h", "2"), ("h", "3"))
        gate = made.rig.gates.hold("publish")
        async with relaying(made):
            await turns()
            wall = 1000.0
            gate.set()
            await turns(30)
            log = await made.read("h")

    assert ["1", "2", "3"] == log
    assert [3, 2] == [len(rows) for rows in made.database.rows]


async def test_closing_in_the_middle(tmp_path: Path) -> None:
    """What was begun is finished and removed; the rest waits for another."""
    async with bench(tmp_path) as made:
        made.database.write(("h", "1"), ("h", "2"), ("h", "3"))
        gate = made.rig.gates.hold("publish")
        async with relaying(made):
            await pass_time(1)
            made.relay.close()
            gate.set()
        log = await made.read("h")

        assert ["1"] == log
        assert ["h", "h"] == made.database.waiting()


async def test_a_database_that_is_away(tmp_path: Path) -> None:
    """Every failure is counted, and the relay goes on when it can."""
    async with bench(tmp_path) as made:
        made.database.write(("h", "1"))
        made.database.failures = {number: OSError("away") for number in range(1, 6)}
        async with relaying(made):
            await pass_time(20)
            log = await made.read("h")
            made.database.failures = {
                number: OSError("away") for number in range(made.database.count, 10_000)
            }

    assert ["1"] == log
    assert made.statistics.failure_count >= 6


async def test_old_rows_are_looked_for_in_history(tmp_path: Path) -> None:
    """What was published longer ago than keys live is found, however long the history is."""
    options = ChannelOptions(history=History(size=2000))
    broker = MemoryBroker(Settings(), clock=lambda: 0.0)
    node = Node(Settings(), broker, MemoryPresenceStore(), lambda channel: options)
    await node.start()
    try:
        with database(tmp_path) as found:
            found.write(("a", "old"), ("a", "new"), ("b", "old"))
            found.now(lambda link: link.execute(text("UPDATE wirebell_outbox SET created_at=1")))
            uid = found.now(
                lambda link: link.scalar(OUTBOX.select().with_only_columns(OUTBOX.c.uid))
            )
            await node.publish("a", Publication(b"old", origin=str(uid)))
            for number in range(1200):
                await node.publish("a", Publication(b"%d" % number))
            statistics = OutboxStatistics()
            relay = Relay(found, node, Settings(), statistics)
            task = asyncio.create_task(relay.run())
            await pass_time(3)
            relay.close()
            await task
        kept = await node.history("a", since=None, limit=2000)
        other = await node.history("b", since=None, limit=2000)
    finally:
        await node.aclose()

    assert (1202, b"new") == (len(kept.publications), kept.publications[-1].data)
    assert ([b"old"], 3) == ([each.data for each in other.publications], statistics.relayed_count)


async def test_old_rows_without_history(tmp_path: Path) -> None:
    """Where nothing is kept there is nothing to look in: they are published."""
    async with bench(tmp_path) as made:
        made.database.write(("x", "1"))
        made.database.now(
            lambda link: link.execute(text("UPDATE wirebell_outbox SET created_at=1"))
        )
        async with relaying(made):
            await turns(30)

        assert 1 == made.rig.node.statistics.published_count


def test_errors_that_are_temporary() -> None:
    """The error of the test above is one that may pass."""
    assert ProtocolError(ErrorCode.INTERNAL).temporary
    assert not CommandError("x").temporary
