"""The Redis broker on every kind of place: TLS, access lists, sockets, Sentinels, clusters."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest
import uvloop
from redis.crc import key_slot

from tests import servers
from tests.integration.redis_links import Running, broker_at, publish, store_at
from tests.services import redis
from wirebell.brokers.redis import RedisBroker, RedisPresenceStore, read_url
from wirebell.brokers.redis.broker import locate
from wirebell.errors import BrokerUnavailable, ConfigError
from wirebell.model import ClientInfo, Publication
from wirebell.testing import RecordingListener

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

NEEDED = (
    "+evalsha", "+eval", "+subscribe", "+unsubscribe", "+ssubscribe", "+sunsubscribe", "+publish",
    "+spublish", "+ping", "+hello", "+auth", "+select", "+client|setname",
    "+get", "+mget", "+set", "+del", "+xadd", "+xrange", "+xrevrange", "+pexpire", "+pexpireat",
    "+pttl", "+time",
    "+zadd", "+zrem", "+zrangebyscore", "+hset", "+hdel", "+hvals", "+info",
)  # fmt: skip
"""Commands of an access list that is no wider than it has to be; docs/brokers.md has the same."""


async def go_through(running: Running, channel: str = "through") -> None:
    """Publish, receive, read."""
    await running.broker.subscribe(channel)
    await publish(running, channel, b"1")
    await running.listener.wait_count(channel, 1)
    assert [b"1"] == await running.payloads(channel)
    await running.broker.check()


async def refuse(url: str, *, has_store: bool = True) -> str:
    """Start at a URL, and return what the refusal says."""
    with pytest.raises(ConfigError) as caught:
        await RedisBroker(read_url(url)).start(RecordingListener())
    if has_store:
        with pytest.raises(ConfigError):
            await RedisPresenceStore(read_url(url)).start()
    assert "s3cret" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def locked() -> Iterator[redis.RedisServer]:
    """A server with a password, and users with rights."""
    with redis.single(password="s3cret") as server:
        server.command(
            "ACL", "SETUSER", "ann", "on", ">s3cret", "~app.*", "&app.*", "-@all", *NEEDED
        )
        server.command("ACL", "SETUSER", "bob", "on", ">s3cret", "~app.*", "&none", "+@all")
        server.command("ACL", "SETUSER", "cy", "on", ">s3cret", "~none", "&*", "+@all")
        server.command("ACL", "SETUSER", "di", "on", ">s3cret", "~*", "&*", "+@all", "-mget")
        yield server


async def test_password(locked: redis.RedisServer) -> None:
    """A password, and none or a wrong one."""
    async with broker_at(locked.url) as running:
        await go_through(running)

    address = f"127.0.0.1:{locked.port}"
    assert "wants a password" in await refuse(f"redis://{address}")
    assert "refuses the user or the password" in await refuse(f"redis://:s3cret2@{address}")
    assert address in await refuse(f"redis://eve:s3cret@{address}")


async def test_access_list(locked: redis.RedisServer) -> None:
    """A user whose rights are no wider than needed, and two who lack some."""
    address = f"127.0.0.1:{locked.port}?prefix=app"
    async with broker_at(f"redis://ann:s3cret@{address}&client_name=wb") as running:
        await go_through(running)
        assert b"name=wb" in locked.command("CLIENT", "LIST")
    async with store_at(f"redis://ann:s3cret@{address}") as store:
        await store.add("x", ClientInfo("1"), ttl_seconds=5)
        assert {"1"} == set(await store.members("x"))

    for user in ("bob", "cy", "di"):
        broker = RedisBroker(read_url(f"redis://{user}:s3cret@{address}"))
        with pytest.raises(ConfigError, match="access list"):
            await broker.start(RecordingListener())


async def test_password_that_was_changed(locked: redis.RedisServer) -> None:
    """A password that is refused later is temporary, and names its reason."""
    locked.command("ACL", "SETUSER", "dan", "on", ">s3cret", "~*", "&*", "+@all")
    url = f"redis://dan:s3cret@127.0.0.1:{locked.port}?io_timeout=0.5"
    async with broker_at(url) as running:
        locked.command("ACL", "SETUSER", "dan", "resetpass", ">other")
        locked.command("CLIENT", "KILL", "USER", "dan")
        with pytest.raises(BrokerUnavailable, match="refuses the user or the password"):
            await publish(running, "x", b"1")
        locked.command("ACL", "SETUSER", "dan", "resetpass", ">s3cret")
        await running.listener.wait_reconnect()
        await publish(running, "x", b"2")


async def test_tls() -> None:
    """Our own authority and certificate; a mismatch of any kind is told at the start."""
    with redis.tls() as (url, server, made):
        believing = f"{url}?tls_ca={made.authority}"
        ours = f"&tls_cert={made.certificate}&tls_key={made.key}"
        async with broker_at(believing + ours) as running:
            await go_through(running)
        async with broker_at(f"{believing}{ours}&tls_server_name=localhost") as running:
            await go_through(running, "by name")

        assert "TLS" in await refuse(f"{url}?{ours}")
        assert "TLS" in await refuse(f"{believing}{ours}&tls_server_name=other")
        assert "rediss://" in await refuse(url.replace("rediss", "redis"))
        plain = f"rediss://127.0.0.1:{server.port}?connect_timeout=0.2"
        assert "without TLS" in await refuse(plain)
        assert "TLS" in await refuse(believing)


async def test_unix_socket_and_database() -> None:
    """A unix socket, and a database by its number."""
    with redis.single() as server:
        path = server.folder / "socket"
        server.arguments += ("--unixsocket", str(path))
        server.restart(keeps_data=True)
        async with broker_at(f"redis+unix://{path}?db=5") as running:
            await go_through(running)
        assert b"db5:keys=" in server.command("INFO", "keyspace")
        assert "database" in await refuse(f"redis+unix://{path}?db=99")


async def test_memory_full_at_the_start() -> None:
    """A server that takes no writes is refused at the start, with what to do."""
    with redis.single("--maxmemory", "1") as server:
        said = await refuse(server.url, has_store=False)

    assert "raise maxmemory" in said


def test_uvloop() -> None:
    """The loop that servers use does it, too; its transports are its own."""

    async def check() -> None:
        with redis.single() as server:
            async with broker_at(server.url) as running, store_at(server.url) as store:
                await go_through(running)
                await store.add("x", ClientInfo("1"), ttl_seconds=5)
                server.restart(keeps_data=True)
                await running.listener.wait_reconnect()
                await go_through(running, "again")

    uvloop.run(check())


async def test_nobody_there() -> None:
    """A server that cannot be reached is named, and comes later perhaps."""
    url = f"redis://127.0.0.1:{servers.free_port()}"
    with pytest.raises(BrokerUnavailable, match=url.removeprefix("redis://")):
        await RedisBroker(read_url(url)).start(RecordingListener())


@pytest.fixture(scope="module")
def watched() -> Iterator[redis.Sentinels]:
    """A master, a replica and Sentinels."""
    with redis.sentinels() as started:
        yield started


async def test_wrong_kinds(watched: redis.Sentinels, whole: redis.Cluster) -> None:
    """A URL that says another kind of server than there is."""
    sentinel, master = watched.sentinels[0], watched.find_master()
    (replica,) = (each for each in watched.servers if each is not master)

    assert "a Sentinel: write redis+sentinel://" in await refuse(sentinel.url)
    assert "is a replica" in await refuse(replica.url)
    assert "write redis+cluster://" in await refuse(whole.servers[0].url)
    assert "write redis://" in await refuse(master.url.replace("redis:", "redis+cluster:"))
    with pytest.raises(BrokerUnavailable, match="knows no master 'other'"):
        await RedisBroker(read_url(watched.url.replace("mymaster", "other"))).start(
            RecordingListener()
        )


async def test_failover_by_hand() -> None:
    """When Sentinels make another one the master, everything goes there, and nothing is lost."""
    with redis.sentinels() as watched:
        # So often the Sentinels are asked.
        async with broker_at(f"{watched.url}?io_timeout=0.5") as running:
            await go_through(running)
            before = watched.find_master()
            watched.wait_in_step()
            watched.sentinels[0].command("SENTINEL", "FAILOVER", "mymaster")
            await running.listener.wait_reconnect(seconds=20)
            await publish(running, "through", b"2")

            assert watched.find_master() is not before
            assert [b"1", b"2"] == await running.payloads("through")


async def test_password_of_sentinels(watched: redis.Sentinels) -> None:
    """A Sentinel has an access list of its own."""
    sentinel = watched.sentinels[2]
    url = f"redis+sentinel://127.0.0.1:{sentinel.port}/mymaster"
    sentinel.command("ACL", "SETUSER", "default", "resetpass", ">s3cret")
    sentinel.password = "s3cret"
    try:
        assert "the Sentinel at" in await refuse(url)
        async with broker_at(f"{url}?sentinel_password=s3cret") as running:
            await go_through(running, "with a password")
    finally:
        sentinel.command("ACL", "SETUSER", "default", "nopass")
        sentinel.password = ""


async def test_failover(watched: redis.Sentinels) -> None:
    """When the master dies the other one takes over, and everything goes on there."""
    async with broker_at(watched.url) as running, store_at(watched.url) as store:
        await go_through(running)
        before = (await publish(running, "through", b"2")).position
        await store.add("x", ClientInfo("1"), ttl_seconds=60)
        master = watched.find_master()
        watched.wait_in_step()
        master.kill()
        await running.listener.wait_reconnect(seconds=20)
        after = (await publish(running, "through", b"3")).position

        assert (before.epoch, before.offset + 1) == (after.epoch, after.offset)
        assert {"1"} == set(await store.members("x"))
        await running.listener.wait_count("through", 3)
        assert watched.find_master() is not master


@pytest.fixture(scope="module")
def whole() -> Iterator[redis.Cluster]:
    """A cluster."""
    with redis.cluster() as started:
        yield started


CHANNELS = [f"spread:{number}" for number in range(100)]


async def spread(running: Running, data: bytes) -> None:
    """Publish in channels of all masters, and receive it."""
    await asyncio.gather(*(publish(running, channel, data) for channel in CHANNELS))
    for channel in CHANNELS:
        items = running.listener.of(channel)
        assert data in [item.data for item in items if isinstance(item, Publication)], channel


async def test_cluster_spreads(whole: redis.Cluster) -> None:
    """Every master has a part of the channels, of what is published and of presence."""
    async with broker_at(whole.url) as running, store_at(whole.url) as store:
        await asyncio.gather(*(running.broker.subscribe(channel) for channel in CHANNELS))
        await spread(running, b"1")
        await asyncio.gather(
            *(store.add(channel, ClientInfo("1"), ttl_seconds=9) for channel in CHANNELS)
        )
        await running.broker.check()

        assert all(each.command("DBSIZE") > 50 for each in whole.servers)
        assert {"1"} == set(await store.members(CHANNELS[7]))
        assert [b"1"] == await running.payloads(CHANNELS[7])


async def test_cluster_by_any_of_its_nodes(whole: redis.Cluster) -> None:
    """One node that answers is enough to find the cluster; who refuses says why."""
    dead, living = servers.free_port(), whole.servers[2].port
    async with broker_at(f"redis+cluster://127.0.0.1:{dead},127.0.0.1:{living}") as running:
        await go_through(running)

    assert "refuses the user" in await refuse(f"redis+cluster://eve:s3cret@127.0.0.1:{living}")
    with pytest.raises(BrokerUnavailable, match=f"127.0.0.1:{dead} it cannot be reached"):
        await RedisBroker(read_url(f"redis+cluster://127.0.0.1:{dead}")).start(RecordingListener())


async def test_cluster_with_an_access_list(whole: redis.Cluster) -> None:
    """In a cluster the keys begin with a brace, and two commands more are needed."""
    for server in whole.servers:
        server.command(
            "ACL", "SETUSER", "ann", "on", ">s3cret", "~{wirebell.*", "&{wirebell.*", "-@all",
            *NEEDED, "+cluster|slots", "+asking",
        )  # fmt: skip
    async with broker_at(whole.url.replace("//", "//ann:s3cret@")) as running:
        await asyncio.gather(*(running.broker.subscribe(channel) for channel in CHANNELS))
        await spread(running, b"1")


async def test_cluster_whose_slots_move(whole: redis.Cluster) -> None:
    """A slot that goes to another master takes its channels along: nobody is lost for long."""
    async with broker_at(whole.url) as running, store_at(whole.url) as store:
        await asyncio.gather(*(running.broker.subscribe(channel) for channel in CHANNELS))
        await spread(running, b"before")
        for count, partition in enumerate((3, 17), 1):
            slot = key_slot(b"wirebell.%d" % partition)
            target = whole.begin_move(slot)
            moving = next(each for each in CHANNELS if locate(each, 1, 32)[1] == partition)
            # Neither of the two has it whole: it waits.
            waiting = asyncio.ensure_future(publish(running, moving, b"meanwhile"))
            await asyncio.sleep(0.1)
            assert not waiting.done()
            whole.end_move(slot, target)
            await waiting
            await running.listener.wait_reconnect(count)
        whole.wait_whole()
        await spread(running, b"after")
        await store.add(CHANNELS[0], ClientInfo("1"), ttl_seconds=9)

        for channel in CHANNELS:
            # Others may have left something there before.
            kept = [each for each in await running.payloads(channel) if each != b"meanwhile"]
            assert [b"before", b"after"] == kept[-2:]


async def test_cluster_whose_master_restarts(whole: redis.Cluster) -> None:
    """A master that dies and comes back: the others go on meanwhile, then all is whole again."""
    for each in whole.servers:
        # After twice that a master that is back may serve its slots.
        each.command("CONFIG", "SET", "cluster-node-timeout", 500)
    async with broker_at(f"{whole.url}?io_timeout=1") as running:
        await asyncio.gather(*(running.broker.subscribe(channel) for channel in CHANNELS))
        await spread(running, b"before")
        whole.servers[1].kill()
        started = time.monotonic()
        results = await asyncio.gather(
            *(publish(running, channel, b"during") for channel in CHANNELS),
            return_exceptions=True,
        )
        assert time.monotonic() - started < 4
        assert any(isinstance(result, BrokerUnavailable) for result in results)
        assert not any(
            isinstance(result, BaseException) and not isinstance(result, BrokerUnavailable)
            for result in results
        )
        assert not running.broker.is_connected
        whole.servers[1].start()
        whole.wait_whole()
        await running.listener.wait_reconnect()
        await spread(running, b"after")


async def test_shards() -> None:
    """Several servers share the channels; one that is away takes only its own with it."""
    with redis.single() as one, redis.single() as other:
        url = f"{one.url},{other.url.removeprefix('redis://')}?io_timeout=0.5"
        async with broker_at(url) as running, broker_at(url) as second:
            for each in (running, second):
                await asyncio.gather(*(each.broker.subscribe(channel) for channel in CHANNELS))
            await spread(running, b"1")
            assert all(each.command("DBSIZE") > 50 for each in (one, other))
            other.restart(keeps_data=False)
            for each in (running, second):
                await each.listener.wait_reconnect()
            await spread(second, b"2")
