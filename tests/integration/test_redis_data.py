"""What the Redis broker keeps in a real server: positions, streams, keys and leases."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.integration.redis_links import KEPT, broker_at, publish, store_at
from tests.services import redis
from wirebell.model import (
    ChannelOptions,
    ClientInfo,
    History,
    Publication,
    PublishOptions,
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


async def test_flushed_server(server: redis.RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """FLUSHALL starts a new epoch in every channel, also where nobody had been cut."""
    async with broker_at(server.url) as running:
        await running.broker.subscribe("flushed")
        before = (await publish(running, "flushed", b"1")).position
        server.command("FLUSHALL")
        after = (await publish(running, "flushed", b"2")).position
        items = await running.listener.wait_count("flushed", 2)

        assert (1, 1) == (before.offset, after.offset)
        assert before.epoch != after.epoch
        assert [before.epoch, after.epoch] == [
            item.epoch for item in items if isinstance(item, Publication)
        ]
    assert "lost data that it had acknowledged" in caplog.text


async def test_forgotten_scripts(server: redis.RedisServer) -> None:
    """A server that forgot the scripts is given them again."""
    async with broker_at(server.url) as running:
        server.command("SCRIPT", "FLUSH")
        assert 1 == (await publish(running, "scripts", b"1")).position.offset
        server.command("SCRIPT", "FLUSH")
        assert [b"1"] == await running.payloads("scripts")


async def test_records_of_a_newer_release(
    server: redis.RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """What a newer release wrote is left out with a word, and the rest of it is read."""
    async with broker_at(server.url) as running:
        await running.broker.subscribe("newer")
        await publish(running, "newer", b"1")
        server.command("XADD", "wirebell.stream.newer", "2-0", "d", b"\x09future")
        server.command("PUBLISH", "wirebell.0.channel.newer", b"\x09future")
        server.command("PUBLISH", "wirebell.0.channel.newer", b"\x01" + bytes(19) + b"\x01\x09")
        await publish(running, "newer", b"1", ChannelOptions())
        await running.listener.wait_count("newer", 2)

        assert [b"1"] == await running.payloads("newer")
    assert 1 == caplog.text.count("left out")
    assert "upgrade this node too" in caplog.text


async def test_stream_that_somebody_broke(server: redis.RedisServer) -> None:
    """A stream that cannot go on begins anew, with another epoch."""
    async with broker_at(server.url) as running:
        first = (await publish(running, "broken", b"1")).position
        server.command("SET", "wirebell.stream.broken", "what?")
        second = (await publish(running, "broken", b"2")).position
        third = (await publish(running, "broken", b"3")).position

        assert first.epoch != second.epoch == third.epoch
        assert [1, 2] == [second.offset, third.offset]
        assert [b"2", b"3"] == await running.payloads("broken")


async def test_history_ends_by_itself(server: redis.RedisServer) -> None:
    """Publications end with the ttl, positions with the meta ttl; Redis forgets the keys itself."""
    options = ChannelOptions(history=History(ttl_seconds=0.05, meta_ttl_seconds=0.25))
    async with broker_at(server.url) as running:
        first = (await publish(running, "short", b"1", options)).position
        redis.wait(lambda: server.command("EXISTS", "wirebell.stream.short") == 0, "it stays")
        ended = await running.broker.history("short", options, since=None, limit=10)
        redis.wait(lambda: server.command("EXISTS", "wirebell.meta.short") == 0, "it stays")
        anew = await running.broker.history("short", options, since=None, limit=10)

        assert ((), first) == (ended.publications, ended.top)
        assert 0 == anew.top.offset
        assert first.epoch != anew.top.epoch
        assert 0 < server.command("PTTL", "wirebell.meta.short")


async def test_what_has_ended_does_not_come_back(server: redis.RedisServer) -> None:
    """What a ttl or a size has let go of is not read again, though Redis still has it."""
    ending = ChannelOptions(history=History(size=100, ttl_seconds=0.4))
    small = ChannelOptions(history=History(size=2, ttl_seconds=60))
    async with broker_at(server.url) as running:
        for number in range(1, 6):
            await publish(running, "ending", b"%d" % number, ending)
            await publish(running, "small", b"%d" % number, small)
        ends = float(server.command("GET", "wirebell.meta.ending")[32:48]) / 1000
        assert 5 == server.command("XLEN", "wirebell.stream.small")
        assert [b"4", b"5"] == await running.payloads("small")
        newest = await running.broker.history("small", small, since=None, limit=9, reverse=True)
        before = await running.broker.history(
            "small", small, since=StreamPosition(4), limit=9, reverse=True
        )
        assert ([5, 4], []) == (
            [each.offset for each in newest.publications],
            [each.offset for each in before.publications],
        )

        redis.wait(lambda: server.time() > ends + 0.002, "the clock stands still")
        if server.command("EXISTS", "wirebell.stream.ending"):
            assert [] == await running.payloads("ending")
        await publish(running, "ending", b"6", ending)
        assert [b"6"] == await running.payloads("ending")


@pytest.mark.parametrize(("count", "scripts"), [(31, 1), (100, 2)])
async def test_one_call_for_a_turn(server: redis.RedisServer, count: int, scripts: int) -> None:
    """What a turn publishes is one call, or two that overlap, and no more than has to be done."""
    channels = [f"turn:{number}" for number in range(count)]
    async with broker_at(server.url) as running:
        await asyncio.gather(*(publish(running, channel, b"1") for channel in channels))
        server.command("CONFIG", "RESETSTAT")
        await asyncio.gather(*(publish(running, channel, b"2") for channel in channels))
        lines = server.command("INFO", "commandstats").decode().split()
        calls = {
            line.removeprefix("cmdstat_").partition(":")[0]: int(line.split("=")[1].split(",")[0])
            for line in lines
            if line.startswith("cmdstat_")
        }

        once = dict.fromkeys(("evalsha", "mget", "time"), scripts)
        expected = once | {"xadd": count, "set": count + scripts, "publish": count}
        assert expected == {name: calls.get(name) for name in expected}
        assert not calls.keys() & {"get", "pexpire", "pexpireat", "eval"}


async def test_what_cannot_be_written_fails_alone(server: redis.RedisServer) -> None:
    """A key that is no text takes nothing else of its turn along."""
    async with broker_at(server.url) as running:
        good, bad, worse = await asyncio.gather(
            publish(running, "sound", b"1"),
            publish(running, "sound", b"2", KEPT, PublishOptions(idempotency_key="\ud800")),
            publish(running, "sound", b"3", KEPT, PublishOptions("k", version_epoch="\ud800")),
            return_exceptions=True,
        )

        assert not isinstance(good, BaseException)
        assert isinstance(bad, UnicodeEncodeError)
        assert isinstance(worse, UnicodeEncodeError)


async def test_history_without_bounds(server: redis.RedisServer) -> None:
    """A size and times beyond what Redis can count are as much as it can."""
    endless = ChannelOptions(history=History(size=10**15, ttl_seconds=1e15, meta_ttl_seconds=1e15))
    async with broker_at(server.url) as running:
        for number in range(1, 3):
            published = await publish(running, "endless", b"%d" % number, endless)
            assert number == published.position.offset
        assert [b"1", b"2"] == await running.payloads("endless")


async def test_every_key_ends(server: redis.RedisServer) -> None:
    """A stream has an expiry whenever it is made, also when its history was removed before."""
    async with broker_at(server.url) as running:
        for number in range(3):
            await publish(running, "ends", b"1")
            first = server.command("PEXPIRETIME", "wirebell.stream.ends")
            await publish(running, "ends", b"2")
            assert first == server.command("PEXPIRETIME", "wirebell.stream.ends")
            assert 60_000 < server.command("PTTL", "wirebell.stream.ends") <= 67_500
            await running.broker.remove_history("ends")
            assert [] == await running.payloads("ends"), number

        await publish(running, "ends", b"3")
        assert 0 < server.command("PTTL", "wirebell.stream.ends")
        assert [b"3"] == await running.payloads("ends")


async def test_meta_that_somebody_broke(server: redis.RedisServer) -> None:
    """A position that cannot be read is another epoch; other channels of the turn go on."""
    async with broker_at(server.url) as running:
        await publish(running, "torn", b"1")
        for torn in (b"x", b"y" * 70):
            server.command("SET", "wirebell.meta.torn", torn)
            torn_one, sound = await asyncio.gather(
                publish(running, "torn", b"2"), publish(running, "sound", b"1")
            )
            assert (1, True) == (torn_one.position.offset, sound.position.offset > 0)
        server.command("DEL", "wirebell.meta.torn")
        server.command("HSET", "wirebell.meta.torn", "a", "b")
        assert 1 == (await publish(running, "torn", b"3")).position.offset
        assert [b"3"] == await running.payloads("torn")


async def test_channels_that_are_only_asked_for(server: redis.RedisServer) -> None:
    """Asking for a channel's history leaves nothing for longer than an hour."""
    async with broker_at(server.url) as running:
        await running.broker.history("asked", KEPT, since=None, limit=10)

        assert 0 < server.command("TTL", "wirebell.meta.asked") <= 3600


