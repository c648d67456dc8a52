"""The Redis broker on a real server: what is lost, cut, paused and emptied under it."""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from random import Random
from typing import TYPE_CHECKING

import pytest

from tests.integration.redis_links import (
    KEPT,
    LossyLink,
    broker_at,
    publish,
    store_at,
)
from tests.services import redis
from wirebell.errors import BrokerClosed, BrokerUnavailable
from wirebell.model import (
    ChannelOptions,
    History,
    Publication,
    StreamPosition,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.fixture(scope="module")
def server() -> Iterator[redis.RedisServer]:
    """A server for those who leave it as it was."""
    with redis.single() as started:
        yield started


async def test_lost_answer_publishes_once(server: redis.RedisServer) -> None:
    """A call whose answer was lost is repeated, and happened once: in history and for nodes."""
    async with LossyLink(server.port) as link, broker_at(link.url) as running:
        await running.broker.subscribe("once")
        await publish(running, "once", b"1")
        link.lost_answers = 1
        second, third = await asyncio.gather(
            publish(running, "once", b"2"), publish(running, "once", b"3")
        )
        await publish(running, "once", b"4")
        items = await running.listener.wait_count("once", 4)

        assert 0 == link.lost_answers
        assert [2, 3] == [second.position.offset, third.position.offset]
        assert [b"1", b"2", b"3", b"4"] == await running.payloads("once")
        assert 4 == len(items)


async def test_lost_answers_of_what_is_not_kept(server: redis.RedisServer) -> None:
    """Without history, too, what is repeated is delivered once; so is what nodes are told."""
    async with LossyLink(server.port) as link, broker_at(link.url) as running:
        await running.broker.subscribe("unkept")
        for number in range(3):
            link.lost_answers = 1
            await publish(running, "unkept", b"%d" % number, ChannelOptions())
        link.lost_answers = 1
        await running.broker.publish_control(b"told")
        await running.broker.check()

        assert [b"0", b"1", b"2"] == [
            item.data for item in running.listener.of("unkept") if isinstance(item, Publication)
        ]
        assert [b"told"] == running.listener.controls


async def test_cut_link_comes_back(
    server: redis.RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """After a cut everything is subscribed to again, and the node is told; it is logged once."""
    caplog.set_level(logging.INFO, "wirebell.brokers.redis")
    async with LossyLink(server.port) as link, broker_at(link.url) as running:
        channels = [f"cut:{number}" for number in range(2500)]
        await asyncio.gather(*(running.broker.subscribe(channel) for channel in channels))
        link.refuses = True
        link.cut()
        await wait_disconnected(running.broker)
        with pytest.raises(BrokerUnavailable, match="away"):
            await running.broker.check()
        await asyncio.sleep(0.3)
        link.refuses = False
        await running.listener.wait_reconnect()

        await asyncio.gather(*(publish(running, channel, b"x") for channel in channels[::100]))
        for channel in channels[::100]:
            await running.listener.wait_count(channel, 1)
        assert running.broker.is_connected
        assert 1 == running.broker.reconnect_count
    messages = [record.getMessage() for record in caplog.records]
    assert 1 == sum("is lost" in message for message in messages)
    assert 1 == sum("stands again" in message for message in messages)


async def test_cuts_while_publishing(server: redis.RedisServer) -> None:
    """Whatever is cut and whenever, what was acknowledged is kept once, in its order."""
    channels, count = ("storm:a", "storm:b", "storm:c"), 150
    options = ChannelOptions(history=History(size=2 * count, ttl_seconds=60))
    random = Random(7)  # noqa: S311 - not a secret
    acknowledged: dict[str, list[tuple[int, bytes]]] = {channel: [] for channel in channels}
    async with LossyLink(server.port) as link, broker_at(link.url) as running:

        async def write(channel: str) -> None:
            for number in range(count):
                data = b"%d" % number
                published = await publish(running, channel, data, options)
                acknowledged[channel].append((published.position.offset, data))

        async def disturb() -> None:
            for _ in range(12):
                await asyncio.sleep(random.uniform(0, 0.05))
                if random.random() < 0.5:
                    link.cut()
                else:
                    link.lost_answers = random.randint(1, 2)

        for channel in channels:
            await running.broker.subscribe(channel)
        await asyncio.gather(disturb(), *(write(channel) for channel in channels))
        for channel in channels:
            part = await running.broker.history(channel, options, since=None, limit=2 * count)
            kept = [(each.offset, each.data) for each in part.publications]
            assert acknowledged[channel] == kept
            assert list(range(1, count + 1)) == [offset for offset, _ in kept]
            # What arrived is a part of that, in the same order.
            arrived = [
                item.offset
                for item in running.listener.of(channel)
                if isinstance(item, Publication)
            ]
            assert sorted(set(arrived)) == arrived


async def wait_disconnected(broker: object) -> None:
    """Wait until a broker knows that its link is cut."""
    async with asyncio.timeout(10):
        while broker.is_connected:  # type: ignore[attr-defined]  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_subscribing_while_the_link_is_cut(server: redis.RedisServer) -> None:
    """Who subscribes during a cut waits for the link, and misses nothing afterwards."""
    async with LossyLink(server.port) as link, broker_at(link.url) as running:
        link.refuses = True
        link.cut()
        await wait_disconnected(running.broker)
        waiting = asyncio.ensure_future(running.broker.subscribe("late"))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        link.refuses = False
        await waiting

        await publish(running, "late", b"x")
        await running.listener.wait_count("late", 1)


async def test_subscribing_is_bounded(server: redis.RedisServer) -> None:
    """Who subscribes while the server stays away is told so in time, and it is not subscribed."""
    async with (
        LossyLink(server.port) as link,
        broker_at(f"{link.url}?io_timeout=0.3") as running,
    ):
        link.refuses = True
        link.cut()
        await wait_disconnected(running.broker)
        with pytest.raises(BrokerUnavailable, match="nothing can be subscribed to"):
            await running.broker.subscribe("never")
        link.refuses = False
        await running.listener.wait_reconnect()
        await publish(running, "never", b"x")
        await running.broker.check()
        assert [] == running.listener.of("never")


async def test_paused_server() -> None:
    """A server that stands still: publishing fails in time and for good, and goes on later."""
    with redis.single() as server:
        async with broker_at(f"{server.url}?io_timeout=0.5") as running:
            await running.broker.subscribe("paused")
            await publish(running, "paused", b"1")
            server.pause()
            started = time.monotonic()
            results = await asyncio.gather(
                publish(running, "paused", b"given up"),
                running.broker.check(),
                return_exceptions=True,
            )
            took = time.monotonic() - started
            server.resume()
            assert all(isinstance(result, BrokerUnavailable) for result in results), results
            assert took < 2

            await publish(running, "paused", b"2")
            await running.broker.check()
            kept = await running.payloads("paused")
            items = running.listener.of("paused")
            # It raised, so it is in both or in neither, and never comes late.
            assert kept in ([b"1", b"2"], [b"1", b"given up", b"2"])
            assert kept == [item.data for item in items if isinstance(item, Publication)]


async def test_silent_server_is_left() -> None:
    """A server that says nothing is lost in time, without anybody publishing."""
    with redis.single() as server:
        async with broker_at(f"{server.url}?io_timeout=0.3") as running:
            server.pause()
            await wait_disconnected(running.broker)
            server.resume()
            await running.listener.wait_reconnect()
            await running.broker.check()


async def test_restart_with_data() -> None:
    """A server that comes back with everything: epochs and offsets go on, and so does delivery."""
    with redis.single(keeps_data=True) as server:
        async with broker_at(server.url) as running:
            await running.broker.subscribe("restarted")
            before = (await publish(running, "restarted", b"1")).position
            server.restart(keeps_data=True)
            await running.listener.wait_reconnect()
            after = (await publish(running, "restarted", b"2")).position
            await running.listener.wait_count("restarted", 2)

            assert StreamPosition(before.offset + 1, before.epoch) == after
            assert [b"1", b"2"] == await running.payloads("restarted")
            assert 1 == running.broker.reconnect_count


async def test_restart_without_data() -> None:
    """A server that comes back empty: another epoch, and nothing of before."""
    with redis.single() as server:
        async with broker_at(server.url) as running:
            await running.broker.subscribe("emptied")
            before = (await publish(running, "emptied", b"1")).position
            server.restart(keeps_data=False)
            await running.listener.wait_reconnect()
            part = await running.broker.history("emptied", KEPT, since=before, limit=10)
            after = (await publish(running, "emptied", b"2")).position

            assert (0, 1) == (part.top.offset, after.offset)
            assert before.epoch != part.top.epoch == after.epoch


async def test_restart_with_older_data() -> None:
    """A server that comes back with an older snapshot: no offset is given twice in one epoch."""
    with redis.single() as server:
        async with broker_at(server.url) as running, broker_at(server.url) as other:
            await other.broker.subscribe("older")
            first = (await publish(running, "older", b"1")).position
            await publish(other, "elsewhere", b"1")
            server.command("SAVE")
            await publish(running, "older", b"2")
            server.restart(keeps_data=True)
            for each in (running, other):
                await each.listener.wait_reconnect()
            part = await other.broker.history("older", KEPT, since=None, limit=10)
            again = (await publish(running, "older", b"3")).position

            assert first.epoch != part.top.epoch == again.epoch
            assert (0, 1) == (part.top.offset, again.offset)
            # A second look finds nothing new to change.
            await publish(other, "elsewhere", b"2")
            assert (
                StreamPosition(2, again.epoch) == (await publish(running, "older", b"4")).position
            )


async def test_server_without_memory(server: redis.RedisServer) -> None:
    """A server that may not grow refuses at once, says what to do, and delivers nothing."""
    async with broker_at(server.url) as running:
        await publish(running, "full", b"0")
        await running.broker.subscribe("full")
        server.command("CONFIG", "SET", "maxmemory", 1)
        try:
            with pytest.raises(BrokerUnavailable, match="raise maxmemory"):
                await publish(running, "full", b"1", ChannelOptions())
            # What is there can be read.
            assert [b"0"] == await running.payloads("full")
        finally:
            server.command("CONFIG", "SET", "maxmemory", 0)
        await publish(running, "full", b"2")
        items = await running.listener.wait_count("full", 1)
        assert [b"2"] == [item.data for item in items if isinstance(item, Publication)]


async def test_server_that_cannot_save() -> None:
    """A server whose disk takes no snapshot refuses writes, and that is what we say."""
    with redis.single("--stop-writes-on-bgsave-error", "yes", "--save", "3600 1000") as server:
        async with broker_at(server.url) as running:
            shutil.rmtree(server.folder)
            server.command("BGSAVE")
            redis.wait(
                lambda: b"rdb_last_bgsave_status:err" in server.command("INFO", "persistence"),
                "the snapshot succeeded",
            )
            with pytest.raises(BrokerUnavailable, match="free space"):
                await publish(running, "disk", b"1")


async def test_master_that_became_a_replica(server: redis.RedisServer) -> None:
    """A server that takes no writes any more: waited for within the bound, then named."""
    with redis.single() as other:
        async with broker_at(f"{other.url}?io_timeout=0.5") as running:
            other.command("REPLICAOF", "127.0.0.1", server.port)
            with pytest.raises(BrokerUnavailable, match="it is a replica"):
                await publish(running, "replica", b"1")
            other.command("REPLICAOF", "NO", "ONE")
            await publish(running, "replica", b"2")


async def test_presence_store_that_is_away() -> None:
    """A store says that it is away, that it is closed, and when it is back."""
    with redis.single() as server:
        async with store_at(f"{server.url}?io_timeout=0.3") as store:
            server.kill()
            with pytest.raises(BrokerUnavailable, match="cannot be reached"):
                await store.members("x")
            server.start()
            assert {} == await store.members("x")
    with pytest.raises(BrokerClosed):
        await store.members("x")


async def test_closing_carries_what_was_published(server: redis.RedisServer) -> None:
    """What was published before the end is in history, though nobody waited for it."""
    async with broker_at(server.url) as running, broker_at(server.url) as other:
        future = asyncio.ensure_future(publish(running, "last", b"1"))
        await asyncio.sleep(0)
        await running.broker.aclose()

        assert 1 == (await future).position.offset
        assert [b"1"] == await other.payloads("last")


async def test_closing_while_the_server_is_away() -> None:
    """Closing is bounded, and who waits is told."""
    with redis.single() as server:
        async with broker_at(f"{server.url}?io_timeout=0.5") as running:
            server.pause()
            future = asyncio.ensure_future(publish(running, "x", b"1"))
            await asyncio.sleep(0.05)
            started = time.monotonic()
            await running.broker.aclose()
            assert time.monotonic() - started < 3
            with pytest.raises((BrokerUnavailable, BrokerClosed)):
                await future
            server.resume()
