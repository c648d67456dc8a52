"""PostgreSQL that dies: killed, restored from an older copy, taken over by its standby."""

from __future__ import annotations

import asyncio
import shutil

import pytest

from tests.integration.postgresql_links import (
    KEPT,
    LossyLink,
    broker_at,
    publish,
    refusal_of,
)
from tests.services import postgresql
from wirebell.errors import BrokerUnavailable, ConfigError
from wirebell.model import ChannelOptions, History

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def test_kill_9_loses_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """What was acknowledged when the server was killed is in history, and came once, in order."""
    options = ChannelOptions(history=History(size=100_000, ttl_seconds=600))
    with postgresql.server(keeps_data=True) as server:
        async with broker_at(server.url) as running, broker_at(server.url) as other:
            acknowledged: list[tuple[int, str, bytes]] = []
            refused: set[bytes] = set()
            await other.broker.subscribe("killed")
            is_over = asyncio.Event()

            async def write(name: int) -> None:
                number = 0
                while not is_over.is_set():
                    number += 1
                    data = b"%d:%d" % (name, number)
                    try:
                        position = (await publish(running, "killed", data, options)).position
                    except BrokerUnavailable:
                        refused.add(data)
                    else:
                        acknowledged.append((position.offset, position.epoch, data))

            writers = [asyncio.create_task(write(name)) for name in range(10)]
            for count in (1, 2):
                before = len(acknowledged)
                async with asyncio.timeout(20):
                    while len(acknowledged) < before + 100:  # noqa: ASYNC110 - it counts
                        await asyncio.sleep(0.01)
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.start)
                await other.listener.wait_reconnect(count)
            is_over.set()
            await asyncio.gather(*writers)
            part = await other.broker.history("killed", options, since=None, limit=100_000)
            await other.listener.wait_count("killed", part.top.offset)

            kept = {each.offset: each.data for each in part.publications}
            assert list(range(1, part.top.offset + 1)) == sorted(kept)
            assert {part.top.epoch} == {epoch for _, epoch, _ in acknowledged}
            assert all(kept[offset] == data for offset, _, data in acknowledged)
            assert len(kept) == len(set(kept.values())), "something was published twice"
            assert set(kept.values()) - {data for _, _, data in acknowledged} <= refused
            assert list(kept.values()) == other.delivered("killed")
    assert "lost what it had acknowledged" not in caplog.text


async def test_restart_with_older_data(caplog: pytest.LogCaptureFixture) -> None:
    """A server that comes back with older data: no offset is given twice in one epoch."""
    with postgresql.server() as server:
        async with broker_at(server.url) as running:
            await running.broker.subscribe("older")
            first = (await publish(running, "older", b"1")).position
            await asyncio.to_thread(server.stop)
            await asyncio.to_thread(server.run, "cp", "-a", server.data, server.folder / "old")
            await asyncio.to_thread(server.start)
            await running.listener.wait_reconnect()
            await publish(running, "older", b"2")
            await running.listener.wait_count("older", 2)
            # What it read before a cut counts as well.
            server.sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name = 'wirebell'"
            )
            await running.listener.wait_reconnect(2)
            await asyncio.to_thread(server.stop)
            shutil.rmtree(server.data)
            (server.folder / "old").rename(server.data)
            await asyncio.to_thread(server.start)
            await running.listener.wait_reconnect(3)
            part = await running.broker.history("older", KEPT, since=None, limit=10)
            again = (await publish(running, "older", b"3")).position
            await running.listener.wait_count("older", 3)

            assert (0, 1) == (part.top.offset, again.offset)
            assert first.epoch != part.top.epoch == again.epoch
    assert "lost what it had acknowledged" in caplog.text


async def test_standby_that_takes_over() -> None:
    """A standby is refused; when it is the primary, nodes find it, and all epochs are new.

    Who finds a standby under the primary's address waits for the primary.
    """
    sessions = (
        "SELECT 1 FROM pg_stat_activity "
        "WHERE application_name = 'wirebell' AND query LIKE '%publish%'"
    )
    with (
        postgresql.server() as primary,
        postgresql.standby_of(primary) as standby,
    ):
        refused = await refusal_of(standby.url)
        async with LossyLink(primary.port) as link, broker_at(link.url) as running:
            link.target = standby.port
            link.cut()
            waiting = asyncio.ensure_future(publish(running, "moved", b"1"))
            async with asyncio.timeout(3):
                while not standby.sql(sessions):  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.01)
            assert not waiting.done()
            link.target = primary.port
            await waiting
        hosts = f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
        url = (
            f"postgresql://wirebell@{hosts}/postgres?target_session_attrs=read-write"
            "&io_timeout=10&sslmode=disable"
        )
        async with broker_at(url) as running:
            await running.broker.subscribe("a")
            before = (await publish(running, "a", b"1")).position
            await running.listener.wait_count("a", 1)
            await asyncio.to_thread(primary.kill)
            standby.sql("SELECT pg_promote()")
            await running.listener.wait_reconnect()
            part = await running.broker.history("a", KEPT, since=before, limit=9)
            after = (await publish(running, "a", b"2")).position
            await running.listener.wait_count("a", 2)

    assert isinstance(refused, ConfigError)
    assert "standby" in str(refused)
    # Nobody knows whether the standby had everything that was acknowledged.
    assert (0, 1) == (part.top.offset, after.offset)
    assert before.epoch != part.top.epoch == after.epoch