async def test_versions_and_keys_of_one_turn(server: redis.RedisServer) -> None:
    """Versions and idempotency keys hold within one call, too, and stay for the next."""
    async with broker_at(server.url) as running:
        hows = (
            PublishOptions(version=2),
            PublishOptions(version=1),
            PublishOptions(idempotency_key="k", version=3),
            PublishOptions(idempotency_key="k", version=9),
            None,
            PublishOptions(version=3),
            PublishOptions(version=2**63),
        )
        results = await asyncio.gather(
            *(
                publish(running, "versions", b"%d" % number, KEPT, how)
                for number, how in enumerate(hows)
            )
        )
        later = await publish(running, "versions", b"x", KEPT, PublishOptions(version=2**63))

        assert [1, 1, 2, 2, 3, 3, 4] == [result.position.offset for result in results]
        assert [False, True, False, True, False, True, False] == [
            result.is_suppressed for result in results
        ]
        assert (True, 4) == (later.is_suppressed, later.position.offset)
        assert [b"0", b"2", b"4", b"6"] == await running.payloads("versions")
        assert 250 < server.command("TTL", "wirebell.once.8.versions.k") <= 300


async def test_databases_do_not_hear_each_other(server: redis.RedisServer) -> None:
    """Channels of one name in two databases are two channels, live and kept."""
    async with broker_at(server.url) as one, broker_at(f"{server.url}/1") as other:
        for each in (one, other):
            await each.broker.subscribe("db")
        await publish(one, "db", b"one")
        await publish(other, "db", b"other")
        await one.broker.publish_control(b"one")
        await other.broker.check()

        assert [b"one"] == await one.payloads("db")
        assert [b"other"] == await other.payloads("db")
        assert 1 == len(one.listener.of("db")) == len(other.listener.of("db"))
        assert [] == other.listener.controls


async def test_own_publication_comes_before_the_answer(server: redis.RedisServer) -> None:
    """When publishing is answered, this node has received the publication."""
    async with broker_at(server.url) as running:
        await running.broker.subscribe("own")
        for number in range(50):
            await publish(running, "own", b"x")
            assert number + 1 == len(running.listener.of("own"))


async def test_control_has_a_bound(server: redis.RedisServer) -> None:
    """What nodes tell each other has at most a MiB, and so much arrives."""
    async with broker_at(server.url, "me") as running:
        with pytest.raises(ValueError, match="limit 1048576"):
            await running.broker.publish_control(bytes(1024 * 1024 + 1))
        await running.broker.publish_control(bytes(1024 * 1024), "me")
        assert [bytes(1024 * 1024)] == await running.listener.wait_controls(1)


async def test_presence_ends_by_itself(server: redis.RedisServer) -> None:
    """Leases end by the server's clock, and so do the keys; the longest one keeps them."""
    async with store_at(server.url) as store:
        await store.add("lobby", ClientInfo("1", "ann"), ttl_seconds=0.1)
        await store.add("lobby", ClientInfo("2", "bob"), ttl_seconds=60)
        await store.add("lobby", ClientInfo("3", "cy"), ttl_seconds=0.1)
        async with asyncio.timeout(5):
            while len(await store.members("lobby")) != 1:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

        assert {"2": ClientInfo("2", "bob")} == await store.members("lobby")
        assert 1 == server.command("HLEN", "wirebell.members.lobby")
        assert 1 == server.command("ZCARD", "wirebell.leases.lobby")
        for name in ("members", "leases"):
            assert 55_000 < server.command("PTTL", f"wirebell.{name}.lobby") <= 61_000


async def test_members_of_a_newer_release(
    server: redis.RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A member whose record cannot be read is left out with a word."""
    async with store_at(server.url) as store:
        await store.add("mixed", ClientInfo("1"), ttl_seconds=60)
        server.command("HSET", "wirebell.members.mixed", "2", b"\x09future")

        assert {"1"} == set(await store.members("mixed"))
    assert "upgrade this node too" in caplog.text


async def test_presence_of_a_crowd(server: redis.RedisServer) -> None:
    """Thousands of leases that end at once are swept by who reads next."""
    async with store_at(server.url) as store:
        await asyncio.gather(
            *(
                store.add("crowd", ClientInfo(str(number)), ttl_seconds=0.01)
                for number in range(2500)
            )
        )
        await store.add("crowd", ClientInfo("last"), ttl_seconds=60)
        await asyncio.sleep(0.05)  # longer than a lease

        assert {"last"} == set(await store.members("crowd"))
